import Wire

/// What a client is told whose bytes are no request: an error of OpenAI's shape, as everywhere else.
struct Refusal {
    let status: Int
    let body: StaticString

    init(_ defect: HTTP1Defect) {
        switch defect {
        case .malformed:
            self.init(
                400,
                #"{"error":{"message":"Malformed HTTP request.","type":"invalid_request_error","param":null,"code":"invalid_request"}}"#)
        case .missingHost:
            self.init(
                400,
                #"{"error":{"message":"Exactly one Host header is required.","type":"invalid_request_error","param":null,"code":"invalid_request"}}"#
            )
        case .ambiguousFraming:
            self.init(
                400,
                #"{"error":{"message":"Ambiguous message framing.","type":"invalid_request_error","param":null,"code":"invalid_request"}}"#)
        case .unsupportedTransferCoding:
            self.init(
                400,
                #"{"error":{"message":"Transfer-Encoding must be exactly chunked.","type":"invalid_request_error","param":null,"code":"invalid_request"}}"#
            )
        case .unsupportedVersion:
            self.init(
                505,
                #"{"error":{"message":"HTTP version not supported.","type":"invalid_request_error","param":null,"code":"invalid_request"}}"#
            )
        case .headTooLarge, .tooManyFields:
            self.init(
                431,
                #"{"error":{"message":"Request header fields too large.","type":"invalid_request_error","param":null,"code":"request_too_large"}}"#
            )
        }
    }

    /// INVALID_ARGUMENT, DEADLINE_EXCEEDED or RESOURCE_EXHAUSTED, as the router says for what it refuses itself.
    var grpcStatus: StaticString { status == 431 ? "8" : status == 408 ? "4" : "3" }
    var grpcMessage: StaticString {
        status == 431
            ? "Request header fields too large."
            : status == 408 ? "The request's body did not arrive in time." : "Malformed HTTP request."
    }

    static let headTimeout = Refusal(
        408,
        #"{"error":{"message":"The request did not arrive in time.","type":"invalid_request_error","param":null,"code":"request_timeout"}}"#
    )

    static let bodyTimeout = Refusal(
        408,
        #"{"error":{"message":"The request's body did not arrive in time.","type":"invalid_request_error","param":null,"code":"request_timeout"}}"#
    )

    private init(_ status: Int, _ body: StaticString) {
        self.status = status
        self.body = body
    }

    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: body.utf8Start, count: body.utf8CodeUnitCount) }
}
