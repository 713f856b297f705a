import EventLoop
import HTTPTransport
import Routing
import Telemetry
import Wire

extension Exchange {
    /// Bytes of a 500's body that are looked at before it is passed on.
    private static let inspectedBytes = 4 << 10
    /// Bytes before the end of the first event that are held back; a longer beginning is passed on.
    private static let heldBytesMaximum = 64 << 10

    // MARK: Head

    /// Passed on at once: it promises nothing that another backend could not keep.
    func upstreamInformed(_ response: ResponseHead) {
        removeConnectionFields(response.headers)
        response.headers.remove(.contentLength)
        inform(status: response.status, headers: response.headers)
    }

    func upstreamHeadReceived(_ response: ResponseHead) {
        responseStatus = response.status
        takeLoadMetrics(response.headers)
        if isGRPC { return upstreamCallHeadReceived(response) }
        let pushesBack = response.status == 503 || response.status == 429 || response.status == 529
        if pushesBack, leavesFullBackend(retryAfter: response.headers.value(.retryAfter)) { return }
        let type = uncounted(response.headers).use { $0.value(.contentType) }
        isEventStream = type?.hasPrefixIgnoringCase("text/event-stream") ?? false
        let isJSON = type?.hasPrefixIgnoringCase("application/json") ?? false
        scanner = ResponseScanner(kind: isEventStream ? .eventStream : isJSON && response.status < 300 ? .json : .other)
        // Until a byte of its body is here the answer has not begun, and another backend can still give it.
        isHeadHeld = true
        isInspecting = response.status == 500 && mayTryElsewhere
        // Of a request that goes on nobody else can answer, and its client may wait for the head before it says more.
        if !isReplayable || !isRequestComplete { releaseHead() }
    }

    /// The backend is full, not broken (vLLM says so in 3 ms when its queue is bounded): elsewhere there may be room.
    /// - Parameter retryAfter: the field of that name; seconds count, a date does not.
    /// - Returns: whether the request is on its way there.
    func leavesFullBackend(retryAfter: UnsafeRawBufferPointer? = nil) -> Bool {
        guard let decision else { return false }
        worker.table.reportSaturated(decision.group, retryAfterSeconds: retryAfter?.decimalValue, now: worker.loop.now)
        recordFailure(.saturated, in: decision.group)
        guard canTryElsewhere else { return false }
        attempt?.cancel()
        attempt = nil
        failureKind = .saturated
        worker.metrics.counters.retries &+= 1
        retryElsewhere()
        return true
    }

    private var mayTryElsewhere: Bool {
        isReplayable && isRequestComplete && attemptsMade < worker.settings.attempts && decision != nil && hasUntriedGroup
    }

    private var canTryElsewhere: Bool { mayTryElsewhere && hasOtherGroup() }

    /// Sends the head on, and what was held behind it.
    func releaseHead() {
        isHeadHeld = false
        isInspecting = false
        guard let attempt, isOpen, !isResponseStarted else { return }
        uncounted(attempt.response.headers).use { headers in
            removeConnectionFields(headers)
            headers.remove(.requestID)
            // RFC 9110, 8.6: a 204 has none, nor has an informational answer.
            if responseStatus == 204 { headers.remove(.contentLength) }
            headers.append("x-request-id", requestID, known: .requestID)
            if wantsExplanation { appendExplanation(to: headers) }
            // Not ended for a HEAD alone: the client's stream would close, and this exchange with it, before the backend's end is here.
            respond(status: responseStatus, headers: headers, ended: attempt.endsWithHead && request.version == .http2)
        }
        // The request will not be sent again; what the backend has not taken of it yet must still go there.
        isReplayable = false
        if bodyBytesSent >= body.count { discardBody() }
        if !heldBytes.isEmpty {
            pass(heldBytes.readable)
            heldBytes.removeAll()
        }
    }

    // MARK: Body

    func upstreamBodyReceived(_ bytes: UnsafeRawBufferPointer) {
        if isInspecting { return inspect(bytes) }
        scanner.consume(bytes)
        if isHeadHeld {
            if isEventStream, !scanner.firstEventSeen {
                // Comments keep a connection alive; they are no answer yet. What is too long to hold is (a first event may tell all tools).
                guard heldBytes.count &+ bytes.count > Self.heldBytesMaximum else { return heldBytes.append(bytes) }
                releaseHead()
                return pass(bytes)
            }
            // An engine core that dies in prefill says so in a first event of a well-formed stream.
            if isEventStream, scanner.errorSeen, scanner.dataEvents <= 1, canTryElsewhere {
                attempt?.cancel()
                return upstreamFailed(.reset)
            }
            noteFirstToken()
            releaseHead()
        }
        pass(bytes)
    }

    /// Whether what came is of an answer. An error has no first token: it would teach a rate and keep its prompt in the index, of which the
    /// engine may have computed nothing.
    private var isAnswer: Bool { responseStatus < 400 && !(scanner.errorSeen && scanner.dataEvents <= 1) }

    private func noteFirstToken() {
        guard firstTokenAt == 0, isAnswer else { return }
        firstTokenAt = worker.loop.now
        if let series { uncounted(worker.metrics).use { $0.firstToken(series, afterNanoseconds: firstTokenAt &- startedAt) } }
        guard isEventStream || call != nil && isStreamRequested, let decision else { return }
        worker.table.firstToken(decision.lease, now: firstTokenAt)
    }

    private func noteProgress() {
        nextProgress = RoutingTable.progressMark(after: scanner.dataEvents)
        guard let decision, firstTokenAt != 0 else { return }
        worker.table.streamed(decision.lease, events: scanner.dataEvents, isHeldBack: isHeldBack, now: worker.loop.now)
    }

    private func pass(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count > 0 else { return }
        if call != nil { noteConversation() }
        if isEventStream || call != nil, firstTokenAt == 0, scanner.firstEventSeen { noteFirstToken() }
        if scanner.dataEvents >= nextProgress { noteProgress() }
        responseBytes &+= bytes.count
        lastByte = bytes[bytes.count &- 1]
        guard !write(bytes) else { return }
        isHeldBack = true
        attempt?.pauseResponse()
    }

    // MARK: End

    func upstreamResponseEnded(trailers: HeaderBlock?) {
        if mode == .tunnel { return tunnelResponseEnded() }
        if isInspecting {
            isInspecting = false
            if isEngineGone(heldBytes.readable), hasOtherGroup() { return leaveDyingEngine() }
        }
        scanner.finish()
        if !isResponseStarted {
            if firstTokenAt == 0, isAnswer { firstTokenAt = worker.loop.now }
            releaseHead()
        }
        if isGRPC, attempt?.endsWithHead != true { noteCallEnd(trailers) }
        attempt = nil
        if let trailers {
            takeLoadMetrics(trailers)
            cleanTrailers(trailers)
        }
        finish(trailers: trailers)
        let broke = isEventStream && scanner.errorSeen
        settle(broke ? .engineError : .completed)
    }

    // MARK: A backend that says 500

    private func inspect(_ bytes: UnsafeRawBufferPointer) {
        heldBytes.append(bytes)
        guard heldBytes.count >= Self.inspectedBytes else { return }
        isInspecting = false
        releaseHead()
    }

    /// vLLM while it drains, and after its engine core has died: every request fails, though its health check may say 200.
    private func isEngineGone(_ body: UnsafeRawBufferPointer) -> Bool {
        body.contains("cannot schedule new futures after shutdown") || body.contains("EngineCore encountered an issue")
    }

    private func leaveDyingEngine() {
        guard let decision else { return }
        attempt = nil
        isHeadHeld = false
        heldBytes.removeAll()
        failureKind = .upstreamReset
        recordFailure(.draining, in: decision.group)
        worker.table.reportUnreachable(decision.group, now: worker.loop.now)
        worker.metrics.counters.retries &+= 1
        retryElsewhere()
    }

    // MARK: A backend that dies in the middle

    /// The client has part of an answer: it must not take it for the whole.
    /// - Parameter resetCode: HTTP/2: with which the backend reset its stream.
    func endBrokenResponse(resetCode: UInt32? = nil) {
        let kind = failureKind ?? .upstreamReset
        if isGRPC {
            endCall(resetCode.map(Self.grpcStatus(ofReset:)) ?? kind.grpcStatus, kind.message)
        } else if isEventStream {
            // An event of its own, also when the last one was cut in two.
            if lastByte != 10 { writeText("\n\n") }
            writeText("data: ")
            kind.withJSON { _ = write($0) }
            writeText("\n\n")
            finish()
        } else if resetCode == Self.cancelCode {
            abort(errorCode: Self.cancelCode)
        } else {
            // Any other code would be about this connection, or an invitation to ask again.
            abort()
        }
        settle(kind.outcome)
    }

    private func writeText(_ text: StaticString) { write(UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount)) }
}
