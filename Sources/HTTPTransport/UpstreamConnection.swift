import EventLoop
import Glibc
import Wire

/// A connection to a backend: HTTP/1.1 with one exchange at a time, or HTTP/2 with many.
final class UpstreamConnection: TransportConnection {
    enum Phase {
        case connecting
        case idle
        case head
        case body(remaining: Int)
        case chunkedBody
        case bodyUntilClose
        case http2
    }

    private unowned let pool: UpstreamPool
    private var phase = Phase.connecting
    private(set) var exchange: UpstreamExchange?
    private var chunkedDecoder: ChunkedDecoder?
    private var isChunkedRequest = false
    private var isHeadRequest = false
    private var keepsAlive = true
    /// Exchanges carried before the present one.
    private(set) var exchangesCarried = 0
    private(set) var idleSince: UInt64 = 0
    private var failure: UpstreamFailure?

    init(pool: UpstreamPool, speaksHTTP2: Bool) throws(SocketError) {
        self.pool = pool
        let descriptor = try startConnecting(to: pool.address)
        super.init(loop: pool.loop, limits: pool.limits)
        if let tls = pool.tls {
            let made = ByteSocket(
                descriptor: descriptor, tls: tls.source.current, serverName: tls.host, protocol: speaksHTTP2 ? .http2 : .http11,
                memory: pool.tlsMemory, channel: loop.tlsChannel)
            guard let made else { throw SocketError(call: "TLS session", code: ENOMEM) }
            socket = consume made
            isTLS = true
            isHandshaking = true
        } else {
            socket = ByteSocket(descriptor: descriptor)
        }
        try attach(descriptor: descriptor)
        setDeadline(loop.now &+ limits.connectTimeoutNanoseconds)
        if speaksHTTP2 { http2 = HTTP2Session(role: .client, connection: self) }
        // Until the connect is back nothing can be written; what is asked for meanwhile waits in `output`.
        isWriteBlocked = true
    }

    // MARK: Connecting

    override var isReadyToWrite: Bool {
        if case .connecting = phase { false } else { true }
    }

    override func connected() -> Bool {
        guard case .connecting = phase else { return true }
        guard socket!.pendingError() == 0 else {
            failure = .connectFailed
            close()
            return false
        }
        if !isHandshaking { ready() }
        return !isClosed
    }

    private func ready() {
        phase = http2 != nil ? .http2 : exchange == nil ? .idle : .head
        setDeadline(loop.now &+ limits.upstreamSilenceTimeoutNanoseconds)
        exchange?.requestStarted()
    }

    override func handshakeFinished() {
        // RFC 9113, 3.3: HTTP/2 over TLS is what ALPN has agreed on, or it is not HTTP/2.
        if http2 != nil, socket?.applicationProtocol != .http2 { return tlsFailed("the endpoint does not agree to speak HTTP/2 (ALPN h2)") }
        ready()
        flushLater()
    }

    override func handshakeFailed(_ reason: TLSHandshakeFailure) { tlsFailed(socket?.tlsFailureText ?? "") }

    private func tlsFailed(_ text: String) {
        pool.handshakeFailed(text)
        failure = .tlsFailed
        close()
    }

    // MARK: Requests

    /// HTTP/2: how many more streams fit.
    var freeStreams: Int {
        guard let http2, !http2.peerIsGoingAway, !isClosed, !closesAfterFlush else { return 0 }
        return min(http2.peerStreamLimit, limits.streamsPerConnection) &- http2.streams.count
    }

    func start(_ exchange: UpstreamExchange, _ request: UpstreamRequest) {
        exchange.connection = self
        exchange.isRequestSent = !request.hasBody
        if let http2 {
            let stream = http2.submitRequest(
                head: request.head, carriesTrailersField: request.acceptsTrailers, ended: !request.hasBody
            ) { UpstreamStream(id: $1, session: $0, exchange: exchange) }
            guard stream != nil else {
                exchange.connection = nil
                exchange.isFinished = true
                exchange.failed(.refusedStream)
                return
            }
            stream?.sendEnded = !request.hasBody
            if case .http2 = phase { touch() }
            exchange.requestStarted()
            return
        }
        self.exchange = exchange
        if case .idle = phase {
            phase = .head
            touch()
        }
        writeHTTP1Request(request)
        if !isReadyToWrite { return }
        exchange.requestStarted()
    }

    private func writeHTTP1Request(_ request: UpstreamRequest) {
        let head = request.head
        isHeadRequest = head.method == .head
        isChunkedRequest = request.hasBody && request.bodyLength == nil
        output.append(head.methodBytes)
        output.append(" ")
        output.append(head.target)
        output.append(" HTTP/1.1\r\nhost: ")
        if head.authority.isEmpty { output.append(pool.authority) } else { output.append(head.authority) }
        output.append("\r\n")
        let headers = head.headers
        for index in 0..<headers.count {
            let known = headers.known(at: index)
            if known.isHopByHop || known == .host || known == .contentLength || known == .expect { continue }
            output.append(headers.name(at: index))
            output.append(": ")
            output.append(headers.value(at: index))
            output.append("\r\n")
        }
        if isChunkedRequest {
            output.append("transfer-encoding: chunked\r\n")
        } else if let length = request.bodyLength {
            output.append("content-length: ")
            output.append(decimal: length)
            output.append("\r\n")
        }
        output.append("\r\n")
        flushLater()
    }

    func writeHTTP1Body(_ bytes: UnsafeRawBufferPointer) -> Bool {
        if isChunkedRequest {
            output.append(hexadecimal: bytes.count)
            output.append("\r\n")
            write(bytes)
            output.append("\r\n")
        } else {
            write(bytes)
        }
        return !isAboveHighWater
    }

    func finishHTTP1Request() {
        guard isChunkedRequest else { return }
        output.append("0\r\n\r\n")
        flushLater()
    }

    override func outputDrained() {
        exchange?.requestDrained()
    }

    // MARK: Responses

    override var wantsInput: Bool {
        switch phase {
        case .http2: true
        default: !(exchange?.isResponsePaused ?? false)
        }
    }

    override func process(_ bytes: UnsafeMutableRawBufferPointer) -> Int {
        touch()
        if let http2 {
            let isSound = http2.receive(bytes)
            if !isSound || http2.isFinished {
                if !isSound { failure = .protocolError }
                closesAfterFlush = true
                flushLater()
            } else if http2.peerIsGoingAway {
                pool.forget(self)
            }
            return bytes.count
        }
        var taken = 0
        while taken < bytes.count, !isClosed {
            let rest = UnsafeMutableRawBufferPointer(rebasing: bytes[taken...])
            switch phase {
            case .head:
                guard let length = processHead(UnsafeRawBufferPointer(rest)) else { return taken }
                taken &+= length
            case .body(let remaining):
                let count = min(remaining, rest.count)
                taken &+= count
                phase = .body(remaining: remaining &- count)
                exchange?.bodyReceived(UnsafeRawBufferPointer(rebasing: rest[..<count]))
                if count == remaining, !isClosed { endResponse() }
            case .chunkedBody:
                guard let count = processChunks(rest) else { return bytes.count }
                taken &+= count
            case .bodyUntilClose:
                exchange?.bodyReceived(UnsafeRawBufferPointer(rest))
                return bytes.count
            case .idle, .connecting, .http2:
                // Bytes that nobody asked for: the connection cannot be trusted.
                close()
            }
        }
        return isClosed ? bytes.count : taken
    }

    private func processHead(_ bytes: UnsafeRawBufferPointer) -> Int? {
        guard let exchange else { return nil }
        do throws(HTTP1Defect) {
            guard let length = try pool.parser.measureHead(bytes) else { return nil }
            exchange.response.removeAll()
            let (framing, persists) = try pool.parser.parseResponse(
                UnsafeRawBufferPointer(rebasing: bytes[..<length]), into: exchange.response, toHead: isHeadRequest)
            if exchange.response.status < 200 {
                // 101 cannot be meant for us: no Upgrade is forwarded.
                guard exchange.response.status != 101 else { throw .malformed }
                return length
            }
            keepsAlive = persists
            switch framing {
            case .none: break
            case .length(let count): phase = .body(remaining: count)
            case .chunked:
                phase = .chunkedBody
                chunkedDecoder = ChunkedDecoder()
            case .untilClose: phase = .bodyUntilClose
            }
            exchange.headReceived()
            if framing == .none, !isClosed { endResponse() }
            return length
        } catch {
            failure = .protocolError
            close()
            return nil
        }
    }

    private func processChunks(_ bytes: UnsafeMutableRawBufferPointer) -> Int? {
        do throws(HTTP1Defect) {
            guard let progress = try chunkedDecoder?.decode(bytes) else { return nil }
            if progress.bodyBytes > 0 {
                exchange?.bodyReceived(UnsafeRawBufferPointer(rebasing: bytes[..<progress.bodyBytes]))
            }
            if progress.isComplete, !isClosed {
                chunkedDecoder = nil
                endResponse()
            }
            return progress.inputBytes
        } catch {
            failure = .protocolError
            close()
            return nil
        }
    }

    private func endResponse() {
        guard let exchange else { return }
        self.exchange = nil
        exchange.connection = nil
        exchange.isFinished = true
        exchangesCarried &+= 1
        // A backend that has answered before it read all of the request will read the rest as the next one.
        if keepsAlive, exchange.isRequestSent, !peerHasClosed {
            phase = .idle
            idleSince = loop.now
            setDeadline(loop.now &+ limits.upstreamIdleTimeoutNanoseconds)
            exchange.responseEnded(trailers: nil)
            if !isClosed { pool.becameIdle(self) }
        } else {
            exchange.responseEnded(trailers: nil)
            close()
        }
    }

    /// Whether the backend has closed an idle connection behind our back. Asked before reuse, when it has been idle for a while.
    func isUsable(at now: UInt64) -> Bool {
        if isClosed || peerHasClosed { return false }
        guard now &- idleSince > TransportLimits.staleCheckAfterNanoseconds else { return true }
        return !socket!.isStale()
    }

    // MARK: Ends

    func touch() { setDeadline(loop.now &+ limits.upstreamSilenceTimeoutNanoseconds) }

    func streamFinished() {
        guard !isClosed, let http2, http2.streams.isEmpty else { return }
        setDeadline(loop.now &+ max(limits.upstreamIdleTimeoutNanoseconds, 60_000_000_000))
        if http2.peerIsGoingAway {
            closesAfterFlush = true
            flushLater()
        }
    }

    override func deadlineReached() {
        switch phase {
        case .connecting: failure = .connectFailed
        case .idle: break
        case .http2: if !(http2?.streams.isEmpty ?? true) { failure = .timeout }
        default: failure = .timeout
        }
        close()
    }

    /// What a stream that ends with its connection died of.
    var failureForStreams: UpstreamFailure { failure ?? .reset }

    override func peerClosed() {
        // The pause is over for the bytes that may still wait in the kernel; a body that ends by close ends here.
        if hasUnreadInput, exchange?.isResponsePaused ?? false { return }
        if case .bodyUntilClose = phase {
            keepsAlive = false
            endResponse()
        } else {
            if case .connecting = phase { failure = .connectFailed }
            close()
        }
    }

    override func transportFailed() {
        // With TLS 1.3 a backend that does not accept our certificate says so only after our side is done.
        if exchangesCarried == 0, socket?.wasRefusedByPeer ?? false { return tlsFailed(socket?.tlsFailureText ?? "") }
        if case .connecting = phase { failure = .connectFailed }
        close()
    }

    override func closed() {
        pool.forget(self)
        guard let exchange else { return }
        self.exchange = nil
        exchange.connection = nil
        guard !exchange.isFinished else { return }
        exchange.isFinished = true
        var reason = failure ?? .reset
        if failure == nil, exchangesCarried > 0, case .head = phase, input.isEmpty { reason = .staleConnection }
        exchange.failed(reason)
    }
}
