import EngineModel

/// Log probabilities that a model might have given: made of the token and its place, equal on every stub.
struct TokenLogprobs {
    struct Entry {
        let id: UInt32
        let text: [UInt8]
        let logprob: Double
    }

    /// The token said, then the likeliest alternatives; the token itself is the likeliest.
    let entries: [Entry]

    init(token: ReplyToken, of script: ReplyScript?, place: Int, alternatives: Int) {
        self.init(id: token.id(of: script), text: token.text(of: script), place: place, alternatives: alternatives)
    }

    /// The same of a token of the prompt.
    init(id: UInt32, text: [UInt8], place: Int, alternatives: Int) {
        var seed = UInt64(id) &* 0x9e37_79b9_7f4a_7c15 &+ UInt64(truncatingIfNeeded: place)
        seed ^= seed >> 31
        // In sixteenths, so that the text is short and exact.
        var logprob = -Double(seed % 16 + 1) / 16
        var entries = [Entry(id: id, text: text, logprob: logprob)]
        var others = Reply(seed: seed, continuesText: true)
        while entries.count < alternatives {
            let other = others.next()
            let id = other.id(of: nil)
            guard !entries.contains(where: { $0.id == id }) else { continue }
            logprob -= 0.5
            entries.append(Entry(id: id, text: other.text(of: nil), logprob: logprob))
        }
        self.entries = entries
    }

    /// The first `alternatives` entries: what `top_logprobs` lists.
    func top(_ alternatives: Int) -> ArraySlice<Entry> { entries.prefix(alternatives) }

    /// One element of a chat's `logprobs.content`.
    func chatJSON(alternatives: Int) -> String {
        func fields(_ entry: Entry) -> String {
            "\"token\":\(JSONText.string(String(decoding: entry.text, as: UTF8.self))),\"logprob\":\(entry.logprob),"
                + "\"bytes\":[\(entry.text.map { "\($0)" }.joined(separator: ","))]"
        }
        return "{\(fields(entries[0])),\"top_logprobs\":[\(top(alternatives).map { "{\(fields($0))}" }.joined(separator: ","))]}"
    }
}

/// The four lists of a text completion's `logprobs`.
struct TextLogprobs {
    private var offsets: [Int] = []
    private var tokens: [TokenLogprobs] = []
    private var offset = 0
    /// The first token is the text's first, before which nothing stands that could have predicted it.
    private var beginsText = false

    mutating func append(_ token: TokenLogprobs) {
        offsets.append(offset)
        offset += token.entries[0].text.count
        tokens.append(token)
    }

    /// The tokens of a prompt that the answer repeats.
    mutating func append(prompt: String, alternatives: Int) {
        beginsText = true
        var prompt = prompt
        prompt.withUTF8 { text in
            let bytes = UnsafeRawBufferPointer(text)
            var start = 0
            while start < bytes.count {
                let end = Tokeniser.pieceEnd(in: bytes, from: start)
                let piece = UnsafeRawBufferPointer(rebasing: bytes[start..<end])
                append(
                    TokenLogprobs(
                        id: Tokeniser.id(of: piece), text: Array(piece), place: tokens.count, alternatives: max(1, alternatives)))
                start = end
            }
        }
    }

    /// Forgets what was written; offsets go on.
    mutating func restart() {
        beginsText = false
        offsets.removeAll(keepingCapacity: true)
        tokens.removeAll(keepingCapacity: true)
    }

    func json(alternatives: Int) -> String {
        func text(_ entry: TokenLogprobs.Entry) -> String { JSONText.string(String(decoding: entry.text, as: UTF8.self)) }
        var tops = tokens.map { token in
            "{" + token.top(max(1, alternatives)).map { "\(text($0)):\($0.logprob)" }.joined(separator: ",") + "}"
        }
        var logprobs = tokens.map { "\($0.entries[0].logprob)" }
        if beginsText, !tokens.isEmpty {
            logprobs[0] = "null"
            tops[0] = "null"
        }
        return "{\"text_offset\":[\(offsets.map { "\($0)" }.joined(separator: ","))],"
            + "\"token_logprobs\":[\(logprobs.joined(separator: ","))],"
            + "\"tokens\":[\(tokens.map { text($0.entries[0]) }.joined(separator: ","))],"
            + "\"top_logprobs\":[\(tops.joined(separator: ","))]}"
    }
}
