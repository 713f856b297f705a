import Glibc

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
    /// Prior of the prefill rate in tokens per second, until answers teach a better one; 0: what `priors` makes of the size.
    public var prefillTokensPerSecond: Double
    /// Prior of the time that one decode step takes at batch size 1, in seconds; 0: what `priors` makes of the size.
    public var decodeStepSeconds: Double
    /// Prior of the engine's KV cache capacity in tokens; 0: what `priors` makes of the size.
    public var kvCapacityTokens: Int
    /// Whether the leader is ready and all members are present.
    public var isReady: Bool
    /// Tells this leader's process from one that was at the same address before it: its cache began empty. Empty: unknown.
    public var incarnation = ""
    /// Where its leader runs, as the platform names it: what `Locality` compares. Empty: unknown.
    public var node = ""
    /// How many times as long everything is taken to last as the priors say, until it was measured: above 1 for a group whose members
    /// are on several nodes, so that of equals the one on one node gets the request.
    public var slowdown = 1.0
    public var zone = ""

    public init(
        name: String, leader: Endpoint, members: [Endpoint] = [], size: Int = 1, models: [String] = [],
        prefillTokensPerSecond: Double = 0, decodeStepSeconds: Double = 0, kvCapacityTokens: Int = 0,
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

/// What is assumed of an engine until it has been measured.
public struct GroupPriors: Sendable, Equatable {
    public var prefillTokensPerSecond: Double
    public var decodeStepSeconds: Double
    public var kvCapacityTokens: Int

    /// One GPU serving a model of about 8 billion parameters.
    public static let ofOne = GroupPriors(prefillTokensPerSecond: 20_000, decodeStepSeconds: 0.02, kvCapacityTokens: 500_000)
}

extension GroupDescription {
    /// Doubling a tensor-parallel group makes it 1.6 to 1.8 times as fast, the rest goes into all-reduces (Splitwise's and DistServe's
    /// profiles of 70B and 66B models at 2, 4 and 8 GPUs). Its KV cache grows in proportion at least.
    private static var doublingGain: Double { 1.7 }

    /// What is described, and what follows from the size where nothing is. Answers teach the truth; until then a group of eight is not
    /// taken for a group of one.
    public var priors: GroupPriors {
        let processes = Double(min(max(size, 1), 4_096))
        let speed = pow(Self.doublingGain, log2(processes))
        let one = GroupPriors.ofOne
        func described(_ value: Double) -> Double? { value.isFinite && value > 0 ? value : nil }
        let slowdown = described(slowdown) ?? 1
        let prefillRate = described(prefillTokensPerSecond) ?? one.prefillTokensPerSecond * speed
        let step = described(decodeStepSeconds) ?? one.decodeStepSeconds / speed
        return GroupPriors(
            prefillTokensPerSecond: max(prefillRate / slowdown, 1), decodeStepSeconds: min(max(step * slowdown, 1e-6), 60),
            kvCapacityTokens: kvCapacityTokens > 0 ? max(kvCapacityTokens, 16) : one.kvCapacityTokens * Int(processes))
    }
}
