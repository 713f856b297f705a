import EngineModel
import Testing

@testable import StubEngine

@Suite struct GRPCTests {
    @Test(
        arguments: [
            ("1H", 3_600_000_000_000), ("2M", 120_000_000_000), ("3S", 3_000_000_000), ("4m", 4_000_000), ("5u", 5_000), ("6n", 6),
            ("99999999n", 99_999_999), ("99999999H", UInt64.max / 2), ("0S", 0),
        ] as [(String, UInt64)])
    func timeouts(text: String, nanoseconds: UInt64) {
        #expect(Array(text.utf8).withUnsafeBytes { GRPCText.nanoseconds($0) } == nanoseconds)
    }

    @Test(arguments: ["", "S", "5", "5x", "-5S", "999999999S", "5 S", "5.0S"]) func whatIsNoTimeout(text: String) {
        #expect(Array(text.utf8).withUnsafeBytes { GRPCText.nanoseconds($0) } == nil)
    }

    @Test func messagesAreEscaped() {
        #expect(GRPCText.percentEncoded("100 % ü\n") == "100 %25 %C3%BC%0A")
    }

    @Test func timesAreWrittenAsTheRecordedEngineDoes() {
        #expect(EngineMessages.timestamp(nanoseconds: 1_795_460_726_498_038_000) == "2026-11-23T19:05:26.498038+00:00")
        #expect(EngineMessages.timestamp(nanoseconds: 0) == "1970-01-01T00:00:00.000000+00:00")
    }

    private func read(_ bytes: [UInt8]) -> EngineRequest? { bytes.withUnsafeBytes { EngineRequest($0) } }

    @Test func aRequestIsReadFieldByField() throws {
        // request_id "g", tokens 1615 and 7, sampling parameters, stream.
        let sampling: [UInt8] = [
            0x40, 5, 0x48, 2, 0x52, 1, 0x78, 0x5a, 1, 9, 0x70, 1, 0x78, 2, 0xb0, 0x01, 3, 0xc0, 0x01, 4, 0xc8, 0x01, 1,
        ]
        let bytes: [UInt8] =
            [0x0a, 1, 0x67, 0x12, 5, 0x12, 3, 0xcf, 0x0c, 7, 0x22, UInt8(sampling.count)] + sampling + [0x28, 1, 0x48, 1]
        let request = try #require(read(bytes))
        #expect(request.requestID == "g")
        #expect(request.tokens == [1_615, 7])
        #expect(request.isStream)
        #expect(request.rank == 1)
        #expect(request.maximumTokens == 5)
        #expect(request.n == 2)
        #expect(request.logprobs == 3)
        #expect(request.wishes.requestSeed == 4)
        #expect(request.wishes.minimumTokens == 2)
        #expect(request.wishes.ignoresEnd)
        #expect(request.wishes.stop.texts.map { String(decoding: $0.bytes, as: UTF8.self) } == ["x"])
        #expect(request.wishes.stop.tokens == [9])
        #expect(request.wishes.stop.includesText)
    }

    @Test func whatIsAbsentIsNotZero() throws {
        let request = try #require(read([]))
        #expect(request.maximumTokens == nil)
        #expect(request.logprobs == nil)
        #expect(request.rank == nil)
        #expect(request.n == 1)
        #expect(!request.isGreedy)
        // Neither text nor tokens: generated from nothing, as by vLLM.
        #expect(request.tokens.count == 1)
        #expect(try #require(read([0x12, 0])).tokens.isEmpty)
        #expect(try #require(read([0x22, 5, 0x0d, 0, 0, 0, 0])).isGreedy)
    }

    @Test(arguments: [[0xff], [0x0a, 5, 0x61], [0x22, 3, 0x40]] as [[UInt8]]) func whatIsNoMessageIsNone(bytes: [UInt8]) {
        #expect(read(bytes) == nil)
    }

    @Test func theRecordedChunkIsWrittenByteForByte() {
        // Of the recorded stream: one token, 200 prompt tokens, 192 of them cached. Only the token's id is ours.
        var reply = EngineReply(index: 0, promptTokens: 200)
        reply.append(ReplyToken.endOfTurn.id(of: nil), logprobs: nil)
        reply.cachedTokens = 192
        var id: [UInt8] = []
        var rest = Tokeniser.endOfTurn
        while rest >= 128 {
            id.append(UInt8(rest & 127) | 128)
            rest >>= 7
        }
        id.append(UInt8(rest))
        let chunk = [0x0a, UInt8(id.count)] + id + [0x10, 0xc8, 0x01, 0x18, 1, 0x20, 0xc0, 0x01]
        #expect(EngineMessages.chunk(reply) == [0x0a, UInt8(chunk.count)] + chunk)
    }
}
