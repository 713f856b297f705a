import Testing

@testable import Wire

@Suite struct HTTP1HeadParserTests {
    private let parser = HTTP1HeadParser(maximumHeadBytes: 1_024, maximumFields: 8)

    private func request(_ text: String) throws -> (head: RequestHead, framing: BodyFraming) {
        let head = RequestHead()
        let bytes = Array(text.utf8)
        let framing = try bytes.withUnsafeBytes { pointer in
            guard let length = try parser.measureHead(pointer), length == pointer.count else { throw HTTP1Defect.malformed }
            return try parser.parseRequest(pointer, into: head)
        }
        return (head, framing)
    }

    private func defect(_ text: String) -> HTTP1Defect? {
        do {
            _ = try request(text)
            return nil
        } catch { return error as? HTTP1Defect }
    }

    private func response(_ text: String, toHead: Bool = false) throws -> (
        head: ResponseHead, framing: BodyFraming, keepsAlive: Bool
    ) {
        let head = ResponseHead()
        let bytes = Array(text.utf8)
        let result = try bytes.withUnsafeBytes { pointer in
            try parser.parseResponse(pointer, into: head, toHead: toHead)
        }
        return (head, result.framing, result.keepsAlive)
    }

    private func text(_ bytes: UnsafeRawBufferPointer?) -> String? { bytes.map { String(decoding: $0, as: UTF8.self) } }

    @Test func aRequestIsTakenApart() throws {
        let (head, framing) = try request(
            "POST /v1/x?a=b HTTP/1.1\r\nHost: h:1\r\nX-A:  one \t\r\nx-a: two\r\nEmpty:\r\nContent-Length: 12\r\n\r\n")
        #expect(framing == .length(12))
        #expect(head.method == .post && head.version == .http11 && head.contentLength == 12)
        #expect(text(head.target) == "/v1/x?a=b" && text(head.path) == "/v1/x" && text(head.authority) == "h:1")
        #expect((0..<head.headers.count).map { text(head.headers.name(at: $0)) } == ["Host", "X-A", "x-a", "Empty", "Content-Length"])
        #expect(
            text(head.headers.value(at: 1)) == "one" && text(head.headers.value(at: 2)) == "two" && text(head.headers.value(at: 3)) == "")
    }

    @Test func targetsInOtherFormsBecomeOriginForm() throws {
        let (head, _) = try request("GET http://other:8080/path?q HTTP/1.1\r\nHost: h\r\n\r\n")
        #expect(text(head.target) == "/path?q" && text(head.authority) == "other:8080")
        #expect(defect("GET ftp://a/b HTTP/1.1\r\nHost: h\r\n\r\n") == .malformed)
        head.dropTargetPrefix(5)
        #expect(text(head.target) == "?q")
    }

    @Test(arguments: [
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", HTTP1Defect.ambiguousFraming),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", .ambiguousFraming),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\n", .malformed),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1, 1\r\n\r\n", .malformed),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", .unsupportedTransferCoding),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n", .unsupportedTransferCoding),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", .ambiguousFraming),
        ("GET / HTTP/1.1\r\n\r\n", .missingHost), ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", .missingHost),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", .malformed), ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", .malformed),
        ("GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", .malformed), ("GET / HTTP/1.1\r\nHost: a\r\nX: a\u{0}b\r\n\r\n", .malformed),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", .malformed), ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", .malformed),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", .unsupportedVersion),
    ])
    func whatIsAmbiguousOrBrokenIsRefused(text: String, expected: HTTP1Defect) { #expect(defect(text) == expected) }

    @Test func boundsHoldAtTheirEdge() throws {
        let seven = (0..<7).map { "A\($0): b\r\n" }.joined()
        #expect(defect("GET / HTTP/1.1\r\nHost: h\r\n\(seven)\r\n") == nil)
        #expect(defect("GET / HTTP/1.1\r\nHost: h\r\n\(seven)B: c\r\n\r\n") == .tooManyFields)
        let start = "GET / HTTP/1.1\r\nHost: h\r\nX: "
        let room = 1_024 - start.utf8.count - 4
        #expect(defect(start + String(repeating: "x", count: room) + "\r\n\r\n") == nil)
        #expect(defect(start + String(repeating: "x", count: room + 1) + "\r\n\r\n") == .headTooLarge)
        let endless = Array((start + String(repeating: "x", count: 1_000)).utf8)
        #expect(throws: HTTP1Defect.headTooLarge) { try endless.withUnsafeBytes { try parser.measureHead($0) } }
    }

    @Test func aHeadIsMeasuredWhenItIsAllHere() throws {
        let head = Array("GET / HTTP/1.1\r\nHost: h\r\n\r\n".utf8)
        for end in 1..<head.count { #expect(try head[..<end].withUnsafeBytes { try parser.measureHead($0) } == nil) }
        #expect(try (head + [65]).withUnsafeBytes { try parser.measureHead($0) } == head.count)
    }

    @Test func responsesAreFramedByTheirHeads() throws {
        #expect(try response("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").framing == .length(5))
        #expect(try response("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", toHead: true).framing == .none)
        #expect(try response("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").framing == .chunked)
        #expect(try response("HTTP/1.1 204 No Content\r\n\r\n").framing == .none)
        #expect(try response("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n").framing == .none)
        #expect(try response("HTTP/1.1 100 Continue\r\n\r\n").framing == .none)
        let endless = try response("HTTP/1.1 200 OK\r\n\r\n")
        #expect(endless.framing == .untilClose && !endless.keepsAlive)
    }

    @Test func connectionsPersistAsTheVersionAndTheFieldSay() throws {
        #expect(try response("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").keepsAlive)
        #expect(try !response("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Upgrade, Close\r\n\r\n").keepsAlive)
        #expect(try !response("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n").keepsAlive)
        #expect(try response("HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n").keepsAlive)
    }
}
