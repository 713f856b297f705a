/// How replicas of the router tell one another what they do.
public struct ReplicaConfiguration: Sendable, Equatable {
    /// UDP; nil: nothing is told nor heard.
    public var listen: SocketAddressText?
    /// Addresses, and names of the DNS with the addresses of several.
    public var peers: [SocketAddressText] = []
    public var intervalNanoseconds: UInt64 = 20_000_000
    /// nil: whoever reaches the port is believed.
    public var keyFile: String?

    public init() {}

    static let mostPeers = 256
}

extension ReplicaConfiguration {
    static var fields: [Field<ReplicaConfiguration>] {
        [
            .optional("listen", \.listen, .listenAddress),
            .list("peers", \.peers, .peerAddress),
            .scalar("interval", \.intervalNanoseconds, .duration(5_000_000...1_000_000_000)),
            .optional("key_file", \.keyFile, .file),
        ]
    }

    /// Whether only programs on this host reach the port.
    var isWithinHost: Bool { listen.map { $0.host.hasPrefix("127.") || $0.host == "::1" || $0.host == "localhost" } ?? true }

    /// What no key can tell alone.
    var violation: SwiftletConfiguration.Violation? {
        guard let listen else {
            if peers.isEmpty, keyFile == nil { return nil }
            let key = peers.isEmpty ? "key_file" : "peers"
            return .init("replicas.listen", expected: "an address together with replicas.\(key)", found: "none")
        }
        if peers.isEmpty { return .init("replicas.peers", expected: "at least one peer together with replicas.listen", found: "none") }
        if peers.count > Self.mostPeers {
            return .init("replicas.peers", expected: "at most \(Self.mostPeers) peers", found: "\(peers.count)")
        }
        var seen: Set<SocketAddressText> = []
        for (index, peer) in peers.enumerated() {
            if !seen.insert(peer).inserted {
                return .init("replicas.peers[\(index)]", expected: "a peer that is listed once", found: "\(peer) again")
            }
            if listen.isIPv4, peer.isIPv6 {
                return .init(
                    "replicas.peers[\(index)]", expected: "an address that can be reached from \(listen)", found: "\(peer)")
            }
        }
        return nil
    }
}
