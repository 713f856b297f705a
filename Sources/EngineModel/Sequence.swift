/// One reply under way.
struct Sequence {
    var id: SequenceID
    let prompt: PromptFacts
    let outputLimit: Int
    let endsTurn: Bool
    let arrival: UInt64
    var reply: Reply

    /// Hashes of all full blocks of the text so far, computed or not.
    var hashes: [UInt64]
    /// Tokens behind the last full block.
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

    struct PromptFacts {
        let tokenCount: Int
        let root: UInt64
    }

    init(request: SequenceRequest, arrival: UInt64) {
        id = request.id
        prompt = PromptFacts(tokenCount: request.prompt.tokenCount, root: request.prompt.root)
        outputLimit = request.outputTokens
        endsTurn = request.endsTurn
        self.arrival = arrival
        reply = Reply(seed: request.replySeed, continuesText: request.continuesText)
        hashes = request.prompt.blockHashes
        tail = request.prompt.tail
    }

    /// Tokens of the text so far.
    var total: Int { prompt.tokenCount + produced }
    /// Whether the next step yields a token by computing just one.
    var isDecoding: Bool { produced > 0 && computed == total - 1 }

    /// Samples the next token and appends it to the text.
    mutating func produce(blockSize: Int) -> ReplyToken {
        produced += 1
        let token = endsTurn && produced == outputLimit ? .endOfTurn : reply.next()
        tail.append(token.id)
        if tail.count == blockSize {
            let hash = tail.withUnsafeBufferPointer { BlockHash.next(after: hashes.last ?? prompt.root, tokens: $0) }
            hashes.append(hash)
            tail.removeAll(keepingCapacity: true)
        }
        return token
    }

    /// Gives back what the slot holds in memory.
    mutating func clear() {
        hashes = []
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
