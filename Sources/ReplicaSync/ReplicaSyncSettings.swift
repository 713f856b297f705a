public import Discovery
public import EventLoop

/// Whom to tell, how often, and where to listen.
public struct ReplicaSyncSettings: Sendable {
    /// Another router, or a name behind which there are several.
    public struct Peer: Sendable, Equatable, CustomStringConvertible {
        /// An address, or a name of the DNS.
        public var host: String
        public var port: UInt16

        public init(host: String, port: UInt16) {
            self.host = host
            self.port = port
        }

        public var description: String { "\(host):\(port)" }
    }

    /// Port 0 takes any free one.
    public var listen: SocketAddress
    public var peers: [Peer] = []
    /// Between two looks at what there is to tell.
    public var intervalNanoseconds: UInt64 = 20_000_000
    /// What all replicas know and nobody else does; empty: everybody is believed.
    public var secret: [UInt8] = []
    public var nameServers = NameServers()

    public init(listen: SocketAddress) { self.listen = listen }
}
