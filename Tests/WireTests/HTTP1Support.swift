import Testing

@testable import Wire

/// The bytes of `text`, valid during `body`.
func withBytes<Result>(_ text: String, _ body: (UnsafeRawBufferPointer) throws -> Result) rethrows -> Result {
    try Array(text.utf8).withUnsafeBytes(body)
}

func text(_ bytes: UnsafeRawBufferPointer?) -> String? { bytes.map { String(decoding: $0, as: UTF8.self) } }

/// A request head as tests compare it.
struct ParsedRequest: Equatable {
    var method: String
    var target: String
    var authority: String
    var framing: BodyFraming
}

/// What became of a head: `value`, or the defect that it was refused for. Kept out of `throws`, so that tables stay tables.
func parseRequest(
    _ head: String, into request: RequestHead = RequestHead(), maximumFields: Int = 100
) -> Result<ParsedRequest, HTTP1Defect> {
    let parser = HTTP1HeadParser(maximumHeadBytes: 64 << 10, maximumFields: maximumFields)
    return withBytes(head) { bytes in
        do throws(HTTP1Defect) {
            guard try parser.measureHead(bytes) == bytes.count else {
                Issue.record("not one whole head: \(head.debugDescription)")
                return .failure(.malformed)
            }
            let framing = try parser.parseRequest(bytes, into: request)
            return .success(
                ParsedRequest(
                    method: text(request.methodBytes) ?? "", target: text(request.target) ?? "",
                    authority: text(request.authority) ?? "", framing: framing))
        } catch {
            return .failure(error)
        }
    }
}

struct ParsedResponse: Equatable {
    var status: Int
    var framing: BodyFraming
    var keepsAlive: Bool
}

func parseResponse(
    _ head: String, toHead: Bool = false, into response: ResponseHead = ResponseHead()
) -> Result<ParsedResponse, HTTP1Defect> {
    let parser = HTTP1HeadParser(maximumHeadBytes: 64 << 10, maximumFields: 100)
    return withBytes(head) { bytes in
        do throws(HTTP1Defect) {
            guard try parser.measureHead(bytes) == bytes.count else {
                Issue.record("not one whole head: \(head.debugDescription)")
                return .failure(.malformed)
            }
            let (framing, keepsAlive) = try parser.parseResponse(bytes, into: response, toHead: toHead)
            return .success(ParsedResponse(status: response.status, framing: framing, keepsAlive: keepsAlive))
        } catch {
            return .failure(error)
        }
    }
}

/// Names and values in their order.
func fields(_ block: HeaderBlock) -> [[String]] {
    (0..<block.count).map { [text(block.name(at: $0)) ?? "", text(block.value(at: $0)) ?? ""] }
}
