/// Names one sequence of one engine; chosen by the caller, unique among the live ones.
public typealias SequenceID = UInt64

/// One reply wanted from the engine.
public struct SequenceRequest: Sendable {
    public var id: SequenceID
    public var prompt: Prompt
    /// What the reply says; equal seeds say the same.
    public var replySeed: UInt64
    /// What it says first, or all that it says; nil: the seed decides.
    public var script: ReplyScript?
    /// Whether the reply's text goes on from the prompt's, and so starts with a space.
    public var continuesText: Bool
    /// Tokens after which the sequence ends, at least 1.
    public var outputTokens: Int
    /// Whether the last of those is the end of the turn (`finish_reason` "stop") or the reply is cut ("length").
    public var endsTurn: Bool
    /// The LoRA adapter that computes it, nil for the base model. The prompt's root must part its cache, see ``BlockHash``.
    public var adapter: AdapterID?

    public init(
        id: SequenceID, prompt: Prompt, replySeed: UInt64 = 0, script: ReplyScript? = nil, continuesText: Bool = false,
        outputTokens: Int, endsTurn: Bool = false, adapter: AdapterID? = nil
    ) {
        self.script = script
        self.id = id
        self.prompt = prompt
        self.replySeed = replySeed
        self.continuesText = continuesText
        self.outputTokens = outputTokens
        self.endsTurn = endsTurn
        self.adapter = adapter
    }
}

/// Why a request was not taken.
public enum SubmitError: Error, Sendable, Equatable {
    /// No prompt token or no output token was asked for.
    case empty
    /// Prompt and reply do not fit into the KV cache, even alone.
    case tooLong
    /// As many sequences wait as may.
    case queueFull
    /// A live sequence has this id.
    case duplicate
    /// As many sequences are alive, or as many prompt tokens await their prefill, as the configuration allows.
    case tooManyRequests
    case tooManyTokens
    /// A LoRA adapter was asked for, and the engine serves none.
    case adaptersDisabled
}

/// What is known of a sequence when it has ended. Times are on the caller's clock, ns.
public struct SequenceSummary: Sendable, Equatable {
    public var promptTokens: Int
    /// Prompt tokens found in the cache when the sequence was first scheduled.
    public var cachedTokens: Int
    public var outputTokens: Int
    public var endsTurn: Bool
    public var preemptions: Int
    public var arrivalNanoseconds: UInt64
    /// Start of the first step that computed a token of it.
    public var scheduledNanoseconds: UInt64
    public var firstTokenNanoseconds: UInt64
    public var endNanoseconds: UInt64
}

/// What a step did.
public enum EngineEvent: Sendable, Equatable {
    /// A sequence got its place in the batch for the first time, with this many prompt tokens from the cache.
    case scheduled(SequenceID, cachedTokens: Int)
    /// A sequence got its next token.
    case token(SequenceID, ReplyToken)
    /// A sequence's prefill is complete; instead of its tokens, when those are not reported.
    case firstToken(SequenceID, nanoseconds: UInt64)
    /// A sequence has its 16th or 64th token, or twice as many as at the last such event; see ``EngineConfiguration/reportsProgress``.
    case progressed(SequenceID, tokens: Int, nanoseconds: UInt64)
    /// A sequence is complete; its last token came just before.
    case finished(SequenceID, SequenceSummary)
    /// A sequence lost its blocks to others and will be recomputed.
    case preempted(SequenceID)
    /// A block became reusable: the `index`th of the sequence's text. `parent` is the hash of the block before it, nil for the
    /// first. Blocks of one text come one after the other, first to last.
    case blockStored(hash: UInt64, parent: UInt64?, sequence: SequenceID, index: Int)
    /// A copy of a block is no longer reusable.
    case blockRemoved(hash: UInt64)
    /// No block is reusable any more.
    case cacheCleared
}

/// Totals since the engine began.
public struct EngineCounters: Sendable, Equatable {
    public var steps: UInt64 = 0
    /// Prompt tokens looked up in the prefix cache, and those found there.
    public var prefixQueryTokens: UInt64 = 0
    public var prefixHitTokens: UInt64 = 0
    /// Prompt tokens of sequences whose prefill is complete, cached ones included.
    public var promptTokens: UInt64 = 0
    /// Those of them that were in the cache when their sequence was scheduled.
    public var promptHitTokens: UInt64 = 0
    public var generatedTokens: UInt64 = 0
    public var preemptions: UInt64 = 0
    public var finishedByStop: UInt64 = 0
    public var finishedByLength: UInt64 = 0
    public var aborted: UInt64 = 0

    public init() {}
}
