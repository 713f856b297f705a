import EventLoop
import Wire

/// One request and its response, seen from the server's side. Subclassed by whoever answers; confined to its loop.
///
/// Calls come in this order: `headReceived`, `bodyReceived`…, `requestEnded`; `cancelled` at any time instead of the rest.
/// Answers may be given from inside any of them or later, until `finish`, `abort` or `cancelled`.
open class DownstreamExchange {
    public final let request: RequestHead
    final var connection: DownstreamConnection? {
        didSet {
            if let connection { origin = connection } else if oldValue != nil { released() }
        }
    }
    /// The connection that brought the request, also after the exchange has ended.
    private final var origin: DownstreamConnection?
    final var stream: DownstreamStream?
    /// The whole request has been received.
    public internal(set) final var isRequestComplete = false
    public internal(set) final var isResponseStarted = false
    public internal(set) final var isResponseFinished = false
    /// The connection carries bytes in both directions from here on, instead of messages: `bodyReceived` until the client ends its side
    /// (`requestEnded`), `write` until `finish`.
    public internal(set) final var isTunnel = false
    private final var informationalResponses = 0
    /// The request's body is held back at the client.
    final var isBodyPaused = false

    public init() { request = RequestHead() }

    /// Lets go of the connection that brought the request.
    public final func forgetOrigin() { origin = nil }

    /// Makes an ended exchange that nobody else holds as good as new.
    public final func renew() {
        request.removeAll()
        isRequestComplete = false
        isResponseStarted = false
        isResponseFinished = false
        isTunnel = false
        informationalResponses = 0
        isBodyPaused = false
        stream = nil
    }

    // MARK: To be overridden

    /// The head is here. A body follows unless `requestEnded()` is next.
    open func headReceived() {}
    /// Bytes of the body, valid during the call.
    open func bodyReceived(_ bytes: UnsafeRawBufferPointer) {}
    /// The whole request is here; trailers in `request.trailers`. Of a tunnel: the client has ended its side.
    open func requestEnded() {}
    /// The client went away or reset the request. Nothing can be sent any more; no call follows.
    open func cancelled() {}
    /// The output that `write` found too long has been read by the client.
    open func outputDrained() {}
    /// HTTP/2: a call on which nothing has moved for too long, in either direction. To be ended.
    open func stayedIdle() { abort(errorCode: 8 /* CANCEL, RFC 9113 section 7 */) }
    /// The transport is done with the exchange.
    open func released() {}

    // MARK: Answering

    public final var loop: EventLoop? { connection?.loop }
    /// Neither finished nor cancelled.
    public final var isOpen: Bool { connection != nil && !isResponseFinished }
    /// The client's address, without its port.
    public final var clientAddress: String { origin?.peerAddress.host ?? "" }
    public final var isTLS: Bool { connection?.isTLS ?? false }
    /// Subject (RFC 2253) of the verified certificate that the client showed; nil when it showed none. Builds text.
    public final var clientSubject: String? { connection?.clientSubject }

    /// Sends the final head. Framing is the transport's: `headers` may hold a content-length, which is kept, and fields of one
    /// connection, which are dropped. `ended`: no body follows, and `finish` need not be called.
    public final func respond(status: Int, headers: HeaderBlock, ended: Bool = false) {
        guard connection != nil, !isResponseStarted else { return }
        isResponseStarted = true
        if let stream = stream.map(uncounted) {
            isResponseFinished = ended
            // Only queued here: nothing ends.
            stream.use { stream in
                uncounted(stream.session).use { $0.submitResponse(stream, status: status, headers: headers, ended: ended) }
            }
        } else if let connection {
            connection.writeHTTP1Head(status: status, headers: headers, of: self, ended: ended)
            if ended { finish() }
        }
    }

    /// Sends an informational head (1xx other than 101), or nothing to a client that would not understand it, or that has had enough.
    public final func inform(status: Int, headers: HeaderBlock) {
        guard let connection, !isResponseStarted, request.version != .http10 else { return }
        guard informationalResponses < TransportLimits.informationalResponses else { return }
        informationalResponses &+= 1
        if let stream {
            stream.session.submitResponse(stream, status: status, headers: headers, ended: false)
        } else {
            connection.writeInformationalHead(status: status, headers: headers)
        }
    }

    /// Answers `101 Switching Protocols` with these fields; what the client sends from here on, or has sent, comes to `bodyReceived`. Only
    /// for a HTTP/1.1 request that asked for a WebSocket.
    public final func openTunnel(headers: HeaderBlock) {
        guard let connection, stream == nil, !isResponseStarted else { return }
        isResponseStarted = true
        isTunnel = true
        isRequestComplete = false
        connection.openTunnel(headers: headers)
    }

    /// Tells a client that waits before it sends its body to go on (RFC 9110, 10.1.1).
    final func continueIfExpected() {
        guard !isResponseStarted, let expectation = request.headers.value(.expect), expectation.equalsIgnoringCase("100-continue") else {
            return
        }
        inform(status: 100, headers: HeaderBlock(byteCapacity: 0, fieldCapacity: 0))
    }

    /// Sends bytes of the body. False: the client reads slowly; wait for `outputDrained()`. Nothing is lost either way.
    @discardableResult
    public final func write(_ bytes: UnsafeRawBufferPointer) -> Bool {
        guard connection != nil, isResponseStarted, !isResponseFinished, bytes.count > 0 else { return true }
        // Neither goes while bytes are added to its output.
        if let stream = stream.map(uncounted) { return stream.use { $0.send(bytes) } }
        return connection.map(uncounted)?.use { $0.writeHTTP1Body(bytes) } ?? true
    }

    /// Ends the response.
    public final func finish(trailers: HeaderBlock? = nil) {
        guard let connection, isResponseStarted, !isResponseFinished || stream == nil else { return }
        isResponseFinished = true
        if let stream = stream.map(uncounted) { return stream.use { $0.endSending(trailers: trailers) } }
        connection.finishHTTP1Response(trailers: trailers)
    }

    /// Ends the exchange so that no client can take what it has for a whole answer: RST_STREAM, or a close before the last chunk.
    public final func abort(errorCode: UInt32 = 2 /* INTERNAL_ERROR */) {
        guard let connection, !isResponseFinished || isTunnel else { return }
        isResponseFinished = true
        guard let stream else { return connection.abortHTTP1Response() }
        // nghttp2 drops what waits on a stream that is reset, and the client would see nothing of an answer that had begun.
        if isResponseStarted { stream.session.pullOutput() }
        stream.session.reset(stream, errorCode: errorCode)
    }

    /// Holds the rest of the request's body back at the client, by its own flow control.
    public final func pauseBody() {
        isBodyPaused = true
        stream?.isPaused = true
    }

    public final func resumeBody() {
        guard isBodyPaused else { return }
        isBodyPaused = false
        if let stream {
            stream.bodyPace.restart(at: stream.session.connection.loop.now)
            stream.resume()
        } else {
            connection?.bodyPace.restart(at: connection?.loop.now ?? 0)
            connection?.resumeInput()
        }
    }
}

/// Makes the exchange of each request that a listener's connections receive. One per loop.
open class DownstreamApplication {
    public init() {}
    open func makeExchange() -> DownstreamExchange { DownstreamExchange() }
    /// Whether a connection that was just accepted may stay; otherwise it is closed unread.
    open func admitsConnection() -> Bool { true }
    /// A connection was accepted, or closed.
    open func connectionCountChanged(by change: Int) {}
    /// The listener takes no new connection; answers without an end should come to one.
    open func drainBegan() {}
    /// A client's TLS handshake came to nothing.
    open func handshakeFailed(_ failure: TLSHandshakeFailure) {}
    /// A request was refused by the transport before an exchange could be made of it.
    open func requestRefused(status: Int, client: SocketAddress) {}
    /// HTTP/2: a request was refused unprocessed (REFUSED_STREAM), since its fields found no room beside those of the connection's others.
    /// What of its head was kept is in `request`.
    open func streamRefused(_ request: RequestHead, client: SocketAddress) {}
}

/// The HTTP/2 stream of a downstream exchange.
final class DownstreamStream: HTTP2Stream {
    /// Nil once it is closed.
    private var exchange: DownstreamExchange?
    /// Of the fields that are being received: the head's, then the trailers'. As RFC 9113 counts in 6.5.2.
    private var sectionBytes = 0
    /// Of all fields that were kept, and are counted at the session.
    private var keptFieldBytes = 0
    private var isTooLarge = false
    /// There was no room for the head beside those of the connection's other streams.
    private var isCrowdedOut = false
    private var hasBodyBegun = false
    /// The application never saw the head, or has been told that the request is over.
    private var isRefused = false
    fileprivate var bodyPace: BodyPace

    init(id: Int32, session: HTTP2Session, exchange: DownstreamExchange) {
        self.exchange = exchange
        bodyPace = BodyPace(now: session.connection.loop.now)
        super.init(id: id, session: session)
        exchange.stream = self
        exchange.request.version = .http2
    }

    /// Begins anew for another exchange.
    func renew(id: Int32, exchange: DownstreamExchange) {
        renew(id: id)
        sectionBytes = 0
        keptFieldBytes = 0
        isTooLarge = false
        isCrowdedOut = false
        hasBodyBegun = false
        isRefused = false
        bodyPace = BodyPace(now: movedAt)
        self.exchange = exchange
        exchange.stream = self
        exchange.request.version = .http2
    }

    override func headerReceived(name: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer) -> Bool {
        guard let request = exchange.map({ uncounted(uncounted($0).use { $0.request }) }) else { return false }
        return request.use { take(name: name, value: value, into: $0) }
    }

    private func take(name: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer, into request: RequestHead) -> Bool {
        let limits = session.connection.limits
        let bytes = name.count &+ value.count &+ 32
        sectionBytes &+= bytes
        if sectionBytes > limits.headBytes || (headComplete ? request.trailers : request.headers).count >= limits.headFields {
            isTooLarge = true
            // A few bytes on the wire may stand for thousands: what goes far beyond the limit is no mistake.
            return sectionBytes <= limits.headBytes &* 4
        }
        guard session.openFieldBytes &+ bytes <= limits.openFieldBytesPerConnection else {
            if headComplete { isTooLarge = true } else { isCrowdedOut = true }
            return true
        }
        session.openFieldBytes &+= bytes
        keptFieldBytes &+= bytes
        if headComplete {
            request.appendTrailer(name: name, value: value)
        } else if name.first == 58 {
            switch name.count {
            case 5 where name.equals(":path"): request.setTarget(value)
            case 7 where name.equals(":method"): request.setMethod(value)
            case 10 where name.equals(":authority"): request.setAuthority(value)
            default: break
            }
        } else {
            let known = KnownHeader.identify(name)
            if known == .host {
                if request.authority.isEmpty { request.setAuthority(value) }
                return true
            }
            if known == .contentLength { request.contentLength = value.decimalValue }
            request.headers.append(name: name, value: value, known: known)
        }
        return true
    }

    override func headReceived() {
        headComplete = true
        sectionBytes = 0
        guard !isCrowdedOut else { return refuseUnprocessed() }
        guard !isTooLarge else { return refuse(Refusal(.tooManyFields)) }
        exchange.map(uncounted)?.use { headReceived(of: $0) }
    }

    private func headReceived(of exchange: DownstreamExchange) {
        uncounted(exchange.request).use { headReceived(of: exchange, $0) }
    }

    private func headReceived(of exchange: DownstreamExchange, _ request: RequestHead) {
        // RFC 9113, 8.3.1. nghttp2 asks for it under the schemes http and https only, and what HTTP/1.1 makes of another is anybody's guess.
        let hasOriginForm = request.target.first == 47 || (request.method == .options && request.target.equals("*"))
        guard request.method != .connect, hasOriginForm, request.hasStrictAddress else { return refuse(Refusal(.malformed)) }
        request.headers.joinCookies()
        if request.isGRPC { session.carriesGRPC = true }
        exchange.headReceived()
        guard !endsWithHead, exchange.isOpen else { return }
        exchange.connection?.bodyBegan()
        exchange.continueIfExpected()
    }

    override func dataReceived(_ bytes: UnsafeRawBufferPointer) {
        hasBodyBegun = true
        bodyPace.received(bytes.count, at: movedAt)
        exchange.map(uncounted)?.use { if $0.isOpen { $0.bodyReceived(bytes) } }
    }

    override func endReceived() {
        exchange.map(uncounted)?.use { exchange in
            exchange.isRequestComplete = true
            guard exchange.isOpen else { return }
            if isTooLarge { refuseTrailers(of: exchange) } else { exchange.requestEnded() }
        }
    }

    /// The client may try it again when it has fewer streams open. One that keeps on is dismissed, as for any other reset that it makes us
    /// send (CVE-2025-8671): each costs us a header block.
    private func refuseUnprocessed() {
        isRefused = true
        session.countReset()
        guard let exchange else { return }
        if let connection = exchange.connection { connection.application.streamRefused(exchange.request, client: connection.peerAddress) }
        exchange.abort(errorCode: 7 /* REFUSED_STREAM, RFC 9113 section 7 */)
    }

    /// A request that lost some of its trailers is not the client's any more.
    private func refuseTrailers(of exchange: DownstreamExchange) {
        guard !exchange.isResponseStarted else { return exchange.abort(errorCode: 11 /* ENHANCE_YOUR_CALM */) }
        exchange.cancelled()
        refuse(Refusal(.tooManyFields))
    }

    private func refuse(_ refusal: Refusal) {
        guard let exchange else { return }
        isRefused = true
        if let connection = exchange.connection {
            connection.application.requestRefused(status: refusal.status, client: connection.peerAddress)
        }
        let headers = HeaderBlock()
        if exchange.request.isGRPC {
            headers.append("content-type", "application/grpc")
            headers.append("grpc-status", refusal.grpcStatus)
            headers.append("grpc-message", refusal.grpcMessage)
            return exchange.respond(status: 200, headers: headers, ended: true)
        }
        headers.append("content-type", "application/json")
        headers.append("content-length", decimal: refusal.body.utf8CodeUnitCount)
        exchange.respond(status: refusal.status, headers: headers)
        exchange.write(refusal.bytes)
        exchange.finish()
    }

    override func sendQueueDrained() { exchange?.outputDrained() }

    /// A gRPC call's client sends when it likes, so the call may be silent for longer than a body; but not before its first message, unless
    /// the backend speaks first: who opens calls and does nothing would hold them for nothing.
    private func mayBeSilent(_ exchange: DownstreamExchange) -> Bool {
        (hasBodyBegun || exchange.isResponseStarted) && exchange.request.isGRPC
    }

    override var waitsForPeer: Bool {
        super.waitsForPeer || !headComplete || (!receivedEnd && !isPaused && exchange.map(mayBeSilent) == false)
    }

    override func judgePace(at now: UInt64) -> UInt64? {
        guard headComplete, !receivedEnd, !isPaused, let exchange, !exchange.isResponseStarted, !mayBeSilent(exchange) else {
            return .max
        }
        let limits = session.connection.limits
        let (term, pace) = (limits.requestBodyTimeoutNanoseconds, limits.requestBodyBytesPerSecond)
        bodyPace.excuse(until: session.heldUntil)
        guard case .fine(let next) = bodyPace.judge(at: now, term: term, bytesPerSecond: pace) else { return nil }
        return next
    }

    /// Envoy has the same (`stream_idle_timeout`, 5 minutes): what moves counts, in either direction.
    override var idleEnd: UInt64 {
        guard headComplete, !receivedEnd, !isPaused, let exchange, mayBeSilent(exchange) else { return .max }
        return movedAt &+ session.connection.limits.callIdleTimeoutNanoseconds
    }

    /// A client that is still to send, and has begun too slowly or not at all, is told so, as over HTTP/1. One that does not read is not
    /// there for it.
    override func peerIsSilent() {
        guard headComplete, !receivedEnd, sendQueue.isEmpty, !isRefused, let exchange else { return super.peerIsSilent() }
        if mayBeSilent(exchange) { return exchange.stayedIdle() }
        guard !exchange.isResponseStarted else { return super.peerIsSilent() }
        exchange.cancelled()
        refuse(.bodyTimeout)
    }

    override func closed(errorCode: UInt32) {
        session.openFieldBytes &-= keptFieldBytes
        keptFieldBytes = 0
        guard let exchange else { return }
        self.exchange = nil
        let connection = exchange.connection
        exchange.stream = nil
        exchange.connection = nil
        let wasComplete = exchange.isResponseFinished && errorCode == 0
        if !wasComplete && headComplete && !isRefused { exchange.cancelled() }
        connection?.streamFinished(at: sentEnd)
    }
}
