import Testing

@testable import Wire

/// Heads of responses: how the body ends (RFC 9112, 6.3) and whether the connection goes on (9.3).
@Suite struct HTTP1ResponseHeadTests {
    @Test(arguments: [
        ("HTTP/1.1 200 OK", "Content-Length: 5\r\n", ParsedResponse(status: 200, framing: .length(5), keepsAlive: true)),
        ("HTTP/1.1 200 OK", "Content-Length: 0\r\n", ParsedResponse(status: 200, framing: .none, keepsAlive: true)),
        ("HTTP/1.1 200", "Content-Length: 5\r\n", ParsedResponse(status: 200, framing: .length(5), keepsAlive: true)),
        ("HTTP/1.1 200 ", "Content-Length: 5\r\n", ParsedResponse(status: 200, framing: .length(5), keepsAlive: true)),
        ("HTTP/1.1 200 OK", "Transfer-Encoding: Chunked\r\n", ParsedResponse(status: 200, framing: .chunked, keepsAlive: true)),
        ("HTTP/1.1 200 OK", "", ParsedResponse(status: 200, framing: .untilClose, keepsAlive: false)),
        ("HTTP/1.1 200 OK", "Connection: keep-alive\r\n", ParsedResponse(status: 200, framing: .untilClose, keepsAlive: false)),
        // No body, whatever the fields say.
        ("HTTP/1.1 100 Continue", "", ParsedResponse(status: 100, framing: .none, keepsAlive: true)),
        ("HTTP/1.1 103 Early Hints", "Content-Length: 5\r\n", ParsedResponse(status: 103, framing: .none, keepsAlive: true)),
        ("HTTP/1.1 204 No Content", "", ParsedResponse(status: 204, framing: .none, keepsAlive: true)),
        ("HTTP/1.1 204 No Content", "Content-Length: 5\r\n", ParsedResponse(status: 204, framing: .none, keepsAlive: true)),
        ("HTTP/1.1 304 Not Modified", "Content-Length: 5\r\n", ParsedResponse(status: 304, framing: .none, keepsAlive: true)),
        ("HTTP/1.1 304 Not Modified", "Transfer-Encoding: chunked\r\n", ParsedResponse(status: 304, framing: .none, keepsAlive: true)),
        // Who keeps the connection.
        (
            "HTTP/1.1 200 OK", "Content-Length: 5\r\nConnection: close\r\n",
            ParsedResponse(status: 200, framing: .length(5), keepsAlive: false)
        ),
        (
            "HTTP/1.1 200 OK", "Content-Length: 5\r\nConnection: x, CLOSE\r\n",
            ParsedResponse(status: 200, framing: .length(5), keepsAlive: false)
        ),
        (
            "HTTP/1.1 200 OK", "Content-Length: 5\r\nConnection: keep-alive\r\nConnection: close\r\n",
            ParsedResponse(status: 200, framing: .length(5), keepsAlive: false)
        ),
        ("HTTP/1.0 200 OK", "Content-Length: 5\r\n", ParsedResponse(status: 200, framing: .length(5), keepsAlive: false)),
        (
            "HTTP/1.0 200 OK", "Content-Length: 5\r\nConnection: Keep-Alive\r\n",
            ParsedResponse(status: 200, framing: .length(5), keepsAlive: true)
        ),
        ("HTTP/1.1 599 ?", "Content-Length: 5\r\n", ParsedResponse(status: 599, framing: .length(5), keepsAlive: true)),
    ])
    func framingIsRead(line: String, fields: String, expected: ParsedResponse) throws {
        #expect(try parseResponse("\(line)\r\n\(fields)\r\n").get() == expected)
    }

    @Test func theAnswerToHeadHasNoBody() throws {
        let head = ResponseHead()
        let parsed = try parseResponse("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", toHead: true, into: head).get()
        #expect(parsed == ParsedResponse(status: 200, framing: .none, keepsAlive: true))
        #expect(head.contentLength == 5)
        let chunked = try parseResponse("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", toHead: true, into: head).get()
        #expect(chunked.framing == .none)
        #expect(head.contentLength == nil)
        let bare = try parseResponse("HTTP/1.1 200 OK\r\n\r\n", toHead: true).get()
        #expect(bare == ParsedResponse(status: 200, framing: .none, keepsAlive: true))
    }

    @Test(arguments: [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length:\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 10000000000000000000\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA : b\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: \0\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 99 OK\r\n\r\n",
        "HTTP/1.1 000 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1  \r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "HXXX/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        "HTTQ/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    ])
    func whatIsNoAnswerIsRefused(head: String) {
        #expect(throws: HTTP1Defect.self, "\(head.debugDescription)") { try parseResponse(head).get() }
    }

    @Test func aResponseNeedsNoHostAndMayRepeatFields() throws {
        let head = ResponseHead()
        _ = try parseResponse("HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n", into: head).get()
        #expect(fields(head.headers) == [["Set-Cookie", "a"], ["Set-Cookie", "b"]])
    }
}
