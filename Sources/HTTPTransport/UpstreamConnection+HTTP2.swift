import CNghttp2
import EventLoop
import Wire

/// When a backend's HTTP/2 connection is asked for a sign of life.
struct HTTP2KeepAlive {
    var isPingUnderway = false
    var pingedAt: UInt64 = 0
    /// Silence before the next PING; doubles with each that brings nothing but its answer.
    var gapNanoseconds: UInt64 = 0
}

extension UpstreamConnection {
    // MARK: Streams

    /// The backend has said how many streams it allows.
    var isReady: Bool { http2?.hasPeerSettings ?? false }

    var hasOpenStreams: Bool { !(http2?.streams.isEmpty ?? true) }

    /// How many streams fit; 0 before the backend has said it.
    var streamLimit: Int { isReady ? min(http2?.peerStreamLimit ?? 0, limits.streamsPerConnection) : 0 }

    /// How many more streams fit.
    var freeStreams: Int {
        guard let http2 = http2.map(uncounted), !isClosed, !closesAfterFlush else { return 0 }
        return http2.use { http2 in
            guard http2.hasPeerSettings, !http2.peerIsGoingAway else { return 0 }
            return min(http2.peerStreamLimit, limits.streamsPerConnection, streamAllowance) &- http2.streams.count
        }
    }

    func startStream(of http2: HTTP2Session, _ exchange: UpstreamExchange, _ request: UpstreamRequest) {
        exchange.connection = self
        exchange.isRequestSent = !request.hasBody
        let stream = makeStream(of: http2, exchange)
        guard http2.submit(request, authority: pool.authority, on: stream) else {
            exchange.connection = nil
            stream.release()
            exchange.isFinished = true
            retire()
            exchange.failed(.refusedStream)
            return
        }
        if !http2.hasStreamIDs { retire() }
        if !carriesStreams {
            carriesStreams = true
            pool.connectionHolds()
        }
        if http2.streams.count == 1 {
            keepAlive.gapNanoseconds = pool.pingIntervalNanoseconds
            setDeadline(loop.now &+ min(limits.upstreamSilenceTimeoutNanoseconds, keepAlive.gapNanoseconds))
        }
        exchange.requestStarted()
    }

    private func makeStream(of http2: HTTP2Session, _ exchange: UpstreamExchange) -> UpstreamStream {
        guard let stream = http2.takeSpareStream() as? UpstreamStream else {
            return UpstreamStream(id: http2.nextStreamID, session: http2, exchange: exchange, connection: self)
        }
        stream.renew(id: http2.nextStreamID, exchange: exchange)
        return stream
    }

    /// The backend takes fewer streams than it had announced: no new ones here until one of those open has ended.
    func streamRefused() {
        streamAllowance = http2?.streams.count ?? 0
        if streamAllowance == 0 { retire() }
    }

    func streamFinished() {
        guard !isClosed, let http2 else { return }
        if streamAllowance <= http2.streams.count { streamAllowance = .max }
        if http2.streams.isEmpty {
            setDeadline(loop.now &+ limits.upstreamHTTP2IdleTimeoutNanoseconds)
            if http2.peerIsGoingAway || !http2.hasStreamIDs { retire() }
        }
        uncounted(pool).use { $0.streamsMayBeFree() }
    }

    /// Without a stream, and closed by the backend, or told something that may be a GOAWAY.
    var isIdleAndStale: Bool {
        guard let http2, !http2.isInsideLibrary, http2.hasPeerSettings, http2.streams.isEmpty else { return false }
        return socket?.isStale() ?? true
    }

    /// Takes no new streams, and ends when those open have.
    private func retire() {
        pool.forget(self)
        guard http2?.streams.isEmpty ?? true else { return }
        closesAfterFlush = true
        flushLater()
    }

    // MARK: From the backend

    func processHTTP2(_ http2: HTTP2Session, _ bytes: UnsafeMutableRawBufferPointer) {
        keepAlive.isPingUnderway = false
        let isSound = http2.receive(bytes)
        guard !isSound || http2.isFinished else { return }
        if !isSound { failure = .protocolError }
        closesAfterFlush = true
        flushLater()
    }

    func settingsReceived() {
        // The connect is over: now the deadline is that of an idle connection, or of the first stream.
        if http2?.streams.isEmpty ?? true { setDeadline(loop.now &+ limits.upstreamHTTP2IdleTimeoutNanoseconds) }
        pool.streamsMayBeFree()
    }

    func goawayReceived(errorCode: UInt32) {
        // gRPC's servers say so to whom PINGs too often (grpc proposal A8).
        if errorCode == NGHTTP2_ENHANCE_YOUR_CALM.rawValue { pool.pingLess() }
        retire()
    }

    // MARK: Deadlines

    /// Streams that are silent for too long end one by one; a backend that does not answer a PING takes all with it.
    func http2DeadlineReached() {
        guard let http2 else { return close() }
        guard http2.hasPeerSettings else {
            failure = .connectFailed
            return close()
        }
        guard !http2.streams.isEmpty else {
            // A backend may allow none for a while, and whoever waits for a stream waits for one here.
            return pool.hasWaitingRequests ? setDeadline(loop.now &+ limits.upstreamHTTP2IdleTimeoutNanoseconds) : close()
        }
        let now = loop.now
        let arrived = standstill() == 0 ? bytesAcknowledged : .max
        let (nextSilent, lastMove) = http2.endSilentStreams(after: limits.upstreamSilenceTimeoutNanoseconds, arrived: arrived)
        guard !isClosed else { return }
        if keepAlive.isPingUnderway, now &- keepAlive.pingedAt >= limits.pingTimeoutNanoseconds {
            failure = .reset
            return close()
        }
        if !keepAlive.isPingUnderway {
            if lastMove > keepAlive.pingedAt { keepAlive.gapNanoseconds = pool.pingIntervalNanoseconds }
            if now &- max(lastMove, keepAlive.pingedAt) >= keepAlive.gapNanoseconds {
                http2.ping()
                keepAlive.isPingUnderway = true
                keepAlive.pingedAt = now
                keepAlive.gapNanoseconds = min(keepAlive.gapNanoseconds &* 2, 3_600_000_000_000)
            }
        }
        let nextPing =
            keepAlive.isPingUnderway
            ? keepAlive.pingedAt &+ limits.pingTimeoutNanoseconds
            : max(lastMove, keepAlive.pingedAt) &+ keepAlive.gapNanoseconds
        setDeadline(max(min(nextSilent, nextPing), now &+ 1_000_000))
    }
}

/// The HTTP/2 stream of an upstream exchange.
final class UpstreamStream: HTTP2Stream {
    /// Nil once it is closed.
    private var exchange: UpstreamExchange?
    /// Unchecked: a connection ends its streams before it goes.
    private unowned(unsafe) let connection: UpstreamConnection
    private var responseTrailers: HeaderBlock?
    /// What the trailers of the last answer came in, for those of the next; they may still wait to be sent to their client.
    private var spareTrailers: HeaderBlock?
    /// A block that has grown further is not kept.
    private static let spareTrailersMaximum = 1 << 10
    private var headBytes = 0
    private var isInformational = false
    /// The connection had brought an answer before this stream was opened.
    private var isOnKeptConnection: Bool

    init(id: Int32, session: HTTP2Session, exchange: UpstreamExchange, connection: UpstreamConnection) {
        self.exchange = exchange
        self.connection = connection
        isOnKeptConnection = connection.hasAnswered
        super.init(id: id, session: session)
        exchange.stream = self
    }

    /// Begins anew for another exchange.
    func renew(id: Int32, exchange: UpstreamExchange) {
        renew(id: id)
        headBytes = 0
        isInformational = false
        isOnKeptConnection = connection.hasAnswered
        self.exchange = exchange
        exchange.stream = self
    }

    /// Parts from its exchange.
    func release() {
        exchange?.stream = nil
        exchange = nil
        responseTrailers = nil
        if let spareTrailers, spareTrailers.byteCount > Self.spareTrailersMaximum { self.spareTrailers = nil }
    }

    private func beginTrailers() -> HeaderBlock {
        let isFree = isKnownUniquelyReferenced(&spareTrailers)
        let trailers = isFree ? spareTrailers ?? HeaderBlock() : HeaderBlock(byteCapacity: 128, fieldCapacity: 4)
        trailers.removeAll()
        spareTrailers = trailers
        responseTrailers = trailers
        return trailers
    }

    override func headerReceived(name: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer) -> Bool {
        let limits = session.connection.limits
        headBytes &+= name.count &+ value.count &+ 32
        guard headBytes <= limits.headBytes &* 2 else { return false }
        guard let response = exchange.map({ uncounted(uncounted($0).use { $0.response }) }) else { return false }
        return response.use { take(name: name, value: value, into: $0) }
    }

    private func take(name: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer, into response: ResponseHead) -> Bool {
        let most = session.connection.limits.headFields &* 2
        if headComplete {
            let trailers = responseTrailers ?? beginTrailers()
            guard trailers.count < most else { return false }
            trailers.append(name: name, value: value)
        } else if name.equals(":status") {
            response.removeAll()
            response.status = value.decimalValue ?? 0
            guard response.status >= 100 else { return false }
            isInformational = response.status < 200
        } else {
            guard uncounted(response.headers).use({ $0.count }) < most else { return false }
            let known = KnownHeader.identify(name)
            if known == .contentLength { response.contentLength = value.decimalValue }
            uncounted(response.headers).use { $0.append(name: name, value: value, known: known) }
        }
        return true
    }

    override func headReceived() {
        movedAt = connection.loop.now
        if isInformational {
            if let exchange, !exchange.isFinished, !exchange.takeInformational() {
                session.reset(self, errorCode: UInt32(NGHTTP2_PROTOCOL_ERROR.rawValue))
            }
            return
        }
        headComplete = true
        connection.hasAnswered = true
        windowBeganAt = movedAt
        exchange.map(uncounted)?.use { if !$0.isFinished { $0.headReceived() } }
    }

    override func dataReceived(_ bytes: UnsafeRawBufferPointer) {
        exchange.map(uncounted)?.use { if !$0.isFinished { $0.bodyReceived(bytes) } }
    }

    override func endReceived() {
        guard let exchange = exchange.map(uncounted), !exchange.use({ $0.isFinished }) else { return }
        exchange.use {
            $0.isFinished = true
            $0.responseEnded(trailers: responseTrailers)
        }
        // An answer that is whole before its request is: the rest of the request is of no use (RFC 9113, 8.1).
        if !sendEnded || !sendQueue.isEmpty { session.reset(self, errorCode: UInt32(NGHTTP2_NO_ERROR.rawValue)) }
    }

    override func findShare() -> WindowShare? { exchange?.client?.connection?.windowShare }

    override func sendQueueDrained() {
        // Whoever asked may be gone once its answer was whole, while the stream lives on for the rest of the request.
        guard let exchange, !exchange.isFinished else { return }
        exchange.requestDrained()
    }

    /// Not while the client holds the answer back, nor while it has more of the request to send.
    override var waitsForPeer: Bool { !isPaused && (sendEnded || !sendQueue.isEmpty) }

    override func peerIsSilent() {
        guard let exchange, !exchange.isFinished else { return }
        exchange.isFinished = true
        exchange.connection = nil
        session.reset(self, errorCode: UInt32(NGHTTP2_CANCEL.rawValue))
        exchange.failed(.timeout)
    }

    override func closed(errorCode: UInt32) {
        uncounted(connection).use { closed(errorCode: errorCode, of: $0) }
    }

    private func closed(errorCode: UInt32, of connection: UpstreamConnection) {
        guard let exchange else { return }
        release()
        exchange.connection = nil
        let isRefused = errorCode == NGHTTP2_REFUSED_STREAM.rawValue
        if isRefused, !session.peerIsGoingAway { connection.streamRefused() }
        if !exchange.isFinished {
            exchange.isFinished = true
            // A connection that closes ends its streams with a code of its own.
            if !connection.isClosed { exchange.resetCode = errorCode }
            exchange.failed(failure(errorCode: errorCode))
        }
        connection.streamFinished()
    }

    private func failure(errorCode: UInt32) -> UpstreamFailure {
        if headComplete { return connection.failure ?? .reset }
        switch errorCode {
        case NGHTTP2_REFUSED_STREAM.rawValue: return session.peerIsGoingAway ? .staleConnection : .refusedStream
        case NGHTTP2_ENHANCE_YOUR_CALM.rawValue: return .overloaded
        default: return connection.failure ?? (endedUnanswered ? .staleConnection : .reset)
        }
    }

    /// The backend closed a connection that it had answered on, without a byte for this stream, and without a GOAWAY that would have said
    /// whether it was taken. As over HTTP/1.1, the close has likely crossed the request.
    private var endedUnanswered: Bool {
        connection.isClosed && isOnKeptConnection && headBytes == 0 && !session.peerIsGoingAway
    }
}
