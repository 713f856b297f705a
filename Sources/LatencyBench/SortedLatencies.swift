import Foundation
import Histogram
import Reporting
import Workload

/// What statistics need of a histogram: values in ascending order, and how many lie at or below each. Nanoseconds.
struct SortedLatencies {
    private var values: [Double] = []
    private var reached: [Double] = []
    private(set) var total = 0.0
    private var mean = 0.0
    private var deviation = 0.0
    /// See `RunReport.designEffects`, by the statistic's name; what is missing is 1.
    private var designEffects: [String: Double] = [:]

    /// - Parameter buckets: values and how often each came, by ascending value.
    init(_ buckets: [(value: UInt64, count: UInt64)]) {
        var weighted = 0.0
        for bucket in buckets where bucket.count > 0 {
            total += Double(bucket.count)
            weighted += Double(bucket.value) * Double(bucket.count)
            values.append(Double(bucket.value))
            reached.append(total)
        }
        guard total > 0 else { return }
        mean = weighted / total
        var squares = 0.0
        for bucket in buckets {
            let distance = Double(bucket.value) - mean
            squares += Double(bucket.count) * distance * distance
        }
        deviation = (squares / total).squareRoot()
    }

    init(_ histogram: LatencyHistogram) { self.init(histogram.recordedValues().map { (value: $0.value, count: $0.count) }) }

    /// Buckets that are none are left out.
    init(_ distribution: Distribution, designEffects: [String: Double]) {
        self.init(
            distribution.buckets.filter { $0.count == 2 }.map { (value: $0[0], count: $0[1]) }.sorted { $0.value < $1.value },
            designEffects: designEffects)
    }

    init(_ buckets: [(value: UInt64, count: UInt64)], designEffects: [String: Double]) {
        self.init(buckets)
        self.designEffects = designEffects
    }

    /// As many independent latencies tell as much of a statistic.
    func independent(_ statistic: String) -> Double {
        // Read from a file it may be anything.
        guard let effect = designEffects[statistic], effect > 1 else { return total }
        return total / effect
    }

    /// The percentile, or the mean for nil; 0 when there is nothing.
    func value(of percentile: Double?) -> Double {
        guard let percentile else { return mean }
        return value(atRank: Self.rank(of: percentile, in: total))
    }

    /// The same of latencies drawn from these, with repetition, as many as are independent.
    func redrawn(_ statistic: String, _ percentile: Double?, _ numbers: inout NormalNumbers) -> Double {
        let count = independent(statistic)
        guard let percentile else { return mean + deviation / count.squareRoot() * numbers.next() }
        let rank = Self.rank(of: percentile, in: count)
        let (below, above) = (numbers.gamma(rank), numbers.gamma(count - rank + 1))
        return value(atRank: (total * below / (below + above)).rounded(.up))
    }

    /// From 1; a millionth for what binary fractions add.
    private static func rank(of percentile: Double, in count: Double) -> Double {
        min(count, max(1, (count * percentile / 100 - 1e-6).rounded(.up)))
    }

    private func value(atRank rank: Double) -> Double {
        guard !values.isEmpty else { return 0 }
        var (low, high) = (0, values.count - 1)
        while low < high {
            let middle = (low + high) / 2
            if reached[middle] < rank { low = middle + 1 } else { high = middle }
        }
        return values[low]
    }
}

/// Normal numbers from a seed (Box and Muller, 1958).
struct NormalNumbers {
    private var generator: SeededGenerator
    private var spare: Double?

    init(seed: UInt64) { generator = SeededGenerator(seed: seed) }

    mutating func next() -> Double {
        if let spare {
            self.spare = nil
            return spare
        }
        let radius = (-2 * log(1 - uniform())).squareRoot()
        let angle = 2 * .pi * uniform()
        spare = radius * sin(angle)
        return radius * cos(angle)
    }

    /// A gamma number of a shape from 10 up: the cube of a normal one (Wilson and Hilferty, 1931), whose quantiles are right to a
    /// thousandth there.
    mutating func gamma(_ shape: Double) -> Double {
        let root = 1 - 1 / (9 * shape) + next() / (3 * shape.squareRoot())
        return shape * max(0, root * root * root)
    }

    /// In 0..<1, of 53 bits.
    private mutating func uniform() -> Double { Double(generator.next() >> 11) * 0x1p-53 }
}
