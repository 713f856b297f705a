import CNghttp2
import EventLoop
import Glibc
import Wire

extension HTTP2Session {
    // MARK: From the library

    func stream(_ id: Int32) -> HTTP2Stream? {
        guard let pointer = nghttp2_session_get_stream_user_data(session, id) else { return nil }
        return Unmanaged<HTTP2Stream>.fromOpaque(pointer).takeUnretainedValue()
    }

    func requestBegan(_ id: Int32) -> Bool {
        guard let stream = connection.makeStream(in: self, id: id) else { return false }
        streams[id] = stream
        fieldsStream = stream
        nghttp2_session_set_stream_user_data(session, id, Unmanaged.passUnretained(stream).toOpaque())
        return true
    }

    func fieldReceived(on id: Int32, name: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer) -> Bool {
        if fieldsStream?.id != id { fieldsStream = stream(id) }
        return fieldsStream?.headerReceived(name: name, value: value) ?? true
    }

    func frameReceived(_ frame: UnsafePointer<nghttp2_frame>) {
        let header = frame.pointee.hd
        let ended = header.flags & UInt8(NGHTTP2_FLAG_END_STREAM.rawValue) != 0
        switch UInt32(header.type) {
        case NGHTTP2_HEADERS.rawValue:
            fieldsStream = nil
            guard let stream = stream(header.stream_id) else { return }
            stream.endsWithHead = ended && !stream.headComplete
            if !stream.headComplete { stream.headReceived() }
            if ended { finishReceiving(stream) }
        case NGHTTP2_DATA.rawValue:
            guard ended else {
                let isPadded = header.flags & UInt8(NGHTTP2_FLAG_PADDED.rawValue) != 0
                if header.length == 0 || isPadded && header.length <= frame.pointee.data.padlen &+ 1 { countIdleFrame() }
                return
            }
            guard let stream = stream(header.stream_id) else { return }
            finishReceiving(stream)
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
        default: countIdleFrame()
        }
    }

    private func finishReceiving(_ stream: HTTP2Stream) {
        guard !stream.receivedEnd else { return }
        stream.receivedEnd = true
        stream.endReceived()
    }

    func streamClosed(_ id: Int32, errorCode: UInt32) {
        guard let stream = streams.removeValue(forKey: id) else { return }
        if fieldsStream === stream { fieldsStream = nil }
        if role == .server { creditConnection(stream.uncredited) }
        stream.closed(errorCode: errorCode)
    }

    /// Our answer is whole. When the request is not, its rest is of no use (RFC 9113, 8.1).
    func answerSent(_ id: Int32) {
        guard let stream = stream(id), !stream.receivedEnd else { return }
        reset(stream, errorCode: UInt32(NGHTTP2_NO_ERROR.rawValue))
    }

    /// Fills a DATA frame's payload from the stream's queue.
    func readData(
        _ stream: HTTP2Stream, into buffer: UnsafeMutablePointer<UInt8>, capacity: Int, flags: UnsafeMutablePointer<UInt32>
    ) -> Int {
        let count = min(capacity, stream.sendQueue.count)
        if count > 0 {
            stream.movedAt = connection.loop.now
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
private func owner(_ context: UnsafeMutableRawPointer?) -> HTTP2Session {
    Unmanaged<HTTP2Session>.fromOpaque(context!).takeUnretainedValue()
}

let onBeginHeaders: nghttp2_on_begin_headers_callback = { _, frame, context in
    let frame = frame!.pointee
    guard frame.headers.cat == NGHTTP2_HCAT_REQUEST else { return 0 }
    return owner(context).requestBegan(frame.hd.stream_id) ? 0 : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE.rawValue
}

let onHeader: nghttp2_on_header_callback = { _, frame, name, nameLength, value, valueLength, _, context in
    let accepted = Unmanaged<HTTP2Session>.fromOpaque(context!)._withUnsafeGuaranteedRef {
        $0.fieldReceived(
            on: frame!.pointee.hd.stream_id, name: UnsafeRawBufferPointer(start: name, count: nameLength),
            value: UnsafeRawBufferPointer(start: value, count: valueLength))
    }
    return accepted ? 0 : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE.rawValue
}

let onFrameReceived: nghttp2_on_frame_recv_callback = { _, frame, context in
    owner(context).frameReceived(frame!)
    return 0
}

let onDataChunk: nghttp2_on_data_chunk_recv_callback = { _, _, id, data, length, context in
    let session = owner(context)
    if let stream = session.stream(id) {
        stream.received(UnsafeRawBufferPointer(start: data, count: length))
    } else {
        owner(context).creditConnection(length)
    }
    return 0
}

let onStreamClose: nghttp2_on_stream_close_callback = { _, id, errorCode, context in
    owner(context).streamClosed(id, errorCode: errorCode)
    return 0
}

let onInvalidFrame: nghttp2_on_invalid_frame_recv_callback = { _, _, _, context in
    owner(context).countReset()
    return 0
}

/// A server's only. The RST_STREAM must not be queued earlier: nghttp2 drops what waits before it.
let onFrameSent: nghttp2_on_frame_send_callback = { _, frame, context in
    let header = frame!.pointee.hd
    let carriesMessage = header.type == NGHTTP2_DATA.rawValue || header.type == NGHTTP2_HEADERS.rawValue
    guard carriesMessage, header.flags & UInt8(NGHTTP2_FLAG_END_STREAM.rawValue) != 0 else { return 0 }
    owner(context).answerSent(header.stream_id)
    return 0
}

let onReadData: nghttp2_data_source_read_callback = { _, _, buffer, capacity, flags, source, context in
    let stream = Unmanaged<HTTP2Stream>.fromOpaque(source!.pointee.ptr).takeUnretainedValue()
    return owner(context).readData(stream, into: buffer!, capacity: capacity, flags: flags!)
}
