/// Counts of durations in fixed buckets, without a heap object: it lives inside its series and is copied by value.
public struct LatencyHistogram: Sendable {
    /// Upper bounds, inclusive, in nanoseconds; the last bucket, above them all, has none.
    public enum Scale: Sendable {
        /// 1 ms to 5 min: what a client waits for a model.
        case request
        /// 5 µs to 1 s: what the router itself adds.
        case overhead

        @inline(__always)
        var upperBoundsNanoseconds: [UInt64] {
            switch self {
            case .request: requestBounds
            case .overhead: overheadBounds
            }
        }
    }

    public static let bucketCount = 32

    public let scale: Scale
    /// Not cumulative.
    var counts = InlineArray<32, UInt64>(repeating: 0)
    /// A double, since nanoseconds of ten thousand requests at a time would overflow 64 bits within weeks.
    public private(set) var sumSeconds = 0.0

    public init(scale: Scale) {
        self.scale = scale
    }

    public var count: UInt64 {
        var total: UInt64 = 0
        for index in counts.indices { total &+= counts[index] }
        return total
    }

    public mutating func record(nanoseconds: UInt64) {
        let bounds = scale.upperBoundsNanoseconds
        var low = 0
        var high = bounds.count
        while low < high {
            let middle = (low &+ high) >> 1
            if bounds[middle] < nanoseconds { low = middle &+ 1 } else { high = middle }
        }
        counts[low] &+= 1
        sumSeconds += Double(nanoseconds) / 1e9
    }

    /// Adds the counts of a histogram of the same scale.
    public mutating func merge(_ other: LatencyHistogram) {
        for index in counts.indices { counts[index] &+= other.counts[index] }
        sumSeconds += other.sumSeconds
    }
}

private let requestBounds: [UInt64] = [
    1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 400, 500, 750, 1_000, 1_500, 2_000, 3_000, 4_000, 5_000, 7_500, 10_000,
    15_000, 20_000, 30_000, 45_000, 60_000, 90_000, 120_000, 300_000,
].map { $0 * 1_000_000 }

private let overheadBounds: [UInt64] = [
    5, 10, 15, 20, 30, 40, 50, 75, 100, 150, 200, 250, 300, 400, 500, 750, 1_000, 1_500, 2_000, 3_000, 5_000, 7_500, 10_000,
    15_000, 20_000, 30_000, 50_000, 100_000, 200_000, 500_000, 1_000_000,
].map { $0 * 1_000 }
