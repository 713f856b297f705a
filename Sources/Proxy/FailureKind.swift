import EventLoop
import HTTPTransport
import Routing
import Telemetry
import Wire

/// Every way in which the proxy itself answers instead of a backend, with what the client is told. No address is ever in a message.
enum FailureKind: Int, CaseIterable {
    case invalidRequest, modelNotFound, bodyTooLarge, queueFull, saturated, upstreamConnectError, upstreamReset, noReadyGroup,
        upstreamTimeout, notFound, methodNotAllowed

    init(_ failure: HTTPTransport.UpstreamFailure) {
        switch failure {
        case .connectFailed, .tlsFailed: self = .upstreamConnectError
        case .timeout: self = .upstreamTimeout
        case .staleConnection, .refusedStream, .reset, .protocolError: self = .upstreamReset
        }
    }

    var status: Int {
        switch self {
        case .invalidRequest: 400
        case .modelNotFound, .notFound: 404
        case .methodNotAllowed: 405
        case .bodyTooLarge: 413
        case .queueFull, .saturated: 429
        case .upstreamConnectError, .upstreamReset: 502
        case .noReadyGroup: 503
        case .upstreamTimeout: 504
        }
    }

    /// Seconds that a client should wait before it comes again.
    var retryAfterSeconds: Int? {
        switch self {
        case .queueFull, .saturated, .noReadyGroup: 1
        default: nil
        }
    }

    /// gRPC status codes (grpc/grpc doc/statuscodes.md).
    var grpcStatus: StaticString {
        switch self {
        case .invalidRequest: "3"
        case .modelNotFound, .notFound: "5"
        case .methodNotAllowed: "12"
        case .bodyTooLarge, .queueFull, .saturated: "8"
        case .upstreamConnectError, .upstreamReset, .noReadyGroup: "14"
        case .upstreamTimeout: "4"
        }
    }

    private var type: StaticString { status < 429 ? "invalid_request_error" : status == 429 ? "rate_limit_error" : "server_error" }

    var code: StaticString {
        switch self {
        case .invalidRequest: "invalid_request"
        case .modelNotFound: "model_not_found"
        case .notFound: "not_found"
        case .methodNotAllowed: "method_not_allowed"
        case .bodyTooLarge: "request_too_large"
        case .queueFull, .saturated: "queue_full"
        case .upstreamConnectError: "upstream_connect_error"
        case .upstreamReset: "upstream_reset"
        case .noReadyGroup: "no_ready_group"
        case .upstreamTimeout: "upstream_timeout"
        }
    }

    var message: StaticString {
        switch self {
        case .invalidRequest: "The request is malformed."
        case .modelNotFound: "The requested model does not exist."
        case .notFound: "Not found."
        case .methodNotAllowed: "Method not allowed."
        case .bodyTooLarge: "The request body is too large."
        case .queueFull: "Too many requests are waiting. Please try again later."
        case .saturated: "Every backend is at its limit. Please try again later."
        case .upstreamConnectError: "No backend could be reached."
        case .upstreamReset: "The backend failed before its answer was complete."
        case .noReadyGroup: "No backend is ready to serve this request."
        case .upstreamTimeout: "The backend did not answer in time."
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
        case .upstreamTimeout: .upstreamTimeout
        case .noReadyGroup: .noReadyGroup
        case .invalidRequest, .modelNotFound, .bodyTooLarge, .queueFull, .saturated, .notFound, .methodNotAllowed: .rejected
        }
    }

    func appendGRPCStatus(to headers: HeaderBlock) {
        headers.append("grpc-status", grpcStatus)
        headers.append("grpc-message", message)
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
        let headers = HeaderBlock()
        if isGRPC {
            responseStatus = 200
            headers.append("content-type", "application/grpc")
            kind.appendGRPCStatus(to: headers)
            headers.append("x-request-id", requestID)
            respond(status: 200, headers: headers, ended: true)
        } else {
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
