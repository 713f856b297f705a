import EventLoop
import HTTPTransport
import Routing
import Telemetry
import Wire

/// gRPC calls: each finds its own group, by protocol and load, and those of `InferenceCall` by the prompt in their first message, too.
///
/// Reading is for the choice alone: bytes go on as they came, and a first message that is late, compressed or malformed is placed as that of
/// any other method is, without having been read.
extension Exchange {
    /// How a call whose messages are read ended.
    enum CallEnd {
        case ok
        /// UNKNOWN and INTERNAL, what an exception in an engine comes to, or no status at all.
        case failedByEngine
        case failed
    }

    /// Room made for a message that announces itself.
    private static let reservedBytes = 64 << 10

    /// A call's head is here.
    func callReceived() {
        // What is malformed or repeated goes on as it came, for the backend to judge.
        if let timeout = request.headers.onlyValue("grpc-timeout").flatMap(GRPCTimeout.nanoseconds) {
            guard timeout > 0 else { return fail(.deadlineExceeded) }
            let (deadline, overflow) = startedAt.addingReportingOverflow(timeout)
            if !overflow { worker.callDeadlines.add(self, at: deadline) }
        }
        if request.path.starts(with: "/grpc.health.v1.Health/") {
            mode = .health
        } else {
            mode = .forwarded
            call = InferenceCall(path: request.path)
            if call == nil { dispatch() } else { isMessageAwaited = true }
        }
    }

    /// Keeps bytes of a call until its first message is here, or as much of it as may be kept for another try, and then chooses a group.
    /// - Returns: false when these bytes are one too many, and not among what is kept.
    func keepsForMessage(_ bytes: UnsafeRawBufferPointer) -> Bool {
        guard mayKeep(bytes.count) else {
            // Where memory is short, and not the message long, its beginning may be too little to know the prompt by.
            if body.count &+ bytes.count <= worker.settings.replayBytes { call = nil }
            isMessageAwaited = false
            goesAtOnce = true
            dispatch()
            return false
        }
        // As for a body of known length, but for calls that need do no more than claim one.
        if body.isEmpty, let end = GRPCFraming.firstMessageEnd(bytes), end > bytes.count { _ = body.reserve(min(end, Self.reservedBytes)) }
        collect(bytes)
        guard GRPCFraming.bytesAwaited(body.readable) == 0 else { return true }
        isMessageAwaited = false
        dispatch()
        return true
    }

    func messageIsLate() {
        isMessageAwaited = false
        call = nil
        dispatch()
    }

    /// A model that nobody lists is for the engines to refuse, as it is where messages are not read.
    func pickForCall(_ routing: RoutingRequest) -> Result<Decision, RoutingFailure> {
        let result = pick(routing)
        guard case .failure(.modelNotFound) = result else { return result }
        worker.probe.forgetModel()
        var routing = routing
        routing.model = nil
        return pick(routing)
    }

    /// The backend of another try has only what is left of the time.
    func shortenTimeout() {
        guard callDeadline.at != 0 else { return }
        let now = worker.loop.now
        withUnsafeTemporaryAllocation(byteCount: GRPCTimeout.maximumBytes, alignment: 1) { text in
            let length = GRPCTimeout.write(nanoseconds: callDeadline.at > now ? callDeadline.at &- now : 1, into: text)
            request.headers.remove("grpc-timeout")
            request.headers.append("grpc-timeout", UnsafeRawBufferPointer(rebasing: text[..<length]))
        }
    }

    func upstreamCallHeadReceived(_ response: ResponseHead) {
        let endsHere = attempt?.endsWithHead ?? false
        let isCall = response.status == 200 && response.headers.value(.contentType)?.hasPrefixIgnoringCase("application/grpc") ?? false
        if !isCall, response.headers.value("grpc-status") == nil {
            let pushesBack = response.status == 503 || response.status == 429 || response.status == 529
            if pushesBack, leavesFullBackend(retryAfter: response.headers.value(.retryAfter)) { return }
            attempt?.cancel()
            attempt = nil
            endCall(Self.grpcStatus(ofHTTP: response.status), "The backend's answer is not gRPC.")
            return settle(.upstreamReset)
        }
        if let call { scanner = ResponseScanner(kind: .call(call)) }
        if endsHere { noteCallEnd(response.headers) }
        // An engine that says UNAVAILABLE and nothing else has not begun: as with a 503, another may have room.
        if endsHere, response.headers.value("grpc-status")?.equals("14") ?? false, leavesFullBackend() { return }
        releaseHead()
    }

    /// - Parameter fields: the trailers, or a head that is all there is.
    func noteCallEnd(_ fields: HeaderBlock?) {
        guard call != nil else { return }
        guard let status = fields?.value("grpc-status") else { return callEnd = .failedByEngine }
        callEnd = status.equals("0") ? .ok : status.equals("2") || status.equals("13") ? .failedByEngine : .failed
    }

    /// Clients of a stream of requests may pause between them: how long the parts of an answer take then tells of the client.
    func noteConversation() {
        guard case .modelStreamInfer = call, !isHeldBack else { return }
        isHeldBack = !isRequestComplete || bodyBytesReceived > firstMessageEnd
    }

    /// Ends the call with a status of our own: all there is of the answer ("Trailers-Only"), or what follows its messages.
    func endCall(_ status: StaticString, _ message: StaticString) {
        let fields = HeaderBlock(byteCapacity: 256, fieldCapacity: 8)
        if !isResponseStarted {
            responseStatus = 200
            fields.append("content-type", "application/grpc")
        }
        fields.append("grpc-status", status)
        fields.append("grpc-message", message)
        if isResponseStarted { return finish(trailers: fields) }
        fields.append("x-request-id", requestID)
        respond(status: 200, headers: fields, ended: true)
    }

    /// CANCEL (RFC 9113, section 7).
    static let cancelCode: UInt32 = 8

    /// For a stream that its backend resets in the middle (grpc/grpc, doc/PROTOCOL-HTTP2.md, "Errors").
    static func grpcStatus(ofReset code: UInt32) -> StaticString {
        switch code {
        case 7 /* REFUSED_STREAM */: "14"
        case cancelCode: "1"
        case 11 /* ENHANCE_YOUR_CALM */: "8"
        case 12 /* INADEQUATE_SECURITY */: "7"
        default: "13"
        }
    }

    /// For answers without a status of gRPC's (grpc/grpc, doc/http-grpc-status-mapping.md).
    private static func grpcStatus(ofHTTP status: Int) -> StaticString {
        switch status {
        case 400: "13"
        case 401: "16"
        case 403: "7"
        case 404: "12"
        case 429, 502, 503, 504: "14"
        default: "2"
        }
    }
}

extension HeaderBlock {
    /// The value of the field with this lower-case name, which came over HTTP/2; nil when it is absent or repeated.
    fileprivate func onlyValue(_ name: StaticString) -> UnsafeRawBufferPointer? {
        var found: UnsafeRawBufferPointer?
        for index in 0..<count where self.name(at: index).equals(name) {
            guard found == nil else { return nil }
            found = value(at: index)
        }
        return found
    }

    fileprivate func remove(_ name: StaticString) { removeFields { self.name(at: $0).equals(name) } }
}
