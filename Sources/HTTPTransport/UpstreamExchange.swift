import EventLoop
import Wire

/// Why a request to a backend did not come to its end.
public enum UpstreamFailure: Sendable {
    /// No connection could be made: refused, unreachable, or not in time.
    case connectFailed
    /// The connection stood, but not its TLS: a certificate that is not accepted, by us or the backend, or no protocol in common.
    case tlsFailed
    /// A kept connection was closed by the backend before it answered anything, or its GOAWAY left the stream out: nothing was
    /// processed that it told of.
    case staleConnection
    /// The backend refused the stream unprocessed (REFUSED_STREAM).
    case refusedStream
    /// The backend has no room: no stream came free in time, or it asked for calm (ENHANCE_YOUR_CALM).
    case overloaded
    /// The connection or stream ended before the answer was whole.
    case reset
    /// No byte came for too long.
    case timeout
    /// What came is no HTTP.
    case protocolError
    /// We have no descriptor or memory left for another connection: no fault of the backend's.
    case outOfDescriptors
}

/// What to send to a backend. The head's fields of one connection have been removed by the caller, or are left out by the transport.
public struct UpstreamRequest {
    public var head: RequestHead
    /// Length of the body; nil when it is not known beforehand (chunked, or DATA until the end).
    public var bodyLength: Int?
    public var hasBody: Bool
    /// Send `te: trailers`, as gRPC wants it; HTTP/2 only.
    public var acceptsTrailers: Bool
    /// Ask for a WebSocket; HTTP/1.1 only, and without a body.
    public var asksForWebSocket: Bool

    public init(head: RequestHead, bodyLength: Int?, hasBody: Bool, acceptsTrailers: Bool = false, asksForWebSocket: Bool = false) {
        self.head = head
        self.bodyLength = bodyLength
        self.hasBody = hasBody
        self.acceptsTrailers = acceptsTrailers
        self.asksForWebSocket = asksForWebSocket
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
    /// What is sent before there is a stream waits here.
    final var waiting: WaitingRequest?
    public internal(set) final var isFinished = false
    public internal(set) final var isRequestSent = false
    final var isResponsePaused = false
    /// HTTP/2: the error code (RFC 9113, section 7) with which the stream was reset; nil when the whole connection went.
    public internal(set) final var resetCode: UInt32?
    private final var informationalResponses = 0

    public init() {}

    /// Makes an ended exchange that nobody else holds as good as new.
    public final func renew() {
        response.removeAll()
        connection = nil
        stream = nil
        waiting = nil
        isFinished = false
        isRequestSent = false
        isResponsePaused = false
        resetCode = nil
        informationalResponses = 0
    }

    // MARK: To be overridden

    /// For whom it asks: what is held of the answer is held for that client's connection. Nil: for itself.
    open var client: DownstreamExchange? { nil }
    /// The connection carries the request now.
    open func requestStarted() {}
    /// An informational head (1xx other than 101) is here, in `response`.
    open func informationalReceived() {}
    /// The backend has agreed to a WebSocket; its head is in `response`. From here on `bodyReceived` brings what it sends until
    /// `responseEnded`, and `send` takes what it shall get until `finishRequest`; neither ends the other.
    open func tunnelOpened() {}
    /// The final head is here, in `response`.
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
        guard bytes.count > 0 else { return true }
        // Neither goes while bytes are added to its output.
        guard let connection = connection.map(uncounted) else { return waiting?.keep(bytes) ?? true }
        if let stream = stream.map(uncounted) { return stream.use { $0.send(bytes) } }
        return connection.use { $0.writeHTTP1Body(bytes) }
    }

    /// Ends the request. Trailers can follow a body whose length was not declared.
    public final func finishRequest(trailers: HeaderBlock? = nil) {
        guard !isRequestSent, connection != nil || waiting != nil else { return }
        isRequestSent = true
        if let stream {
            stream.endSending(trailers: trailers)
        } else if let waiting {
            waiting.trailers = trailers
        } else {
            connection?.finishHTTP1Request(trailers: trailers)
        }
    }

    /// Counts an informational head and reports it; false when there have been too many.
    final func takeInformational() -> Bool {
        informationalResponses &+= 1
        // 101 is an answer to a wish for another protocol, and here there was none.
        guard informationalResponses <= TransportLimits.informationalResponses, response.status != 101 else { return false }
        // Nobody waits for a 100: the client has had ours.
        if response.status != 100 { informationalReceived() }
        return true
    }

    /// Gives up: the backend sees a close (HTTP/1.1) or RST_STREAM CANCEL. No call follows.
    public final func cancel() {
        guard !isFinished else { return }
        if let waiting {
            isFinished = true
            waiting.leave()
        }
        guard let connection else { return }
        isFinished = true
        if let stream {
            stream.session.reset(stream, errorCode: 8 /* CANCEL, RFC 9113 section 7 */)
            connection.flush()
        } else {
            connection.abandon()
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
