import CNghttp2
import EventLoop

/// Flow-control windows (RFC 9113, 6.9). They begin small, widen for those who use them up quickly, as far as there is room
/// (`WindowPromises`), and those of backends shrink when they are of no use.
extension HTTP2Session {
    /// A connection's window before anyone has said anything (RFC 9113, 6.9.2).
    static let firstConnectionWindowBytes = 65_535

    // MARK: Received bytes

    func credit(_ stream: HTTP2Stream, _ bytes: Int) {
        guard let session else { return }
        stream.bytesBeforeWiderWindow &-= bytes
        if stream.bytesBeforeWiderWindow <= 0 { firstWindowUsed(by: stream) }
        noteHold()
        nghttp2_session_consume(session, stream.id, bytes)
        announceIfUsedUp()
    }

    /// Bytes that came for a paused stream. A backend's connection carries many clients: there only the stream's window stays used up,
    /// or a few slow readers would hold up all others. A client's own connection as a whole may wait for it.
    func holdBack(_ bytes: Int, of stream: HTTP2Stream) {
        stream.uncredited &+= bytes
        guard role == .client else {
            noteHold()
            return
        }
        if stream.promisedBytes > 0 {
            // What is held is no promise any more, and what may still come of it no sign that more is wanted.
            narrowWindow(of: stream)
            giveBack(bytes, of: stream)
        }
        creditConnection(bytes)
    }

    /// The receiver of a paused stream goes on.
    func creditHeldBack(of stream: HTTP2Stream) {
        guard let session else { return }
        noteHold()
        let bytes = stream.uncredited
        stream.uncredited = 0
        if role == .client {
            shareHasBeenTaken(of: stream)
            stream.windowBeganAt = connection.loop.now
            stream.bytesBeforeWiderWindow &-= bytes
            if stream.bytesBeforeWiderWindow <= 0 { widenWindow(of: stream) }
            nghttp2_session_consume_stream(session, stream.id, bytes)
        } else {
            nghttp2_session_consume(session, stream.id, bytes)
        }
        announceIfUsedUp()
    }

    /// Bytes that no stream will take any more still count against the connection's window.
    func creditConnection(_ bytes: Int) {
        guard let session, bytes > 0 else { return }
        noteHold()
        nghttp2_session_consume_connection(session, bytes)
        announceIfUsedUp()
    }

    /// To be called whenever the library has been left: inside it a stream may be taking bytes, which would pass for consumed.
    func announceIfUsedUp() {
        if !isInsideLibrary, noteHold() { announceConsumed() }
    }

    /// Whether the client has used up its connection's window.
    @discardableResult
    private func noteHold() -> Bool {
        guard role == .server, let session, nghttp2_session_get_local_window_size(session) <= 0 else { return false }
        heldUntil = connection.loop.now
        return true
    }

    /// Gives a used-up connection's window back as far as no paused stream holds it. nghttp2 waits for half of it to be consumed, and
    /// what is held may be more than the other half. What one backend does not take is to stop no upload to another while there is room.
    private func announceConsumed() {
        guard let session else { return }
        let held = streams.reduce(0) { $0 &+ $1.uncredited }
        let consumed = Int(nghttp2_session_get_effective_recv_data_length(session)) &- held
        if held > 0, widenConnection() { connection.flushLater() }
        guard consumed > 0 else { return }
        nghttp2_submit_window_update(session, UInt8(NGHTTP2_FLAG_NONE.rawValue), 0, Int32(clamping: consumed))
        connection.flushLater()
    }

    // MARK: Backends' streams

    /// Of a new stream. On a client's the window of the connection is the narrower one.
    var bytesBeforeWiderWindow: Int { role == .client ? connection.limits.firstUpstreamWindowBytes / 2 : .max }

    /// A backend has sent half of a first window and its client has taken it. Quickly: then the window may be what holds it up. An event
    /// stream that takes its time would gain nothing from a wider one.
    private func firstWindowUsed(by stream: HTTP2Stream) {
        let half = connection.limits.firstUpstreamWindowBytes / 2
        if stream.promisedBytes > 0 {
            giveBack(half &- stream.bytesBeforeWiderWindow, of: stream)
            shareHasBeenTaken(of: stream)
        }
        stream.bytesBeforeWiderWindow = half
        let now = connection.loop.now
        let isQuick = now &- stream.windowBeganAt <= TransportLimits.quickHalfWindowNanoseconds
        stream.windowBeganAt = now
        if isQuick { widenWindow(of: stream) }
    }

    /// Lets the backend send more from now on, if there is room. In the place of a WINDOW_UPDATE that would be due anyway.
    private func widenWindow(of stream: HTTP2Stream) {
        guard !stream.isWide else { return }
        let (limits, first) = (connection.limits, connection.limits.firstUpstreamWindowBytes)
        stream.bytesBeforeWiderWindow = first / 2
        let more = limits.streamWindowBytes &- first &- stream.promisedBytes
        let share = stream.share ?? stream.findShare()
        guard promises.make(more, for: share, beside: connection.loop.chunks.lentBytes, within: limits.connectionBufferBytes) else {
            return
        }
        stream.share = share
        stream.sharedBytes &+= more
        stream.promisedBytes &+= more
        stream.isWide = true
        stream.bytesBeforeWiderWindow = .max
        nghttp2_session_set_local_window_size(session, UInt8(NGHTTP2_FLAG_NONE.rawValue), stream.id, Int32(limits.streamWindowBytes))
    }

    /// From now on less; what was allowed before may still come, and stays promised until it has.
    private func narrowWindow(of stream: HTTP2Stream) {
        guard stream.isWide else { return }
        let first = connection.limits.firstUpstreamWindowBytes
        stream.isWide = false
        stream.bytesBeforeWiderWindow = first / 2
        nghttp2_session_set_local_window_size(session, UInt8(NGHTTP2_FLAG_NONE.rawValue), stream.id, Int32(first))
    }

    private func giveBack(_ bytes: Int, of stream: HTTP2Stream) {
        let count = min(bytes, stream.promisedBytes)
        promises.giveBack(count)
        stream.promisedBytes &-= count
    }

    /// The client has all that came: it answers for no more than what may still come.
    private func shareHasBeenTaken(of stream: HTTP2Stream) {
        stream.share?.bytes &-= stream.sharedBytes &- stream.promisedBytes
        stream.sharedBytes = stream.promisedBytes
    }

    /// Of a stream that ends.
    func takeBackPromise(to stream: HTTP2Stream) {
        guard stream.sharedBytes > 0 || stream.promisedBytes > 0 else { return }
        giveBack(stream.promisedBytes, of: stream)
        stream.share?.bytes &-= stream.sharedBytes
        stream.sharedBytes = 0
        stream.share = nil
        stream.isWide = false
    }

    // MARK: A client's connection

    /// A client's connection has sent half of its window, and it has been taken. As with backends: when that was quick, and there is room,
    /// it may send more from now on.
    func connectionWindowAnnounced() {
        guard role == .server, widenedBytes == 0 else { return }
        let now = connection.loop.now
        let isQuick = now &- windowAnnouncedAt <= TransportLimits.quickHalfConnectionWindowNanoseconds
        windowAnnouncedAt = now
        if isQuick { widenConnection() }
    }

    /// Lets a client send more from now on, if there is room, for as long as its connection stays: what was allowed once cannot be taken back.
    @discardableResult
    private func widenConnection() -> Bool {
        let limits = connection.limits
        let more = limits.connectionWindowBytes &- Self.firstConnectionWindowBytes
        guard let session, widenedBytes == 0, more > 0 else { return false }
        let lent = connection.loop.chunks.lentBytes
        guard promises.makeForUpload(more, to: self, beside: lent, within: limits.connectionBufferBytes) else { return false }
        widenedBytes = more
        nghttp2_session_set_local_window_size(session, UInt8(NGHTTP2_FLAG_NONE.rawValue), 0, Int32(limits.connectionWindowBytes))
        return true
    }

    /// Of a connection that ends.
    func takeBackConnectionPromise() {
        guard widenedBytes > 0 else { return }
        promises.giveBackUpload(widenedBytes, of: self)
        widenedBytes = 0
    }
}
