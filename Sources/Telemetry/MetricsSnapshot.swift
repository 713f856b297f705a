/// The metrics of one loop, or the sum of several, at one moment. Series are named by text here, since each loop has
/// label numbers of its own.
public struct MetricsSnapshot: Sendable {
    public struct SeriesName: Hashable, Sendable, Comparable {
        public var model: String
        public var group: String

        public static func < (left: SeriesName, right: SeriesName) -> Bool {
            (left.model, left.group) < (right.model, right.group)
        }
    }

    public struct Decision: Sendable, Equatable {
        public var reason: String
        public var count: UInt64
    }

    public struct Reason: Sendable, Equatable {
        public var name: String
        public var count: UInt64
    }

    /// What the control plane knows of TLS files. The proxying loops do not fill it.
    public struct Certificates: Sendable {
        /// Seconds since 1970, by file.
        public var expiries: [(file: String, notAfter: Int64)] = []
        public var reloads: UInt64 = 0
        public var failedReloads: UInt64 = 0
        public init() {}
    }

    /// What the control plane knows of discovery. The proxying loops do not fill it.
    public struct Discovery: Sendable {
        /// One source; its age is that of the last word from where it looks, nil: it never had one.
        public struct Source: Sendable {
            public var name: String
            public var hasSynced: Bool
            public var isFaulty: Bool
            public var ageSeconds: Double?
            public var events: UInt64
            public var faults: UInt64

            public init(name: String, hasSynced: Bool, isFaulty: Bool, ageSeconds: Double?, events: UInt64, faults: UInt64) {
                self.name = name
                self.hasSynced = hasSynced
                self.isFaulty = isFaulty
                self.ageSeconds = ageSeconds
                self.events = events
                self.faults = faults
            }
        }

        /// One watch of a Kubernetes API server.
        public struct Watch: Sendable {
            public var resource: String
            public var scope: String
            /// What is wrong now, as a word; nil: nothing.
            public var fault: String?
            public var hasSynced: Bool
            public var ageSeconds: Double?
            public var objects: Int
            public var lists: UInt64
            public var watches: UInt64
            public var events: UInt64
            public var expirations: UInt64
            public var faults: UInt64

            public init(
                resource: String, scope: String, fault: String?, hasSynced: Bool, ageSeconds: Double?, objects: Int, lists: UInt64,
                watches: UInt64, events: UInt64, expirations: UInt64, faults: UInt64
            ) {
                self.resource = resource
                self.scope = scope
                self.fault = fault
                self.hasSynced = hasSynced
                self.ageSeconds = ageSeconds
                self.objects = objects
                self.lists = lists
                self.watches = watches
                self.events = events
                self.expirations = expirations
                self.faults = faults
            }
        }

        public var sources: [Source] = []
        public var watches: [Watch] = []
        public init() {}
    }

    /// What the control plane knows of the engines' load. The proxying loops do not fill it.
    public struct LoadSignals: Sendable {
        /// One group's leader; nil is what it does not tell.
        public struct Leader: Sendable {
            public var group: String
            public var engine: String?
            /// By outcome: those that occurred.
            public var scrapes: [(outcome: String, count: UInt64)]
            public var scrapeSeconds: Double
            public var scrapeBytes: UInt64
            /// Of the last report that counted, ours or in an answer.
            public var ageSeconds: Double?
            public var running: Double?
            public var waiting: Double?
            public var awaitingFirstToken: Double?
            public var prefillTokens: Double?
            public var kvUsage: Double?
            public var othersRunning: Double
            public var othersWaiting: Double
            public var prefixQueries: Double?
            public var prefixHits: Double?
            public var preemptions: Double?
            public var restarts: UInt64

            public init(group: String) {
                self.group = group
                scrapes = []
                scrapeSeconds = 0
                scrapeBytes = 0
                othersRunning = 0
                othersWaiting = 0
                restarts = 0
            }
        }

        public var leaders: [Leader] = []
        public init() {}
    }

    public struct FailureName: Hashable, Sendable {
        public var group: String
        public var kind: UpstreamFailure

        public init(group: String, kind: UpstreamFailure) {
            self.group = group
            self.kind = kind
        }
    }

    public internal(set) var series: [SeriesName: SeriesCounters] = [:]
    /// In the order of the reasons' table, unused ones included.
    public internal(set) var decisions: [Decision] = []
    public internal(set) var upstreamFailures: [FailureName: UInt64] = [:]
    /// In the order of the reasons' table, unused ones included.
    public internal(set) var tlsHandshakeFailures: [Reason] = []
    public var certificates: Certificates?
    public var discovery: Discovery?
    public var loadSignals: LoadSignals?
    public var replicas: Replicas?
    public internal(set) var overhead = LatencyHistogram(scale: .overhead)
    public internal(set) var hold = LatencyHistogram(scale: .request)
    public internal(set) var counters = LoopCounters()

    /// The sum of nothing.
    public init() {}

    public static func + (left: MetricsSnapshot, right: MetricsSnapshot) -> MetricsSnapshot {
        var sum = left
        sum.merge(right)
        return sum
    }

    public mutating func merge(_ other: MetricsSnapshot) {
        for (name, counters) in other.series { merge(counters, name: name) }
        for decision in other.decisions {
            if let place = decisions.firstIndex(where: { $0.reason == decision.reason }) {
                decisions[place].count &+= decision.count
            } else {
                decisions.append(decision)
            }
        }
        for reason in other.tlsHandshakeFailures {
            if let place = tlsHandshakeFailures.firstIndex(where: { $0.name == reason.name }) {
                tlsHandshakeFailures[place].count &+= reason.count
            } else {
                tlsHandshakeFailures.append(reason)
            }
        }
        certificates = certificates ?? other.certificates
        discovery = discovery ?? other.discovery
        loadSignals = loadSignals ?? other.loadSignals
        replicas = replicas ?? other.replicas
        upstreamFailures.merge(other.upstreamFailures) { $0 &+ $1 }
        overhead.merge(other.overhead)
        hold.merge(other.hold)
        counters = counters + other.counters
    }

    mutating func merge(_ added: SeriesCounters, name: SeriesName) {
        series[name, default: SeriesCounters()].merge(added)
    }
}
