import EventLoop
import Glibc
import Wire

/// A client's connection: tells HTTP/2 from HTTP/1.1 by its first bytes, makes an exchange of each request, writes the answers.
public final class DownstreamConnection: TransportConnection {
    enum Phase {
        /// Waiting for the first bytes.
        case detecting
        case head
        case body(remaining: Int)
        case chunkedBody
        /// The last chunk has come, the fields behind it have not all.
        case trailers
        /// The request is here, its answer is under way; what the client sends meanwhile waits.
        case answering
        /// Reading and throwing away, so that the close does not reset what we wrote.
        case lingering
        /// Bytes pass in both directions.
        case tunnel
        case http2
    }

    let application: DownstreamApplication
    let peerAddress: SocketAddress
    /// Unchecked: a listener closes its connections before it goes.
    private unowned(unsafe) let listener: Listener
    /// Where the listener keeps us.
    var listIndex = 0
    var phase = Phase.detecting
    var chunkedDecoder: ChunkedDecoder?
    var exchange: DownstreamExchange?
    var response = HTTP1Response()
    /// HTTP/1: of the request's body that comes.
    var bodyPace = BodyPace(now: 0)
    /// The deadline of a head that has begun stands.
    var isHeadTimed = false
    /// When reading and throwing away ends at the latest; 0 while it has not begun.
    private var lingerEnd: UInt64 = 0
    /// What came was no request, or not in time: its sender gets one term to read that, and no more for sending on.
    var isRefused = false
    /// Requests taken so far.
    private var requestCount = 0
    private var isDraining = false
    /// The first GOAWAY has left, and the second waits for the client to have read it.
    private var isShutdownAnnounced = false
    /// HTTP/2: when the client was last heard of, and when it has been asked since for a sign of life.
    private var readAt: UInt64 = 0
    private var pingedAt: UInt64?
    /// Where in our output that question is, and where the answers end that were given.
    private var pingEnd = 0
    private var answersEnd = 0
    /// Bytes that a dismissed client has sent since.
    private var discardedBytes = 0
    private var isDismissed = false

    init(socket: consuming ByteSocket, peer: SocketAddress, listener: Listener) throws(SocketError) {
        application = listener.application
        peerAddress = peer
        self.listener = listener
        let descriptor = socket.descriptor
        super.init(loop: listener.loop, limits: listener.limits)
        isTLS = socket.isTLS
        isHandshaking = isTLS
        self.socket = consume socket
        try attach(descriptor: descriptor)
        setDeadline(loop.now &+ (isTLS ? limits.handshakeTimeoutNanoseconds : limits.downstreamIdleTimeoutNanoseconds))
    }

    var parser: HTTP1HeadParser { listener.parser }

    // MARK: TLS

    override func handshakeFinished() {
        setDeadline(loop.now &+ limits.downstreamIdleTimeoutNanoseconds)
        // What was agreed is kept to: HTTP/1.1 after `h2` is no preface, and a preface after `http/1.1` no request.
        switch socket?.applicationProtocol {
        case .http2: startHTTP2()
        case .http11: phase = .head
        case nil: break
        }
    }

    override func handshakeFailed(_ failure: TLSHandshakeFailure) { application.handshakeFailed(failure) }

    /// Subject of the certificate that the client showed and that was verified.
    var clientSubject: String? { socket?.peerSubject }

    var requestsBefore: Int { requestCount &- 1 }

    func makeExchange() -> DownstreamExchange {
        requestCount &+= 1
        return application.makeExchange()
    }

    // MARK: Input

    override func process(_ bytes: UnsafeMutableRawBufferPointer) -> Int {
        if case .detecting = phase {
            guard detectProtocol(UnsafeRawBufferPointer(bytes)) else {
                timeHead()
                return 0
            }
        }
        if case .http2 = phase {
            // No sign of life moves the deadline of a connection without a stream: only requests are activity.
            pingedAt = nil
            readAt = loop.now
            guard let http2 else { return bytes.count }
            if !http2.receive(bytes) {
                dismiss()
            } else if http2.isFinished {
                closesAfterFlush = true
                flushLater()
            } else if !isDraining, http2.headerBlockBeganAt == loop.now {
                // Header blocks that are open now and then move no other deadline.
                setDeadline(noLaterThan: loop.now &+ limits.requestHeadTimeoutNanoseconds)
            }
            return bytes.count
        }
        if isDismissed {
            discardedBytes &+= bytes.count
            if discardedBytes > TransportLimits.discardedBytes { close() }
            return bytes.count
        }
        return processHTTP1(bytes)
    }

    /// RFC 9113, 3.4: the preface is `PRI * HTTP/2.0`…; its first three bytes are no method of HTTP/1.
    private func detectProtocol(_ bytes: UnsafeRawBufferPointer) -> Bool {
        let preface: StaticString = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        let compared = min(bytes.count, preface.utf8CodeUnitCount)
        if memcmp(bytes.baseAddress!, preface.utf8Start, compared) != 0 {
            phase = .head
            return true
        }
        guard bytes.count >= preface.utf8CodeUnitCount else { return false }
        startHTTP2()
        return true
    }

    private func startHTTP2() {
        phase = .http2
        http2 = HTTP2Session(role: .server, connection: self)
        touchIdleDeadline()
        flushLater()
    }

    override var wantsInput: Bool {
        switch phase {
        case .answering: false
        case .body, .chunkedBody, .trailers: !(exchange?.isBodyPaused ?? false)
        case .tunnel: wantsTunnelInput
        case .head: !isAboveHighWater
        default: true
        }
    }

    override func peerClosed() {
        if case .tunnel = phase, !peerHasReset { return tunnelInputEnded() }
        // A half-closed client is gone, as for the engines behind us. Answers already written still leave.
        if http2 == nil, exchange == nil, !output.isEmpty, !isClosed {
            closesAfterFlush = true
            flushLater()
        } else {
            close()
        }
    }

    override func transportFailed() { close() }

    override func outputDrained() {
        exchange?.outputDrained()
        resumeInput()
    }

    // MARK: HTTP/2

    override func makeStream(in session: HTTP2Session, id: Int32) -> HTTP2Stream? {
        let exchange = makeExchange()
        exchange.connection = self
        guard let stream = session.takeSpareStream() as? DownstreamStream else {
            return DownstreamStream(id: id, session: session, exchange: exchange)
        }
        stream.renew(id: id, exchange: exchange)
        return stream
    }

    /// - Parameter end: where its answer ends in our output.
    func streamFinished(at end: Int) {
        guard !isClosed, let http2 else { return }
        answersEnd = max(answersEnd, end)
        touchIdleDeadline()
        if isDraining, http2.streams.isEmpty { sayGoodbye(http2) }
    }

    // MARK: Deadlines

    private func touchIdleDeadline() {
        if !isDraining, http2?.streams.isEmpty ?? true { setDeadline(loop.now &+ limits.downstreamIdleTimeoutNanoseconds) }
    }

    /// From a head's first byte on: a byte now and then moves nothing.
    func timeHead() {
        if !isHeadTimed { setDeadline(loop.now &+ limits.requestHeadTimeoutNanoseconds) }
        isHeadTimed = true
    }

    public override func deadlineReached() {
        if isHandshaking {
            handshakeFailed(.timeout)
            return close()
        }
        if case .http2 = phase { return http2DeadlineReached() }
        if case .tunnel = phase { return tunnelDeadlineReached() }
        if case .lingering = phase, http2 != nil { return close() }
        guard output.isEmpty else {
            let limit = limits.downstreamIdleTimeoutNanoseconds
            if standstill() >= limit { close() } else { setDeadline(loop.now &+ limit) }
            return
        }
        switch phase {
        case .head where !input.isEmpty: refuse(.headTimeout)
        // Held back by us, on behalf of a backend that does not take it; the wait for that has a limit of its own.
        case .body where exchange?.isBodyPaused ?? false, .chunkedBody where exchange?.isBodyPaused ?? false,
            .trailers where exchange?.isBodyPaused ?? false:
            bodyPace.restart(at: loop.now)
            setDeadline(loop.now &+ limits.requestBodyTimeoutNanoseconds)
        case .body, .chunkedBody, .trailers: judgeBody()
        // The backend's silence has a limit of its own.
        case .answering where exchange != nil: setDeadline(loop.now &+ limits.downstreamIdleTimeoutNanoseconds)
        default: close()
        }
    }

    private func judgeBody() {
        // Where the answer has begun the two talk to each other, at a pace of their own.
        let pace = exchange?.isResponseStarted ?? false ? 0 : limits.requestBodyBytesPerSecond
        switch bodyPace.judge(at: loop.now, term: limits.requestBodyTimeoutNanoseconds, bytesPerSecond: pace) {
        case .fine(let next): setDeadline(next)
        case .tooSlow: refuseRest(.bodyTimeout)
        }
    }

    /// HTTP/2: a request has begun whose body is to come.
    func bodyBegan() {
        guard !isDraining else { return }
        setDeadline(noLaterThan: loop.now &+ min(limits.requestBodyTimeoutNanoseconds, limits.callIdleTimeoutNanoseconds))
    }

    private func http2DeadlineReached() {
        guard let http2 else { return }
        if closesAfterFlush { return waitForFarewell() }
        // Until its last CONTINUATION nothing else may come on the connection (RFC 9113, 4.3): resetting the stream would not help.
        let headEnd = http2.headerBlockBeganAt.map { $0 &+ limits.requestHeadTimeoutNanoseconds } ?? .max
        let limit = limits.downstreamIdleTimeoutNanoseconds
        let standstill = standstill()
        // A client that takes what is sent to it, and has not come so far, is still at its answers, and has seen no PING behind them.
        let arrived = standstill == 0 ? bytesAcknowledged : .max
        if loop.now >= headEnd { return sayGoodbye(http2) }
        if http2.streams.isEmpty { return arrived < answersEnd && !isDraining ? setDeadline(loop.now &+ limit) : sayGoodbye(http2) }
        if isDraining { return isShutdownAnnounced ? refuseNewStreams(of: http2) : announceShutdown(of: http2) }
        if !output.isEmpty, standstill >= limit { return close() }
        let (nextSilent, _) = http2.endSilentStreams(after: limit, arrived: arrived)
        if pingedAt != nil, arrived < pingEnd { pingedAt = loop.now }
        if loop.now &- (pingedAt ?? readAt) >= limit {
            // Gone without a word, perhaps: a backend may work for nobody for as long as its answer takes.
            if pingedAt != nil { return close() }
            pingedAt = loop.now
            http2.ping()
            pingEnd = outputEnd
        }
        // No oftener than sixteen times in the limit, however many streams fall due one after the other.
        let pause = min(limit, limits.requestBodyTimeoutNanoseconds, limits.callIdleTimeoutNanoseconds) / 16
        setDeadline(min(headEnd, max(min(nextSilent, (pingedAt ?? readAt) &+ limit), loop.now &+ pause)))
    }

    /// All has been said; a client that does not read it is not waited for.
    private func waitForFarewell() {
        let limit = limits.downstreamIdleTimeoutNanoseconds
        if standstill() >= limit { close() } else { setDeadline(loop.now &+ limit) }
    }

    // MARK: Closing

    /// Lets requests under way finish and takes no more.
    func drain() {
        guard !isDraining else { return }
        isDraining = true
        if let http2 {
            if http2.streams.isEmpty { return sayGoodbye(http2) }
            // Some clients (Python's h2, and httpx above it) drop their open streams at the first GOAWAY. gRPC's rely on it to
            // take new calls elsewhere. So: at once for gRPC; for others once their streams are through, or after a while.
            if http2.carriesGRPC {
                announceShutdown(of: http2)
            } else {
                setDeadline(loop.now &+ limits.goawayDelayNanoseconds)
            }
        } else if exchange == nil {
            closesAfterFlush = true
            flushLater()
        }
    }

    /// RFC 9113, 6.8: a GOAWAY without a last stream, and, once the client has read it, as its answer to a PING tells, another that names
    /// the last one taken. So no request that crosses the first is lost.
    private func announceShutdown(of http2: HTTP2Session) {
        isShutdownAnnounced = true
        http2.announceShutdown()
        setDeadline(loop.now &+ limits.shutdownNoticeNanoseconds)
    }

    override func pingAnswered() {
        if isShutdownAnnounced, let http2 { refuseNewStreams(of: http2) }
    }

    private func refuseNewStreams(of http2: HTTP2Session) {
        isShutdownAnnounced = false
        setDeadline(nil)
        http2.refuseNewStreams()
    }

    /// The client broke the protocol or floods: what was queued (a GOAWAY) leaves, what still comes is thrown away, for a moment.
    private func dismiss() {
        isDismissed = true
        phase = .lingering
        closesAfterFlush = true
        setDeadline(loop.now &+ limits.lingerNanoseconds)
        // At once: what comes in this very wake may be more than is thrown away, and the close would take the GOAWAY with it.
        flush()
    }

    private func sayGoodbye(_ http2: HTTP2Session) {
        http2.refuseNewStreams()
        closesAfterFlush = true
        setDeadline(loop.now &+ limits.downstreamIdleTimeoutNanoseconds)
        flushLater()
    }

    override func endIfIdle() {
        guard let http2, http2.streams.isEmpty, !closesAfterFlush else { return }
        sayGoodbye(http2)
    }

    var keepsAliveAllowed: Bool { !isDraining }

    override func finishClosing() {
        // Bytes unread at close, or coming after it, would make it a reset, and the client would lose the answers it has not read yet. One
        // that has sent on may send more: an empty line behind its last request, or another one that a drain or a cut answer came before.
        if case .answering = phase, hasUnreadInput || !input.isEmpty { phase = .lingering }
        if http2 != nil {
            http2?.invalidate()
            http2 = nil
            phase = .lingering
        }
        guard !isClosed else { return }
        if case .lingering = phase, hasUnreadInput || !peerHasClosed {
            closesAfterFlush = false
            socket?.shutdownSending()
            lingerEnd = loop.now &+ (isRefused ? limits.lingerNanoseconds : TransportLimits.longestLingerNanoseconds)
            linger()
            resumeInput()
            return
        }
        if case .tunnel = phase, !isTunnelOver {
            closesAfterFlush = false
            socket?.shutdownSending()
            return
        }
        close()
    }

    /// Waits for more of what is thrown away, as long as it keeps coming, but not for ever.
    func linger() {
        guard lingerEnd > 0 else { return }
        setDeadline(min(loop.now &+ limits.lingerNanoseconds, lingerEnd))
    }

    override func closed() {
        listener.forget(self)
        if let exchange {
            self.exchange = nil
            exchange.connection = nil
            let wasFinished = exchange.isResponseFinished && !(exchange.isTunnel && !exchange.isRequestComplete)
            if !wasFinished { exchange.cancelled() }
        }
    }
}
