import Foundation

/// When requests are due, computed whole from a seed before anything is sent (open loop): nothing that happens later moves it.
///
/// A process draws gaps whose mean is one, the profile stretches them: arrival `i` is where the integral of the rate first comes to
/// the sum of the first `i` gaps. So every process works with every profile, and a ramp keeps the process's burstiness.
public struct ArrivalSchedule: Sendable, Equatable {
    /// How gaps scatter about their mean.
    public enum Process: Sendable, Equatable {
        case constant
        /// Exponential gaps: users that know nothing of one another.
        case poisson
        /// Gamma gaps with this coefficient of variation; 1 is Poisson's. vLLM's `burstiness` is 1/CV².
        case gamma(coefficientOfVariation: Double)
        /// Weibull gaps of this shape; 1 is Poisson's, below it bursts.
        case weibull(shape: Double)
    }

    /// A span in which the rate goes evenly from one value to another; requests per second.
    public struct Stage: Sendable, Equatable, Codable {
        public var startRate: Double
        public var endRate: Double
        public var seconds: Double
        /// Silence before the next stage, for queues to empty.
        public var gapSeconds: Double

        public init(startRate: Double, endRate: Double? = nil, seconds: Double, gapSeconds: Double = 0) {
            self.startRate = startRate
            self.endRate = endRate ?? startRate
            self.seconds = seconds
            self.gapSeconds = gapSeconds
        }

        public var meanRate: Double { (startRate + endRate) / 2 }
    }

    public struct Arrival: Sendable, Equatable {
        /// Nanoseconds since the start.
        public var offsetNanoseconds: UInt64
        public var stage: Int
    }

    public let arrivals: [Arrival]
    public let stages: [Stage]

    /// - Parameter limit: no more arrivals than this.
    public init(_ process: Process, stages: [Stage], seed: UInt64, limit: Int = .max) {
        self.stages = stages
        var generator = SeededGenerator(seed: seed)
        var arrivals: [Arrival] = []
        var stageStart = 0.0
        for (index, stage) in stages.enumerated() {
            // Each stage draws anew, lest the last gap of a slow stage reach over a fast one.
            var due = Self.gap(process, &generator)
            let total = stage.meanRate * stage.seconds
            // Floating point: a constant stage of n requests must not lose or gain one by rounding.
            while due <= total * (1 + 1e-12), arrivals.count < limit {
                let seconds = stageStart + stage.time(ofIntegral: due)
                arrivals.append(Arrival(offsetNanoseconds: UInt64(max(0, seconds) * 1e9), stage: index))
                due += Self.gap(process, &generator)
            }
            stageStart += stage.seconds + stage.gapSeconds
        }
        self.arrivals = arrivals
    }

    /// The arrivals of a trace, `scale` times as long: 2 plays it at half its speed. Sorted here.
    public init(traceOffsetsNanoseconds offsets: [UInt64], scale: Double) {
        let sorted = offsets.sorted()
        let first = sorted.first ?? 0
        arrivals = sorted.map { Arrival(offsetNanoseconds: UInt64(min(Double($0 - first) * scale, 9e18)), stage: 0) }
        let seconds = Double(arrivals.last?.offsetNanoseconds ?? 0) / 1e9
        let rate = seconds > 0 ? Double(arrivals.count) / seconds : 0
        stages = [Stage(startRate: rate, seconds: seconds)]
    }

    /// From the start to the end of the last stage, its gap left out.
    public var durationNanoseconds: UInt64 {
        UInt64(max(0, stages.reduce(0) { $0 + $1.seconds + $1.gapSeconds } - (stages.last?.gapSeconds ?? 0)) * 1e9)
    }

    /// FNV-1a over all offsets: two runs of one hash asked for the same at the same times.
    public var hash: UInt64 {
        var hash = ContentHash()
        for arrival in arrivals { hash.add(arrival.offsetNanoseconds) }
        return hash.value
    }

    private static func gap(_ process: Process, _ generator: inout SeededGenerator) -> Double {
        switch process {
        case .constant: 1
        case .poisson: -log(unit(&generator))
        case .gamma(let variation):
            variation <= 0 ? 1 : gamma(shape: 1 / (variation * variation), &generator) * variation * variation
        case .weibull(let shape): pow(-log(unit(&generator)), 1 / shape) / tgamma(1 + 1 / shape)
        }
    }

    /// In (0, 1].
    private static func unit(_ generator: inout SeededGenerator) -> Double { 1 - Double(generator.next() >> 11) * 0x1p-53 }

    /// Marsaglia and Tsang, "A simple method for generating gamma variables" (2000); scale 1.
    private static func gamma(shape: Double, _ generator: inout SeededGenerator) -> Double {
        if shape < 1 { return gamma(shape: shape + 1, &generator) * pow(unit(&generator), 1 / shape) }
        let d = shape - 1 / 3.0
        let c = 1 / (9 * d).squareRoot()
        while true {
            let normal = (-2 * log(unit(&generator))).squareRoot() * cos(2 * Double.pi * unit(&generator))
            let cube = pow(1 + c * normal, 3)
            guard cube > 0 else { continue }
            if log(unit(&generator)) < 0.5 * normal * normal + d - d * cube + d * log(cube) { return d * cube }
        }
    }
}

extension ArrivalSchedule.Stage {
    /// Seconds from the stage's start until its rate has summed up to `integral`.
    func time(ofIntegral integral: Double) -> Double {
        let slope = seconds > 0 ? (endRate - startRate) / seconds : 0
        guard abs(slope) > 1e-12 else { return startRate > 0 ? integral / startRate : seconds }
        // The root of startRate·t + slope·t²/2 = integral that lies in the stage, in the form that does not cancel.
        let root = max(0, startRate * startRate + 2 * slope * integral).squareRoot()
        return min(seconds, 2 * integral / (startRate + root))
    }
}
