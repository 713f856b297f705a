import EngineModel

/// One request under way in the engine: one sequence per prompt and per reply wanted of it. Subclasses write the answer.
class Generation {
    struct Choice {
        var request: SequenceRequest
        var produced = 0

        var isComplete: Bool { produced == request.outputTokens }
        /// OpenAI's name for why the reply ends.
        var finishReason: StaticString { request.endsTurn ? "stop" : "length" }
    }

    var choices: [Choice]
    /// Prompt tokens that the engine had in its cache, over all choices.
    var cachedTokens = 0

    init(choices: [Choice]) { self.choices = choices }

    final var isComplete: Bool { choices.allSatisfy(\.isComplete) }
    final var producedTokens: Int { choices.reduce(0) { $0 + $1.produced } }

    final func receive(_ token: ReplyToken, choice: Int) {
        choices[choice].produced += 1
        tokenReceived(token, choice: choice)
    }

    /// A choice got its next token; it may be the last.
    func tokenReceived(_ token: ReplyToken, choice: Int) {}
    /// Every choice has got its last token.
    func completed() {}
}

/// How long replies get to be, when nothing cuts them.
enum ReplyLength {
    /// A model ends its turn where it will; the stub does so after 128 to 255 tokens, always the same for the same request.
    static func natural(seed: UInt64) -> Int { 128 + Int(truncatingIfNeeded: (seed >> 17) & 127) }

    /// The number of tokens, and whether the last one is the model's own end of the turn.
    static func decide(seed: UInt64, maximum: Int, minimum: Int, ignoresEnd: Bool) -> (tokens: Int, endsTurn: Bool) {
        let natural = max(natural(seed: seed), minimum)
        return ignoresEnd || natural > maximum ? (maximum, false) : (natural, true)
    }

    /// Seeds a reply with all that may change it.
    static func seed(of prompt: Prompt, requestSeed: UInt64, stubSeed: UInt64, choice: Int) -> UInt64 {
        var seed = prompt.contentHash
        for part in [requestSeed, stubSeed, UInt64(truncatingIfNeeded: choice)] {
            seed = (seed ^ part) &* 0x9e37_79b9_7f4a_7c15
            seed ^= seed >> 29
        }
        return seed
    }
}
