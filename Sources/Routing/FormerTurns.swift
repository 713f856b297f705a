/// Where the former turns of conversations were answered, by the digests of their prompts. What an engine holds of an answer is part of no
/// prompt that it was sent, and questions that are shorter than a chunk look alike behind one system prompt: by chunks alone the next turn
/// of such a conversation could go to any group that holds the system prompt.
///
/// A table of fixed size in which a later turn takes the place of an earlier one: who is forgotten is found by chunks again.
struct FormerTurns: ~Copyable {
    struct Turn: BitwiseCopyable {
        var digest: UInt64
        /// What is held behind its whole chunks, in tokens: the rest of the prompt and the answer. `ambiguous`: several groups have answered
        /// the same words, and each may have said something else.
        var tokens: UInt32
        /// The holder's clock when it was answered, see `PrefixIndex.Holder`.
        var stamp: UInt32
        var holder: UInt16
        var chunks: UInt16

        static var ambiguous: UInt32 { .max }
    }

    private let turns = LazyBuffer<Turn>(count: Self.places)

    /// 1.5 MiB, touched as turns come.
    static var places: Int { 1 << 16 }

    var byteCount: Int { turns.byteCount }

    subscript(place: Int) -> Turn { turns[place] }

    @inline(__always)
    private static func place(_ digest: UInt64) -> Int { Int(digest >> 48) }

    func note(_ turn: Turn) {
        guard turn.digest != 0 else { return }
        let place = Self.place(turn.digest)
        let isElsewhere = turns[place].digest == turn.digest && turns[place].holder != turn.holder
        turns[place] = turn
        if isElsewhere { turns[place].tokens = Turn.ambiguous }
    }

    func find(_ digest: UInt64) -> Turn? {
        guard digest != 0 else { return nil }
        let turn = turns[Self.place(digest)]
        return turn.digest == digest ? turn : nil
    }
}

/// How many turns follow a conversation's first one, on average: where a fourth of what comes is a first turn and three fourths go on with one,
/// three.
struct LaterTurns: BitwiseCopyable {
    private(set) var expected = 0.0
    private var continuingShare = 0.0

    /// Each turn counts as a two-hundredth of what is known.
    private static var memory: Double { 0.005 }
    /// Of agents there may be hundreds; what is placed for so long is moved when it has to be.
    static var most: Double { 10 }

    mutating func observe(continues: Bool) {
        continuingShare += Self.memory * ((continues ? 1 : 0) - continuingShare)
        expected = min(continuingShare / max(1 - continuingShare, 1e-3), Self.most)
    }
}

extension RoutingState {
    /// Turns that are expected to follow on this one; 0 where nothing tells whether it is a conversation's first, and where it is a later one:
    /// that has its place, and to leave it costs what is held of it there.
    func laterTurns(of request: borrowing RoutingRequest) -> Double {
        guard request.promptDigest != 0 else { return 0 }
        return request.formerTurnDigest == 0 ? laterTurns.expected : 0
    }

    mutating func learnLaterTurns(from turn: FormerTurn) {
        switch turn {
        case .none: laterTurns.observe(continues: false)
        case .known: laterTurns.observe(continues: true)
        case .unknown: break
        }
    }

    /// What is known of the turn before a request.
    enum FormerTurn {
        /// There was none: the first question of a conversation repeats no answer.
        case none
        /// Nothing: chunks alone tell.
        case unknown
        case known(FormerTurns.Turn)
    }

    @inline(__always)
    func formerTurn(of request: borrowing RoutingRequest) -> FormerTurn {
        if cost.formerTurns == 0 { return .unknown }
        if request.promptDigest != 0, request.formerTurnDigest == 0 { return .none }
        guard let turn = formerTurns.find(request.formerTurnDigest), turn.tokens != FormerTurns.Turn.ambiguous else { return .unknown }
        return .known(turn)
    }

    /// What of a conversation's former answer each candidate holds behind the match.
    mutating func expectContinuations(_ count: Int, of request: borrowing RoutingRequest, tokensPerChunk: Double) {
        let turn = formerTurn(of: request)
        let yield = cost.continuation * continuationYield
        for position in 0..<count {
            let slot = candidates[position]
            loads[slot].continuationTokens = yield * Double(continuation(on: slot, of: turn, tokensPerChunk: tokensPerChunk).tokens)
        }
    }

    mutating func continuation(on slot: UInt32, of turn: FormerTurn, tokensPerChunk: Double) -> PrefixIndex.Continuation {
        let holder = loads[slot].holder
        switch turn {
        case .none: return .none
        case .unknown: return index.continuation(of: holder)
        case .known(let turn):
            let depth = index.depth(of: holder)
            guard turn.holder == holder, depth >= turn.chunks, index.holds(stamp: turn.stamp, holder) else { return .none }
            let matched = Double(depth - Int(turn.chunks)) * tokensPerChunk
            return PrefixIndex.Continuation(tokens: UInt32(max(Double(turn.tokens) - matched, 0)))
        }
    }
}
