public import EventLoop
import HTTPTransport
import Wire

/// Drives a reflector: sends what it asks for to the API server and tells what changed. Confined to its loop.
public final class ResourceWatch<Object: KubernetesObject>: EventHandler {
    public private(set) var reflector: Reflector<Object>
    private let server: APIServer
    private let changed: ([ObjectStore<Object>.Change]) -> Void
    private var exchange: WatchExchange<Object>?
    /// Tells the request under way from those given up while credentials were read.
    private var requestNumber = 0

    /// - Parameters:
    ///   - seed: of the jitter.
    ///   - changed: is told the differences of each read, once the store has them; also none at all, when only `reflector.fault` or
    ///     `reflector.hasSynced` is another.
    public init(
        loop: EventLoop, server: APIServer, scope: WatchScope, settings: ReflectorSettings, seed: UInt64,
        changed: @escaping ([ObjectStore<Object>.Change]) -> Void
    ) {
        self.server = server
        self.changed = changed
        reflector = Reflector(scope: scope, settings: settings, seed: seed)
        super.init(loop: loop)
        setDeadline(loop.now)
    }

    /// Ends it for good.
    public func stop() {
        detach()
        requestNumber += 1
        exchange?.cancel()
        exchange = nil
    }

    public override func deadlineReached() { advance(telling: []) }

    /// Does what the reflector wants now, after it was told of something.
    private func advance(telling changes: [ObjectStore<Object>.Change], isNews: Bool = false) {
        let fault = reflector.fault
        if let request = reflector.nextRequest(now: loop.now) {
            giveUp()
            send(request)
        } else if !reflector.isRequestUnderWay {
            giveUp()
        }
        setDeadline(max(reflector.deadline, loop.now &+ 1_000_000))
        if !changes.isEmpty || isNews || fault != reflector.fault { changed(changes) }
    }

    private func giveUp() {
        requestNumber += 1
        exchange?.cancel()
        exchange = nil
    }

    private func send(_ request: ReflectorRequest) {
        let number = requestNumber
        server.prepare { [weak self] in
            guard let self, number == requestNumber else { return }
            let exchange = WatchExchange(of: self)
            self.exchange = exchange
            guard server.start(exchange, target: request.target(Object.resource, reflector.scope)) else {
                self.exchange = nil
                reflector.failed(server.fault ?? "no access to the API server", now: loop.now)
                return advance(telling: [], isNews: true)
            }
        }
    }

    // MARK: What the exchange brings

    fileprivate func headReceived(_ exchange: WatchExchange<Object>) {
        guard exchange === self.exchange else { return }
        let status = exchange.response.status
        if status == 401 { server.rejected() }
        let retryAfter = exchange.response.headers.value("retry-after").flatMap { UInt64(String(decoding: $0, as: UTF8.self)) }
        reflector.headReceived(status: status, retryAfterSeconds: retryAfter, now: loop.now)
        setDeadline(reflector.deadline)
    }

    fileprivate func bodyReceived(_ exchange: WatchExchange<Object>, _ bytes: UnsafeRawBufferPointer) {
        guard exchange === self.exchange else { return }
        let before = (reflector.hasSynced, reflector.fault)
        let changes = reflector.bodyReceived(bytes, now: loop.now)
        advance(telling: changes, isNews: before != (reflector.hasSynced, reflector.fault))
    }

    fileprivate func ended(_ exchange: WatchExchange<Object>) {
        guard exchange === self.exchange else { return }
        self.exchange = nil
        let before = (reflector.hasSynced, reflector.fault)
        let changes = reflector.ended(now: loop.now)
        advance(telling: changes, isNews: before != (reflector.hasSynced, reflector.fault))
    }

    fileprivate func failed(_ exchange: WatchExchange<Object>, _ failure: UpstreamFailure) {
        guard exchange === self.exchange else { return }
        self.exchange = nil
        reflector.failed(server.words(for: failure), now: loop.now)
        advance(telling: [], isNews: true)
    }
}

private final class WatchExchange<Object: KubernetesObject>: UpstreamExchange {
    private weak var watch: ResourceWatch<Object>?

    init(of watch: ResourceWatch<Object>) { self.watch = watch }

    override func headReceived() { watch?.headReceived(self) }
    override func bodyReceived(_ bytes: UnsafeRawBufferPointer) { watch?.bodyReceived(self, bytes) }
    override func responseEnded(trailers: HeaderBlock?) { watch?.ended(self) }
    override func failed(_ failure: UpstreamFailure) { watch?.failed(self, failure) }
}
