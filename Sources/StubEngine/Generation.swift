import EngineModel

/// One request under way in the engine: one sequence per prompt and per reply wanted of it. Subclasses write the answer.
class Generation {
    struct Choice {
        private(set) var request: SequenceRequest
        /// The reply calls a function.
        let toolCall: ToolCall?
        private var scanner: StopScanner?
        private(set) var produced = 0
        /// Somebody ended it by its request's id.
        var isAborted = false
        /// Bytes of text of the tokens so far, shown or not.
        private var textBytes = 0

        init(request: SequenceRequest, toolCall: ToolCall? = nil, scanner: StopScanner? = nil) {
            self.request = request
            self.toolCall = toolCall
            self.scanner = scanner
            self.scanner?.scan(beyond: 0, textBytes: 0)
            takeOverMatch()
        }

        /// What ends the reply before the model would, once it has come into sight.
        var stop: StopMatch? { scanner?.match }

        mutating func setID(_ id: SequenceID) { request.id = id }

        /// Counts a token. Returns after how many the reply ends when a stop has come into sight just now: more than there are.
        mutating func count(_ token: ReplyToken) -> Int? {
            produced += 1
            textBytes += token.text(of: request.script).count
            guard scanner != nil, stop == nil else { return nil }
            scanner?.scan(beyond: produced, textBytes: textBytes)
            return takeOverMatch()
        }

        @discardableResult
        private mutating func takeOverMatch() -> Int? {
            guard let stop else { return nil }
            request.outputTokens = stop.tokens
            request.endsTurn = false
            return stop.tokens
        }

        /// How much of the text of the token that was counted last may be shown.
        func visibleBytes(of text: [UInt8]) -> Int {
            guard let stop else { return text.count }
            return min(text.count, max(0, stop.visibleBytes - (textBytes - text.count)))
        }

        var isComplete: Bool { isAborted || produced == request.outputTokens }
        var endsByStop: Bool { request.endsTurn || stop != nil }
        /// OpenAI's name for why the reply ends.
        var finishReason: StaticString {
            if isAborted { return "abort" }
            if let toolCall, !toolCall.isNamed, callsTool { return "tool_calls" }
            return endsByStop ? "stop" : "length"
        }
        /// The call was not cut.
        var callsTool: Bool { toolCall != nil && request.endsTurn && stop == nil && !isAborted }
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

    /// Returns after how many tokens the choice ends when that has become less just now.
    final func receive(_ token: ReplyToken, choice: Int) -> Int? {
        let end = choices[choice].count(token)
        tokenReceived(token, choice: choice)
        return end
    }

    /// The part of the last token's text that comes before the stop.
    final func visibleText(of token: ReplyToken, choice: Int) -> ArraySlice<UInt8> {
        let text = token.text(of: choices[choice].request.script)
        return text[..<choices[choice].visibleBytes(of: text)]
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
    /// - Parameter script: what the reply says before its turn ends.
    static func decide(
        seed: UInt64, script: ReplyScript?, maximum: Int, minimum: Int, ignoresEnd: Bool
    ) -> (tokens: Int, endsTurn: Bool) {
        let natural = max(script.map { $0.tokenCount + 1 } ?? natural(seed: seed), minimum)
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
    var content = ReplyContent.words
    /// The LoRA adapter that computes it.
    var adapter: AdapterID?

    /// The sequence for one reply to `prompt`. Equal wishes and prompts give equal replies on every stub of the same seed.
    func choice(of prompt: Prompt, index: Int, stubSeed: UInt64) -> Generation.Choice {
        let seed = ReplyLength.seed(of: prompt, requestSeed: requestSeed, stubSeed: stubSeed, choice: index)
        let (script, call) = content.script(seed: seed)
        let (tokens, endsTurn) = ReplyLength.decide(
            seed: seed, script: script, maximum: maximumTokens, minimum: call == nil ? minimumTokens : 0,
            ignoresEnd: ignoresEnd && call == nil)
        return Generation.Choice(
            request: SequenceRequest(
                id: 0, prompt: prompt, replySeed: seed, script: script, continuesText: continuesText, outputTokens: tokens,
                endsTurn: endsTurn, adapter: adapter),
            toolCall: call,
            scanner: stop.isEmpty
                ? nil
                : StopScanner(
                    reply: Reply(seed: seed, continuesText: continuesText, script: script), limit: endsTurn ? tokens - 1 : tokens,
                    conditions: stop))
    }
}
