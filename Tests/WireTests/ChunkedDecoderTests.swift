import Testing

@testable import Wire

@Suite struct ChunkedDecoderTests {
    private struct Outcome: Equatable {
        var body: [UInt8] = []
        var inputBytes = 0
        var isComplete = false
        var isBroken = false
    }

    /// Feeds the bytes in pieces that end at `ends`; bytes after the message are left.
    private func decode(_ bytes: [UInt8], endingAt ends: [Int]) -> Outcome {
        var decoder = ChunkedDecoder()
        var outcome = Outcome()
        var start = 0
        for end in ends + [bytes.count] where end >= start && !outcome.isComplete {
            var piece = Array(bytes[start..<end])
            do {
                let progress = try piece.withUnsafeMutableBytes { try decoder.decode($0) }
                outcome.body += piece[..<progress.bodyBytes]
                outcome.inputBytes += progress.inputBytes
                outcome.isComplete = progress.isComplete
            } catch {
                outcome.isBroken = true
                return outcome
            }
            start = end
        }
        return outcome.isComplete ? decodeTrailers(bytes, outcome) : outcome
    }

    /// The trailer section behind the last chunk is the head parser's.
    private func decodeTrailers(_ bytes: [UInt8], _ chunks: Outcome) -> Outcome {
        let parser = HTTP1HeadParser(maximumHeadBytes: 4_096, maximumFields: 10)
        var outcome = chunks
        outcome.isComplete = false
        bytes[chunks.inputBytes...].withUnsafeBytes { rest in
            do {
                guard let length = try parser.measureTrailers(rest) else { return }
                try parser.parseTrailers(UnsafeRawBufferPointer(rebasing: rest[..<length]), into: HeaderBlock())
                outcome.inputBytes += length
                outcome.isComplete = true
            } catch {
                outcome.isBroken = true
            }
        }
        return outcome
    }

    private func decode(_ text: String) -> Outcome { decode(Array(text.utf8), endingAt: []) }

    @Test(arguments: [
        ("0\r\n\r\n", ""),
        ("5\r\nhello\r\n0\r\n\r\n", "hello"),
        ("1\r\na\r\n2\r\nbc\r\n3\r\ndef\r\n0\r\n\r\n", "abcdef"),
        ("A\r\n0123456789\r\na\r\nabcdefghij\r\n000\r\n\r\n", "0123456789abcdefghij"),
        ("5;name=value;other=\"x\"\r\nhello\r\n0;last\r\n\r\n", "hello"),
        ("5 ; a\r\nhello\r\n0\r\n\r\n", "hello"),
        ("5\t\r\nhello\r\n0\r\n\r\n", "hello"),
        ("5\r\n\r\n\r\n\r\r\n0\r\n\r\n", "\r\n\r\n\r"),
        ("00000000000005\r\nhello\r\n0\r\n\r\n", "hello"),
        ("5\r\nhello\r\n0\r\nTrailer: a\r\nOther:\r\n\r\n", "hello"),
    ])
    func everySplitGivesTheSame(input: String, body: String) {
        let bytes = Array(input.utf8)
        let whole = Outcome(body: Array(body.utf8), inputBytes: bytes.count, isComplete: true)
        // What follows belongs to the next message and is not touched.
        let withMore = bytes + Array("GET /".utf8)
        #expect(decode(withMore, endingAt: []) == whole)
        for first in 0...bytes.count {
            for second in first...bytes.count {
                #expect(decode(withMore, endingAt: [first, second]) == whole, "split at \(first) and \(second)")
            }
        }
        #expect(decode(withMore, endingAt: Array(1...bytes.count)) == whole)
        // Cut short it is neither complete nor broken.
        for length in 0..<bytes.count {
            let cut = decode(Array(bytes[..<length]), endingAt: [])
            #expect(!cut.isComplete && !cut.isBroken && cut.inputBytes <= length)
        }
    }

    @Test(arguments: [
        "\r\n", "\n", ";\r\n", " 5\r\nhello\r\n", "\t5\r\n", "g\r\n", "-5\r\nhello\r\n", "+5\r\nhello\r\n", "0x5\r\nhello\r\n",
        "5\nhello\r\n", "5\r\rhello", "5\rhello", "5\r\nhelloX\r\n", "5\r\nhello\n0\r\n\r\n", "5\r\nhello\rX", "5\r\nhello\r\n\r\n",
        "5\r\nhello0\r\n\r\n", "4\r\nhello\r\n0\r\n\r\n", "5,\r\nhello\r\n", "5;a\nb\r\nhello\r\n", "5;\0\r\nhello\r\n", "5;a\u{7f}\r\n",
        "5;a\rb\r\nhello\r\n", "0\r\n\n", "0\r\n\rX", "0\r\nTrailer: a\n\r\n", "0\r\nTrailer: \0\r\n\r\n", "0\r\nTrailer: a\rb\r\n\r\n",
        "5 5\r\nhello\r\n", "5\t;\0\r\n", "5 x\r\n", "0\r\nGET /next HTTP/1.1\r\n", "0\r\nt : a\r\n\r\n", "0\r\n: a\r\n\r\n",
        "0\r\nt\r\n\r\n", "0\r\n t: a\r\n\r\n", "0\r\nt: a\r\n b\r\n\r\n", "0\nx", "ffffffffffffffff\r\n", "1000000000000000\r\n",
        "0000000000000000\r\n\r\n", "\0", "\u{e9}\r\n",
    ])
    func brokenChunksAreRefusedAtEverySplit(input: String) {
        // Trailers are read once their blank line is there.
        let bytes = Array((input + "\r\n\r\n").utf8)
        for split in 0...bytes.count { #expect(decode(bytes, endingAt: [split]).isBroken, "\(input.debugDescription) at \(split)") }
    }

    @Test func theLargestSizeIsFifteenDigits() {
        let largest = decode("fffffffffffffff\r\nx")
        #expect(largest == Outcome(body: [120], inputBytes: 18))
        #expect(decode("000000000000000\r\n\r\n").isComplete)
        #expect(decode("ffffffffffffffff").isBroken)
    }

    @Test func theDigitsAreCountedAnewInEachChunk() {
        #expect(decode("00000000000001\r\na\r\n00000000000001\r\nb\r\n0\r\n\r\n").body == Array("ab".utf8))
    }

    @Test func extensionsAreBoundedOverAllChunks() {
        let bound = ChunkedDecoder.overheadBytes
        func extended(_ count: Int) -> String { "1;\(String(repeating: "x", count: count))\r\na\r\n0\r\n\r\n" }
        #expect(decode(extended(bound)).isComplete)
        #expect(decode(extended(bound + 1)).isBroken)
        let half = String(repeating: "x", count: bound / 2)
        #expect(decode("1;\(half)\r\na\r\n0;\(half)\r\n\r\n").isComplete)
        #expect(decode("1;\(half)\r\na\r\n0;\(half)y\r\n\r\n").isBroken)
    }

    @Test func trailersAreBoundedAsHeadsAre() {
        func trailed(_ count: Int) -> String { "0\r\nt: \(String(repeating: "t", count: count - 7))\r\n\r\n" }
        #expect(decode(trailed(4_096)).isComplete)
        #expect(decode(trailed(4_097)).isBroken)
        #expect(decode("0\r\n" + String(repeating: "a: b\r\n", count: 10) + "\r\n").isComplete)
        #expect(decode("0\r\n" + String(repeating: "a: b\r\n", count: 11) + "\r\n").isBroken)
    }

    @Test func aCompleteDecoderTakesNothing() throws {
        var decoder = ChunkedDecoder()
        var bytes = Array("0\r\n".utf8)
        _ = try bytes.withUnsafeMutableBytes { try decoder.decode($0) }
        var more = Array("5\r\nhello".utf8)
        let progress = try more.withUnsafeMutableBytes { try decoder.decode($0) }
        #expect(progress == ChunkedDecoder.Progress(bodyBytes: 0, inputBytes: 0, isComplete: true))
    }

    @Test func randomBodiesComeBackWhole() {
        var random = SplitMix64(state: 7)
        for _ in 0..<200 {
            var body: [UInt8] = []
            var wire: [UInt8] = []
            for _ in 0..<Int.random(in: 0...6, using: &random) {
                let chunk = (0..<Int.random(in: 1...300, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) }
                body += chunk
                wire += Array(String(chunk.count, radix: 16, uppercase: Bool.random(using: &random)).utf8)
                wire += [13, 10] + chunk + [13, 10]
            }
            wire += Array("0\r\n\r\n".utf8)
            let ends = (0..<Int.random(in: 0...8, using: &random)).map { _ in Int.random(in: 0...wire.count, using: &random) }.sorted()
            #expect(decode(wire, endingAt: ends) == Outcome(body: body, inputBytes: wire.count, isComplete: true))
        }
    }
}
