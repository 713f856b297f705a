import Histogram
public import Reporting

/// A difference of two latencies with its 95 % interval. Nanoseconds; positive: the second is slower.
public struct LatencyDifference: Codable, Sendable, Equatable {
    public var name: String
    public var first: Double
    public var second: Double
    public var difference: Double
    /// The interval, of this one statistic by itself.
    public var low: Double
    public var high: Double
    /// Why nothing is claimed whatever the interval says; nil: nothing speaks against it.
    public var doubt: String?

    /// Nothing is claimed of a difference whose interval contains zero.
    public var isClaimed: Bool { doubt == nil && (low > 0 || high < 0) }

    /// For a table: empty where the difference is claimed.
    public var verdict: String { isClaimed ? "" : (doubt.map { $0 + ": " } ?? "") + "no claim" }
}

/// Compares two sides that were measured in turns, or two single runs.
public enum PairedComparison {
    /// What is compared: percentiles, and nil for the mean.
    static let statistics: [(name: String, percentile: Double?)] = [
        ("mean", nil), ("p50", 50), ("p90", 90), ("p99", 99), ("p99.9", 99.9),
    ]

    /// All names that a difference may have. One that is missing in a result had too few requests.
    public static var names: [String] { statistics.map(\.name) }

    /// Independent requests that must lie beyond a percentile on each side, all its runs together, so that it is more than their extremes. In each
    /// single run one must.
    static let leastBeyond = 10.0

    /// The order of `repeats` runs of each side in which drift that is linear in time cancels: ABBA ABBA…; false is the first side.
    public static func order(repeats: Int) -> [Bool] { (0..<2 * repeats).map { [false, true, true, false][$0 % 4] } }

    /// Differences of the statistics of runs that were neighbours in time: each pair gives one, and the interval is Student's t over them.
    /// Requests of one run share its luck, so pairs are what is counted.
    /// - Parameters:
    ///   - first: one histogram per run of the first side; `second` has the run beside each. What has no partner is left out.
    /// - Returns: statistics that had enough requests; none below two pairs.
    public static func differences(_ first: [LatencyHistogram], _ second: [LatencyHistogram]) -> [LatencyDifference] {
        differences(pairs: zip(first, second).map { (SortedLatencies($0), SortedLatencies($1)) })
    }

    static func differences(pairs: [(SortedLatencies, SortedLatencies)]) -> [LatencyDifference] {
        let pairs = pairs.filter { $0.total > 0 && $1.total > 0 }
        guard pairs.count > 1 else { return [] }
        let count = Double(pairs.count)
        return statistics.compactMap { name, percentile in
            guard isMeasurable(name, percentile, by: pairs.map { $0.0 }), isMeasurable(name, percentile, by: pairs.map { $0.1 })
            else { return nil }
            let (first, second) = (pairs.map { $0.0.value(of: percentile) }, pairs.map { $0.1.value(of: percentile) })
            let differences = zip(first, second).map { $1 - $0 }
            let mean = differences.reduce(0, +) / count
            let squares: Double = differences.reduce(0) { sum, one in sum + (one - mean) * (one - mean) }
            let reach = studentQuantile(degrees: pairs.count - 1) * (squares / (count - 1) / count).squareRoot()
            return difference(name, first.reduce(0, +) / count, second.reduce(0, +) / count, below: reach, above: reach)
        }
    }

    /// Two reports, one run each. A bootstrap over requests (Efron and Tibshirani, 1993): each sample is of as many requests as the run had
    /// independent ones, drawn anew from it. What a sample's percentile comes to is drawn directly: the k-th smallest of n draws is the run's
    /// quantile at a Beta(k, n − k + 1) number. The mean's is normal. It knows nothing of how runs differ, so it claims more than repeats
    /// would.
    /// - Parameter effects: the metric's `RunReport.designEffects` of each side; empty: its requests are taken for independent.
    public static func differences(
        _ first: Distribution, _ second: Distribution, effects: (first: [String: Double], second: [String: Double]) = ([:], [:]),
        samples: Int = 2_000, seed: UInt64 = 1
    ) -> [LatencyDifference] {
        differences(
            SortedLatencies(first, designEffects: effects.first), SortedLatencies(second, designEffects: effects.second), samples: samples,
            seed: seed)
    }

    static func differences(_ first: SortedLatencies, _ second: SortedLatencies, samples: Int, seed: UInt64) -> [LatencyDifference] {
        var numbers = NormalNumbers(seed: seed)
        return statistics.compactMap { name, percentile in
            guard isMeasurable(name, percentile, by: [first]), isMeasurable(name, percentile, by: [second]) else { return nil }
            var drawn: [Double] = []
            drawn.reserveCapacity(samples)
            for _ in 0..<samples { drawn.append(second.redrawn(name, percentile, &numbers) - first.redrawn(name, percentile, &numbers)) }
            drawn.sort()
            let (low, high) = (drawn[Int(Double(samples) * 0.025)], drawn[min(samples - 1, Int(Double(samples) * 0.975))])
            let (one, other) = (first.value(of: percentile), second.value(of: percentile))
            return difference(name, one, other, below: other - one - low, above: high - (other - one))
        }
    }

    /// What the generator's own null test tells apart, or was not asked about, is no difference of what it measured.
    public static func doubted(_ differences: [LatencyDifference], by null: [LatencyDifference]) -> [LatencyDifference] {
        differences.map { one in
            var one = one
            let test = null.first { $0.name == one.name }
            if test?.isClaimed ?? true { one.doubt = test == nil ? "no null test" : "null test failed" }
            return one
        }
    }

    /// An interval is never narrower than a histogram's bucket: equal buckets do not make equal latencies.
    private static func difference(_ name: String, _ first: Double, _ second: Double, below: Double, above: Double) -> LatencyDifference {
        let bucket = max(1_000, max(first, second) / 1_000)
        return LatencyDifference(
            name: name, first: first, second: second, difference: second - first, low: second - first - max(below, bucket),
            high: second - first + max(above, bucket))
    }

    private static func isMeasurable(_ name: String, _ percentile: Double?, by runs: [SortedLatencies]) -> Bool {
        let share = 1 - (percentile ?? 0) / 100
        let beyond = runs.map { $0.independent(name) * share }
        // A millionth for what binary fractions lose.
        return beyond.reduce(0, +) > leastBeyond - 1e-6 && beyond.allSatisfy { $0 > 1 - 1e-6 }
    }

    /// Student's t at 97.5 %.
    static func studentQuantile(degrees: Int) -> Double {
        let table = [
            12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101,
            2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
        ]
        // Beyond the table the first term of its expansion about the normal's 1.960 is right to a thousandth.
        return degrees <= table.count ? table[max(1, degrees) - 1] : 1.960 + 2.46 / Double(degrees)
    }
}
