import CNghttp2
import EventLoop
import Glibc
import Wire

/// One HTTP/2 connection's framing, through nghttp2. Its C callbacks run inside `receive` and `pullOutput` and turn into calls on
/// `HTTP2Stream`. They never destroy the session: a connection that wants to go sets a flag and goes when the call is back.
final class HTTP2Session {
    enum Role { case server, client }

    unowned let connection: TransportConnection
    let role: Role
    private var session: OpaquePointer?
    private(set) var streams: [Int32: HTTP2Stream] = [:]
    private(set) var peerIsGoingAway = false
    /// A gRPC call has come over this connection.
    var carriesGRPC = false
    private var stalled: [HTTP2Stream] = []
    private(set) var isInsideLibrary = false

    init(role: Role, connection: TransportConnection) {
        self.role = role
        self.connection = connection
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
        var option: OpaquePointer?
        guard nghttp2_option_new(&option) == 0 else { return }
        defer { nghttp2_option_del(option) }
        let limits = connection.limits
        nghttp2_option_set_no_auto_window_update(option, 1)
        nghttp2_option_set_no_closed_streams(option, 1)
        nghttp2_option_set_max_send_header_block_length(option, limits.headBytes * 2)
        nghttp2_option_set_peer_max_concurrent_streams(option, UInt32(limits.streamsPerConnection))
        // CVE-2023-44487: 1,000 resets at once, 33 a second after that.
        nghttp2_option_set_stream_reset_rate_limit(option, 1_000, 33)
        let context = Unmanaged.passUnretained(self).toOpaque()
        let result =
            role == .server
            ? nghttp2_session_server_new2(&session, callbacks, context, option)
            : nghttp2_session_client_new2(&session, callbacks, context, option)
        guard result == 0, let session else { return }
        var settings = [
            nghttp2_settings_entry(
                settings_id: Int32(NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS.rawValue), value: UInt32(limits.streamsPerConnection)),
            nghttp2_settings_entry(
                settings_id: Int32(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE.rawValue), value: UInt32(limits.streamWindowBytes)),
            nghttp2_settings_entry(
                settings_id: Int32(NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE.rawValue), value: UInt32(limits.headBytes)),
        ]
        if role == .client {
            settings.append(nghttp2_settings_entry(settings_id: Int32(NGHTTP2_SETTINGS_ENABLE_PUSH.rawValue), value: 0))
        }
        nghttp2_submit_settings(session, UInt8(NGHTTP2_FLAG_NONE.rawValue), settings, settings.count)
        nghttp2_session_set_local_window_size(
            session, UInt8(NGHTTP2_FLAG_NONE.rawValue), 0, Int32(limits.connectionWindowBytes))
    }

    /// Ends all use: called when the connection is closed, never from inside a callback of the library's.
    func invalidate() {
        let open = streams.values
        streams = [:]
        for stream in open { stream.closed(errorCode: UInt32(NGHTTP2_INTERNAL_ERROR.rawValue)) }
        stalled = []
        guard let session else { return }
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
        if nghttp2_session_get_outbound_queue_size(session) > TransportLimits.queuedFrames { connection.close() }
        connection.flushLater()
        return taken == bytes.count
    }

    /// Moves frames into the connection's output, up to its high-water mark.
    func pullOutput() {
        guard let session, !isInsideLibrary else { return }
        isInsideLibrary = true
        while connection.output.count < connection.limits.outputHighWaterBytes {
            var data: UnsafePointer<UInt8>?
            let count = nghttp2_session_mem_send(session, &data)
            guard count > 0, let data else { break }
            connection.output.append(UnsafeRawBufferPointer(start: data, count: count))
        }
        isInsideLibrary = false
        if !stalled.isEmpty {
            let drained = stalled
            stalled.removeAll(keepingCapacity: true)
            for stream in drained where stream.hasStalledSource {
                stream.hasStalledSource = false
                stream.sendQueueDrained()
            }
        }
    }

    /// Neither side has anything more to say: the connection can be closed.
    var isFinished: Bool {
        guard let session else { return true }
        return nghttp2_session_want_read(session) == 0 && nghttp2_session_want_write(session) == 0
    }

    /// Streams that the peer lets us have open at once.
    var peerStreamLimit: Int {
        guard let session else { return 0 }
        return Int(nghttp2_session_get_remote_settings(session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS))
    }

    // MARK: Messages

    func submitResponse(_ stream: HTTP2Stream, status: Int, headers: HeaderBlock, ended: Bool) {
        withFields(headers, pseudo: 1) { fields in
            withUnsafeTemporaryAllocation(byteCount: 3, alignment: 1) { digits in
                digits[0] = UInt8(48 + status / 100 % 10)
                digits[1] = UInt8(48 + status / 10 % 10)
                digits[2] = UInt8(48 + status % 10)
                fields[0] = nameValue(":status", UnsafeRawBufferPointer(digits))
                if ended {
                    nghttp2_submit_response(session, stream.id, fields.baseAddress, fields.count, nil)
                } else {
                    var provider = dataProvider(for: stream)
                    nghttp2_submit_response(session, stream.id, fields.baseAddress, fields.count, &provider)
                }
            }
        }
        connection.flushLater()
    }

    /// Sends a request; the stream made by `makeStream` from the new id gets its answer. Nil when no stream can be opened.
    func submitRequest<Stream: HTTP2Stream>(
        head: RequestHead, carriesTrailersField: Bool, ended: Bool, makeStream: (HTTP2Session, Int32) -> Stream
    ) -> Stream? {
        guard let session else { return nil }
        var result: Stream?
        withFields(head.headers, pseudo: carriesTrailersField ? 5 : 4) { fields in
            fields[0] = nameValue(":method", head.methodBytes)
            fields[1] = nameValue(":scheme", "http")
            fields[2] = nameValue(":authority", head.authority)
            fields[3] = nameValue(":path", head.target)
            if carriesTrailersField { fields[4] = nameValue("te", "trailers") }
            let stream = makeStream(self, Int32(bitPattern: nghttp2_session_get_next_stream_id(session)))
            var provider = dataProvider(for: stream)
            let context = Unmanaged.passUnretained(stream).toOpaque()
            let id =
                ended
                ? nghttp2_submit_request(session, nil, fields.baseAddress, fields.count, nil, context)
                : nghttp2_submit_request(session, nil, fields.baseAddress, fields.count, &provider, context)
            guard id == stream.id else { return }
            streams[id] = stream
            result = stream
        }
        connection.flushLater()
        return result
    }

    func reset(_ stream: HTTP2Stream, errorCode: UInt32) {
        guard let session else { return }
        nghttp2_submit_rst_stream(session, UInt8(NGHTTP2_FLAG_NONE.rawValue), stream.id, errorCode)
        connection.flushLater()
    }

    /// Resets the streams whose peer has done nothing since the last call though it was its turn.
    func resetStoppedStreams() {
        for stream in streams.values {
            let waits = stream.waitsForPeer
            if waits, stream.progressSeen == stream.progress { reset(stream, errorCode: 8 /* CANCEL, RFC 9113 section 7 */) }
            stream.progressSeen = waits ? stream.progress : nil
        }
    }

    func credit(_ stream: HTTP2Stream, _ bytes: Int) {
        guard let session else { return }
        nghttp2_session_consume(session, stream.id, bytes)
    }

    /// Bytes that came for a paused stream. A backend's connection carries many clients: there only the stream's window stays used up,
    /// or a few slow readers would hold up all others. A client's own connection as a whole may wait for it.
    func holdBack(_ bytes: Int, of stream: HTTP2Stream) {
        stream.uncredited &+= bytes
        if role == .client { creditConnection(bytes) }
    }

    func creditHeldBack(of stream: HTTP2Stream) {
        guard let session else { return }
        if role == .client {
            nghttp2_session_consume_stream(session, stream.id, stream.uncredited)
        } else {
            nghttp2_session_consume(session, stream.id, stream.uncredited)
        }
        stream.uncredited = 0
    }

    /// Bytes that no stream will take any more still count against the connection's window.
    fileprivate func creditConnection(_ bytes: Int) {
        guard let session, bytes > 0 else { return }
        nghttp2_session_consume_connection(session, bytes)
    }

    func resumeData(_ stream: HTTP2Stream) {
        guard let session else { return }
        nghttp2_session_resume_data(session, stream.id)
    }

    /// First GOAWAY of a graceful shutdown (RFC 9113, 6.8): no new streams, please; those that cross it are still served.
    func announceShutdown() {
        guard let session else { return }
        nghttp2_submit_shutdown_notice(session)
        connection.flushLater()
    }

    /// Second GOAWAY: with the last stream that was taken.
    func refuseNewStreams() {
        guard let session else { return }
        nghttp2_submit_goaway(
            session, UInt8(NGHTTP2_FLAG_NONE.rawValue), nghttp2_session_get_last_proc_stream_id(session),
            UInt32(NGHTTP2_NO_ERROR.rawValue), nil, 0)
        connection.flushLater()
    }

    /// GOAWAY of a server that broke: INTERNAL_ERROR, and no stream was processed.
    func abandon() {
        guard let session else { return }
        nghttp2_submit_goaway(session, UInt8(NGHTTP2_FLAG_NONE.rawValue), 0, UInt32(NGHTTP2_INTERNAL_ERROR.rawValue), nil, 0)
        connection.flushLater()
    }

    // MARK: Fields

    /// nghttp2 copies names (to lower case) and values, so the block may be reused at once. Fields of one connection are left out.
    private func withFields(
        _ headers: HeaderBlock, pseudo: Int, _ body: (UnsafeMutableBufferPointer<nghttp2_nv>) -> Void
    ) {
        withUnsafeTemporaryAllocation(of: nghttp2_nv.self, capacity: pseudo + headers.count) { fields in
            var count = pseudo
            for index in 0..<headers.count {
                let known = headers.known(at: index)
                if known.isHopByHop || known == .host { continue }
                fields.initializeElement(at: count, to: nameValue(headers.name(at: index), headers.value(at: index)))
                count &+= 1
            }
            body(UnsafeMutableBufferPointer(rebasing: fields[..<count]))
        }
    }

    fileprivate func submitTrailers(of stream: HTTP2Stream, _ trailers: HeaderBlock) {
        withFields(trailers, pseudo: 0) { _ = nghttp2_submit_trailer(session, stream.id, $0.baseAddress, $0.count) }
    }

    private func dataProvider(for stream: HTTP2Stream) -> nghttp2_data_provider {
        nghttp2_data_provider(
            source: nghttp2_data_source(ptr: Unmanaged.passUnretained(stream).toOpaque()), read_callback: onReadData)
    }

    // MARK: From the library

    fileprivate func stream(_ id: Int32) -> HTTP2Stream? {
        guard let pointer = nghttp2_session_get_stream_user_data(session, id) else { return nil }
        return Unmanaged<HTTP2Stream>.fromOpaque(pointer).takeUnretainedValue()
    }

    fileprivate func requestBegan(_ id: Int32) -> Bool {
        guard let stream = connection.makeStream(in: self, id: id) else { return false }
        streams[id] = stream
        nghttp2_session_set_stream_user_data(session, id, Unmanaged.passUnretained(stream).toOpaque())
        return true
    }

    fileprivate func frameReceived(_ frame: UnsafePointer<nghttp2_frame>) {
        let header = frame.pointee.hd
        let ended = header.flags & UInt8(NGHTTP2_FLAG_END_STREAM.rawValue) != 0
        switch UInt32(header.type) {
        case NGHTTP2_HEADERS.rawValue:
            guard let stream = stream(header.stream_id) else { return }
            stream.endsWithHead = ended && !stream.headComplete
            if !stream.headComplete { stream.headReceived() }
            if ended { finishReceiving(stream) }
        case NGHTTP2_DATA.rawValue where ended:
            guard let stream = stream(header.stream_id) else { return }
            finishReceiving(stream)
        case NGHTTP2_GOAWAY.rawValue:
            peerIsGoingAway = true
        default: break
        }
    }

    private func finishReceiving(_ stream: HTTP2Stream) {
        guard !stream.receivedEnd else { return }
        stream.receivedEnd = true
        stream.endReceived()
    }

    fileprivate func streamClosed(_ id: Int32, errorCode: UInt32) {
        guard let stream = streams.removeValue(forKey: id) else { return }
        if role == .server { creditConnection(stream.uncredited) }
        stream.closed(errorCode: errorCode)
    }

    /// Fills a DATA frame's payload from the stream's queue.
    fileprivate func readData(
        _ stream: HTTP2Stream, into buffer: UnsafeMutablePointer<UInt8>, capacity: Int, flags: UnsafeMutablePointer<UInt32>
    ) -> Int {
        let count = min(capacity, stream.sendQueue.count)
        if count > 0 {
            stream.progress &+= 1
            memcpy(buffer, stream.sendQueue.readable.baseAddress!, count)
            stream.sendQueue.consume(count)
            if stream.hasStalledSource, stream.sendQueue.count <= connection.limits.outputLowWaterBytes { stalled.append(stream) }
        }
        if stream.sendQueue.isEmpty, stream.sendEnded {
            flags.pointee |= NGHTTP2_DATA_FLAG_EOF.rawValue
            if let trailers = stream.trailers {
                flags.pointee |= NGHTTP2_DATA_FLAG_NO_END_STREAM.rawValue
                submitTrailers(of: stream, trailers)
            }
            return count
        }
        if count == 0 {
            stream.isDeferred = true
            return Int(NGHTTP2_ERR_DEFERRED.rawValue)
        }
        return count
    }
}

private func nameValue(_ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) -> nghttp2_nv {
    nghttp2_nv(
        name: UnsafeMutablePointer(mutating: name.baseAddress?.assumingMemoryBound(to: UInt8.self)),
        value: UnsafeMutablePointer(mutating: value.baseAddress?.assumingMemoryBound(to: UInt8.self)), namelen: name.count,
        valuelen: value.count, flags: UInt8(NGHTTP2_NV_FLAG_NONE.rawValue))
}

private func nameValue(_ name: StaticString, _ value: UnsafeRawBufferPointer) -> nghttp2_nv {
    nameValue(UnsafeRawBufferPointer(start: name.utf8Start, count: name.utf8CodeUnitCount), value)
}

private func nameValue(_ name: StaticString, _ value: StaticString) -> nghttp2_nv {
    nameValue(name, UnsafeRawBufferPointer(start: value.utf8Start, count: value.utf8CodeUnitCount))
}

/// The context pointer is the session's own, unretained: the session outlives every call into the library.
private func owner(_ context: UnsafeMutableRawPointer?) -> HTTP2Session {
    Unmanaged<HTTP2Session>.fromOpaque(context!).takeUnretainedValue()
}

private let onBeginHeaders: nghttp2_on_begin_headers_callback = { _, frame, context in
    let frame = frame!.pointee
    guard frame.headers.cat == NGHTTP2_HCAT_REQUEST else { return 0 }
    return owner(context).requestBegan(frame.hd.stream_id) ? 0 : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE.rawValue
}

private let onHeader: nghttp2_on_header_callback = { _, frame, name, nameLength, value, valueLength, _, context in
    let session = owner(context)
    guard let stream = session.stream(frame!.pointee.hd.stream_id) else { return 0 }
    let accepted = stream.headerReceived(
        name: UnsafeRawBufferPointer(start: name, count: nameLength), value: UnsafeRawBufferPointer(start: value, count: valueLength))
    return accepted ? 0 : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE.rawValue
}

private let onFrameReceived: nghttp2_on_frame_recv_callback = { _, frame, context in
    owner(context).frameReceived(frame!)
    return 0
}

private let onDataChunk: nghttp2_on_data_chunk_recv_callback = { _, _, id, data, length, context in
    let session = owner(context)
    if let stream = session.stream(id) {
        stream.received(UnsafeRawBufferPointer(start: data, count: length))
    } else {
        owner(context).creditConnection(length)
    }
    return 0
}

private let onStreamClose: nghttp2_on_stream_close_callback = { _, id, errorCode, context in
    owner(context).streamClosed(id, errorCode: errorCode)
    return 0
}

private let onReadData: nghttp2_data_source_read_callback = { _, _, buffer, capacity, flags, source, context in
    let stream = Unmanaged<HTTP2Stream>.fromOpaque(source!.pointee.ptr).takeUnretainedValue()
    return owner(context).readData(stream, into: buffer!, capacity: capacity, flags: flags!)
}
