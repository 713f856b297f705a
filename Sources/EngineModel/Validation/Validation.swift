/// The step time held against what others measured and published.
///
/// Some series are where a constant of ``Accelerator`` or ``StepTimeModel`` was read off: those are ``calibrating``, and how well they
/// are met says little. The others are held out: no constant was chosen by them.
public enum Validation {
    /// A quantity that somebody measured.
    public struct Point: Sendable {
        /// Who measured it and what, the same for all points of a series.
        public let series: String
        /// Which of them this is.
        public let label: String
        public let unit: String
        public let published: Double
        public let predicted: Double

        /// Relative error, signed.
        public var error: Double { predicted / published - 1 }
    }

    /// The points of one series in a line.
    public struct Summary: Sendable {
        public let series: String
        public let count: Int
        /// Mean of the absolute relative errors.
        public let meanError: Double
        /// The relative error of the largest magnitude, signed.
        public let worstError: Double
        /// A constant was read off this series.
        public let isCalibrating: Bool
    }

    /// Series that constants were read off: shares of peak and bandwidth and the overhead of a layer from Vidur's layers, start and
    /// bandwidth of all-reduces from its all-reduces, the rate of KV reads from DistServe's decode.
    public static let calibrating: Set<String> = ["Vidur layer", "Vidur all-reduce", "DistServe decode"]

    /// The points that no constant was chosen by.
    public static var heldOut: [Point] { points.filter { !calibrating.contains($0.series) } }

    /// Every point, series by series.
    public static var points: [Point] { distServe + splitwise + vidur + llmD }

    /// Mean of the absolute relative errors of `points`; 0 when there are none.
    public static func meanError(of points: [Point]) -> Double {
        points.isEmpty ? 0 : points.reduce(0) { $0 + abs($1.error) } / Double(points.count)
    }

    /// One line per series, in the order of the points.
    public static func summaries(of points: [Point]) -> [Summary] {
        var names: [String] = []
        for point in points where names.last != point.series { names.append(point.series) }
        return names.map { name in
            let series = points.filter { $0.series == name }
            let worst = series.max { abs($0.error) < abs($1.error) }?.error ?? 0
            return Summary(
                series: name, count: series.count, meanError: meanError(of: series), worstError: worst,
                isCalibrating: calibrating.contains(name))
        }
    }

    // MARK: Predictions

    /// Duration in ms of a step that prefills one prompt.
    static func prefillMilliseconds(_ model: ModelShape, _ accelerator: Accelerator, devices: Int, tokens: Int) -> Double {
        var load = StepLoad()
        load.addPrefill(tokens: tokens, context: 0)
        return milliseconds(of: load, model, accelerator, devices)
    }

    /// Duration in ms of a step that decodes `batch` sequences of `context` tokens each.
    static func decodeMilliseconds(
        _ model: ModelShape, _ accelerator: Accelerator, devices: Int, batch: Int, context: Int
    ) -> Double {
        var load = StepLoad()
        load.decodeSequences = batch
        load.decodeContextTokens = batch * context
        return milliseconds(of: load, model, accelerator, devices)
    }

    private static func milliseconds(
        of load: StepLoad, _ model: ModelShape, _ accelerator: Accelerator, _ devices: Int
    ) -> Double {
        let stepTime = StepTimeModel(model: model, accelerator: accelerator, tensorParallel: devices)
        return Double(stepTime.nanoseconds(of: load)) / 1e6
    }
}
