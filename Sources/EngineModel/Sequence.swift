/// One reply under way.
struct Sequence {
    var id: SequenceID
    var prompt: Prompt
    private(set) var outputLimit: Int
    private(set) var endsTurn: Bool
    let adapter: AdapterID?
    let arrival: UInt64
    var reply: Reply

    /// Hashes of the full blocks behind those of the prompt.
    var replyHashes: [UInt64] = []
    /// Tokens behind the last full block; not kept when the engine reports no tokens.
    var tail: [UInt32]
    /// KV blocks held, in the order of the text.
    var blocks: [KVBlockPool.Block] = []
    /// Leading blocks that have been made findable, or were found.
    var storedBlocks = 0
    /// Tokens whose keys and values are in `blocks`.
    var computed = 0
    /// Tokens that the step under way computes.
    var scheduled = 0
    var produced = 0
    var cachedTokens = 0
    var preemptions = 0
    var firstScheduled: UInt64?
    var firstToken: UInt64 = 0
    var isRunning = false
    var isAborted = false

    init(request: SequenceRequest, arrival: UInt64) {
        id = request.id
        prompt = request.prompt
        outputLimit = request.outputTokens
        endsTurn = request.endsTurn
        adapter = request.adapter
        self.arrival = arrival
        reply = Reply(seed: request.replySeed, continuesText: request.continuesText, script: request.script)
        tail = request.prompt.tail
    }

    /// Tokens of the text so far.
    @inline(__always)
    var total: Int { prompt.tokenCount + produced }
    /// Whether the next step yields a token by computing just one.
    @inline(__always)
    var isDecoding: Bool { produced > 0 && computed == total - 1 }

    /// The hash of the `index`th full block of the text so far.
    @inline(__always)
    func hash(at index: Int) -> UInt64 {
        index < prompt.blockHashes.count ? prompt.blockHashes[index] : replyHashes[index - prompt.blockHashes.count]
    }

    private var lastHash: UInt64 { replyHashes.last ?? prompt.blockHashes.last ?? prompt.root }

    /// The text ends after fewer tokens than was thought, and not because the model ends its turn.
    mutating func shorten(to outputTokens: Int) {
        outputLimit = outputTokens
        endsTurn = false
    }

    /// Samples the next token and appends it to the text.
    mutating func produce(blockSize: Int) -> ReplyToken {
        produced += 1
        let token = endsTurn && produced == outputLimit ? .endOfTurn : reply.next()
        tail.append(token.id(of: reply.script))
        if tail.count == blockSize {
            let parent = lastHash
            replyHashes.append(tail.withUnsafeBufferPointer { BlockHash.next(after: parent, tokens: $0) })
            tail.removeAll(keepingCapacity: true)
        }
        return token
    }

    /// Appends `count` tokens that nobody will see.
    @inline(__always)
    mutating func produceUnseen(_ count: Int, blockSize: Int) {
        produced += count
        while (prompt.blockHashes.count + replyHashes.count + 1) * blockSize <= total {
            replyHashes.append(BlockHash.next(after: lastHash, salt: id))
        }
    }

    /// Gives back what the slot holds in memory.
    mutating func clear() {
        prompt = .none
        reply.forgetScript()
        replyHashes = []
        tail = []
        blocks = []
        isRunning = false
    }

    func summary(end: UInt64) -> SequenceSummary {
        SequenceSummary(
            promptTokens: prompt.tokenCount, cachedTokens: cachedTokens, outputTokens: produced, endsTurn: endsTurn,
            preemptions: preemptions, arrivalNanoseconds: arrival, scheduledNanoseconds: firstScheduled ?? arrival,
            firstTokenNanoseconds: firstToken, endNanoseconds: end)
    }
}
