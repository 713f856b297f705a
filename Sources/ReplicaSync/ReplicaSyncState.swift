public import EventLoop

/// What became of datagrams that came.
public enum ReceivedDatagram: String, CaseIterable, Sendable {
    /// Its news were taken, or it had none.
    case taken
    /// Our own.
    case own
    /// Sent before one that was taken, or played back.
    case late
    /// Not of our making, or not as we make them.
    case malformed
    /// Without a tag that our key makes, or with one while we have no key.
    case unauthenticated
    /// From a clock too far from ours.
    case clock
    /// From one replica more than we listen to.
    case surplus
}

/// What became of datagrams that were to be sent, each to each peer.
public enum SentDatagram: String, CaseIterable, Sendable {
    case sent
    /// The kernel had no room for it.
    case dropped
    /// The kernel refused it.
    case failed
}

/// How far a router is with what others knew when it began.
public enum HandoverState: Sendable, Equatable {
    /// Nobody is there yet, or nobody has answered.
    case asking
    case told(by: UInt64)
    /// One has told all of it.
    case whole
    /// Nobody is asked any more.
    case givenUp
}

/// Handovers, given or taken: those that are neither whole nor broken are under way.
public struct HandoverCounts: Sendable, Equatable {
    public internal(set) var begun: UInt64 = 0
    /// Told to the end.
    public internal(set) var whole: UInt64 = 0
    /// One of both was gone, or who told was silent for too long, before the end.
    public internal(set) var broken: UInt64 = 0

    public init(begun: UInt64 = 0, whole: UInt64 = 0, broken: UInt64 = 0) {
        (self.begun, self.whole, self.broken) = (begun, whole, broken)
    }
}

/// What replica sync knows and has done, for people and for metrics.
public struct ReplicaSyncState: Sendable {
    public var id: UInt64
    public var address: SocketAddress
    public var isAuthenticated: Bool
    public var peers: [SocketAddress]
    /// Names that could not be resolved when they were asked for last.
    public var faults: [(name: String, text: String)]
    /// In the order of their ids.
    public var replicas: [KnownReplica]
    /// In the order of the cases.
    public var received: [(outcome: ReceivedDatagram, count: UInt64)]
    public var sent: [(outcome: SentDatagram, count: UInt64)]
    public var receivedBytes: UInt64
    public var sentBytes: UInt64
    public var placementsReceived: UInt64
    /// Each counted once, however many peers were told.
    public var placementsSent: UInt64
    public var placementsNotShared: UInt64
    /// How far we are with what others knew when we began.
    public var handover: HandoverState
    /// Times that a replica was told what it did not know when it began, and that we were.
    public var handoversGiven: HandoverCounts
    public var handoversTaken: HandoverCounts
    public var lost: UInt64
}

/// A count for each case.
struct Tally<Outcome: CaseIterable & Hashable> where Outcome.AllCases == [Outcome] {
    private var counts: [Outcome: UInt64] = [:]
    subscript(outcome: Outcome) -> UInt64 { counts[outcome] ?? 0 }
    mutating func add(_ outcome: Outcome) { counts[outcome, default: 0] &+= 1 }
    var all: [(outcome: Outcome, count: UInt64)] { Outcome.allCases.map { ($0, self[$0]) } }
}
