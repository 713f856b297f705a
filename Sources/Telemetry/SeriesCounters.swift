/// Everything counted for one model on one group, in one block without references: a snapshot is a plain copy.
public struct SeriesCounters: Sendable {
    public struct StatusCount: Sendable {
        /// 0: free, or in the last place, every code that found no place.
        public var code: UInt16
        public var count: UInt64
    }

    public internal(set) var started: UInt64 = 0
    /// Signed: a request that moves to another group leaves this one lower than it began.
    public internal(set) var inFlight: Int64 = 0
    public internal(set) var promptTokens: UInt64 = 0
    /// As the engines reported.
    public internal(set) var cachedTokens: UInt64 = 0
    /// As the prefix index foretold.
    public internal(set) var predictedCachedTokens: UInt64 = 0
    public internal(set) var completionTokens: UInt64 = 0
    public internal(set) var timeToFirstToken = LatencyHistogram(scale: .request)
    public internal(set) var duration = LatencyHistogram(scale: .request)
    var statuses = InlineArray<16, StatusCount>(repeating: StatusCount(code: 0, count: 0))
    var outcomes = InlineArray<11, UInt64>(repeating: 0)

    init() {}

    /// Requests that ended, whatever their status.
    public var finished: UInt64 { duration.count }

    public func count(of outcome: ExchangeOutcome) -> UInt64 { outcomes[outcome.rawValue] }

    /// The codes that occurred, in order; code 0 stands for those that are none or found no place.
    public var statusCounts: [StatusCount] {
        statuses.indices.map { statuses[$0] }.filter { $0.count > 0 }.sorted { $0.code < $1.code }
    }

    mutating func add(_ count: UInt64, status: UInt16) {
        for index in 0..<statuses.count - 1 where status != 0 {
            if statuses[index].code == status || statuses[index].count == 0 {
                statuses[index].code = status
                statuses[index].count &+= count
                return
            }
        }
        statuses[statuses.count - 1].count &+= count
    }

    mutating func merge(_ other: borrowing SeriesCounters) {
        started &+= other.started
        inFlight &+= other.inFlight
        promptTokens &+= other.promptTokens
        cachedTokens &+= other.cachedTokens
        predictedCachedTokens &+= other.predictedCachedTokens
        completionTokens &+= other.completionTokens
        timeToFirstToken.merge(other.timeToFirstToken)
        duration.merge(other.duration)
        for index in outcomes.indices { outcomes[index] &+= other.outcomes[index] }
        for index in other.statuses.indices where other.statuses[index].count > 0 {
            add(other.statuses[index].count, status: other.statuses[index].code)
        }
    }
}
