import Testing

@testable import Wire

/// Heads of requests: what is taken, what is refused, and why (RFC 9112; DESIGN's strictness).
@Suite struct HTTP1RequestHeadTests {
    // MARK: Framing

    @Test(arguments: [
        ("", BodyFraming.none),
        ("Content-Length: 0\r\n", .none),
        ("Content-Length: 5\r\n", .length(5)),
        ("content-length:5\r\n", .length(5)),
        ("Content-Length: \t 5  \r\n", .length(5)),
        ("Content-Length: 007\r\n", .length(7)),
        ("Content-Length: 999999999999999999\r\n", .length(999_999_999_999_999_999)),
        ("Transfer-Encoding: chunked\r\n", .chunked),
        ("transfer-encoding:  CHUNKED \r\n", .chunked),
    ])
    func framingIsRead(fields: String, framing: BodyFraming) throws {
        let parsed = try parseRequest("POST /a HTTP/1.1\r\nHost: h\r\n\(fields)\r\n").get()
        #expect(parsed == ParsedRequest(method: "POST", target: "/a", authority: "h", framing: framing))
    }

    @Test(arguments: [
        // Both framings, in either order and whatever the length says.
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length:\r\n",
        // A length twice, also when both agree, and also when http_parser overlooks an empty one.
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5\r\nContent-Length:\r\n",
        "Content-Length:\r\nContent-Length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        // A length that is no number of digits alone.
        "Content-Length:\r\n",
        "Content-Length:  \r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: 5a\r\n",
        "Content-Length: 5.0\r\n",
        "Content-Length: five\r\n",
        "Content-Length: 5;\r\n",
        // Lengths that no Int holds: 2^63, above it, 2^64, and far beyond.
        "Content-Length: 9223372036854775808\r\n",
        "Content-Length: 10000000000000000000\r\n",
        "Content-Length: 18446744073709551615\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Content-Length: 100000000000000000000000000\r\n",
        // Transfer codings other than exactly `chunked`, once.
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunkedx\r\n",
        "Transfer-Encoding: chunked;q=1\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: chunked,\r\n",
        "Transfer-Encoding:\r\n",
    ])
    func doubtfulFramingIsRefused(fields: String) {
        let parsed = parseRequest("POST / HTTP/1.1\r\nHost: h\r\n\(fields)\r\n")
        #expect(throws: HTTP1Defect.self, "\(fields)") { try parsed.get() }
    }

    @Test func http10KnowsNoTransferCoding() {
        #expect(parseRequest("POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n") == .failure(.ambiguousFraming))
        #expect(throws: Never.self) { try parseRequest("POST / HTTP/1.0\r\nHost: h\r\nContent-Length: 1\r\n\r\n").get() }
    }

    // MARK: Lines and fields

    @Test(arguments: [
        "GET / HTTP/1.1\nHost: h\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nA: b\n\r\n",
        "\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
    ])
    func aBareLineFeedIsRefusedWhereTheHeadIsMeasured(head: String) {
        let parser = HTTP1HeadParser(maximumHeadBytes: 1_024, maximumFields: 10)
        #expect(throws: HTTP1Defect.malformed) { try withBytes(head) { try parser.measureHead($0) } }
    }

    @Test(arguments: [
        // Bare CR, in a value, a name, the request line, and doubled before LF.
        "GET / HTTP/1.1\r\nHost: h\r\nA: b\rc\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nA\r: b\r\n\r\n",
        "GET /\r HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.1\r\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\r\n\r\n",
        // obs-fold, by blank and by tab, and in front of the first field.
        "GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n\tc\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: h\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.1\r\n\tHost: h\r\nHost: h\r\n\r\n",
        // White space before the colon.
        "GET / HTTP/1.1\r\nHost : h\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nContent-Length : 5\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding\t: chunked\r\n\r\n",
        // Control bytes.
        "GET / HTTP/1.1\r\nHost: h\r\nA: b\0c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nA: \u{1}\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nA: \u{7f}\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nA: \u{b}x\r\n\r\n",
        "GET /\0 HTTP/1.1\r\nHost: h\r\n\r\n",
        // Names that are no tokens.
        "GET / HTTP/1.1\r\nHost: h\r\n: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nA B: c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nA@: c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\n(A): c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\n\"A\": c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nContent-Length\u{e9}: 5\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nno colon\r\n\r\n",
        // Request lines.
        "GET /\r\nHost: h\r\n\r\n",
        "GET\r\nHost: h\r\n\r\n",
        " GET / HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.1 x\r\nHost: h\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /a\tb HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /  HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: h\r\n\r\n",
        "get / HTTP/1.1\r\nHost: h\r\n\r\n",
        "G(T / HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET / http/1.1\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.\r\nHost: h\r\n\r\n",
        "GET / HTTP/11\r\nHost: h\r\n\r\n",
        "GET / HTTQ/1.1\r\nHost: h\r\n\r\n",
        "GET / HXXX/1.1\r\nHost: h\r\n\r\n",
        "SOURCE / ICE/1.1\r\nHost: h\r\n\r\n",
        "HTTP/1.1 200 OK\r\nHost: h\r\n\r\n",
    ])
    func whatIsNoHeadIsRefused(head: String) {
        #expect(throws: HTTP1Defect.self, "\(head.debugDescription)") { try parseRequest(head).get() }
    }

    @Test(arguments: ["HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/3.1"])
    func otherVersionsAreRefused(version: String) {
        #expect(parseRequest("GET / \(version)\r\nHost: h\r\n\r\n") == .failure(.unsupportedVersion))
    }

    @Test func theVersionIsKept() throws {
        let head = RequestHead()
        _ = try parseRequest("GET / HTTP/1.0\r\n\r\n", into: head).get()
        #expect(head.version == .http10)
        _ = try parseRequest("GET / HTTP/1.1\r\nHost: h\r\n\r\n", into: head).get()
        #expect(head.version == .http11)
    }

    @Test func fieldsAreKeptAsTheyCame() throws {
        let head = RequestHead()
        let lines = "Host: h\r\nX-A: 1\r\nx-a:2\r\nEmpty:\r\nBlank: \t \r\nTail: v \t\r\n!#$%&'*+-.^_`|~9: \u{e9} \t x\r\nX-A: 1\r\n"
        _ = try parseRequest("GET / HTTP/1.1\r\n\(lines)\r\n", into: head).get()
        #expect(
            fields(head.headers) == [
                ["Host", "h"], ["X-A", "1"], ["x-a", "2"], ["Empty", ""], ["Blank", ""], ["Tail", "v"],
                ["!#$%&'*+-.^_`|~9", "\u{e9} \t x"], ["X-A", "1"],
            ])
        #expect(text(head.headers.value("x-a")) == "1")
    }

    @Test func bytesAboveASCIIMayStandInAValue() throws {
        var bytes = Array("GET / HTTP/1.1\r\nHost: h\r\nA: ".utf8)
        bytes += [0x80, 0xff, 0xc3]
        bytes += Array("\r\n\r\n".utf8)
        let parser = HTTP1HeadParser(maximumHeadBytes: 1_024, maximumFields: 10)
        let head = RequestHead()
        _ = try bytes.withUnsafeBytes { try parser.parseRequest($0, into: head) }
        #expect(head.headers.value("a").map(Array.init) == [0x80, 0xff, 0xc3])
    }

    // MARK: Host

    @Test(arguments: [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nX-Host: h\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\nhost: b\r\n\r\n",
        "GET http://h/ HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
    ])
    func hostIsWantedOnce(head: String) {
        #expect(parseRequest(head) == .failure(.missingHost))
    }

    @Test(arguments: Array(" \t/@\\?#<>\"{}^`|\u{e9}"))
    func hostIsHostAndPort(byte: Character) {
        #expect(parseRequest("GET / HTTP/1.1\r\nHost: a\(byte)b\r\n\r\n") == .failure(.malformed))
    }

    @Test(arguments: ["", "h", "A-b.c_d~1:80", "[::1]:8080", "127.0.0.1", "%41", "a!$&'()*+,;=b"])
    func hostIsKept(host: String) throws {
        #expect(try parseRequest("GET / HTTP/1.1\r\nHost: \(host)\r\n\r\n").get().authority == host)
    }

    @Test func http10NeedsNoHost() throws {
        #expect(try parseRequest("GET / HTTP/1.0\r\n\r\n").get().authority == "")
        #expect(try parseRequest("GET / HTTP/1.0\r\nHost: a:1\r\n\r\n").get().authority == "a:1")
    }

    // MARK: Targets

    @Test(arguments: [
        ("GET /a?b=c", "GET", "/a?b=c", "h"),
        ("GET //a//b", "GET", "//a//b", "h"),
        ("DELETE /%20%00", "DELETE", "/%20%00", "h"),
        ("OPTIONS *", "OPTIONS", "*", "h"),
        ("GET http://other:80/x?y", "GET", "/x?y", "other:80"),
        ("POST HTTPS://Other/x", "POST", "/x", "Other"),
        ("GET http://[::1]:80/", "GET", "/", "[::1]:80"),
        ("PATCH /{a}|\"<b>^`\\", "PATCH", "/{a}|\"<b>^`\\", "h"),
        ("PROPFIND /", "PROPFIND", "/", "h"),
    ])
    func targetsAreBroughtIntoOriginForm(line: String, method: String, target: String, authority: String) throws {
        let parsed = try parseRequest("\(line) HTTP/1.1\r\nHost: h\r\n\r\n").get()
        #expect(parsed == ParsedRequest(method: method, target: target, authority: authority, framing: .none))
    }

    @Test(arguments: [
        "GET *", "GET a", "GET ?a", "GET http://", "GET http:///a", "GET http:/a", "GET ftp://h/a", "GET h:80", "POST *",
        "GET /#a", "GET /\u{e9}", "GET http://u@h/", "GET http://h h/", "GET http://h\\a/", "GET http://h?a/", "GET http://\u{e9}/",
    ])
    func otherTargetsAreRefused(line: String) {
        #expect(parseRequest("\(line) HTTP/1.1\r\nHost: h\r\n\r\n") == .failure(.malformed))
    }

    @Test func methodsAreKnown() throws {
        let methods: [(String, HTTPMethod)] = [
            ("GET", .get), ("HEAD", .head), ("POST", .post), ("PUT", .put), ("DELETE", .delete), ("OPTIONS", .options),
            ("PATCH", .patch), ("TRACE", .other), ("LOCK", .other), ("SEARCH", .other),
        ]
        for (name, method) in methods {
            let head = RequestHead()
            _ = try parseRequest("\(name) / HTTP/1.1\r\nHost: h\r\n\r\n", into: head).get()
            #expect(head.method == method)
        }
        for name in ["", "get", "GETS", "PO", "CONNECTS"] {
            #expect(withBytes(name) { HTTPMethod.identify($0) } == .other)
        }
    }

    // MARK: Bounds

    @Test func theHeadEndsAtItsBound() throws {
        let start = "GET / HTTP/1.1\r\nHost: h\r\nA: "
        let bound = 4_096
        let parser = HTTP1HeadParser(maximumHeadBytes: bound, maximumFields: 10)
        let exact = start + String(repeating: "x", count: bound - start.utf8.count - 4) + "\r\n\r\n"
        #expect(try withBytes(exact) { try parser.measureHead($0) } == bound)
        #expect(try withBytes(exact + "body") { try parser.measureHead($0) } == bound)
        let tooLong = start + String(repeating: "x", count: bound - start.utf8.count - 3) + "\r\n\r\n"
        #expect(throws: HTTP1Defect.headTooLarge) { try withBytes(tooLong) { try parser.measureHead($0) } }
        // A head that does not end: one byte below the bound it may still, at the bound no longer.
        let unfinished = start + String(repeating: "x", count: bound - start.utf8.count - 1)
        #expect(try withBytes(unfinished) { try parser.measureHead($0) } == nil)
        #expect(throws: HTTP1Defect.headTooLarge) { try withBytes(unfinished + "x") { try parser.measureHead($0) } }
    }

    @Test func everyPrefixWantsMore() throws {
        let parser = HTTP1HeadParser(maximumHeadBytes: 4_096, maximumFields: 10)
        let head = Array("GET / HTTP/1.1\r\nHost: h\r\n\r\n".utf8)
        for length in 0...head.count {
            let measured = try head[..<length].withUnsafeBytes { try parser.measureHead($0) }
            #expect(measured == (length == head.count ? length : nil), "\(length)")
        }
    }

    @Test func theHundredthFieldIsTheLast() throws {
        func head(_ count: Int) -> String {
            "GET / HTTP/1.1\r\nHost: h\r\n" + (1..<count).map { "F\($0): \($0)\r\n" }.joined() + "\r\n"
        }
        let request = RequestHead()
        _ = try parseRequest(head(100), into: request).get()
        #expect(request.headers.count == 100)
        #expect(text(request.headers.value(at: 99)) == "99")
        #expect(parseRequest(head(101)) == .failure(.tooManyFields))
    }

    @Test func aLongNameIsRefused() throws {
        let name = String(repeating: "n", count: 1_024)
        #expect(throws: Never.self) { try parseRequest("GET / HTTP/1.1\r\nHost: h\r\n\(name): v\r\n\r\n").get() }
        #expect(parseRequest("GET / HTTP/1.1\r\nHost: h\r\n\(name)n: v\r\n\r\n") == .failure(.malformed))
    }

    @Test func aParserKeepsNothingOfTheHeadBefore() throws {
        let parser = HTTP1HeadParser(maximumHeadBytes: 4_096, maximumFields: 4)
        let head = RequestHead()
        let refused = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 7\r\nBad name: x\r\n\r\n"
        #expect(throws: HTTP1Defect.malformed) { try withBytes(refused) { try parser.parseRequest($0, into: head) } }
        let framing = try withBytes("GET /b HTTP/1.1\r\nHost: i\r\n\r\n") { try parser.parseRequest($0, into: head) }
        #expect(framing == .none)
        #expect(head.contentLength == nil)
        #expect(fields(head.headers) == [["Host", "i"]])
    }

    /// RFC 9110, 5.6.2. Names are scanned eight bytes at once, so every byte stands at every place of some words.
    @Test func namesAreTokensAtEveryPlace() {
        let tokens = Set("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ".utf8)
        let parser = HTTP1HeadParser(maximumHeadBytes: 64 << 10, maximumFields: 100)
        for byte in UInt8.min...UInt8.max where byte != 13 && byte != 10 && byte != 58 {
            for place in 0..<20 {
                var name = Array("X-Long-Name-aZ-zA-mM".utf8)
                name[place] = byte
                let head = Array("GET / HTTP/1.1\r\nHost: h\r\n".utf8) + name + Array(": v\r\n\r\n".utf8)
                let accepted = head.withUnsafeBytes { (try? parser.parseRequest($0, into: RequestHead())) != nil }
                #expect(accepted == tokens.contains(byte), "byte \(byte) at \(place)")
            }
        }
    }
}
