import EventLoop
import Wire

/// Why a request to a backend did not come to its end.
public enum UpstreamFailure: Sendable {
    /// No connection could be made: refused, unreachable, or not in time.
    case connectFailed
    /// The connection stood, but not its TLS: a certificate that is not accepted, by us or the backend, or no protocol in common.
    case tlsFailed
    /// A kept connection was closed by the backend before it answered anything: nothing was processed that it told of.
    case staleConnection
    /// The backend refused the stream unprocessed (REFUSED_STREAM, or above a GOAWAY's last id).
    case refusedStream
    /// The connection or stream ended before the answer was whole.
    case reset
    /// No byte came for too long.
    case timeout
    /// What came is no HTTP.
    case protocolError
}

/// What to send to a backend. The head's fields of one connection have been removed by the caller, or are left out by the transport.
public struct UpstreamRequest {
    public var head: RequestHead
    /// Length of the body; nil when it is not known beforehand (chunked, or DATA until the end).
    public var bodyLength: Int?
    public var hasBody: Bool
    /// Send `te: trailers`, as gRPC wants it; HTTP/2 only.
    public var acceptsTrailers: Bool

    public init(head: RequestHead, bodyLength: Int?, hasBody: Bool, acceptsTrailers: Bool = false) {
        self.head = head
        self.bodyLength = bodyLength
        self.hasBody = hasBody
        self.acceptsTrailers = acceptsTrailers
    }
}

/// One request to a backend and its answer, seen from the client's side. Subclassed by whoever asks; confined to its loop.
///
/// Calls: `headReceived`, `bodyReceived`…, `responseEnded`; or `failed` instead of the rest. `turnEnded` calls are the transport's.
open class UpstreamExchange {
    /// The answer's head, from `headReceived()` on.
    public final let response = ResponseHead()
    final var connection: UpstreamConnection?
    final var stream: UpstreamStream?
    public internal(set) final var isFinished = false
    public internal(set) final var isRequestSent = false
    final var isResponsePaused = false

    public init() {}

    // MARK: To be overridden

    /// The connection carries the request now.
    open func requestStarted() {}
    /// The final head is here, in `response`. Informational ones (1xx) are not reported.
    open func headReceived() {}
    open func bodyReceived(_ bytes: UnsafeRawBufferPointer) {}
    open func responseEnded(trailers: HeaderBlock?) {}
    /// No call follows.
    open func failed(_ failure: UpstreamFailure) {}
    /// The output that `send` found too long has been taken.
    open func requestDrained() {}

    /// Whether the head is all there is of the answer (gRPC's "trailers only"); known from `headReceived()` on, HTTP/2 only.
    public final var endsWithHead: Bool { stream?.endsWithHead ?? false }

    // MARK: Sending

    public final var isAttached: Bool { connection != nil }

    /// Sends bytes of the body. False: wait for `requestDrained()` before more; these are kept.
    @discardableResult
    public final func send(_ bytes: UnsafeRawBufferPointer) -> Bool {
        guard let connection, bytes.count > 0 else { return true }
        if let stream { return stream.send(bytes) }
        return connection.writeHTTP1Body(bytes)
    }

    public final func finishRequest() {
        guard let connection, !isRequestSent else { return }
        isRequestSent = true
        if let stream { stream.endSending(trailers: nil) } else { connection.finishHTTP1Request() }
    }

    /// Gives up: the backend sees a close (HTTP/1.1) or RST_STREAM CANCEL. No call follows.
    public final func cancel() {
        guard let connection, !isFinished else { return }
        isFinished = true
        if let stream {
            stream.session.reset(stream, errorCode: 8 /* CANCEL, RFC 9113 section 7 */)
            connection.flush()
        } else {
            connection.close()
        }
        self.connection = nil
    }

    /// Holds the rest of the answer back at the backend, by its own flow control.
    public final func pauseResponse() {
        isResponsePaused = true
        stream?.isPaused = true
    }

    public final func resumeResponse() {
        guard isResponsePaused else { return }
        isResponsePaused = false
        if let stream { stream.resume() } else { connection?.resumeInput() }
    }
}

/// The HTTP/2 stream of an upstream exchange.
final class UpstreamStream: HTTP2Stream {
    let exchange: UpstreamExchange
    private var responseTrailers: HeaderBlock?
    private var headBytes = 0
    private var isInformational = false

    init(id: Int32, session: HTTP2Session, exchange: UpstreamExchange) {
        self.exchange = exchange
        super.init(id: id, session: session)
        exchange.stream = self
    }

    override func headerReceived(name: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer) -> Bool {
        let limits = session.connection.limits
        headBytes &+= name.count &+ value.count &+ 32
        guard headBytes <= limits.headBytes &* 2 else { return false }
        if headComplete {
            let trailers = responseTrailers ?? HeaderBlock(byteCapacity: 128, fieldCapacity: 4)
            responseTrailers = trailers
            trailers.append(name: name, value: value)
        } else if name.equals(":status") {
            exchange.response.removeAll()
            exchange.response.status = value.decimalValue ?? 0
            isInformational = exchange.response.status < 200
        } else {
            let known = KnownHeader.identify(name)
            if known == .contentLength { exchange.response.contentLength = value.decimalValue }
            exchange.response.headers.append(name: name, value: value, known: known)
        }
        return true
    }

    override func headReceived() {
        guard !isInformational else { return }
        headComplete = true
        guard !exchange.isFinished else { return }
        exchange.headReceived()
    }

    override func dataReceived(_ bytes: UnsafeRawBufferPointer) {
        guard !exchange.isFinished else { return }
        exchange.bodyReceived(bytes)
    }

    override func endReceived() {
        guard !exchange.isFinished else { return }
        exchange.isFinished = true
        let connection = exchange.connection
        exchange.responseEnded(trailers: responseTrailers)
        // An answer that is whole before its request is: the rest of the request is of no use (RFC 9113, 8.1).
        if !sendEnded || !sendQueue.isEmpty { session.reset(self, errorCode: 0) }
        connection?.touch()
    }

    override func sendQueueDrained() {
        // Whoever asked may be gone once its answer was whole, while the stream lives on for the rest of the request.
        guard !exchange.isFinished else { return }
        exchange.requestDrained()
    }

    override func closed(errorCode: UInt32) {
        let connection = exchange.connection
        exchange.connection = nil
        exchange.stream = nil
        if !exchange.isFinished {
            exchange.isFinished = true
            let refused = errorCode == 7 || (session.peerIsGoingAway && !headComplete)
            exchange.failed(refused ? .refusedStream : connection?.failureForStreams ?? .reset)
        }
        connection?.streamFinished()
    }
}
