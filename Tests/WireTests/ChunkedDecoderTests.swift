import Testing

@testable import Wire

@Suite struct ChunkedDecoderTests {
    /// Decodes `text` in pieces that end at `cuts`; nil when the decoder refused it.
    private func decode(_ text: String, cuts: [Int] = []) -> (body: String, used: Int, isComplete: Bool)? {
        let bytes = Array(text.utf8)
        var decoder = ChunkedDecoder()
        var body: [UInt8] = []
        var used = 0
        var start = 0
        for end in cuts + [bytes.count] {
            var piece = Array(bytes[start..<end])
            do {
                let progress = try piece.withUnsafeMutableBytes { try decoder.decode($0) }
                body += piece[..<progress.bodyBytes]
                used += progress.inputBytes
                if progress.isComplete { return (String(decoding: body, as: UTF8.self), used, true) }
            } catch {
                return nil
            }
            start = end
        }
        return (String(decoding: body, as: UTF8.self), used, false)
    }

    @Test(arguments: [
        ("5\r\nhello\r\n0\r\n\r\n", "hello"),
        ("5;name=value\r\nhello\r\n3 \r\nabc\r\n0\r\nX-Trailer: y\r\n\r\n", "helloabc"),
        ("00A\r\n0123456789\r\n0;last\r\n\r\n", "0123456789"),
        ("0\r\n\r\n", ""),
    ])
    func everySplitGivesTheSameBody(text: String, body: String) throws {
        for cut in 0...text.utf8.count {
            let result = try #require(decode(text, cuts: [cut]))
            #expect(result.body == body)
            #expect(result.isComplete)
        }
        let bytewise = try #require(decode(text, cuts: Array(1..<text.utf8.count)))
        #expect(bytewise.body == body && bytewise.used == text.utf8.count)
    }

    @Test func whatFollowsTheMessageIsLeft() throws {
        let result = try #require(decode("2\r\nab\r\n0\r\n\r\nGET / HTTP/1.1\r\n"))
        #expect(result.body == "ab" && result.used == 12)
    }

    @Test func anUnfinishedBodyIsNotComplete() throws {
        #expect(try #require(decode("5\r\nhel")).isComplete == false)
        #expect(try #require(decode("5\r\nhello\r\n0\r\n")).isComplete == false)
    }

    @Test(arguments: [
        "\r\nab", "g\r\n", "-1\r\n", "0x2\r\n{}\r\n0\r\n\r\n", "2\n{}\r\n0\r\n\r\n", "2\r\n{}XX0\r\n\r\n", "2\r\n{}\n0\r\n\r\n",
        " 2\r\n{}\r\n0\r\n\r\n",
        "1000000000000000\r\n", "2;a\nb\r\n", "0\r\nX: y\n\r\n", "2;\u{1}\r\n",
    ])
    func brokenFramingIsRefused(text: String) { #expect(decode(text) == nil) }

    @Test func extensionsAndTrailersAreBounded() {
        let long = String(repeating: "x", count: ChunkedDecoder.overheadBytes)
        #expect(decode("1;\(long)\r\na\r\n0\r\n\r\n") != nil)
        #expect(decode("1;\(long)x\r\na\r\n0\r\n\r\n") == nil)
        #expect(decode("0\r\nA:\(long)\r\n\r\n") == nil)
    }
}
