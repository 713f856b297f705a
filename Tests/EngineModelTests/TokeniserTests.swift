import Testing

@testable import EngineModel

@Suite struct TokeniserTests {
    private func pieces(_ text: String) -> [String] {
        var pieces: [String] = []
        Array(text.utf8).withUnsafeBytes { bytes in
            var start = 0
            while start < bytes.count {
                let end = Tokeniser.pieceEnd(in: bytes, from: start)
                pieces.append(String(decoding: bytes[start..<end], as: UTF8.self))
                start = end
            }
        }
        return pieces
    }

    @Test func piecesEndBeforeABlankAndAfterSixBytes() {
        #expect(pieces("Say hello to the license.") == ["Say", " hello", " to", " the", " licen", "se."])
        #expect(pieces("a  b\n\nc") == ["a", "  b", "\n\nc"])
        #expect(pieces("") == [])
        #expect(pieces("          x") == ["      ", "    x"])
    }

    @Test func equalTextHasEqualTokensAndAPrefixKeepsItsOwn() {
        var short: [UInt32] = []
        var long: [UInt32] = []
        Tokeniser.append("one two three", to: &short)
        Tokeniser.append("one two three four", to: &long)
        #expect(Array(long.prefix(3)) == short)
        #expect(long.count == 4)
        #expect(Set(long).count == 4)
    }

    @Test func aReplyIsMadeOfTheTokensOfItsText() {
        for continuesText in [false, true] {
            var reply = Reply(seed: 42, continuesText: continuesText)
            let said = (0..<500).map { _ in reply.next() }
            // The last word may be cut short, and then its last piece would be taken for a whole one: that is the same piece.
            var read: [UInt32] = []
            said.flatMap { $0.text(of: nil) }.withUnsafeBytes { Tokeniser.append($0, to: &read) }
            #expect(read == said.map { $0.id(of: nil) })
            #expect((said[0].text(of: nil).first == 0x20) == continuesText)
        }
    }

    @Test func equalSeedsSayTheSameAndOthersDoNot() {
        func say(_ seed: UInt64) -> [ReplyToken] {
            var reply = Reply(seed: seed, continuesText: false)
            return (0..<50).map { _ in reply.next() }
        }
        #expect(say(1) == say(1))
        #expect(say(1) != say(2))
    }

    @Test(arguments: ["", "plain words, and more of them", "Grüße, 世界 👋🏽 zusammen", "👩‍👩‍👧‍👦👩‍👩‍👧‍👦👩‍👩‍👧‍👦", "\n \t\"x\""])
    func aScriptIsSaidTokenByTokenAndThenWords(text: String) {
        let script = ReplyScript([text])
        var reply = Reply(seed: 1, continuesText: false, script: script)
        let said = (0..<script.tokenCount).map { _ in reply.next() }
        var tokens: [UInt32] = []
        Tokeniser.append(text, to: &tokens)
        #expect(said.map { $0.id(of: script) } == tokens)
        #expect(said.flatMap { $0.text(of: script) } == Array(text.utf8))
        // Each piece is a text of its own: no character is torn apart.
        for token in said { #expect(String(validating: token.text(of: script), as: UTF8.self) != nil) }
        #expect(reply.next().text(of: script).first == 0x20)
    }

    @Test func aScriptIsCutAndCountsItsParts() {
        let script = ReplyScript(["one two", "three", "four five six"], maximumTokens: 4)
        #expect(script.counts == [2, 1, 1])
        #expect(script.tokenCount == 4)
        // A token of another reply's script is none.
        var reply = Reply(seed: 1, continuesText: false, script: script)
        _ = (reply.next(), reply.next())
        #expect(reply.next().text(of: ReplyScript(["x"])) == [])
    }

    @Test func noTokenNeedsEscapingInJSON() {
        #expect(Reply.pieces.allSatisfy { $0.text.allSatisfy { $0 >= 0x20 && $0 < 0x7f && $0 != 0x22 && $0 != 0x5c } })
    }
}
