import EngineModel
import EventLoop
import HTTPTransport

/// Simulated GPU engines on one loop, each behind a port of its own: `EngineModel` gives them their timing, this target their wire.
///
/// In the order of a request: a `StubExchange` collects it, lets the faults strike that were asked for (`Faults/`) and answers by its
/// `Route`. `CompletionRequest` (`OpenAI/`) or a service of a `GRPCCall` (`GRPC/`) reads what the engine is to do; a `Generation`
/// submits its sequences to the `EngineHost`, which steps the engine by the loop's timers and hands each token back to be written.
/// A `Stub` is one engine with its port and its settings; `Metrics/` is what `/metrics` says; `Group/` are the processes of a
/// tensor-parallel group.
///
/// Confined to its loop; `EventLoop.addService(_:)` keeps it alive and lets other threads reach it through the mailbox.
public final class StubFleet {
    private(set) var stubs: [Stub] = []
    /// Ports are open, or would be if no fault kept them closed.
    private(set) var isOpen = false
    private let report: (StubEvent) -> Void
    private let configuration: StubConfiguration
    private var adminListener: Listener?
    /// The time that a model takes to load.
    private var startup: Wait?
    private var leader: GroupLeader?
    /// How long a collective operation waits for a member that is gone.
    private var collective: Wait?

    /// Binds `replicas` consecutive ports from that of `address` on, or as many free ones when it is 0. They open at once unless a
    /// start-up time is set or members are to join first. Throws when a port cannot be bound or the last one would lie beyond
    /// 65,535.
    ///
    /// - Parameters:
    ///   - admin: where `/admin/config` answers whatever the engines' ports do.
    ///   - firstRank: data-parallel rank of the first engine.
    ///   - report: is told, on the loop, of what happens.
    public init(
        loop: EventLoop, address: SocketAddress, replicas: Int, configuration: StubConfiguration, admin: SocketAddress? = nil,
        firstRank: Int = 0, report: @escaping (StubEvent) -> Void = { _ in }
    ) throws(SocketError) {
        self.report = report
        self.configuration = configuration
        let opensLater = configuration.startupNanoseconds > 0 || configuration.group.meeting != nil
        for index in 0..<max(1, replicas) {
            let port = address.port == 0 ? 0 : Int(address.port) + index
            guard let port = UInt16(exactly: port) else { throw SocketError(call: "bind port \(port)", code: 22 /* EINVAL */) }
            let stub = Stub(
                loop: loop, fleet: self, configuration: configuration,
                rank: configuration.dataParallelSize > 1 ? firstRank + index : 0)
            try stub.listen(address: address.with(port: port), opens: !opensLater)
            stubs.append(stub)
        }
        if let admin {
            let listener = try Listener(
                loop: loop, address: admin, tls: nil, application: StubApplication(stub: stubs[0], isAdmin: true),
                limits: TransportLimits())
            adminListener = listener
            report(.admin(listener.address))
        }
        if let meeting = configuration.group.meeting {
            let leader = try GroupLeader(loop: loop, address: meeting, worldSize: configuration.group.worldSize, fleet: self)
            self.leader = leader
            report(.meeting(leader.address))
        }
        if configuration.startupNanoseconds > 0 {
            startup = Wait(loop: loop, fleet: self, configuration.startupNanoseconds) { $0.startupEnded() }
        }
        openWhenReady()
    }

    /// The ports bound, in the order of the engines.
    public var ports: [UInt16] { stubs.map(\.port) }
    /// Each engine's totals, in the same order.
    public var counters: [StubCounters] { stubs.map(\.host.totals) }

    /// Connections still open, over all engines.
    public var connectionCount: Int { stubs.reduce(0) { $0 + $1.connectionCount } }
    /// Requests under way in the engines.
    public var load: Int { stubs.reduce(0) { $0 + $1.host.load } }

    // MARK: The beginning

    fileprivate func startupEnded() {
        startup = nil
        openWhenReady()
    }

    private func openWhenReady() {
        guard !isOpen, startup == nil, leader?.isComplete ?? true else { return }
        isOpen = true
        for stub in stubs {
            // Bound once already; should another have taken the port meanwhile, the engine cannot serve.
            do throws(SocketError) { try stub.open() } catch { return die() }
            if let address = stub.address { report(.listening(address)) }
        }
    }

    // MARK: The group

    func memberJoined(rank: Int) {
        report(.memberJoined(rank: rank))
        openWhenReady()
    }

    /// A member process is gone: all engines here wait for it in vain, or die at once.
    func memberLost(rank: Int) {
        report(.memberLost(rank: rank))
        guard isOpen else { return }
        for stub in stubs { lose(stub) }
    }

    /// A member inside this process is to be taken for gone.
    func lost(rank: Int, of stub: Stub) {
        guard rank < configuration.group.worldSize else { return }
        report(.memberLost(rank: rank))
        lose(stub)
    }

    private func lose(_ stub: Stub) {
        switch configuration.group.onLoss {
        case .exit: end(stub)
        case .hang:
            stub.host.hang()
            collective =
                collective
                ?? Wait(loop: stub.host.loop, fleet: self, configuration.group.collectiveTimeoutNanoseconds) { $0.collectiveTimedOut() }
        }
    }

    fileprivate func collectiveTimedOut() {
        collective = nil
        for stub in stubs where stub.host.state == .hanging { end(stub) }
    }

    private func end(_ stub: Stub) {
        stub.host.die()
        report(.died)
    }

    private func die() {
        for stub in stubs { end(stub) }
    }

    // MARK: The end

    /// Takes nothing new, tells health watchers, lets what is under way finish. Done when `connectionCount` is 0.
    public func drain() {
        isOpen = false
        for stub in stubs { stub.drain() }
    }

    /// As `vllm serve --shutdown-timeout N` at SIGTERM: goes on listening, says that it is well, and refuses all new work with 500.
    /// Done when `load` is 0.
    public func drainAsVLLM() {
        for stub in stubs { stub.shutDownAsVLLM() }
    }

    /// As `vllm serve` at SIGTERM: the port is refused, answers under way stay open and silent for ever.
    public func freeze() {
        isOpen = false
        for stub in stubs { stub.freeze() }
    }

    /// Closes everything at once.
    public func close() {
        isOpen = false
        leader?.close()
        adminListener?.closeAll()
        for stub in stubs { stub.close() }
    }

    /// One engine dies: its port refuses, its connections break.
    public func close(at index: Int) {
        guard stubs.indices.contains(index) else { return }
        stubs[index].close()
    }
}

/// Tells the fleet once that a time is over.
private final class Wait: EventHandler {
    private unowned let fleet: StubFleet
    private let isOver: (StubFleet) -> Void

    init(loop: EventLoop, fleet: StubFleet, _ nanoseconds: UInt64, then isOver: @escaping (StubFleet) -> Void) {
        self.fleet = fleet
        self.isOver = isOver
        super.init(loop: loop)
        setDeadline(loop.now &+ nanoseconds)
    }

    override func deadlineReached() {
        detach()
        isOver(fleet)
    }
}
