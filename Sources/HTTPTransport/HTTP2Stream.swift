import EventLoop
import Wire

/// One HTTP/2 stream: what waits to be sent on it, and what was received and not yet credited to the peer.
class HTTP2Stream {
    final private(set) var id: Int32
    /// Where the session keeps it.
    final var place = 0
    /// Unchecked: a session ends its streams before it goes.
    final unowned(unsafe) let session: HTTP2Session
    final var sendQueue: ByteBuffer
    final var sendEnded = false
    final var trailers: HeaderBlock?
    /// nghttp2 asked for data and got none: it must be told when there is some.
    final var isDeferred = false
    final var hasStalledSource = false
    final var receivedEnd = false
    /// When the peer last did something for this stream, or its turn began.
    final var movedAt: UInt64
    /// Where in the connection's output its last bytes end, but for the head of their frame.
    final var sentEnd = 0
    /// Bytes received while the receiver was paused.
    final var uncredited = 0
    /// What a backend has to send before its window is widened.
    final var bytesBeforeWiderWindow: Int
    /// It has been.
    final var isWide = false
    /// What it may send beyond its first window.
    final var promisedBytes = 0
    /// Of its client's share: that, and what of it has come and is held for the client.
    final var sharedBytes = 0
    final var share: WindowShare?
    /// When the backend began to send what counts towards a wider window.
    final var windowBeganAt: UInt64 = 0
    final var isPaused = false
    /// HEADERS that come now are trailers.
    final var headComplete = false
    /// The frame of the head was the last one.
    final var endsWithHead = false

    init(id: Int32, session: HTTP2Session) {
        self.id = id
        self.session = session
        movedAt = session.connection.loop.now
        bytesBeforeWiderWindow = session.bytesBeforeWiderWindow
        sendQueue = ByteBuffer(pool: session.connection.loop.chunks)
    }

    /// Makes a stream that was closed as good as new.
    final func renew(id: Int32) {
        self.id = id
        sendEnded = false
        isDeferred = false
        hasStalledSource = false
        receivedEnd = false
        movedAt = uncounted(session.connection).use { uncounted($0.loop).use { $0.now } }
        sentEnd = 0
        uncredited = 0
        bytesBeforeWiderWindow = uncounted(session).use { $0.bytesBeforeWiderWindow }
        isPaused = false
        headComplete = false
        endsWithHead = false
    }

    /// Gives back what a closed stream has no use for.
    final func releaseQueued() {
        sendQueue.removeAll()
        trailers = nil
    }

    // What the sides differ in.
    func headerReceived(name: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer) -> Bool { true }
    func headReceived() {}
    func dataReceived(_ bytes: UnsafeRawBufferPointer) {}
    func endReceived() {}
    /// The stream is gone; `errorCode` as in RFC 9113, section 7.
    func closed(errorCode: UInt32) {}
    func sendQueueDrained() {}
    /// Of the client that it is for.
    func findShare() -> WindowShare? { nil }
    /// It is the peer's turn: to read, or to send what it began.
    var waitsForPeer: Bool { !sendQueue.isEmpty }
    /// When the peer's pace is to be looked at again, if it has one to keep to; nil: it is too slow.
    func judgePace(at now: UInt64) -> UInt64? { .max }
    /// When it is over though it is nobody's turn, unless something moves.
    var idleEnd: UInt64 { .max }
    /// It was the peer's turn for too long, or nothing has moved.
    func peerIsSilent() { session.reset(self, errorCode: 8 /* CANCEL, RFC 9113 section 7 */) }

    // MARK: Sending

    /// Queues bytes; false when the queue is long and the source should wait for `sendQueueDrained()`.
    func send(_ bytes: UnsafeRawBufferPointer) -> Bool {
        if sendQueue.isEmpty { turnBegins() }
        sendQueue.append(bytes)
        resumeIfDeferred()
        guard sendQueue.count >= TransportLimits.leastQueuedBytesPerStream,
            sendQueue.count >= uncounted(session).use({ $0.streamHighWaterBytes })
        else { return true }
        hasStalledSource = true
        return false
    }

    func endSending(trailers: HeaderBlock?) {
        if sendQueue.isEmpty { turnBegins() }
        self.trailers = trailers
        sendEnded = true
        resumeIfDeferred()
    }

    private func turnBegins() { movedAt = session.connection.loop.now }

    private func resumeIfDeferred() {
        uncounted(session).use { session in
            if isDeferred {
                isDeferred = false
                session.resumeData(self)
            }
            uncounted(session.connection).use { $0.flushLater() }
        }
    }

    // MARK: Receiving

    /// Takes received bytes: credited at once, or, where they have filled the receiver, when that goes on.
    final func received(_ bytes: UnsafeRawBufferPointer) {
        movedAt = session.connection.loop.now
        dataReceived(bytes)
        uncounted(session).use { if isPaused { $0.holdBack(bytes.count, of: self) } else { $0.credit(self, bytes.count) } }
    }

    final func resume() {
        guard isPaused else { return }
        isPaused = false
        turnBegins()
        if uncredited > 0 {
            session.creditHeldBack(of: self)
            session.connection.flushLater()
        }
    }
}
