import CNghttp2
import EventLoop
import Wire

extension HTTP2Session {
    // MARK: Messages

    func submitResponse(_ stream: HTTP2Stream, status: Int, headers: HeaderBlock, ended: Bool) {
        withFields(headers, pseudo: 1) { fields in
            withUnsafeTemporaryAllocation(byteCount: 3, alignment: 1) { digits in
                digits[0] = UInt8(48 + status / 100 % 10)
                digits[1] = UInt8(48 + status / 10 % 10)
                digits[2] = UInt8(48 + status % 10)
                fields[0] = nameValue(":status", UnsafeRawBufferPointer(digits))
                if status < 200 {
                    nghttp2_submit_headers(
                        session, UInt8(NGHTTP2_FLAG_NONE.rawValue), stream.id, nil, fields.baseAddress, fields.count, nil)
                } else if ended {
                    nghttp2_submit_response(session, stream.id, fields.baseAddress, fields.count, nil)
                } else {
                    var provider = dataProvider(for: stream)
                    nghttp2_submit_response(session, stream.id, fields.baseAddress, fields.count, &provider)
                }
            }
        }
        uncounted(connection).use { $0.flushLater() }
    }

    /// The id that the next request's stream must have.
    var nextStreamID: Int32 { session.map { Int32(bitPattern: nghttp2_session_get_next_stream_id($0)) } ?? 0 }

    /// An id is used once: after 2^30 requests a client's session has none left (RFC 9113, 5.1.1), and nghttp2 says a number beyond them.
    var hasStreamIDs: Bool { nextStreamID > 0 }

    /// Sends a request on a stream of `nextStreamID`, which gets its answer. False when no stream can be opened.
    /// - Parameter authority: of a request that names none.
    func submit(_ request: borrowing UpstreamRequest, authority: borrowing StoredBytes, on stream: HTTP2Stream) -> Bool {
        let authority = authority.bytes
        return uncounted(request.head).use {
            submit(request, head: $0, authority: $0.authority.isEmpty ? authority : $0.authority, on: stream)
        }
    }

    private func submit(
        _ request: borrowing UpstreamRequest, head: RequestHead, authority: UnsafeRawBufferPointer, on stream: HTTP2Stream
    ) -> Bool {
        guard let session else { return false }
        let ended = !request.hasBody
        let acceptsTrailers = request.acceptsTrailers
        let scheme: StaticString = connection.isTLS ? "https" : "http"
        var id: Int32 = 0
        withFields(head.headers, pseudo: acceptsTrailers ? 5 : 4) { fields in
            fields[0] = nameValue(":method", head.methodBytes)
            fields[1] = nameValue(":scheme", scheme)
            fields[2] = nameValue(":authority", authority)
            fields[3] = nameValue(":path", head.target)
            if acceptsTrailers { fields[4] = nameValue("te", "trailers") }
            var provider = dataProvider(for: stream)
            let context = Unmanaged.passUnretained(stream).toOpaque()
            id =
                ended
                ? nghttp2_submit_request(session, nil, fields.baseAddress, fields.count, nil, context)
                : nghttp2_submit_request(session, nil, fields.baseAddress, fields.count, &provider, context)
        }
        guard id == stream.id, id > 0 else { return false }
        stream.sendEnded = ended
        add(stream)
        uncounted(connection).use { $0.flushLater() }
        return true
    }

    func reset(_ stream: HTTP2Stream, errorCode: UInt32) {
        guard let session else { return }
        nghttp2_submit_rst_stream(session, UInt8(NGHTTP2_FLAG_NONE.rawValue), stream.id, errorCode)
        connection.flushLater()
    }

    /// Gives up the streams whose peer has done nothing for so long though it was its turn, or too little, and those on which nothing has
    /// moved for too long: one timer and a look at all, instead of a timer for each.
    /// - Parameter arrived: how far the peer has got in our output: until it has what was sent of a stream, this is not silent. `.max` for one
    ///   that does not get on.
    /// - Returns: when the next stream is due unless it moves, and when one moved last.
    func endSilentStreams(after nanoseconds: UInt64, arrived: Int) -> (next: UInt64, lastMove: UInt64) {
        let now = connection.loop.now
        announceIfUsedUp()
        var next = UInt64.max
        var lastMove: UInt64 = 0
        for stream in streams {
            if arrived < stream.sentEnd, !stream.sendQueue.isEmpty { stream.movedAt = now }
            lastMove = max(lastMove, stream.movedAt)
            guard stream.waitsForPeer else {
                let end = stream.idleEnd
                if end <= now { stream.peerIsSilent() } else { next = min(next, end) }
                continue
            }
            if stream.sendQueue.isEmpty { stream.movedAt = max(stream.movedAt, heldUntil) }
            if now &- stream.movedAt >= nanoseconds {
                stream.movedAt = now
                stream.peerIsSilent()
            } else {
                guard let nextLook = stream.judgePace(at: now) else {
                    stream.peerIsSilent()
                    continue
                }
                next = min(next, stream.movedAt &+ nanoseconds, nextLook)
            }
        }
        return (next, lastMove)
    }

    func ping() {
        guard let session else { return }
        nghttp2_submit_ping(session, UInt8(NGHTTP2_FLAG_NONE.rawValue), nil)
        connection.flushLater()
    }

    func resumeData(_ stream: HTTP2Stream) {
        guard let session else { return }
        nghttp2_session_resume_data(session, stream.id)
    }

    /// First GOAWAY of a graceful shutdown (RFC 9113, 6.8): no new streams, please; those that cross it are still served. Behind it a PING,
    /// the answer to which says that it has been read.
    func announceShutdown() {
        guard let session else { return }
        nghttp2_submit_shutdown_notice(session)
        // Else nghttp2 would send the PING first.
        pullOutput()
        ping()
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

    /// nghttp2 copies values, and names (to lower case) that are not known, so the block may be reused at once. Fields of one connection
    /// are left out.
    private func withFields(
        _ headers: HeaderBlock, pseudo: Int, _ body: (UnsafeMutableBufferPointer<nghttp2_nv>) -> Void
    ) {
        uncounted(headers).use { withFields(of: $0, pseudo: pseudo, body) }
    }

    private func withFields(of headers: HeaderBlock, pseudo: Int, _ body: (UnsafeMutableBufferPointer<nghttp2_nv>) -> Void) {
        withUnsafeTemporaryAllocation(of: nghttp2_nv.self, capacity: pseudo + headers.count) { fields in
            var count = pseudo
            for index in 0..<headers.count {
                let known = headers.known(at: index)
                if known.isHopByHop || known == .host || known == .expect { continue }
                var field =
                    if let name = known.lowercaseName {
                        nameValue(name, headers.value(at: index))
                    } else {
                        nameValue(headers.name(at: index), headers.value(at: index))
                    }
                if known == .requestID { field.flags |= indexingOfRequestID() }
                fields.initializeElement(at: count, to: field)
                count &+= 1
            }
            body(UnsafeMutableBufferPointer(rebasing: fields[..<count]))
        }
    }

    /// A value that never comes again would only push others out of the peer's table. Now and then one goes there for its name's sake,
    /// which costs a byte from then on instead of its letters.
    private func indexingOfRequestID() -> UInt8 {
        requestIDs &+= 1
        return requestIDs & 63 == 1 ? 0 : UInt8(NGHTTP2_NV_FLAG_NO_INDEX.rawValue)
    }

    func submitTrailers(of stream: HTTP2Stream, _ trailers: HeaderBlock) {
        withFields(trailers, pseudo: 0) { _ = nghttp2_submit_trailer(session, stream.id, $0.baseAddress, $0.count) }
    }

    private func dataProvider(for stream: HTTP2Stream) -> nghttp2_data_provider {
        nghttp2_data_provider(
            source: nghttp2_data_source(ptr: Unmanaged.passUnretained(stream).toOpaque()), read_callback: onReadData)
    }
}

private func pointer(_ bytes: UnsafeRawBufferPointer) -> UnsafeMutablePointer<UInt8>? {
    UnsafeMutablePointer(mutating: bytes.baseAddress?.assumingMemoryBound(to: UInt8.self))
}

private func nameValue(_ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) -> nghttp2_nv {
    nghttp2_nv(
        name: pointer(name), value: pointer(value), namelen: name.count, valuelen: value.count, flags: UInt8(NGHTTP2_NV_FLAG_NONE.rawValue))
}

/// The program's own name, in lower case, lives as long as it: nghttp2 need not copy it.
private func nameValue(_ name: StaticString, _ value: UnsafeRawBufferPointer) -> nghttp2_nv {
    nghttp2_nv(
        name: UnsafeMutablePointer(mutating: name.utf8Start), value: pointer(value), namelen: name.utf8CodeUnitCount,
        valuelen: value.count, flags: UInt8(NGHTTP2_NV_FLAG_NO_COPY_NAME.rawValue))
}

private func nameValue(_ name: StaticString, _ value: StaticString) -> nghttp2_nv {
    var field = nameValue(name, UnsafeRawBufferPointer(start: value.utf8Start, count: value.utf8CodeUnitCount))
    field.flags |= UInt8(NGHTTP2_NV_FLAG_NO_COPY_VALUE.rawValue)
    return field
}
