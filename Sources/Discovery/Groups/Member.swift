public import Routing

/// One process of an engine, as a source of discovery knows it: in Kubernetes a pod, elsewhere an address.
public struct Member: Sendable, Equatable {
    /// What the source says of the process.
    public enum Phase: Sendable, Equatable {
        case ready
        /// With the reason, for people: a phrase.
        case notReady(String)
        /// It finishes what it has and leaves: a `deletionTimestamp`, a condition `terminating`, a node that is taken away.
        case terminating(String)
    }

    /// Tells this process from any other that was ever there, as a pod's uid does.
    public var identity: String
    /// For people: a pod's name, or its address.
    public var name: String
    /// A literal IPv4 or IPv6 address, or a name that was resolved.
    public var host: String
    /// Where it serves. Several: one data-parallel rank each, which is a group of its own. Empty: it serves nobody by itself.
    public var ports: [UInt16]
    /// Those of them at which HTTP/2 is spoken whatever the template says.
    public var http2Ports: Set<UInt16> = []
    public var node: String?
    public var zone: String?
    /// Zones whose clients the source would send here; empty: it has no opinion. Shown, not followed: the way to a group costs
    /// microseconds, and what it has in its cache seconds.
    public var zoneHints: [String] = []
    public var role: GroupRole
    public var phase: Phase

    public init(
        identity: String, name: String, host: String, ports: [UInt16], http2Ports: Set<UInt16> = [], node: String? = nil,
        zone: String? = nil, zoneHints: [String] = [], role: GroupRole, phase: Phase = .ready
    ) {
        self.identity = identity
        self.name = name
        self.host = host
        self.ports = ports
        self.http2Ports = http2Ports
        self.node = node
        self.zone = zone
        self.zoneHints = zoneHints
        self.role = role
        self.phase = phase
    }

    var isTerminating: Bool {
        if case .terminating = phase { true } else { false }
    }
}

/// A process's place in its tensor-parallel group.
public struct GroupRole: Sendable, Equatable {
    /// The group's name: the same in every replica of the router, and over restarts of its processes.
    public var group: String
    /// 0 leads: it alone serves.
    public var rank: Int
    /// Processes of a whole group; nil when nothing says it.
    public var worldSize: Int?
    /// Processes of one group work together only at one revision of their template.
    public var revision: String?

    public init(group: String, rank: Int = 0, worldSize: Int? = nil, revision: String? = nil) {
        self.group = group
        self.rank = rank
        self.worldSize = worldSize
        self.revision = revision
    }
}

/// What configuration says of all groups that one source finds: everything that the network cannot tell.
public struct GroupTemplate: Sendable, Equatable {
    /// Empty: the engines are asked.
    public var models: [String] = []
    public var `protocol` = UpstreamProtocol.http1
    public var isTLS = false
    /// Processes of a group where no member says it.
    public var worldSize: Int?
    /// How many times as long everything is taken to last on a group that spans several nodes, whose every all-reduce crosses the
    /// network: of equals the group on one node gets the request.
    public var spreadSlowdown = 1.25
    /// Priors; see `GroupDescription`.
    public var prefillTokensPerSecond = 0.0
    public var decodeStepSeconds = 0.0
    public var kvCapacityTokens = 0

    public init() {}
}
