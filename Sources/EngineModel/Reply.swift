/// One token of a reply: an index into ``Reply/pieces``, or, below zero, into the reply's own script: -1 is its first.
public struct ReplyToken: Sendable, Equatable {
    let index: Int

    /// The token's text; `script` is its reply's. Without one it is plain ASCII that needs no escaping in JSON. Empty for the end of the
    /// turn.
    public func text(of script: ReplyScript?) -> [UInt8] { piece(of: script).text }
    /// The token's id, equal to the one that ``Tokeniser`` gives the same text.
    public func id(of script: ReplyScript?) -> UInt32 { piece(of: script).id }

    private func piece(of script: ReplyScript?) -> Reply.Piece {
        guard index < 0 else { return Reply.pieces[index] }
        guard let script, -1 - index < script.pieces.count else { return Reply.pieces[0] }
        return script.pieces[-1 - index]
    }

    /// The token that closes the assistant's turn, without text.
    public static let endOfTurn = ReplyToken(index: 0)
}

/// The endless text that an engine would say, token by token, from a seed: equal seeds give equal text on every engine. A script
/// comes first.
public struct Reply: Sendable {
    struct Piece: Sendable, Equatable {
        let text: [UInt8]
        let id: UInt32
    }

    private static let words = [
        "the", "cache", "keeps", "every", "block", "of", "a", "prompt", "until", "newer", "work", "needs", "room,", "so",
        "that", "turns", "which", "share", "their", "beginning", "are", "answered", "sooner.", "A", "group", "with", "short",
        "queue", "may", "still", "be", "slower", "than", "one", "where", "all", "is", "warm,", "because", "reading", "costs",
        "less", "computing.", "Batches", "grow", "as", "requests", "arrive,", "each", "step", "gives", "them", "token", "and",
        "time", "goes", "by", "evenly", "for", "everyone", "in", "it.", "Memory", "bounds",
    ]

    /// Every piece that a reply can be made of; the first is the end of the turn.
    static let pieces: [Piece] = tables.pieces
    /// For each word its range of pieces, without and with a space before it.
    private static let plain: [Range<Int>] = tables.plain
    private static let spaced: [Range<Int>] = tables.spaced

    private static let tables: (pieces: [Piece], plain: [Range<Int>], spaced: [Range<Int>]) = {
        var pieces = [Piece(text: [], id: Tokeniser.endOfTurn)]
        func ranges(prefix: String) -> [Range<Int>] {
            words.map { word in
                let first = pieces.count
                Array((prefix + word).utf8).withUnsafeBytes { bytes in
                    var start = 0
                    while start < bytes.count {
                        let end = Tokeniser.pieceEnd(in: bytes, from: start)
                        let piece = UnsafeRawBufferPointer(rebasing: bytes[start..<end])
                        pieces.append(Piece(text: Array(piece), id: Tokeniser.id(of: piece)))
                        start = end
                    }
                }
                return first..<pieces.count
            }
        }
        let plain = ranges(prefix: "")
        let spaced = ranges(prefix: " ")
        return (pieces, plain, spaced)
    }()

    private var state: UInt64
    private var word: Range<Int>
    public private(set) var script: ReplyScript?
    private var scripted = 0

    /// `continuesText` puts a space before the first word, as when a completion goes on from its prompt.
    public init(seed: UInt64, continuesText: Bool, script: ReplyScript? = nil) {
        self.script = script
        state = seed
        word = 0..<0
        word = (continuesText || script != nil ? Self.spaced : Self.plain)[nextWord()]
    }

    /// The next token of the text.
    public mutating func next() -> ReplyToken {
        if let script, scripted < script.tokenCount {
            scripted += 1
            return ReplyToken(index: -scripted)
        }
        if word.isEmpty { word = Self.spaced[nextWord()] }
        let token = ReplyToken(index: word.lowerBound)
        word = (word.lowerBound + 1)..<word.upperBound
        return token
    }

    /// Gives the script's memory back.
    mutating func forgetScript() { script = nil }

    /// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
    private mutating func nextWord() -> Int {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        mixed ^= mixed >> 31
        return Int(truncatingIfNeeded: mixed % UInt64(Self.words.count))
    }
}
