public import Histogram

/// What one run of a workload came to. Latencies in microseconds, counted from when the schedule wanted the request sent, so that
/// a late generator or a full queue in front of the router cannot hide.
public struct LatencyReport: Sendable {
    public var timeToFirstToken = Histogram<UInt32>(highestTrackableValue: 3_600_000_000, numberOfSignificantValueDigits: .three)
    public var endToEnd = Histogram<UInt32>(highestTrackableValue: 3_600_000_000, numberOfSignificantValueDigits: .three)
    public var requests = 0
    public var errors = 0
    public var promptTokens = 0
    public var cachedTokens = 0
    /// Requests by the name in `x-served-by`.
    public var requestsByBackend: [String: Int] = [:]
    /// How late the generator sent at worst, in microseconds. Its lateness is in every latency above.
    public var worstLagMicroseconds: UInt64 = 0

    public init() {}

    public func timeToFirstTokenMilliseconds(percentile: Double) -> Double {
        Double(timeToFirstToken.valueAtPercentile(percentile)) / 1_000
    }

    /// Share of prompt tokens that came from a KV cache, 0...1.
    public var hitRate: Double { promptTokens == 0 ? 0 : Double(cachedTokens) / Double(promptTokens) }
}
