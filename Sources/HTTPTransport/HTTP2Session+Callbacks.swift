import CNghttp2
import EventLoop
import Glibc
import Wire

extension HTTP2Session {
    // MARK: From the library

    /// Unretained: the session holds its streams, and removes them only when nghttp2 says that one is closed, in a call of its own.
    private func pointer(_ id: Int32) -> Unmanaged<HTTP2Stream>? {
        nghttp2_session_get_stream_user_data(session, id).map { Unmanaged.fromOpaque($0) }
    }

    /// A header section begins: a request's, an answer's, or trailers.
    func fieldsBegan(_ frame: nghttp2_headers) -> Bool {
        let id = frame.hd.stream_id
        fieldsBeganAt = connection.loop.now
        guard frame.cat == NGHTTP2_HCAT_REQUEST else {
            fieldsStream = pointer(id)
            return true
        }
        fieldsStream = nil
        guard let stream = connection.makeStream(in: self, id: id) else { return false }
        add(stream)
        let reference = Unmanaged.passUnretained(stream)
        fieldsStream = reference
        nghttp2_session_set_stream_user_data(session, id, reference.toOpaque())
        return true
    }

    func fieldReceived(name: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer) -> Bool {
        let isTaken = fieldsStream?.use { $0.headerReceived(name: name, value: value) } ?? true
        // nghttp2 resets the stream for it, and calls that no invalid frame.
        if !isTaken { countReset() }
        return isTaken
    }

    func frameReceived(_ frame: UnsafePointer<nghttp2_frame>) {
        let header = frame.pointee.hd
        let ended = header.flags & UInt8(NGHTTP2_FLAG_END_STREAM.rawValue) != 0
        switch UInt32(header.type) {
        case NGHTTP2_HEADERS.rawValue:
            fieldsStream = nil
            pointer(header.stream_id)?.use { stream in
                stream.endsWithHead = ended && !stream.headComplete
                if !stream.headComplete { stream.headReceived() }
                if ended { finishReceiving(stream) }
            }
        case NGHTTP2_DATA.rawValue:
            guard ended else {
                let isPadded = header.flags & UInt8(NGHTTP2_FLAG_PADDED.rawValue) != 0
                if header.length == 0 || isPadded && header.length <= frame.pointee.data.padlen &+ 1 { countIdleFrame() }
                return
            }
            pointer(header.stream_id)?.use { finishReceiving($0) }
        case NGHTTP2_WINDOW_UPDATE.rawValue:
            // Small steps make us send in small pieces.
            if frame.pointee.window_update.window_size_increment < 64 { countIdleFrame() }
        case NGHTTP2_RST_STREAM.rawValue: countReset()
        case NGHTTP2_SETTINGS.rawValue:
            guard header.flags & UInt8(NGHTTP2_FLAG_ACK.rawValue) == 0 else { return }
            countIdleFrame()
            hasPeerSettings = true
            connection.peerSettingsReceived()
        case NGHTTP2_GOAWAY.rawValue:
            peerIsGoingAway = true
            connection.peerGoingAway(errorCode: frame.pointee.goaway.error_code)
        case NGHTTP2_PING.rawValue:
            countIdleFrame()
            if header.flags & UInt8(NGHTTP2_FLAG_ACK.rawValue) != 0 { connection.pingAnswered() }
        default: countIdleFrame()
        }
    }

    private func finishReceiving(_ stream: HTTP2Stream) {
        guard !stream.receivedEnd else { return }
        stream.receivedEnd = true
        stream.endReceived()
    }

    func streamClosed(_ id: Int32, errorCode: UInt32) {
        guard let stream = pointer(id)?.takeUnretainedValue() else { return }
        remove(stream)
        if role == .server { creditConnection(stream.uncredited) }
        stream.closed(errorCode: errorCode)
        keep(stream)
    }

    /// Our answer is whole. When the request is not, its rest is of no use (RFC 9113, 8.1).
    func answerSent(_ id: Int32) {
        pointer(id)?.use { if !$0.receivedEnd { reset($0, errorCode: UInt32(NGHTTP2_NO_ERROR.rawValue)) } }
    }

    func dataReceived(on id: Int32, _ bytes: UnsafeRawBufferPointer) {
        guard let pointer = pointer(id) else { return creditConnection(bytes.count) }
        pointer.use { $0.received(bytes) }
    }

    /// Fills a DATA frame's payload from the stream's queue.
    func readData(
        _ stream: HTTP2Stream, into buffer: UnsafeMutablePointer<UInt8>, capacity: Int, flags: UnsafeMutablePointer<UInt32>
    ) -> Int {
        let count = min(capacity, stream.sendQueue.count)
        if count > 0 {
            stream.movedAt = connection.loop.now
            stream.sentEnd = connection.outputEnd &+ count
            memcpy(buffer, stream.sendQueue.readable.baseAddress!, count)
            stream.sendQueue.consume(count)
            if stream.hasStalledSource, stream.sendQueue.count <= streamHighWaterBytes / 4 { stalled.append(stream) }
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

/// The context pointer is the session's own, unretained: the session outlives every call into the library.
@inline(__always)
private func withSession<Result>(_ context: UnsafeMutableRawPointer?, _ body: (HTTP2Session) -> Result) -> Result {
    Unmanaged<HTTP2Session>.fromOpaque(context!).use(body)
}

let onBeginHeaders: nghttp2_on_begin_headers_callback = { _, frame, context in
    withSession(context) { $0.fieldsBegan(frame!.pointee.headers) } ? 0 : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE.rawValue
}

let onHeader: nghttp2_on_header_callback = { _, _, name, nameLength, value, valueLength, _, context in
    let accepted = withSession(context) {
        $0.fieldReceived(
            name: UnsafeRawBufferPointer(start: name, count: nameLength), value: UnsafeRawBufferPointer(start: value, count: valueLength))
    }
    return accepted ? 0 : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE.rawValue
}

let onFrameReceived: nghttp2_on_frame_recv_callback = { _, frame, context in
    withSession(context) { $0.frameReceived(frame!) }
    return 0
}

let onDataChunk: nghttp2_on_data_chunk_recv_callback = { _, _, id, data, length, context in
    withSession(context) { $0.dataReceived(on: id, UnsafeRawBufferPointer(start: data, count: length)) }
    return 0
}

let onStreamClose: nghttp2_on_stream_close_callback = { _, id, errorCode, context in
    withSession(context) { $0.streamClosed(id, errorCode: errorCode) }
    return 0
}

let onInvalidFrame: nghttp2_on_invalid_frame_recv_callback = { _, _, _, context in
    withSession(context) { $0.countReset() }
    return 0
}

/// A server's only. The RST_STREAM must not be queued earlier: nghttp2 drops what waits before it.
let onFrameSent: nghttp2_on_frame_send_callback = { _, frame, context in
    let header = frame!.pointee.hd
    let carriesMessage = header.type == NGHTTP2_DATA.rawValue || header.type == NGHTTP2_HEADERS.rawValue
    guard carriesMessage, header.flags & UInt8(NGHTTP2_FLAG_END_STREAM.rawValue) != 0 else {
        if header.type == NGHTTP2_WINDOW_UPDATE.rawValue, header.stream_id == 0 { withSession(context) { $0.connectionWindowAnnounced() } }
        return 0
    }
    withSession(context) { $0.answerSent(header.stream_id) }
    return 0
}

let onReadData: nghttp2_data_source_read_callback = { _, _, buffer, capacity, flags, source, context in
    // Unretained: the session holds its streams, and asks none for data after it is closed.
    let stream = Unmanaged<HTTP2Stream>.fromOpaque(source!.pointee.ptr)
    return withSession(context) { session in
        stream.use { session.readData($0, into: buffer!, capacity: capacity, flags: flags!) }
    }
}
