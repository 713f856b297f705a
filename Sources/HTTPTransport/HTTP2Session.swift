import CNghttp2
import EventLoop
import Glibc
import Wire

/// One HTTP/2 connection's framing, through nghttp2. Its C callbacks run inside `receive` and `pullOutput` and turn into calls on
/// `HTTP2Stream`. They never destroy the session: a connection that wants to go sets a flag and goes when the call is back.
final class HTTP2Session {
    enum Role { case server, client }

    /// Unchecked: a connection holds its session and invalidates it when it closes.
    unowned(unsafe) let connection: TransportConnection
    let role: Role
    var session: OpaquePointer?
    /// Those open, in no order; each knows its place. By id nghttp2 finds them: it keeps a pointer to each.
    private(set) var streams: [HTTP2Stream] = []
    /// The peer's first SETTINGS are here: what it allows is known.
    var hasPeerSettings = false
    var peerIsGoingAway = false
    /// Refills with time, drained by frames that cost us work and bring nothing.
    private var conduct: PeerConduct
    /// A gRPC call has come over this connection.
    var carriesGRPC = false
    var stalled: [HTTP2Stream] = []
    /// Until then the connection's window was used up by what we hold back, so that no stream could bring more.
    var heldUntil: UInt64 = 0
    /// Of a server's session: what the fields of open streams come to, each with 32 bytes more (RFC 9113, 6.5.2).
    var openFieldBytes = 0
    private(set) var isInsideLibrary = false
    private let memory: HTTP2Memory
    let promises: WindowPromises
    /// Of a server's session: what the client may send beyond the first window of its connection.
    var widenedBytes = 0
    /// When half of that window was given back last.
    var windowAnnouncedAt: UInt64 = 0
    private var spareStreams: [HTTP2Stream] = []
    /// Of messages sent.
    var requestIDs = 0
    /// The stream whose fields are being received, so that each of them needs no look-up. Unretained: `streams` holds it, and it is
    /// forgotten here when it leaves them.
    var fieldsStream: Unmanaged<HTTP2Stream>?
    /// When those fields began, in the loop's nanoseconds.
    var fieldsBeganAt: UInt64 = 0
    /// The same; nil when no header block is open.
    var headerBlockBeganAt: UInt64? { fieldsStream == nil ? nil : fieldsBeganAt }

    init(role: Role, connection: TransportConnection) {
        self.role = role
        self.connection = connection
        memory = HTTP2Memory.shared(by: connection.loop)
        promises = WindowPromises.shared(by: connection.loop)
        conduct = PeerConduct(limits: connection.limits, now: connection.loop.now)
        start()
    }

    deinit { invalidate() }

    private func start() {
        var callbacks: OpaquePointer?
        guard nghttp2_session_callbacks_new(&callbacks) == 0 else { return }
        defer { nghttp2_session_callbacks_del(callbacks) }
        nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, onBeginHeaders)
        nghttp2_session_callbacks_set_on_header_callback(callbacks, onHeader)
        nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, onFrameReceived)
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, onDataChunk)
        nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, onStreamClose)
        nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(callbacks, onInvalidFrame)
        if role == .server { nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, onFrameSent) }
        var option: OpaquePointer?
        guard nghttp2_option_new(&option) == 0 else { return }
        defer { nghttp2_option_del(option) }
        let limits = connection.limits
        let streamWindow = role == .client ? limits.firstUpstreamWindowBytes : limits.streamWindowBytes
        nghttp2_option_set_no_auto_window_update(option, 1)
        nghttp2_option_set_no_closed_streams(option, 1)
        // An answer's head has twice a request's bytes at most, and what we add to it; nghttp2 would drop a longer one without a word.
        nghttp2_option_set_max_send_header_block_length(option, limits.headBytes * 4)
        nghttp2_option_set_peer_max_concurrent_streams(option, UInt32(limits.streamsPerConnection))
        // Above what one read brings before `conduct` is looked at, 13 bytes each: nghttp2 would end the connection with INTERNAL_ERROR.
        let resetsPerRead = EventLoop.readBufferBytes / 13
        nghttp2_option_set_stream_reset_rate_limit(
            option, UInt64(PeerConduct.burst(limits.resetsPerSecond) &+ resetsPerRead), UInt64(limits.resetsPerSecond))
        let context = Unmanaged.passUnretained(self).toOpaque()
        var table = memory.table
        let result =
            role == .server
            ? nghttp2_session_server_new3(&session, callbacks, context, option, &table)
            : nghttp2_session_client_new3(&session, callbacks, context, option, &table)
        guard result == 0, let session else { return }
        var settings = [
            nghttp2_settings_entry(
                settings_id: Int32(NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS.rawValue), value: UInt32(limits.streamsPerConnection)),
            nghttp2_settings_entry(
                settings_id: Int32(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE.rawValue), value: UInt32(streamWindow)),
            nghttp2_settings_entry(
                settings_id: Int32(NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE.rawValue), value: UInt32(limits.headBytes)),
        ]
        if role == .client {
            settings.append(nghttp2_settings_entry(settings_id: Int32(NGHTTP2_SETTINGS_ENABLE_PUSH.rawValue), value: 0))
        }
        nghttp2_submit_settings(session, UInt8(NGHTTP2_FLAG_NONE.rawValue), settings, settings.count)
        guard role == .client else { return }
        nghttp2_session_set_local_window_size(session, UInt8(NGHTTP2_FLAG_NONE.rawValue), 0, Int32(limits.connectionWindowBytes))
    }

    /// Ends all use: called when the connection is closed, never from inside a callback of the library's.
    func invalidate() {
        let open = streams
        streams = []
        fieldsStream = nil
        for stream in open {
            takeBackPromise(to: stream)
            stream.closed(errorCode: UInt32(NGHTTP2_INTERNAL_ERROR.rawValue))
        }
        stalled = []
        guard let session else { return }
        takeBackConnectionPromise()
        self.session = nil
        nghttp2_session_del(session)
    }

    // MARK: Bytes

    /// Returns false when the peer broke the protocol beyond repair: what is queued (a GOAWAY) should be flushed, then close.
    func receive(_ bytes: UnsafeMutableRawBufferPointer) -> Bool {
        guard let session else { return false }
        isInsideLibrary = true
        let taken = nghttp2_session_mem_recv(session, bytes.baseAddress?.assumingMemoryBound(to: UInt8.self), bytes.count)
        isInsideLibrary = false
        // Each broken or refused stream costs the peer ten bytes and us a queued RST_STREAM: a flood ends the connection.
        if nghttp2_session_get_outbound_queue_size(session) > TransportLimits.queuedFrames {
            // Which frees the session.
            connection.close()
            return false
        }
        announceIfUsedUp()
        connection.flushLater()
        // FLOODED: more answers to SETTINGS and PING wait than nghttp2 keeps. The other: a header block in more frames than it takes.
        let isFlood = taken == Int(NGHTTP2_ERR_FLOODED.rawValue) || taken == Int(NGHTTP2_ERR_TOO_MANY_CONTINUATIONS.rawValue)
        if conduct.isExhausted || isFlood {
            nghttp2_session_terminate_session(session, UInt32(NGHTTP2_ENHANCE_YOUR_CALM.rawValue))
            return false
        }
        return taken == bytes.count
    }

    /// Moves frames into the connection's output, up to its high-water mark.
    func pullOutput() {
        guard let session, !isInsideLibrary else { return }
        isInsideLibrary = true
        let connection = connection
        while connection.output.count < connection.highWaterBytes {
            var data: UnsafePointer<UInt8>?
            let count = nghttp2_session_mem_send(session, &data)
            guard count > 0, let data else { break }
            connection.output.append(UnsafeRawBufferPointer(start: data, count: count))
        }
        isInsideLibrary = false
        announceIfUsedUp()
        if !stalled.isEmpty {
            let drained = stalled
            stalled.removeAll(keepingCapacity: true)
            for stream in drained where stream.hasStalledSource {
                stream.hasStalledSource = false
                stream.sendQueueDrained()
            }
        }
    }

    // MARK: Streams

    func add(_ stream: HTTP2Stream) {
        stream.place = streams.count
        streams.append(stream)
    }

    func remove(_ stream: HTTP2Stream) {
        takeBackPromise(to: stream)
        let last = streams.removeLast()
        if last !== stream {
            last.place = stream.place
            streams[stream.place] = last
        }
        if fieldsStream?.toOpaque() == Unmanaged.passUnretained(stream).toOpaque() { fieldsStream = nil }
    }

    /// Keeps a closed stream for one that opens later: what it would take to make another is a thirtieth of a small request.
    func keep(_ stream: HTTP2Stream) {
        stream.releaseQueued()
        if spareStreams.count < (role == .client ? connection.limits.streamsPerConnection : TransportLimits.spareStreams) {
            spareStreams.append(stream)
        }
    }

    /// One that nobody else holds any more.
    func takeSpareStream() -> HTTP2Stream? {
        guard var stream = spareStreams.popLast() else { return nil }
        return isKnownUniquelyReferenced(&stream) ? stream : nil
    }

    /// Neither side has anything more to say: the connection can be closed.
    var isFinished: Bool {
        guard let session else { return true }
        return nghttp2_session_want_read(session) == 0 && nghttp2_session_want_write(session) == 0
    }

    /// Bytes that may wait on one stream before its source is stopped; never less than `leastQueuedBytesPerStream`.
    var streamHighWaterBytes: Int {
        if connection.isShortOfRoom { return TransportLimits.leastQueuedBytesPerStream }
        let share = TransportLimits.queuedBytesPerConnection / max(1, streams.count)
        return min(connection.limits.outputHighWaterBytes, max(TransportLimits.leastQueuedBytesPerStream, share))
    }

    /// Streams that the peer lets us have open at once.
    var peerStreamLimit: Int {
        guard let session else { return 0 }
        return Int(nghttp2_session_get_remote_settings(session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS))
    }

    // MARK: Conduct

    /// A frame that broke the protocol on one stream, which we had to reset for it (CVE-2025-8671), or a stream that the peer reset.
    func countReset() { if role == .server { conduct.reset(at: connection.loop.now) } }

    /// A frame that asks for work and carries no message (CVE-2019-9511 to 9518).
    func countIdleFrame() { if role == .server { conduct.idleFrame(at: connection.loop.now) } }
}
