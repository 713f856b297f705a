public import Histogram

/// A latency histogram: nanoseconds from 1 µs to an hour, three significant digits; two of them add up without loss.
public typealias LatencyHistogram = Histogram<UInt64>

extension LatencyHistogram {
    public static let highestNanoseconds: UInt64 = 3_600_000_000_000

    public static func latency() -> LatencyHistogram {
        Histogram(lowestDiscernibleValue: 1_000, highestTrackableValue: highestNanoseconds, numberOfSignificantValueDigits: .three)
    }

    /// Records a latency; one beyond the bounds counts as the bound.
    public mutating func note(_ nanoseconds: UInt64) { record(Swift.min(nanoseconds, Self.highestNanoseconds)) }
}

/// What a histogram says, with all its buckets, so that what was written can be read back and added up.
public struct Distribution: Codable, Sendable, Equatable {
    public var count: UInt64
    /// All times in nanoseconds.
    public var mean: Double
    public var standardDeviation: Double
    public var minimum: UInt64
    public var maximum: UInt64
    public var p50: UInt64
    public var p75: UInt64
    public var p90: UInt64
    public var p95: UInt64
    public var p99: UInt64
    public var p999: UInt64
    public var p9999: UInt64
    /// Each recorded value with its count, in ascending order.
    public var buckets: [[UInt64]]

    public init(_ histogram: LatencyHistogram) {
        count = histogram.totalCount
        let isEmpty = count == 0
        mean = isEmpty ? 0 : histogram.mean
        standardDeviation = isEmpty ? 0 : histogram.stdDeviation
        minimum = isEmpty ? 0 : histogram.min
        maximum = isEmpty ? 0 : histogram.max
        func at(_ percentile: Double) -> UInt64 { isEmpty ? 0 : histogram.valueAtPercentile(percentile) }
        (p50, p75, p90, p95, p99, p999, p9999) = (at(50), at(75), at(90), at(95), at(99), at(99.9), at(99.99))
        buckets = isEmpty ? [] : histogram.recordedValues().map { [$0.value, $0.count] }
    }

    /// Of several together.
    public init(ofAll histograms: [LatencyHistogram]) {
        var sum = LatencyHistogram.latency()
        for one in histograms { sum.add(one) }
        self.init(sum)
    }

    /// 0 when nothing was recorded.
    public func milliseconds(percentile: Double) -> Double {
        count == 0 ? 0 : Double(histogram.valueAtPercentile(min(100, max(0, percentile)))) / 1e6
    }

    /// The histogram again. Buckets that are none are left out.
    public var histogram: LatencyHistogram {
        var result = LatencyHistogram.latency()
        for bucket in buckets where bucket.count == 2 {
            result.record(min(bucket[0], LatencyHistogram.highestNanoseconds), count: bucket[1])
        }
        return result
    }
}
