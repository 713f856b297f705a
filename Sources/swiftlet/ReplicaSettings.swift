import Configuration
import Discovery
import EventLoop
import ReplicaSync

extension ReplicaSyncSettings {
    /// Nil where replicas are neither told anything nor heard. Throws what cannot be: a key that cannot be read, a name that does not resolve.
    init?(_ configuration: SwiftletConfiguration) throws {
        let replicas = configuration.replicas
        guard let listen = replicas.listen else { return nil }
        self.init(listen: try SocketAddress.resolve(host: listen.host, port: listen.port))
        peers = replicas.peers.map { Peer(host: $0.host, port: $0.port) }
        intervalNanoseconds = replicas.intervalNanoseconds
        secret = try swiftlet.secret(in: replicas.keyFile, of: "replicas.key_file", called: "a secret")
        nameServers = NameServers(configuration.discovery)
    }
}
