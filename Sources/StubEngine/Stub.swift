import EngineModel
import EventLoop
import HTTPTransport

/// One engine behind one port: the host of its engine, its listener, and the settings that can be changed while it runs.
final class Stub: EventHandler {
    let host: EngineHost
    var vocabulary = Vocabulary()
    var httpMetrics = HTTPMetrics()
    /// New work gets vLLM's answer of a draining engine.
    var isShuttingDown: Bool { isTerminating || settings.drain == .vllm }
    private var isTerminating = false
    private(set) var settings: StubSettings
    private var faults = FaultTable()
    private var lastMetricsText: String?
    /// When the metrics that are faked were last changed, by the loop's clock.
    private var fakesBegan: UInt64 = 0
    private let startSeconds: Double
    private unowned let fleet: StubFleet
    private var listenerOrNil: Listener?

    init(loop: EventLoop, fleet: StubFleet, configuration: StubConfiguration, rank: Int) {
        host = EngineHost(loop: loop, configuration: configuration, rank: rank)
        settings = StubSettings(configuration)
        startSeconds = Double(loop.wallClock()) / 1e9
        self.fleet = fleet
        super.init(loop: loop)
    }

    /// Binds the port; `opens`: and accepts connections at once.
    func listen(address: SocketAddress, opens: Bool) throws(SocketError) {
        var limits = TransportLimits()
        limits.keepAliveTimeoutNanoseconds = host.configuration.keepAliveNanoseconds
        let listener = try Listener(
            loop: loop, address: address, tls: nil, application: StubApplication(stub: self), limits: limits)
        if !opens { listener.stopAccepting() }
        host.name = host.configuration.servedBy ?? "stub-\(listener.port)"
        listenerOrNil = listener
    }

    var address: SocketAddress? { listenerOrNil?.address }
    var port: UInt16 { listenerOrNil?.port ?? 0 }
    var connectionCount: Int { listenerOrNil?.connectionCount ?? 0 }

    func open() throws(SocketError) { try listenerOrNil?.startAccepting() }

    /// The text of `/metrics`; a stale one is what was said last.
    func metricsText(isStale: Bool) -> String {
        if isStale, let lastMetricsText { return lastMetricsText }
        var text = MetricsText(
            model: host.configuration.model, rank: host.rank, createdNanoseconds: host.metrics.beginNanoseconds,
            fakes: settings.fakeMetrics.mapValues { $0.value(afterNanoseconds: loop.now &- fakesBegan) })
        ProcessMetrics.write(to: &text, startSeconds: startSeconds)
        host.metrics.write(of: host, to: &text)
        httpMetrics.write(to: &text)
        text.addFakes()
        lastMetricsText = text.text
        return text.text
    }

    // MARK: Admission

    /// Throws what a request gets for which there is no room.
    func admit(sequences: Int, promptTokens: Int) throws(WireError) {
        if let most = settings.maximumQueuedRequests, host.load >= most {
            host.metrics.requestRejected(forTokens: false)
            throw .busy(status: settings.overloadStatus)
        }
        if let most = settings.maximumQueuedTokens, host.queuedTokens + promptTokens > most {
            host.metrics.requestRejected(forTokens: true)
            throw .busy(status: settings.overloadStatus)
        }
        guard host.hasRoom(for: sequences) else { throw .busy(status: settings.overloadStatus) }
    }

    // MARK: Settings and faults

    func planFaults(path: String, generates: Bool) -> FaultPlan {
        faults.isEmpty ? FaultPlan() : faults.plan(path: path, generates: generates, nowNanoseconds: loop.now)
    }

    func admitsConnection() -> Bool { faults.isEmpty || !faults.closesConnection(nowNanoseconds: loop.now) }

    /// The stubs that an administrator's request is about.
    func targets(replica: String?) throws(FaultError) -> [Stub] {
        guard let replica else { return [self] }
        if replica == "all" { return fleet.stubs }
        guard let index = Int(replica), fleet.stubs.indices.contains(index) else {
            throw FaultError(message: "replica: expected all or 0 to \(fleet.stubs.count - 1)")
        }
        return [fleet.stubs[index]]
    }

    /// Merges a patch into the settings. Throws, with everything as it was, when the result makes no sense.
    func configure(_ patch: JSONValue) throws(FaultError) {
        guard case .object(var changes) = patch else { throw FaultError(message: "expected a JSON object") }
        // Part of what is shown, not of what can be set.
        changes["fired"] = nil
        let next = try StubSettings(document: settings.document.merged(with: .object(changes)))
        var rearmed: Set<String> = []
        if case .object(let named)? = changes["faults"] { rearmed = Set(named.keys) }
        if changes["fault_seed"] != nil { faults.reseed(next.faultSeed) }
        faults.replace(with: next.faults, rearmed: rearmed)
        let drainBegins = next.drain == .port && settings.drain != .port
        if next.fakeMetrics != settings.fakeMetrics { fakesBegan = loop.now }
        settings = next
        applyToPort(rearmed: rearmed)
        if drainBegins { drain() }
        for rank in next.lostMembers { fleet.lost(rank: rank, of: self) }
    }

    var configurationText: String {
        guard case .object(var fields) = settings.document else { return "{}" }
        fields["fired"] = .object(
            Dictionary(faults.fired.map { ($0.name, .number(Double($0.count))) }, uniquingKeysWith: { first, _ in first }))
        return JSONValue.object(fields).text
    }

    /// The faults that concern the port and not a request.
    private func applyToPort(rearmed: Set<String>) {
        var streams = TransportLimits().streamsPerConnection
        var refuses = settings.drain == .port
        for (name, fault) in settings.faults {
            switch fault.action {
            case .streamLimit: streams = 1
            case .refuse(nil): refuses = true
            case .refuse(let milliseconds?) where rearmed.contains(name):
                refuses = true
                setDeadline(loop.now &+ milliseconds &* 1_000_000)
            case .refuse where deadlineStands: refuses = true
            default: break
            }
        }
        listenerOrNil?.limits.streamsPerConnection = streams
        if refuses { listenerOrNil?.stopAccepting() } else if fleet.isOpen { try? open() }
    }

    /// A `refuse` with a time is under way.
    private var deadlineStands: Bool { listenerOrNil?.isAccepting == false && !settings.faults.isEmpty }

    /// A port that refused for a while opens again.
    override func deadlineReached() {
        guard fleet.isOpen, settings.drain != .port else { return }
        // The port was ours a moment ago; should another have taken it, refusing on is all that is left.
        try? open()
    }

    // MARK: The end

    /// Takes nothing new, tells health watchers, lets what is under way finish.
    func drain() {
        host.endWatches()
        listenerOrNil?.drain()
    }

    /// As vLLM drains: goes on listening and saying that all is well, and refuses new work with 500.
    func shutDownAsVLLM() { isTerminating = true }

    /// As vLLM is terminated by default: the port is refused, what is under way neither ends nor moves.
    func freeze() {
        listenerOrNil?.stopAccepting()
        host.hang()
    }

    func close() { listenerOrNil?.closeAll() }
}

/// Makes the exchanges of one stub's connections.
final class StubApplication: DownstreamApplication {
    private let stub: Stub
    private let isAdmin: Bool

    /// `isAdmin`: faults never strike here.
    init(stub: Stub, isAdmin: Bool = false) {
        self.stub = stub
        self.isAdmin = isAdmin
    }

    override func makeExchange() -> DownstreamExchange { StubExchange(stub: stub, isFaultless: isAdmin) }

    override func admitsConnection() -> Bool { isAdmin || stub.admitsConnection() }
}
