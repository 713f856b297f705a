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
        /// The request is here, its answer is under way; what the client sends meanwhile waits.
        case answering
        /// Reading and throwing away, so that the close does not reset what we wrote.
        case lingering
        case http2
    }

    let application: DownstreamApplication
    let peerAddress: SocketAddress
    private unowned let listener: Listener
    /// Where the listener keeps us.
    var listIndex = 0
    var phase = Phase.detecting
    private let socketDescriptor: CInt
    var chunkedDecoder: ChunkedDecoder?
    var exchange: DownstreamExchange?
    var response = HTTP1Response()
    /// The deadline of a head that has begun stands.
    var isHeadTimed = false
    private var bytesSentAtDeadline: UInt64?
    /// Requests taken so far.
    private var requestCount = 0
    private var isDraining = false

    init(socket: consuming ByteSocket, peer: SocketAddress, listener: Listener) throws(SocketError) {
        application = listener.application
        peerAddress = peer
        self.listener = listener
        socketDescriptor = socket.descriptor
        super.init(loop: listener.loop, limits: listener.limits)
        isTLS = socket.isTLS
        self.socket = consume socket
        try attach(descriptor: socketDescriptor)
        setDeadline(loop.now &+ limits.requestHeadTimeoutNanoseconds)
    }

    var parser: HTTP1HeadParser { listener.parser }

    var requestsBefore: Int { requestCount &- 1 }

    func makeExchange() -> DownstreamExchange {
        requestCount &+= 1
        return application.makeExchange()
    }

    // MARK: Input

    override func process(_ bytes: UnsafeMutableRawBufferPointer) -> Int {
        if case .detecting = phase {
            guard detectProtocol(UnsafeRawBufferPointer(bytes)) else { return 0 }
        }
        if case .http2 = phase {
            touchIdleDeadline()
            guard let http2 else { return bytes.count }
            if !http2.receive(bytes) { closesAfterFlush = true }
            if http2.isFinished {
                closesAfterFlush = true
                flushLater()
            }
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
        phase = .http2
        http2 = HTTP2Session(role: .server, connection: self)
        return true
    }

    override var wantsInput: Bool {
        switch phase {
        case .answering: false
        case .body, .chunkedBody: !(exchange?.isBodyPaused ?? false)
        case .head: !isAboveHighWater
        default: true
        }
    }

    override func peerClosed() {
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
        return DownstreamStream(id: id, session: session, exchange: exchange)
    }

    func streamFinished() {
        guard !isClosed, let http2 else { return }
        touchIdleDeadline()
        if isDraining, http2.streams.isEmpty { sayGoodbye(http2) }
    }

    // MARK: Deadlines

    private func touchIdleDeadline() {
        if !isDraining, http2?.streams.isEmpty ?? true { setDeadline(loop.now &+ limits.downstreamIdleTimeoutNanoseconds) }
    }

    public override func deadlineReached() {
        if case .http2 = phase { return http2DeadlineReached() }
        guard output.isEmpty else {
            if readerHasStopped() { close() } else { setDeadline(loop.now &+ limits.downstreamIdleTimeoutNanoseconds) }
            return
        }
        switch phase {
        case .head where !input.isEmpty: refuse(.headTimeout)
        // The backend's silence has a limit of its own.
        case .answering where exchange != nil: setDeadline(loop.now &+ limits.downstreamIdleTimeoutNanoseconds)
        default: close()
        }
    }

    private func http2DeadlineReached() {
        guard let http2 else { return }
        if http2.streams.isEmpty { return sayGoodbye(http2) }
        if isDraining { return http2.refuseNewStreams() }
        if !output.isEmpty, readerHasStopped() { return close() }
        http2.resetStoppedStreams()
        setDeadline(loop.now &+ limits.downstreamIdleTimeoutNanoseconds)
    }

    /// Whether output waits of which the client has taken nothing since this was asked last.
    private func readerHasStopped() -> Bool {
        let stopped = bytesSentAtDeadline == bytesSent
        bytesSentAtDeadline = bytesSent
        return stopped
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
                http2.announceShutdown()
                http2.refuseNewStreams()
            } else {
                setDeadline(loop.now &+ limits.goawayDelayNanoseconds)
            }
        } else if exchange == nil {
            closesAfterFlush = true
            flushLater()
        }
    }

    private func sayGoodbye(_ http2: HTTP2Session) {
        http2.refuseNewStreams()
        closesAfterFlush = true
        flushLater()
    }

    var keepsAliveAllowed: Bool { !isDraining }

    override func finishClosing() {
        // Bytes unread at close would make it a reset, and the client would lose the answer it has not read yet.
        if case .lingering = phase, !peerHasClosed, !isTLS {
            closesAfterFlush = false
            shutdown(socketDescriptor, CInt(SHUT_WR))
            setDeadline(loop.now &+ limits.lingerNanoseconds)
            resumeInput()
            return
        }
        close()
    }

    override func closed() {
        listener.forget(self)
        if let exchange {
            self.exchange = nil
            exchange.connection = nil
            let wasFinished = exchange.isResponseFinished
            if !wasFinished { exchange.cancelled() }
        }
    }
}
