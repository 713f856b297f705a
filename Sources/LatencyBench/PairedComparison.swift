import Histogram
public import Reporting
import Workload

/// A difference of two latencies with the interval that repeats leave open. Nanoseconds; positive: the second is slower.
public struct LatencyDifference: Codable, Sendable, Equatable {
    public var name: String
    public var first: Double
    public var second: Double
    public var difference: Double
    /// 95 % of bootstrap samples lie between.
    public var low: Double
    public var high: Double

    /// Nothing is claimed of a difference whose interval contains zero.
    public var isClaimed: Bool { low > 0 || high < 0 }
}

/// Compares two sides that were measured in turns.
public enum PairedComparison {
    /// What is compared: percentiles, and nil for the mean.
    static let statistics: [(String, Double?)] = [("mean", nil), ("p50", 50), ("p90", 90), ("p99", 99), ("p99.9", 99.9)]

    /// The order of `repeats` runs of each side in which drift that is linear in time cancels: ABBA ABBA…; false is the first side.
    public static func order(repeats: Int) -> [Bool] { (0..<2 * repeats).map { [false, true, true, false][$0 % 4] } }

    /// Differences of percentiles of the runs taken together. The interval is the percentile bootstrap's over whole runs (Efron and
    /// Tibshirani, 1993): requests of one run share its luck, so runs are what is drawn, and each side's on their own.
    /// - Parameters:
    ///   - first: one histogram per run of the first side; `second` likewise.
    ///   - samples: bootstrap samples.
    public static func differences(
        _ first: [LatencyHistogram], _ second: [LatencyHistogram], samples: Int = 1_000, seed: UInt64 = 1
    ) -> [LatencyDifference] {
        let (left, right) = (PooledRuns(first), PooledRuns(second))
        guard !left.isEmpty, !right.isEmpty else { return [] }
        var generator = SeededGenerator(seed: seed)
        let all = (left.statistics(of: Array(first.indices)), right.statistics(of: Array(second.indices)))
        var drawn = [[Double]](repeating: [], count: statistics.count)
        for _ in 0..<samples {
            let leftRuns = first.indices.map { _ in Int.random(in: first.indices, using: &generator) }
            let rightRuns = second.indices.map { _ in Int.random(in: second.indices, using: &generator) }
            let (a, b) = (left.statistics(of: leftRuns), right.statistics(of: rightRuns))
            for index in statistics.indices { drawn[index].append(b[index] - a[index]) }
        }
        return statistics.indices.map { index in
            let sorted = drawn[index].sorted()
            return LatencyDifference(
                name: statistics[index].0, first: all.0[index], second: all.1[index], difference: all.1[index] - all.0[index],
                low: sorted[Int(Double(sorted.count) * 0.025)], high: sorted[min(sorted.count - 1, Int(Double(sorted.count) * 0.975))])
        }
    }

    /// Two reports, one run each: requests stand for runs, each bucket's count drawn anew (Poisson bootstrap). It knows nothing of
    /// how runs differ from one another, so it claims more than repeats would.
    public static func differences(_ first: Distribution, _ second: Distribution, samples: Int = 400, seed: UInt64 = 1)
        -> [LatencyDifference]
    {
        var generator = SeededGenerator(seed: seed)
        func parts(_ distribution: Distribution) -> [LatencyHistogram] {
            // Requests dealt out into twenty parts, each a run of its own in what follows.
            var parts = [LatencyHistogram](repeating: .latency(), count: 20)
            for bucket in distribution.buckets where bucket.count == 2 {
                let value = min(bucket[0], LatencyHistogram.highestNanoseconds)
                let share = bucket[1] / 20
                if share > 0 { for index in parts.indices { parts[index].record(value, count: share) } }
                for _ in 0..<(bucket[1] % 20) { parts[Int.random(in: parts.indices, using: &generator)].record(value) }
            }
            return parts.filter { $0.totalCount > 0 }
        }
        return differences(parts(first), parts(second), samples: samples, seed: seed)
    }
}

/// The buckets of several runs side by side, so that drawing runs anew is adding columns up.
private struct PooledRuns {
    private var values: [UInt64] = []
    /// Run after run, each with a count for every value.
    private var counts: [UInt64] = []
    private let runs: Int

    init(_ histograms: [LatencyHistogram]) {
        runs = histograms.count
        var table: [UInt64: [UInt64]] = [:]
        for (run, histogram) in histograms.enumerated() {
            for bucket in histogram.recordedValues() {
                table[bucket.value, default: Array(repeating: 0, count: histograms.count)][run] = bucket.count
            }
        }
        let rows = table.sorted { $0.key < $1.key }
        values = rows.map(\.key)
        counts = (0..<runs).flatMap { run in rows.map { $0.value[run] } }
    }

    var isEmpty: Bool { values.isEmpty }

    /// Of the chosen runs taken together; a run may be chosen more than once.
    func statistics(of chosen: [Int]) -> [Double] {
        var sums = [UInt64](repeating: 0, count: values.count)
        var total: UInt64 = 0
        var weighted = 0.0
        // Pointers and plain loops: this is a thousand samples' inner loop, and must be bearable without optimization, too.
        counts.withUnsafeBufferPointer { counts in
            values.withUnsafeBufferPointer { values in
                sums.withUnsafeMutableBufferPointer { sums in
                    for run in chosen {
                        let start = run &* values.count
                        var index = 0
                        while index < values.count {
                            sums[index] &+= counts[start &+ index]
                            index &+= 1
                        }
                    }
                    var index = 0
                    while index < values.count {
                        total &+= sums[index]
                        weighted += Double(values[index]) * Double(sums[index])
                        index &+= 1
                    }
                }
            }
        }
        guard total > 0 else { return PairedComparison.statistics.map { _ in 0 } }
        var (index, seen) = (0, 0.0)
        return PairedComparison.statistics.map { _, percentile in
            guard let percentile else { return weighted / Double(total) }
            // Percentiles stand in rising order, so each goes on where the one before ended.
            let wanted = max(1, (Double(total) * percentile / 100).rounded(.up))
            while index < values.count - 1, seen + Double(sums[index]) < wanted {
                seen += Double(sums[index])
                index += 1
            }
            return Double(values[index])
        }
    }
}
