import EventLoop
import HTTPTransport
import Routing
import Telemetry
import Wire

/// Every way in which the proxy itself answers instead of a backend, with what the client is told. No address is ever in a message.
enum FailureKind: Int, CaseIterable {
    case invalidRequest, modelNotFound, bodyTooLarge, queueFull, saturated, upstreamConnectError, upstreamReset, noReadyGroup,
        upstreamTimeout, queueTimeout, deadlineExceeded, notFound, methodNotAllowed, expectationFailed, overloaded, pinRefused, callIdle

    init(_ failure: HTTPTransport.UpstreamFailure) {
        switch failure {
        case .connectFailed, .tlsFailed: self = .upstreamConnectError
        case .timeout: self = .upstreamTimeout
        case .overloaded: self = .queueTimeout
        case .staleConnection, .refusedStream, .reset, .protocolError: self = .upstreamReset
        case .outOfDescriptors: self = .overloaded
        }
    }

    var status: Int {
        switch self {
        case .invalidRequest: 400
        case .modelNotFound, .notFound: 404
        case .methodNotAllowed: 405
        case .pinRefused: 403
        case .bodyTooLarge: 413
        case .expectationFailed: 417
        case .queueFull, .saturated: 429
        case .upstreamConnectError, .upstreamReset: 502
        case .noReadyGroup, .queueTimeout, .overloaded: 503
        case .upstreamTimeout, .deadlineExceeded: 504
        case .callIdle: 408
        }
    }

    /// Seconds that a client should wait before it comes again.
    var retryAfterSeconds: Int? {
        switch self {
        case .queueFull, .saturated, .noReadyGroup, .queueTimeout, .overloaded: 1
        default: nil
        }
    }

    /// gRPC status codes (grpc/grpc doc/statuscodes.md).
    var grpcStatus: StaticString {
        switch self {
        case .invalidRequest, .expectationFailed: "3"
        case .modelNotFound, .notFound: "5"
        case .methodNotAllowed: "12"
        case .pinRefused: "7"
        case .bodyTooLarge, .queueFull, .saturated, .overloaded: "8"
        case .upstreamConnectError, .upstreamReset, .noReadyGroup, .queueTimeout: "14"
        case .upstreamTimeout, .deadlineExceeded, .callIdle: "4"
        }
    }

    private var type: StaticString { status < 429 ? "invalid_request_error" : status == 429 ? "rate_limit_error" : "server_error" }

    var code: StaticString {
        switch self {
        case .invalidRequest: "invalid_request"
        case .modelNotFound: "model_not_found"
        case .notFound: "not_found"
        case .methodNotAllowed: "method_not_allowed"
        case .pinRefused: "pin_refused"
        case .bodyTooLarge: "request_too_large"
        case .expectationFailed: "expectation_failed"
        case .overloaded: "overloaded"
        case .queueFull, .saturated: "queue_full"
        case .upstreamConnectError: "upstream_connect_error"
        case .upstreamReset: "upstream_reset"
        case .noReadyGroup: "no_ready_group"
        case .upstreamTimeout: "upstream_timeout"
        case .queueTimeout: "queue_timeout"
        case .deadlineExceeded: "deadline_exceeded"
        case .callIdle: "request_timeout"
        }
    }

    var message: StaticString {
        switch self {
        case .invalidRequest: "The request is malformed."
        case .modelNotFound: "The requested model does not exist."
        case .notFound: "Not found."
        case .methodNotAllowed: "Method not allowed."
        case .pinRefused: "The token that lets a request name its group is not this one."
        case .bodyTooLarge: "The request body is too large."
        case .expectationFailed: "The only expectation that can be met is 100-continue."
        case .overloaded: "The router is at its limit. Please try again later."
        case .queueFull: "Too many requests are waiting. Please try again later."
        case .saturated: "Every backend is at its limit. Please try again later."
        case .upstreamConnectError: "No backend could be reached."
        case .upstreamReset: "The backend failed before its answer was complete."
        case .noReadyGroup: "No backend is ready to serve this request."
        case .upstreamTimeout: "The backend did not answer in time."
        case .queueTimeout: "No backend had room for this request in time."
        case .deadlineExceeded: "The deadline of the call has passed."
        case .callIdle: "Nothing has moved on the call for too long."
        }
    }

    /// `{"error":{…}}` as OpenAI's clients expect it.
    func withJSON(_ body: (UnsafeRawBufferPointer) -> Void) {
        withUnsafeTemporaryAllocation(byteCount: 512, alignment: 1) { buffer in
            var length = 0
            func append(_ text: StaticString) {
                buffer.baseAddress!.advanced(by: length).copyMemory(from: text.utf8Start, byteCount: text.utf8CodeUnitCount)
                length += text.utf8CodeUnitCount
            }
            append(#"{"error":{"message":""#)
            append(message)
            append(#"","type":""#)
            append(type)
            append(self == .modelNotFound ? #"","param":"model","code":""# : #"","param":null,"code":""#)
            append(code)
            append(#""}}"#)
            body(UnsafeRawBufferPointer(rebasing: buffer[..<length]))
        }
    }

    var outcome: ExchangeOutcome {
        switch self {
        case .upstreamConnectError: .upstreamConnectError
        case .upstreamReset: .upstreamReset
        case .upstreamTimeout, .deadlineExceeded: .upstreamTimeout
        case .noReadyGroup, .queueTimeout: .noReadyGroup
        case .invalidRequest, .modelNotFound, .bodyTooLarge, .queueFull, .saturated, .notFound, .methodNotAllowed, .expectationFailed,
            .overloaded, .pinRefused:
            .rejected
        case .callIdle: .idle
        }
    }
}

extension Exchange {
    /// Answers with an error of our own and ends.
    func fail(_ kind: FailureKind) {
        guard isOpen, !isSettled else { return }
        attempt?.cancel()
        attempt = nil
        failureKind = kind
        isHeadHeld = false
        guard !isResponseStarted else { return endBrokenResponse() }
        if isGRPC {
            endCall(kind.grpcStatus, kind.message)
        } else {
            let headers = HeaderBlock()
            responseStatus = kind.status
            kind.withJSON { json in
                headers.append("content-type", "application/json")
                headers.append("content-length", decimal: json.count)
                if let seconds = kind.retryAfterSeconds { headers.append("retry-after", decimal: seconds) }
                headers.append("x-request-id", requestID)
                reply(status: kind.status, headers: headers, body: json)
            }
        }
        settle(kind.outcome)
    }

    /// A whole answer at once.
    func reply(status: Int, headers: HeaderBlock, body: UnsafeRawBufferPointer) {
        responseStatus = status
        let isHead = request.method == .head
        respond(status: status, headers: headers, ended: isHead)
        guard !isHead else { return }
        responseBytes = body.count
        write(body)
        finish()
    }
}
