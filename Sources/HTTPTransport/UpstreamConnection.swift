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
        case trailers
        case bodyUntilClose
        /// Bytes pass in both directions; ended: the backend has ended its side.
        case tunnel(ended: Bool)
        case http2
    }

    /// Unchecked: a pool closes its connections before it goes.
    unowned(unsafe) let pool: UpstreamPool
    private var phase = Phase.connecting
    private(set) var exchange: UpstreamExchange?
    private var chunkedDecoder: ChunkedDecoder?
    private var isChunkedRequest = false
    private var asksForWebSocket = false
    /// Bytes of the request's body that the declared length still wants.
    private var requestRemaining = 0
    /// A tunnel's end was passed on, or a write failed.
    private var isSendingShut = false
    private var trailers: HeaderBlock?
    private var isHeadRequest = false
    private var keepsAlive = true
    /// Exchanges carried before the present one.
    private(set) var exchangesCarried = 0
    private(set) var idleSince: UInt64 = 0
    var failure: UpstreamFailure?
    var keepAlive = HTTP2KeepAlive()
    /// HTTP/2: streams at once, as learned from a refusal.
    var streamAllowance = Int.max
    /// HTTP/2: has carried a stream, so the backend is known to work.
    var carriesStreams = false
    /// HTTP/2: has brought the head of an answer.
    var hasAnswered = false
    let openedAt: UInt64

    init(pool: UpstreamPool, speaksHTTP2: Bool) throws(SocketError) {
        self.pool = pool
        openedAt = pool.loop.now
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
        if http2 != nil {
            // The deadline of the connect stands until the backend's SETTINGS are here.
            phase = .http2
            return
        }
        phase = exchange == nil ? .idle : .head
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

    func start(_ exchange: UpstreamExchange, _ request: UpstreamRequest) {
        if let http2 { return startStream(of: http2, exchange, request) }
        exchange.connection = self
        exchange.isRequestSent = !request.hasBody
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
        asksForWebSocket = request.asksForWebSocket
        requestRemaining = request.bodyLength ?? 0
        let headers = head.headers
        let authority = head.authority
        let poolAuthority = pool.authority
        // The block holds every byte of the head but those that are added here.
        output.append(atMost: headers.byteCount &+ headers.count &* 4 &+ poolAuthority.count &+ 128) { line in
            line.write(head.methodBytes)
            line.write(" ")
            line.write(head.target)
            line.write(" HTTP/1.1\r\nhost: ")
            line.write(authority.isEmpty ? poolAuthority.bytes : authority)
            line.write("\r\n")
            for index in 0..<headers.count {
                let known = headers.known(at: index)
                if known.isHopByHop || known == .host || known == .contentLength || known == .expect { continue }
                line.write(field: headers.name(at: index), headers.value(at: index))
            }
            if asksForWebSocket {
                line.write("connection: upgrade\r\nupgrade: websocket\r\n")
            } else if isChunkedRequest {
                line.write("transfer-encoding: chunked\r\n")
            } else if let length = request.bodyLength {
                line.write("content-length: ")
                line.write(decimal: length)
                line.write("\r\n")
            }
            line.write("\r\n")
        }
        flushLater()
    }

    func writeHTTP1Body(_ bytes: UnsafeRawBufferPointer) -> Bool {
        if isChunkedRequest {
            output.append(hexadecimal: bytes.count)
            output.append("\r\n")
            write(bytes)
            output.append("\r\n")
        } else if case .tunnel = phase {
            write(bytes)
        } else {
            // More than was declared would be read as the next request.
            let count = min(bytes.count, requestRemaining)
            requestRemaining &-= count
            write(UnsafeRawBufferPointer(rebasing: bytes[..<count]))
        }
        return !isAboveHighWater
    }

    func finishHTTP1Request(trailers: HeaderBlock?) {
        if case .tunnel = phase {
            closesAfterFlush = true
            return flushLater()
        }
        guard isChunkedRequest else { return }
        output.append("0\r\n")
        if let trailers {
            for index in 0..<trailers.count {
                output.append(trailers.name(at: index))
                output.append(": ")
                output.append(trailers.value(at: index))
                output.append("\r\n")
            }
        }
        output.append("\r\n")
        flushLater()
    }

    override func outputDrained() {
        exchange?.requestDrained()
    }

    // MARK: Responses

    override var wantsInput: Bool {
        switch phase {
        case .http2: true
        case .tunnel(ended: true): false
        default: !(exchange?.isResponsePaused ?? false)
        }
    }

    override func process(_ bytes: UnsafeMutableRawBufferPointer) -> Int {
        if let http2 {
            processHTTP2(http2, bytes)
            return bytes.count
        }
        touch()
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
            case .trailers:
                guard let count = processTrailers(UnsafeRawBufferPointer(rest)) else { return isClosed ? bytes.count : taken }
                taken &+= count
            case .bodyUntilClose, .tunnel:
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
            guard let length = try pool.parser.measureHead(bytes) else {
                // What speaks another protocol may never send a blank line.
                guard HTTP1HeadParser.mayBecomeResponse(bytes) else { throw .malformed }
                return nil
            }
            exchange.response.removeAll()
            let (framing, persists) = try pool.parser.parseResponse(
                UnsafeRawBufferPointer(rebasing: bytes[..<length]), into: exchange.response, toHead: isHeadRequest)
            if exchange.response.status < 200 {
                if asksForWebSocket, exchange.response.agreesToWebSocket {
                    openTunnel(of: exchange)
                } else if !exchange.takeInformational() {
                    throw .malformed
                }
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
                phase = .trailers
            }
            return progress.inputBytes
        } catch {
            failure = .protocolError
            close()
            return nil
        }
    }

    /// Returns the section's length; nil when it is not all here, or is broken.
    private func processTrailers(_ bytes: UnsafeRawBufferPointer) -> Int? {
        do throws(HTTP1Defect) {
            guard let length = try pool.parser.measureTrailers(bytes) else { return nil }
            if length > 2 {
                let block = HeaderBlock(byteCapacity: length, fieldCapacity: 4)
                try pool.parser.parseTrailers(UnsafeRawBufferPointer(rebasing: bytes[..<length]), into: block)
                trailers = block
            }
            endResponse()
            return length
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
        let trailers = trailers
        self.trailers = nil
        // A backend that has answered before it read all of the request will read the rest as the next one.
        if keepsAlive, exchange.isRequestSent, requestRemaining == 0, output.isEmpty, !peerHasClosed, !isSendingShut {
            phase = .idle
            idleSince = loop.now
            setDeadline(loop.now &+ limits.upstreamIdleTimeoutNanoseconds)
            exchange.responseEnded(trailers: trailers)
            if !isClosed { pool.becameIdle(self) }
        } else {
            exchange.responseEnded(trailers: trailers)
            close()
        }
    }

    // MARK: Tunnels

    private func openTunnel(of exchange: UpstreamExchange) {
        phase = .tunnel(ended: false)
        exchange.isRequestSent = false
        // The client's connection keeps the time for both.
        setDeadline(nil)
        exchange.tunnelOpened()
    }

    /// The backend has ended its side. What it shall still get goes on.
    private func tunnelInputEnded(_ exchange: UpstreamExchange) {
        phase = .tunnel(ended: true)
        exchange.responseEnded(trailers: nil)
        if isSendingShut { endTunnel() }
    }

    private func endTunnel() {
        exchange?.isFinished = true
        close()
    }

    /// The exchange is given up. A tunnel has no framing to tell that by: a client that was cut off must not look like one that has ended.
    func abandon() {
        if case .tunnel = phase { socket?.closeUnannounced() }
        close()
    }

    override func finishClosing() {
        guard case .tunnel(let ended) = phase else { return close() }
        closesAfterFlush = false
        isSendingShut = true
        if ended { endTunnel() } else { socket?.shutdownSending() }
    }

    /// Whether the backend has closed an idle connection behind our back. Asked before reuse, when it has been idle for a while.
    func isUsable(at now: UInt64) -> Bool {
        if isClosed || peerHasClosed { return false }
        guard now &- idleSince > TransportLimits.staleCheckAfterNanoseconds else { return true }
        return !socket!.isStale()
    }

    // MARK: Ends

    func touch() { setDeadline(loop.now &+ limits.upstreamSilenceTimeoutNanoseconds) }

    override func deadlineReached() {
        switch phase {
        case .connecting: failure = .connectFailed
        case .idle: break
        case .tunnel: return
        case .http2: return http2DeadlineReached()
        default:
            guard !waitsForClient else { return touch() }
            failure = .timeout
        }
        close()
    }

    /// Whether the silence is not the backend's: the client reads slowly, or has not sent all of its request, and the backend took
    /// what there was. The client's own connection has limits for both.
    private var waitsForClient: Bool {
        guard let exchange else { return false }
        if exchange.isResponsePaused { return true }
        return !exchange.isRequestSent && (output.isEmpty || standstill() == 0)
    }

    override func peerClosed() {
        // The pause is over for the bytes that may still wait in the kernel; a body that ends by close ends here.
        if hasUnreadInput, exchange?.isResponsePaused ?? false { return }
        if case .tunnel(let ended) = phase, let exchange { return ended ? () : tunnelInputEnded(exchange) }
        // A write that failed has taken the reset's error with it: what then reads as an end may be one.
        if case .bodyUntilClose = phase, !isSendingShut {
            keepsAlive = false
            endResponse()
        } else {
            if case .connecting = phase { failure = .connectFailed }
            close()
        }
    }

    /// A backend that has no use for the rest of a request answers and resets. Reading comes to that answer first and then to the end,
    /// which decides. OpenSSL does not know of the failed write: our channel is memory to it, and goes on decrypting.
    override func sendingFailed() {
        switch phase {
        case .head, .body, .chunkedBody, .trailers, .bodyUntilClose:
            output.removeAll()
            isSendingShut = true
            hasUnreadInput = true
            callAgain()
        case .connecting, .idle, .tunnel, .http2: transportFailed()
        }
    }

    override func transportFailed() {
        // With TLS 1.3 a backend that does not accept our certificate says so only after our side is done.
        if exchangesCarried == 0, socket?.wasRefusedByPeer ?? false { return tlsFailed(socket?.tlsFailureText ?? "") }
        if case .connecting = phase { failure = .connectFailed }
        close()
    }

    override func peerSettingsReceived() { settingsReceived() }
    override func peerGoingAway(errorCode: UInt32) { goawayReceived(errorCode: errorCode) }

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
