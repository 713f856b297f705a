import EngineModel

/// Where a stop string or a stop token ends a reply. A reply follows from its seed, so the stub can look ahead.
struct StopMatch: Equatable {
    enum Reason: Equatable {
        case text(String)
        case token(UInt32)

        /// As in `stop_reason`.
        var json: String {
            switch self {
            case .text(let text): JSONText.string(text)
            case .token(let id): "\(id)"
            }
        }
    }

    let reason: Reason
    /// Tokens generated until the match, the last one included.
    let tokens: Int
    /// Bytes of the reply's text that the client gets to see.
    let visibleBytes: Int

    /// What ends a reply, in the words of a request.
    struct Conditions {
        let texts: [Pattern]
        let tokens: Set<UInt32>
        /// The stop string is part of the answer.
        let includesText: Bool
        /// Nothing stops a reply before it has this many tokens.
        let minimumTokens: Int
        /// More, or longer, strings were given than the stub looks for.
        let exceedsLimits: Bool

        var isEmpty: Bool { texts.isEmpty && tokens.isEmpty }

        init(texts: [String] = [], tokens: Set<UInt32> = [], includesText: Bool = false, minimumTokens: Int = 0) {
            exceedsLimits = texts.count > StubLimits.stops || texts.contains { $0.utf8.count > StubLimits.stopBytes }
            self.texts = exceedsLimits ? [] : texts.filter { !$0.isEmpty }.map(Pattern.init)
            self.tokens = tokens
            self.includesText = includesText
            self.minimumTokens = minimumTokens
        }

        static let limitsMessage =
            "at most \(StubLimits.stops) stop strings of at most \(StubLimits.stopBytes) bytes are looked for"
    }

    /// A stop string, prepared for a search that looks at each byte of the text once (Knuth, Morris, Pratt: "Fast pattern matching
    /// in strings", 1977).
    struct Pattern {
        let bytes: [UInt8]
        /// For each count of bytes that match, less one: how many still do when the next byte does not.
        private let fallbacks: [Int]

        init(_ text: String) {
            bytes = Array(text.utf8)
            var fallbacks = [0]
            for index in bytes.indices.dropFirst() {
                var matched = fallbacks[index - 1]
                while matched > 0, bytes[matched] != bytes[index] { matched = fallbacks[matched - 1] }
                fallbacks.append(bytes[matched] == bytes[index] ? matched + 1 : 0)
            }
            self.fallbacks = fallbacks
        }

        /// Takes the text's next byte to `matched` bytes of the string. Returns whether all of it is there now.
        func advance(_ matched: inout Int, by byte: UInt8) -> Bool {
            while matched > 0, bytes[matched] != byte { matched = fallbacks[matched - 1] }
            if bytes[matched] == byte { matched += 1 }
            guard matched == bytes.count else { return false }
            matched = fallbacks[matched - 1]
            return true
        }
    }
}

/// Looks for the first stop in a reply, one token ahead of the engine, and further only while a stop string may have begun in text
/// that is about to be shown.
struct StopScanner {
    private let conditions: StopMatch.Conditions
    private let limit: Int
    private var reply: Reply
    private var matched: [Int]
    private(set) var tokens = 0
    private var bytes = 0
    private(set) var match: StopMatch?

    /// The reply ends by itself, or by its length, after `limit` tokens with text.
    init(reply: Reply, limit: Int, conditions: StopMatch.Conditions) {
        self.reply = reply
        self.limit = limit
        self.conditions = conditions
        matched = Array(repeating: 0, count: conditions.texts.count)
    }

    /// Scans until it is known whether the first `textBytes` of the text, those of `produced` tokens, hold the beginning of a stop,
    /// and whether the next token ends the reply.
    mutating func scan(beyond produced: Int, textBytes: Int) {
        while match == nil, tokens < limit, tokens <= produced || bytes - (matched.max() ?? 0) < textBytes { scanToken() }
    }

    private mutating func scanToken() {
        let token = reply.next()
        tokens += 1
        let mayStop = tokens > conditions.minimumTokens
        let id = token.id(of: reply.script)
        if mayStop, conditions.tokens.contains(id) {
            match = StopMatch(reason: .token(id), tokens: tokens, visibleBytes: bytes)
            return
        }
        let text = token.text(of: reply.script)
        for (index, pattern) in conditions.texts.enumerated() {
            for (offset, byte) in text.enumerated() where pattern.advance(&matched[index], by: byte) && mayStop {
                let end = bytes + offset + 1
                match = StopMatch(
                    reason: .text(String(decoding: pattern.bytes, as: UTF8.self)), tokens: tokens,
                    visibleBytes: conditions.includesText ? end : end - pattern.bytes.count)
                return
            }
        }
        bytes += text.count
    }
}
