import EngineModel
import EventLoop
import HTTPTransport

/// Simulated GPU engines on one loop, each behind a port of its own: `EngineModel` gives them their timing, this target their wire.
///
/// In the order of a request: a `StubExchange` collects it, `CompletionRequest` (or `InferenceMessages`) reads it, a `Generation`
/// submits its sequences to the `EngineHost`, which steps the engine by the loop's timers and hands each token back to be written.
///
/// Confined to its loop; `EventLoop.addService(_:)` keeps it alive and lets other threads reach it through the mailbox.
public final class StubFleet {
    private var stubs: [Stub] = []

    private struct Stub {
        let host: EngineHost
        let listener: Listener
    }

    /// Binds `replicas` consecutive ports from that of `address` on, or as many free ones when it is 0. Throws when a port cannot
    /// be bound or the last one would lie beyond 65,535.
    public init(loop: EventLoop, address: SocketAddress, replicas: Int, configuration: StubConfiguration) throws(SocketError) {
        for index in 0..<max(1, replicas) {
            let port = address.port == 0 ? 0 : Int(address.port) + index
            guard let port = UInt16(exactly: port) else { throw SocketError(call: "bind port \(port)", code: 22 /* EINVAL */) }
            let host = EngineHost(loop: loop, configuration: configuration)
            let listener = try Listener(
                loop: loop, address: address.with(port: port), tls: nil, application: StubApplication(host: host),
                limits: TransportLimits())
            host.name = configuration.servedBy ?? "stub-\(listener.port)"
            stubs.append(Stub(host: host, listener: listener))
        }
    }

    /// The ports bound, in the order of the engines.
    public var ports: [UInt16] { stubs.map(\.listener.port) }
    /// Each engine's totals, in the same order.
    public var counters: [StubCounters] { stubs.map(\.host.totals) }

    /// Connections still open, over all engines.
    public var connectionCount: Int { stubs.reduce(0) { $0 + $1.listener.connectionCount } }

    /// Takes nothing new, tells health watchers, lets what is under way finish. Done when `connectionCount` is 0.
    public func drain() {
        for stub in stubs {
            stub.host.endWatches()
            stub.listener.drain()
        }
    }

    /// Closes everything at once.
    public func close() {
        for stub in stubs { stub.listener.closeAll() }
    }

    /// One engine dies: its port refuses, its connections break.
    public func close(at index: Int) {
        guard stubs.indices.contains(index) else { return }
        stubs[index].listener.closeAll()
    }
}

final class StubApplication: DownstreamApplication {
    private let host: EngineHost

    init(host: EngineHost) { self.host = host }

    override func makeExchange() -> DownstreamExchange { StubExchange(host: host) }
}
