import EngineModel

/// One request under way in the engine: one sequence per prompt and per reply wanted of it. Subclasses write the answer.
class Generation {
    struct Choice {
        var request: SequenceRequest
        /// What ends the reply before the model would.
        var stop: StopMatch?
        var produced = 0
        /// Somebody ended it by its request's id.
        var isAborted = false
        /// Bytes of text that may still be shown.
        var visibleBytes: Int

        init(request: SequenceRequest, stop: StopMatch? = nil) {
            self.request = request
            self.stop = stop
            visibleBytes = stop?.visibleBytes ?? .max
        }

        var isComplete: Bool { isAborted || produced == request.outputTokens }
        var endsByStop: Bool { request.endsTurn || stop != nil }
        /// OpenAI's name for why the reply ends.
        var finishReason: StaticString { isAborted ? "abort" : endsByStop ? "stop" : "length" }
        var stopReasonJSON: String { isAborted ? "null" : stop?.reason.json ?? "null" }
    }

    var choices: [Choice]
    /// Prompt tokens that the engine had in its cache, over all choices.
    var cachedTokens = 0
    /// By which its client may abort it; several may share one.
    let requestID: String

    init(choices: [Choice], requestID: String = "") {
        self.choices = choices
        self.requestID = requestID
    }

    final var isComplete: Bool { choices.allSatisfy(\.isComplete) }
    final var producedTokens: Int { choices.reduce(0) { $0 + $1.produced } }

    final func receive(_ token: ReplyToken, choice: Int) {
        choices[choice].produced += 1
        tokenReceived(token, choice: choice)
    }

    /// The part of a token's text that comes before the stop.
    final func visibleText(of token: ReplyToken, choice: Int) -> ArraySlice<UInt8> {
        let text = token.text
        let count = min(text.count, choices[choice].visibleBytes)
        if choices[choice].visibleBytes != .max { choices[choice].visibleBytes -= count }
        return text[..<count]
    }

    /// A choice got its next token; it may be the last.
    func tokenReceived(_ token: ReplyToken, choice: Int) {}
    /// Every choice has got its last token.
    func completed() {}
    /// Somebody asked for its end by its id.
    func aborted() {}
    /// The engine has died under it.
    func engineDied() {}
}

/// How long replies get to be.
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

/// What a request asks of each of its replies, in whichever protocol it came.
struct ReplyWishes {
    var requestSeed: UInt64 = 0
    var maximumTokens = 16
    var minimumTokens = 0
    var ignoresEnd = false
    /// The reply goes on from the prompt's text, and so begins with a space.
    var continuesText = false
    var stop = StopMatch.Conditions()
    /// The LoRA adapter that computes it.
    var adapter: AdapterID?

    /// The sequence for one reply to `prompt`. Equal wishes and prompts give equal replies on every stub of the same seed.
    func choice(of prompt: Prompt, index: Int, stubSeed: UInt64) -> Generation.Choice {
        let seed = ReplyLength.seed(of: prompt, requestSeed: requestSeed, stubSeed: stubSeed, choice: index)
        var (tokens, endsTurn) = ReplyLength.decide(
            seed: seed, maximum: maximumTokens, minimum: minimumTokens, ignoresEnd: ignoresEnd)
        let match = StopMatch.first(
            in: Reply(seed: seed, continuesText: continuesText), limit: endsTurn ? tokens - 1 : tokens, conditions: stop)
        if let match { (tokens, endsTurn) = (match.tokens, false) }
        return Generation.Choice(
            request: SequenceRequest(
                id: 0, prompt: prompt, replySeed: seed, continuesText: continuesText, outputTokens: tokens, endsTurn: endsTurn,
                adapter: adapter),
            stop: match)
    }
}
