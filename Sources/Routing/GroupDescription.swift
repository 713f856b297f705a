/// What an upstream endpoint speaks.
public enum UpstreamProtocol: Sendable {
    case http1
    /// HTTP/2: cleartext with prior knowledge (RFC 9113, section 3.3), or agreed on by ALPN under TLS; what gRPC needs.
    case http2
}

/// One address that serves requests.
public struct Endpoint: Hashable, Sendable, CustomStringConvertible {
    public let host: String
    public let port: UInt16
    public let `protocol`: UpstreamProtocol
    public let isTLS: Bool

    public init(host: String, port: UInt16, protocol: UpstreamProtocol = .http1, isTLS: Bool = false) {
        self.host = host
        self.port = port
        self.protocol = `protocol`
        self.isTLS = isTLS
    }

    /// `host:port`, or `[host]:port` of an IPv6 address.
    public var description: String { host.utf8.contains(UInt8(ascii: ":")) ? "[\(host)]:\(port)" : "\(host):\(port)" }
}

/// One tensor-parallel group as discovery or configuration describes it.
public struct GroupDescription: Sendable, Equatable {
    /// Identifies the group across updates; replicas of the router must use the same names to agree on cold placement.
    public var name: String
    /// The endpoint that serves for the whole group.
    public var leader: Endpoint
    /// The members other than the leader.
    public var members: [Endpoint]
    /// Tensor-parallel world size.
    public var size: Int
    /// The models that it serves; empty means unknown: it is taken to serve anything.
    public var models: [String]
    /// Prior of the prefill rate in tokens per second, until answers teach a better one.
    public var prefillTokensPerSecond: Double
    /// Prior of the time that one decode step takes at batch size 1, in seconds.
    public var decodeStepSeconds: Double
    /// Prior of the engine's KV cache capacity in tokens.
    public var kvCapacityTokens: Int
    /// Whether the leader is ready and all members are present.
    public var isReady: Bool
    /// Tells this leader's process from one that was at the same address before it: its cache began empty. Empty: unknown.
    public var incarnation = ""

    public init(
        name: String, leader: Endpoint, members: [Endpoint] = [], size: Int = 1, models: [String] = [],
        prefillTokensPerSecond: Double = 20_000, decodeStepSeconds: Double = 0.02, kvCapacityTokens: Int = 500_000,
        isReady: Bool = true
    ) {
        self.name = name
        self.leader = leader
        self.members = members
        self.size = size
        self.models = models
        self.prefillTokensPerSecond = prefillTokensPerSecond
        self.decodeStepSeconds = decodeStepSeconds
        self.kvCapacityTokens = kvCapacityTokens
        self.isReady = isReady
    }
}
