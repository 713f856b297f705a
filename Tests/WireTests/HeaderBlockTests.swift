import Testing

@testable import Wire

@Suite struct HeaderBlockTests {
    @Test func growsAndKeepsWhatItHas() {
        let block = HeaderBlock(byteCapacity: 1, fieldCapacity: 1)
        var expected: [[String]] = []
        for index in 0..<300 {
            let value = String(repeating: "v", count: index % 97) + "\(index)"
            block.append("name-\(index)", value)
            expected.append(["name-\(index)", value])
        }
        #expect(block.count == 300)
        #expect(fields(block) == expected)
        #expect(block.byteCount == expected.reduce(0) { $0 + $1[0].utf8.count + $1[1].utf8.count })
        // One piece larger than twice what there is.
        let large = String(repeating: "L", count: 1 << 20)
        block.append("large", large)
        #expect(text(block.value("large")) == large)
        #expect(fields(block).dropLast() == expected[...])
    }

    @Test func isEmptyAgainAfterRemoveAll() {
        let block = HeaderBlock()
        block.append("content-type", "a")
        block.removeAll()
        #expect(block.count == 0 && block.byteCount == 0)
        #expect(block.value(.contentType) == nil)
        #expect(block.occurrences(of: .contentType) == 0)
        block.append("x", "")
        #expect(fields(block) == [["x", ""]])
    }

    @Test func removesEveryOccurrence() {
        let block = HeaderBlock()
        for (name, value) in [("A", "1"), ("Connection", "x"), ("B", "2"), ("CONNECTION", "y"), ("Host", "h"), ("connection", "")] {
            block.append(name, value)
        }
        #expect(block.occurrences(of: .connection) == 3)
        block.remove(.connection)
        #expect(fields(block) == [["A", "1"], ["B", "2"], ["Host", "h"]])
        #expect(block.occurrences(of: .connection) == 0)
        block.remove(.connection)
        block.remove(.te)
        #expect(block.count == 3)
    }

    @Test func removesFieldsByTheirPlace() {
        func block() -> HeaderBlock {
            let block = HeaderBlock()
            for index in 0..<6 { block.append("n\(index)", "v\(index)") }
            return block
        }
        var asked: [Int] = []
        let some = block()
        some.removeFields { index in
            asked.append(index)
            return index % 2 == 0
        }
        // Every index names the field that stood there before the removal, and still does when it is asked about.
        #expect(asked == [0, 1, 2, 3, 4, 5])
        #expect(fields(some) == [["n1", "v1"], ["n3", "v3"], ["n5", "v5"]])
        let none = block()
        none.removeFields { _ in true }
        #expect(none.count == 0)
        let all = block()
        all.removeFields { _ in false }
        #expect(all.count == 6)
        let first = block()
        first.removeFields { index in text(first.name(at: index)) == "n0" || text(first.name(at: index)) == "n5" }
        #expect(fields(first) == [["n1", "v1"], ["n2", "v2"], ["n3", "v3"], ["n4", "v4"]])
    }

    @Test func appendsAnotherBlock() {
        let one = HeaderBlock()
        one.append("a", "1")
        let two = HeaderBlock(byteCapacity: 1, fieldCapacity: 1)
        two.append("Content-Type", "t")
        two.append("", "")
        two.append("b", "2")
        one.append(contentsOf: two)
        #expect(fields(one) == [["a", "1"], ["Content-Type", "t"], ["", ""], ["b", "2"]])
        #expect(text(one.value(.contentType)) == "t")
    }

    @Test(arguments: [0, 1, 9, 10, 4_096, Int.max])
    func appendsDecimals(value: Int) {
        let block = HeaderBlock()
        block.append("content-length", decimal: value)
        #expect(text(block.value(.contentLength)) == "\(value)")
    }

    @Test func keepsBytesThatAreNoField() {
        let block = HeaderBlock(byteCapacity: 1)
        let method = withBytes("POST") { block.store($0) }
        let empty = block.store(UnsafeRawBufferPointer(start: nil, count: 0))
        let target = withBytes(String(repeating: "t", count: 500)) { block.store($0) }
        #expect(text(block[method]) == "POST")
        #expect(text(block[empty]) == "")
        #expect(block[target].count == 500)
        #expect(block.count == 0)
    }

    @Test func namesAreKnownInAnyCase() {
        let names: [(String, KnownHeader)] = [
            ("connection", .connection), ("content-length", .contentLength), ("transfer-encoding", .transferEncoding), ("host", .host),
            ("keep-alive", .keepAlive), ("te", .te), ("trailer", .trailer), ("upgrade", .upgrade), ("expect", .expect),
            ("proxy-connection", .proxyConnection), ("content-type", .contentType), ("content-encoding", .contentEncoding),
            ("http2-settings", .http2Settings), ("x-request-id", .requestID), ("cookie", .cookie), ("retry-after", .retryAfter),
            ("x-stainless-retry-count", .retryCount),
        ]
        for (name, known) in names {
            let alternating = String(name.enumerated().map { $0.offset % 2 == 0 ? Character($0.element.uppercased()) : $0.element })
            for spelling in [name, name.uppercased(), alternating] {
                #expect(withBytes(spelling) { KnownHeader.identify($0) } == known, "\(spelling)")
            }
            // Near misses: one byte more, one less, one other, and `-` against CR, which differ by the bit of case.
            for other in [name + "s", String(name.dropLast()), "x" + name.dropFirst(), name.replacing("-", with: "\r")]
            where other != name {
                #expect(withBytes(other) { KnownHeader.identify($0) } == .other, "\(other.debugDescription)")
            }
        }
        #expect(withBytes("") { KnownHeader.identify($0) } == .other)
        #expect(Set(names.map(\.1)).count == names.count)
    }

    @Test func namesAreThoseThatAreIdentified() {
        let unnamed: Set<KnownHeader> = [.other, .wantedTTFT, .wantedTPOT]
        for known in KnownHeader.allCases {
            #expect((known.lowercaseName == nil) == unnamed.contains(known))
            guard let name = known.lowercaseName?.description else { continue }
            #expect(withBytes(name) { KnownHeader.identify($0) } == known)
            #expect(name == name.lowercased())
        }
    }

    @Test func hopByHopFieldsAreThoseOfOneConnection() {
        let dropped: Set<KnownHeader> = [
            .connection, .transferEncoding, .keepAlive, .te, .upgrade, .proxyConnection, .http2Settings,
        ]
        for known in KnownHeader.allCases {
            #expect(known.isHopByHop == dropped.contains(known))
            #expect((known.bit & KnownHeader.hopByHopBits != 0) == dropped.contains(known))
        }
        #expect(Set(KnownHeader.allCases.map(\.bit)).count == KnownHeader.allCases.count)
    }
}

@Suite struct ByteComparisonTests {
    @Test(arguments: [
        ("close", true), ("CLOSE", true), ("keep-alive, Close", true), (" \tclose\t ", true), ("a,close,b", true), (",,close", true),
        ("close,", true), ("", false), (",", false), ("closed", false), ("xclose", false), ("clos", false), ("close x", false),
        ("\"close\"", false), ("close;q=1", false), ("c lose", false), ("keep-alive", false), ("close\0", false),
    ])
    func listItemsAreFound(list: String, isThere: Bool) {
        #expect(withBytes(list) { $0.containsListItem("close") } == isThere)
    }

    @Test func emptyBytesHoldNoItem() {
        let empty = UnsafeRawBufferPointer(start: nil, count: 0)
        #expect(!empty.containsListItem("close"))
        #expect(empty.equals("") && empty.equalsIgnoringCase("") && !empty.equals("a") && !empty.contains("a"))
        #expect(empty.decimalValue == nil)
    }

    @Test(
        arguments: [
            ("0", 0), ("5", 5), ("0005", 5), ("999999999999999999", 999_999_999_999_999_999), ("", nil),
            ("9223372036854775807", .max), ("9223372036854775808", nil), ("9999999999999999999", nil), ("10000000000000000000", nil),
            ("-1", nil), ("+1", nil), ("1 ", nil), (" 1", nil), ("1a", nil), ("/", nil), (":", nil), ("\u{661}", nil),
        ] as [(String, Int?)])
    func decimalsAreDigitsAlone(text: String, value: Int?) {
        #expect(withBytes(text) { $0.decimalValue } == value)
    }

    @Test func textIsFoundAnywhere() {
        withBytes("aab aabc end") { bytes in
            for found in ["a", "aab", "aabc", "aab aabc end", "end", "d", " "] as [StaticString] { #expect(bytes.contains(found)) }
            for missing in ["aabd", "endd", "aab aabc endx", "x", "A"] as [StaticString] { #expect(!bytes.contains(missing)) }
            #expect(bytes.starts(with: "aab a") && !bytes.starts(with: "ab") && !bytes.starts(with: "aab aabc end."))
            #expect(bytes.equals("aab aabc end") && !bytes.equals("aab aabc enD") && bytes.starts(with: ""))
        }
        withBytes("Application/GRPC+proto") { bytes in
            #expect(bytes.hasPrefixIgnoringCase("application/grpc"))
            #expect(!bytes.hasPrefixIgnoringCase("application/json"))
            #expect(!bytes.hasPrefixIgnoringCase("application/grpc+proto; charset"))
        }
    }
}

@Suite struct RequestHeadTests {
    private func head(_ target: String) -> RequestHead {
        let head = RequestHead()
        head.setMethod("POST")
        withBytes(target) { head.setTarget($0) }
        return head
    }

    @Test(arguments: [
        ("/a/b", "/a/b"), ("/a?b=c", "/a"), ("/a?b?c", "/a"), ("/?", "/"), ("?x", ""), ("", ""), ("/a%3Fb", "/a%3Fb"), ("*", "*"),
    ])
    func thePathEndsBeforeTheQuery(target: String, path: String) {
        let head = head(target)
        #expect(text(head.path) == path)
    }

    @Test func aPrefixOfTheTargetIsDropped() {
        let head = head("/openai/v1/models?x=/openai")
        head.dropTargetPrefix(7)
        #expect(text(head.target) == "/v1/models?x=/openai")
        #expect(text(head.path) == "/v1/models")
        head.dropTargetPrefix(0)
        #expect(text(head.target) == "/v1/models?x=/openai")
        head.dropTargetPrefix(head.target.count)
        #expect(text(head.target) == "")
    }

    @Test func aPrefixIsDroppedFromAnAbsoluteTargetToo() throws {
        let head = RequestHead()
        _ = try parseRequest("GET http://there/openai/v1/models HTTP/1.1\r\nHost: here\r\n\r\n", into: head).get()
        head.dropTargetPrefix(7)
        #expect(text(head.target) == "/v1/models")
        #expect(text(head.authority) == "there")
        #expect(text(head.methodBytes) == "GET")
    }

    @Test func partsSurviveTheGrowthOfTheBlock() {
        let head = head("/target")
        withBytes("host:1") { head.setAuthority($0) }
        for index in 0..<200 { head.headers.append("field-\(index)", String(repeating: "x", count: 50)) }
        #expect(text(head.target) == "/target")
        #expect(text(head.authority) == "host:1")
        #expect(head.method == .post && text(head.methodBytes) == "POST")
    }

    @Test func nothingIsLeftAfterRemoveAll() {
        let head = head("/target")
        head.contentLength = 5
        withBytes("a") { name in head.appendTrailer(name: name, value: name) }
        #expect(head.hasTrailers)
        head.removeAll()
        #expect(head.target.isEmpty && head.authority.isEmpty && head.methodBytes.isEmpty)
        #expect(head.headers.count == 0 && head.contentLength == nil && !head.hasTrailers && head.trailers.count == 0)
        #expect(head.method == .get)
    }

    @Test(arguments: [
        ("application/grpc", true), ("application/grpc+proto", true), ("Application/GRPC; q=1", true), ("application/grpc-web", false),
        ("application/json", false), ("", false),
    ])
    func grpcIsKnownByItsContentType(type: String, isGRPC: Bool) {
        let head = head("/")
        #expect(!head.isGRPC)
        head.headers.append("Content-Type", type)
        #expect(head.isGRPC == isGRPC)
    }
}
