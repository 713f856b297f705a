import Routing

/// Everything that an operator may choose, as one immutable, validated value: what the process reads once at start
/// and never asks for again.
///
/// Three sources make it, the later winning over the earlier: the defaults written here, a YAML file (`load`), and
/// command line flags (`applying`). Both steps throw a `ConfigurationError` before anything is opened or bound.
public struct SwiftletConfiguration: Sendable, Equatable {
    /// Where downstream connections are accepted, at least one.
    public var listeners: [ListenerConfiguration] = [ListenerConfiguration(address: SocketAddressText(host: "127.0.0.1", port: 8080))]
    /// Where `/metrics` and `/groups` are served; nil: nowhere.
    public var admin: SocketAddressText?
    /// Number of event loops; 0: one per core.
    public var loops = 0
    public var policy = Policy.leastCost
    public var logLevel = LogLevel.info
    /// One JSON line per request on standard output.
    public var accessLog = true
    /// The static groups.
    public var groups: [GroupDescription] = []
    public var discovery = DiscoveryConfiguration()
    public var probes = ProbeConfiguration()
    public var loadSignals = LoadSignalConfiguration()
    public var replicas = ReplicaConfiguration()
    public var upstreamTLS = UpstreamTLSConfiguration()
    public var limits = Limits()
    public var timeouts = Timeouts()
    public var retries = Retries()
    public var routing = RoutingParameters()

    public init() {}
}

/// One port on which downstream connections are accepted.
public struct ListenerConfiguration: Sendable, Equatable {
    /// Port 0 takes any free port.
    public var address: SocketAddressText
    /// nil: cleartext, HTTP/1.1 and HTTP/2 told apart by the preface.
    public var tls: ListenerTLS?

    public init(address: SocketAddressText, tls: ListenerTLS? = nil) {
        self.address = address
        self.tls = tls
    }
}

/// A certificate chain, leaf first, and its key, in PEM files. They are opened by whoever binds the port, not here.
public struct TLSFiles: Sendable, Equatable {
    public var certificateFile: String
    public var keyFile: String

    public init(certificateFile: String, keyFile: String) {
        self.certificateFile = certificateFile
        self.keyFile = keyFile
    }
}

/// How a listener speaks TLS.
public struct ListenerTLS: Sendable, Equatable {
    /// Shown to clients that name no server, or one that no certificate is for.
    public var standard: TLSFiles
    /// Chosen by the name that the client asks for (SNI).
    public var others: [TLSFiles] = []
    public var minimumVersion = MinimumTLSVersion.tls12
    public var clientCertificates = ClientCertificateDemand.off
    /// PEM: the authorities of client certificates.
    public var clientCAFile: String?
    /// Intermediate authorities in a client's chain, at most.
    public var clientVerifyDepth = 4

    public init(standard: TLSFiles) { self.standard = standard }
}

public enum MinimumTLSVersion: String, CaseIterable, Sendable {
    case tls12 = "1.2"
    case tls13 = "1.3"
}

public enum ClientCertificateDemand: String, CaseIterable, Sendable {
    case off, optional, required
}

/// Where groups are found, besides those that are written here.
public struct DiscoveryConfiguration: Sendable, Equatable {
    /// A file with `groups`, read again when it changes.
    public var file: String?
    /// Names whose addresses, or SRV records, are leaders.
    public var dns: [DNSConfiguration] = []
    /// `ADDRESS[:PORT]` of the name servers; none: those of /etc/resolv.conf.
    public var dnsServers: [String] = []
    /// How long a first question to one of them may take.
    public var dnsTimeoutNanoseconds: UInt64 = 1_000_000_000

    public var kubernetes = KubernetesConfiguration()
    /// Where groups that discovery has found are kept for the next start, should it find nobody to ask.
    public var snapshotFile: String?

    public init() {}

    public var isEmpty: Bool { file == nil && dns.isEmpty && kubernetes.pools.isEmpty }
}

/// One name of the DNS.
public struct DNSConfiguration: Sendable, Equatable {
    /// Every address of the host is a leader; with `isService` the host is a SRV name, whose records bring hosts and ports.
    public var endpoint = Endpoint(host: "", port: 0)
    public var isService = false
    /// How pods make a group; see `GroupingConfiguration`.
    public var grouping = GroupingConfiguration()

    public init() {}
}

/// How processes that discovery finds make up tensor-parallel groups, and what all groups of one source have in common.
public struct GroupingConfiguration: Sendable, Equatable {
    public enum Form: String, CaseIterable, Sendable {
        case automatic = "auto"
        case pod
        case leaderWorkerSet = "leader-worker-set"
        case statefulSet = "stateful-set"
    }

    public var form = Form.automatic
    /// Pods of one group where no label says it; 0: one.
    public var podsPerGroup = 0
    /// The set's name, where pods' names are read and it ends in a number itself.
    public var setName: String?
    /// How many times as long everything is taken to last on a group that spans nodes.
    public var spreadSlowdown = 1.25
    /// Empty: the engines are asked.
    public var models: [String] = []
    /// Labels or annotations.
    public var groupKey = "swiftlet.dev/group"
    public var rankKey = "swiftlet.dev/rank"
    public var worldSizeKey = "swiftlet.dev/world-size"
    public var revisionKey = "swiftlet.dev/revision"
    /// Priors; see `GroupDescription`.
    public var prefillTokensPerSecond = 0.0
    public var decodeStepSeconds = 0.0
    public var kvCapacityTokens = 0

    public init() {}
}

/// How the members of static groups are looked at, since nobody else tells when one is gone.
public struct ProbeConfiguration: Sendable, Equatable {
    /// 0: never.
    public var intervalNanoseconds: UInt64 = 2_000_000_000
    public var timeoutNanoseconds: UInt64 = 1_000_000_000
    /// In a row, after which an endpoint counts as gone.
    public var failures = 2
    /// Whether leaders are asked for `/health`, too.
    public var asksLeaders = false

    public init() {}
}

/// How endpoints with TLS are spoken to.
public struct UpstreamTLSConfiguration: Sendable, Equatable {
    /// PEM; nil: the system's authorities.
    public var caFile: String?
    /// nil: each endpoint's own host.
    public var serverName: String?
    public var insecureSkipVerify = false
    /// The router's own certificate and key, both or neither.
    public var certificateFile: String?
    public var keyFile: String?
    public var minimumVersion = MinimumTLSVersion.tls12

    public init() {}
}

/// swift-log's levels by their own names.
public enum LogLevel: String, CaseIterable, Sendable {
    case trace, debug, info, notice, warning, error, critical

    /// Whether lines of `other` are written at this level.
    public func includes(_ other: LogLevel) -> Bool {
        let order = Self.allCases
        return (order.firstIndex(of: self) ?? 0) <= (order.firstIndex(of: other) ?? 0)
    }
}

/// The bounds on what others may make the process hold. Sizes are bytes.
public struct Limits: Sendable, Equatable {
    /// One header block, request line and every field included.
    public var headerBytes = 64 << 10
    public var headerFields = 100
    /// One request body. It is kept until the answer begins, so that another group can be tried.
    public var bodyBytes = 64 << 20
    /// All request bodies that one loop keeps at once.
    public var bufferedBodyBytes = 256 << 20
    /// Of a body that is forwarded as it comes, since it is no JSON: up to so long it can be sent again.
    public var replayBytes = 1 << 20
    /// Concurrent HTTP/2 streams of one downstream connection.
    public var streamsPerConnection = 256
    /// HTTP/2 streams that a client may reset, or have reset by breaking the protocol, on one connection in the long run.
    public var resetsPerSecond = 100
    /// Downstream connections of one listener.
    public var connections = 16_384
    /// Idle HTTP/1.1 connections that one loop keeps to one endpoint.
    public var idleUpstreamConnections = 256
    /// HTTP/2 connections that one loop opens to one endpoint, as its stream limit requires.
    public var http2UpstreamConnections = 8
    /// Requests given to groups and not yet ended, of the whole process.
    public var requests = 65_536
    /// What one exchange may hold for a slow reader before its upstream is no longer read.
    public var streamBufferBytes = 256 << 10
    /// What the connections of one loop hold in buffers.
    public var connectionBufferBytes = 64 << 20
    /// Of a request body, on average over `Timeouts.requestBodyNanoseconds`; 0: any pace.
    public var requestBodyBytesPerSecond = 500

    public init() {}
}

/// How long each wait may last, in nanoseconds.
public struct Timeouts: Sendable, Equatable {
    /// From a client's connect to the end of its TLS handshake.
    public var tlsHandshakeNanoseconds: UInt64 = 10 * 1_000_000_000
    /// From the first byte of a request to the end of its header block.
    public var requestHeaderNanoseconds: UInt64 = 10 * 1_000_000_000
    /// A request body of which nothing comes.
    public var requestBodyNanoseconds: UInt64 = 75 * 1_000_000_000
    /// A gRPC call whose client has begun and not ended, on which nothing moves in either direction.
    public var callIdleNanoseconds: UInt64 = 600 * 1_000_000_000
    /// A downstream connection without a request.
    public var downstreamIdleNanoseconds: UInt64 = 75 * 1_000_000_000
    /// A pooled upstream connection of HTTP/1. uvicorn, under vLLM, closes at 5 s without notice: a connection must be given up
    /// well before, or a request meets its end.
    public var upstreamIdleNanoseconds: UInt64 = 3 * 1_000_000_000
    /// One of HTTP/2 without a stream.
    public var upstreamHTTP2IdleNanoseconds: UInt64 = 60 * 1_000_000_000
    /// To a backend, the TLS handshake included.
    public var connectNanoseconds: UInt64 = 1_000_000_000
    /// A WebSocket through which nothing moves.
    public var tunnelIdleNanoseconds: UInt64 = 600 * 1_000_000_000
    /// From the request's last byte to the response's first, and between two reads of it.
    public var responseNanoseconds: UInt64 = 600 * 1_000_000_000
    /// For a free stream of a HTTP/2 backend that is at its limit.
    public var streamQueueNanoseconds: UInt64 = 5 * 1_000_000_000
    /// Silence of a HTTP/2 backend with open streams before it is sent a PING, and how long its answer may take.
    public var pingIntervalNanoseconds: UInt64 = 40 * 1_000_000_000
    public var pingTimeoutNanoseconds: UInt64 = 10 * 1_000_000_000
    /// How long the head of an event stream is held while its first event has not come.
    public var headHoldNanoseconds: UInt64 = 30 * 1_000_000_000
    /// From SIGTERM to exit.
    public var drainNanoseconds: UInt64 = 30 * 1_000_000_000

    public init() {}
}

/// How often an exchange whose answer has not begun is tried.
public struct Retries: Sendable, Equatable {
    /// Attempts in all, the first included.
    public var attempts = 3

    public init() {}
}
