import EventLoop
import HTTPTransport
import Routing
import Wire

/// How often endpoints without Kubernetes' readiness are looked at. Times in nanoseconds.
public struct ProbeSettings: Sendable, Equatable {
    /// 0: never.
    public var intervalNanoseconds: UInt64 = 2_000_000_000
    public var timeoutNanoseconds: UInt64 = 1_000_000_000
    /// Failures in a row after which an endpoint counts as gone. One success brings it back.
    public var failures = 2
    /// Whether leaders are asked for `/health`, too. Their members are always looked at; the requests themselves tell of a leader.
    public var asksLeaders = false

    public init() {}
}

/// Looks at one endpoint now and then. One look at a time.
class EndpointProbe: EventHandler {
    final let settings: ProbeSettings
    private let changed: (_ fault: String?) -> Void
    private var failures = 0
    private var isLooking = false
    private var fault: String?

    /// `changed` is told what is wrong when the endpoint goes, and nil when it is back.
    init(loop: EventLoop, settings: ProbeSettings, delayNanoseconds: UInt64, changed: @escaping (_ fault: String?) -> Void) {
        self.settings = settings
        self.changed = changed
        super.init(loop: loop)
        setDeadline(loop.now &+ delayNanoseconds)
    }

    /// Begins a look, whose end is told to `looked`.
    func look() {}
    /// Gives up the look under way.
    func giveUp() {}

    final func looked(_ problem: String?) {
        guard isLooking else { return }
        isLooking = false
        setDeadline(loop.now &+ settings.intervalNanoseconds)
        guard let problem else {
            failures = 0
            if fault != nil {
                fault = nil
                changed(nil)
            }
            return
        }
        failures += 1
        guard failures >= settings.failures, fault != problem else { return }
        fault = problem
        changed(problem)
    }

    final override func deadlineReached() {
        if isLooking {
            giveUp()
            looked("no answer within \(settings.timeoutNanoseconds / 1_000_000) ms")
        } else {
            isLooking = true
            setDeadline(loop.now &+ settings.timeoutNanoseconds)
            look()
        }
    }

    final func stop() {
        isLooking = false
        giveUp()
        detach()
    }
}

/// Whether anybody listens at a member's port: it need not speak HTTP.
final class ConnectProbe: EndpointProbe {
    private let address: SocketAddress
    private var attempt: ConnectAttempt?

    init(
        loop: EventLoop, address: SocketAddress, settings: ProbeSettings, delayNanoseconds: UInt64,
        changed: @escaping (_ fault: String?) -> Void
    ) {
        self.address = address
        super.init(loop: loop, settings: settings, delayNanoseconds: delayNanoseconds, changed: changed)
    }

    override func look() {
        do throws(SocketError) { attempt = try ConnectAttempt(to: address, for: self) } catch {
            // Our own want of descriptors proves nothing about the member.
            looked(error.call == "connect" ? "\(error)" : nil)
        }
    }

    override func giveUp() {
        attempt?.end()
        attempt = nil
    }

    fileprivate func attempted(_ problem: String?) {
        giveUp()
        looked(problem)
    }
}

private final class ConnectAttempt: EventHandler {
    private var socket: ByteSocket?
    private weak var probe: ConnectProbe?

    init(to address: SocketAddress, for probe: ConnectProbe) throws(SocketError) {
        self.probe = probe
        let descriptor = try startConnecting(to: address)
        socket = ByteSocket(descriptor: descriptor)
        super.init(loop: probe.loop)
        try attach(descriptor: descriptor)
    }

    func end() {
        detach()
        socket = nil
    }

    override func socketReady(_ readiness: Readiness) {
        guard readiness.contains(.writable) || readiness.contains(.failed), let code = socket?.pendingError() else { return }
        probe?.attempted(code == 0 ? nil : "\(SocketError(call: "connect", code: code))")
    }
}

/// Whether a leader says that it is well.
final class HealthProbe: EndpointProbe {
    private let pool: UpstreamPool
    private var query: HealthQuery?

    init(
        loop: EventLoop, pool: UpstreamPool, settings: ProbeSettings, delayNanoseconds: UInt64,
        changed: @escaping (_ fault: String?) -> Void
    ) {
        self.pool = pool
        super.init(loop: loop, settings: settings, delayNanoseconds: delayNanoseconds, changed: changed)
    }

    override func look() {
        let query = HealthQuery(probe: self)
        self.query = query
        let head = RequestHead()
        head.setMethod("GET")
        head.setTarget("/health")
        pool.start(query, UpstreamRequest(head: head, bodyLength: nil, hasBody: false))
    }

    override func giveUp() {
        query?.cancel()
        query = nil
    }

    fileprivate func answered(_ query: HealthQuery, _ problem: String?) {
        guard self.query === query else { return }
        self.query = nil
        looked(problem)
    }
}

private final class HealthQuery: UpstreamExchange {
    private weak var probe: HealthProbe?

    init(probe: HealthProbe) { self.probe = probe }

    override func responseEnded(trailers: HeaderBlock?) {
        let isWell = (200..<300).contains(response.status)
        probe?.answered(self, isWell ? nil : "/health answers \(response.status)")
    }

    override func failed(_ failure: UpstreamFailure) { probe?.answered(self, "/health: \(failure)") }
}
