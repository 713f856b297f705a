/// What one event loop counts. Confined to that loop: a count is an addition, with no lock and no atomic; readers get
/// a `MetricsSnapshot` by value, made on the loop, and add those of all loops.
///
/// Budget of a hot call once its series exists: no allocation and no hash; a histogram is searched in five steps.
public final class LoopMetrics {
    public let models: LabelTable
    public let groups: LabelTable
    /// Counts that have no label; the loop adds to them directly.
    public var counters = LoopCounters()

    /// By the index that `tlsHandshakeFailed` takes.
    private let handshakeFailureReasons: [String]
    private var handshakeFailures: [UInt64]
    private let maximumSeries: Int
    private let decisionReasons: [String]
    private var keys: [SeriesKey] = []
    private var series: [SeriesCounters] = []
    private var indexByKey: [SeriesKey: SeriesIndex] = [:]
    /// The series used last by groups of each place; a power of two of them.
    private var recent: [(key: SeriesKey, index: SeriesIndex)]
    private var decisions: [UInt64]
    /// `UpstreamFailure.allCases.count` counts for each group label.
    private var failures: [UInt64] = []
    private var overhead = LatencyHistogram(scale: .overhead)
    private var hold = LatencyHistogram(scale: .request)

    /// - Parameters:
    ///   - decisionReasons: label of each reason; `decided` takes the index.
    ///   - handshakeFailureReasons: the same for `tlsHandshakeFailed`.
    ///   - maximumSeries: pairs of model and group that are told apart, about 1 KiB each; the rest is counted as `other`.
    public init(decisionReasons: [String], handshakeFailureReasons: [String] = [], maximumSeries: Int = 1_024, maximumLabels: Int = 1_000) {
        models = LabelTable(maximumLabels: maximumLabels)
        groups = LabelTable(maximumLabels: maximumLabels)
        self.decisionReasons = decisionReasons
        self.handshakeFailureReasons = handshakeFailureReasons
        handshakeFailures = Array(repeating: 0, count: handshakeFailureReasons.count)
        self.maximumSeries = max(1, maximumSeries)
        decisions = Array(repeating: 0, count: decisionReasons.count)
        let other = SeriesKey(model: LabelTable.other, group: LabelTable.other)
        recent = Array(repeating: (other, SeriesIndex(value: 0)), count: 64)
        _ = findOrAddSeries(other)
    }

    /// The place of a series, made at its first use. It stays valid, so an exchange looks it up once.
    public func series(_ key: SeriesKey) -> SeriesIndex {
        // Most requests follow one of the same model to the same group: no hash for those.
        let place = Int(key.group) & (recent.count - 1)
        if recent[place].key == key { return recent[place].index }
        let index = findOrAddSeries(key)
        recent[place] = (key, index)
        return index
    }

    private func findOrAddSeries(_ key: SeriesKey) -> SeriesIndex {
        if let index = indexByKey[key] { return index }
        guard series.count < maximumSeries else { return SeriesIndex(value: 0) }
        let index = SeriesIndex(value: Int32(truncatingIfNeeded: series.count))
        keys.append(key)
        series.append(SeriesCounters())
        indexByKey[key] = index
        return index
    }

    public func requestStarted(_ index: SeriesIndex) {
        series[Int(index.value)].started &+= 1
        series[Int(index.value)].inFlight &+= 1
    }

    /// The request is now tried on another group: only the gauge moves.
    public func requestMoved(from old: SeriesIndex, to new: SeriesIndex) {
        series[Int(old.value)].inFlight &-= 1
        series[Int(new.value)].inFlight &+= 1
    }

    /// - Parameter nanoseconds: since the request's head was here.
    public func firstToken(_ index: SeriesIndex, afterNanoseconds nanoseconds: UInt64) {
        series[Int(index.value)].timeToFirstToken.record(nanoseconds: nanoseconds)
    }

    /// - Parameters:
    ///   - status: what the client was told; codes that are none (below 100, above 999) are counted together.
    ///   - durationNanoseconds: from the request's head to the answer's last byte.
    public func requestFinished(_ index: SeriesIndex, status: Int, outcome: ExchangeOutcome, durationNanoseconds: UInt64) {
        let place = Int(index.value)
        series[place].inFlight &-= 1
        series[place].outcomes[outcome.rawValue] &+= 1
        series[place].add(1, status: (100...999).contains(status) ? UInt16(truncatingIfNeeded: status) : 0)
        series[place].duration.record(nanoseconds: durationNanoseconds)
    }

    /// What an answer's `usage` said, beside what the prefix index had foretold. Negative numbers, which only a broken
    /// engine sends, count as none.
    public func tokens(_ index: SeriesIndex, prompt: Int, cached: Int, predictedCached: Int, completion: Int) {
        let place = Int(index.value)
        series[place].promptTokens &+= UInt64(max(0, prompt))
        series[place].cachedTokens &+= UInt64(max(0, cached))
        series[place].predictedCachedTokens &+= UInt64(max(0, predictedCached))
        series[place].completionTokens &+= UInt64(max(0, completion))
    }

    /// - Parameter reason: index into the reasons given at `init`.
    public func decided(_ reason: Int) {
        decisions[reason] &+= 1
    }

    /// - Parameter reason: index into the reasons given at `init`.
    public func tlsHandshakeFailed(_ reason: Int) {
        handshakeFailures[reason] &+= 1
    }

    /// - Parameter group: as interned in `groups`.
    public func upstreamFailed(_ kind: UpstreamFailure, group: UInt16) {
        let width = UpstreamFailure.allCases.count
        let place = Int(group) * width + kind.rawValue
        if place >= failures.count {
            failures.append(contentsOf: repeatElement(0, count: (Int(group) + 1) * width - failures.count))
        }
        failures[place] &+= 1
    }

    /// What the router itself added to one attempt: from the wake in which its group was chosen to its first byte written there.
    public func overheadMeasured(nanoseconds: UInt64) {
        overhead.record(nanoseconds: nanoseconds)
    }

    /// How long one request waited in the router for a group with room.
    public func waited(nanoseconds: UInt64) {
        hold.record(nanoseconds: nanoseconds)
    }

    /// Everything so far, by value. The arrays are built anew: sharing them would make the next hot call copy them.
    public func snapshot() -> MetricsSnapshot {
        var snapshot = MetricsSnapshot()
        snapshot.counters = counters
        snapshot.overhead = overhead
        snapshot.hold = hold
        snapshot.decisions = decisionReasons.indices.map { MetricsSnapshot.Decision(reason: decisionReasons[$0], count: decisions[$0]) }
        snapshot.tlsHandshakeFailures = handshakeFailureReasons.indices.map {
            MetricsSnapshot.Reason(name: handshakeFailureReasons[$0], count: handshakeFailures[$0])
        }
        for place in series.indices where series[place].isUsed {
            let name = MetricsSnapshot.SeriesName(model: models.name(of: keys[place].model), group: groups.name(of: keys[place].group))
            snapshot.merge(series[place], name: name)
        }
        let width = UpstreamFailure.allCases.count
        for place in failures.indices where failures[place] > 0 {
            guard let kind = UpstreamFailure(rawValue: place % width) else { continue }
            let group = groups.name(of: UInt16(truncatingIfNeeded: place / width))
            snapshot.upstreamFailures[MetricsSnapshot.FailureName(group: group, kind: kind), default: 0] &+= failures[place]
        }
        return snapshot
    }
}

/// Names a series by labels interned in `LoopMetrics.models` and `.groups` of the same loop.
public struct SeriesKey: Hashable, Sendable {
    public var model: UInt16
    public var group: UInt16

    public init(model: UInt16, group: UInt16) {
        self.model = model
        self.group = group
    }
}

/// The place of a series in the `LoopMetrics` that gave it, and in no other.
public struct SeriesIndex: Sendable {
    let value: Int32
}

/// Counts of one loop that have no label. `…Open` are gauges.
public struct LoopCounters: Sendable, Equatable {
    public var retries: UInt64 = 0
    /// Requests that wait in the router.
    public var requestsHeld: Int64 = 0
    public var downstreamBytesReceived: UInt64 = 0
    public var downstreamBytesSent: UInt64 = 0
    public var downstreamConnectionsAccepted: UInt64 = 0
    public var downstreamConnectionsOpen: Int64 = 0
    public var upstreamConnectionsOpened: UInt64 = 0
    public var upstreamConnectionsOpen: Int64 = 0
    public var accessLogLinesDropped: UInt64 = 0
    /// Load reports in fields of answers, and those that said nothing known.
    public var loadReports: UInt64 = 0
    public var unreadableLoadReports: UInt64 = 0

    public init() {}

    static func + (left: LoopCounters, right: LoopCounters) -> LoopCounters {
        var sum = left
        sum.retries &+= right.retries
        sum.requestsHeld &+= right.requestsHeld
        sum.downstreamBytesReceived &+= right.downstreamBytesReceived
        sum.downstreamBytesSent &+= right.downstreamBytesSent
        sum.downstreamConnectionsAccepted &+= right.downstreamConnectionsAccepted
        sum.downstreamConnectionsOpen &+= right.downstreamConnectionsOpen
        sum.upstreamConnectionsOpened &+= right.upstreamConnectionsOpened
        sum.upstreamConnectionsOpen &+= right.upstreamConnectionsOpen
        sum.accessLogLinesDropped &+= right.accessLogLinesDropped
        sum.loadReports &+= right.loadReports
        sum.unreadableLoadReports &+= right.unreadableLoadReports
        return sum
    }
}

extension SeriesCounters {
    fileprivate var isUsed: Bool { started > 0 || inFlight != 0 || finished > 0 || timeToFirstToken.count > 0 || promptTokens > 0 }
}
