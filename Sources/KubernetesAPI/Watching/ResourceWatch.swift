public import EventLoop
import HTTPTransport
import Wire

/// Drives a reflector: sends what it asks for to the API server and tells what changed. Confined to its loop.
public final class ResourceWatch<Object: KubernetesObject>: EventHandler {
    /// One of the two requests that may be under way.
    private struct Line {
        var exchange: WatchExchange<Object>?
        /// Tells the request under way from those given up while credentials were read.
        var number = 0

        mutating func giveUp() {
            number += 1
            exchange?.cancel()
            exchange = nil
        }
    }

    public private(set) var reflector: Reflector<Object>
    private let server: APIServer
    private let changed: ([ObjectStore<Object>.Change]) -> Void
    private var main = Line()
    /// For lists beside the watch.
    private var beside = Line()

    /// - Parameters:
    ///   - seed: of the jitter.
    ///   - changed: is told the differences of each read, once the store has them; also none at all, when only `reflector.fault`,
    ///     `reflector.relistFault` or `reflector.hasSynced` is another.
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
        main.giveUp()
        beside.giveUp()
    }

    public override func deadlineReached() { advance(from: state, telling: []) }

    private struct State: Equatable {
        var hasSynced: Bool
        var fault: WatchFault?
        var relistFault: WatchFault?
    }

    private var state: State {
        State(hasSynced: reflector.hasSynced, fault: reflector.fault, relistFault: reflector.relistFault)
    }

    /// Does what the reflector wants now, after it was told of something in `state`.
    private func advance(from state: State, telling changes: [ObjectStore<Object>.Change], isNews: Bool = false) {
        if let request = reflector.nextRequest(now: loop.now) {
            main.giveUp()
            send(request, \.main)
        } else if !reflector.isRequestUnderWay {
            main.giveUp()
        }
        if let request = reflector.nextRelistRequest(now: loop.now) {
            beside.giveUp()
            send(request, \.beside)
        } else if !reflector.isRelistUnderWay {
            beside.giveUp()
        }
        setDeadline(max(reflector.deadline, loop.now &+ 1_000_000))
        if !changes.isEmpty || isNews || state != self.state { changed(changes) }
    }

    private func send(_ request: ReflectorRequest, _ line: ReferenceWritableKeyPath<ResourceWatch, Line>) {
        let number = self[keyPath: line].number
        server.prepare { [weak self] in
            guard let self, number == self[keyPath: line].number else { return }
            let exchange = WatchExchange(of: self)
            self[keyPath: line].exchange = exchange
            guard !server.start(exchange, target: request.target(Object.resource, reflector.scope)) else { return }
            self[keyPath: line].exchange = nil
            failed(isBeside: line == \.beside, server.fault ?? "no access to the API server")
        }
    }

    // MARK: What the exchanges bring

    fileprivate func headReceived(_ exchange: WatchExchange<Object>) {
        guard exchange === main.exchange || exchange === beside.exchange else { return }
        let status = exchange.response.status
        if status == 401 { server.rejected() }
        let retryAfter = exchange.response.headers.value("retry-after").flatMap { UInt64(String(decoding: $0, as: UTF8.self)) }
        if exchange === main.exchange {
            reflector.headReceived(status: status, retryAfterSeconds: retryAfter, now: loop.now)
        } else {
            reflector.relistHeadReceived(status: status, retryAfterSeconds: retryAfter, now: loop.now)
        }
        setDeadline(reflector.deadline)
    }

    fileprivate func bodyReceived(_ exchange: WatchExchange<Object>, _ bytes: UnsafeRawBufferPointer) {
        let before = state
        if exchange === main.exchange {
            advance(from: before, telling: reflector.bodyReceived(bytes, now: loop.now))
        } else if exchange === beside.exchange {
            reflector.relistBodyReceived(bytes, now: loop.now)
            advance(from: before, telling: [])
        }
    }

    fileprivate func ended(_ exchange: WatchExchange<Object>) {
        let before = state
        if exchange === main.exchange {
            main.exchange = nil
            advance(from: before, telling: reflector.ended(now: loop.now))
        } else if exchange === beside.exchange {
            beside.exchange = nil
            advance(from: before, telling: reflector.relistEnded(now: loop.now))
        }
    }

    fileprivate func failed(_ exchange: WatchExchange<Object>, _ failure: UpstreamFailure) {
        if exchange === main.exchange {
            main.exchange = nil
            failed(isBeside: false, server.words(for: failure))
        } else if exchange === beside.exchange {
            beside.exchange = nil
            failed(isBeside: true, server.words(for: failure))
        }
    }

    private func failed(isBeside: Bool, _ reason: String) {
        let before = state
        if isBeside { reflector.relistFailed(reason, now: loop.now) } else { reflector.failed(reason, now: loop.now) }
        advance(from: before, telling: [], isNews: true)
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
