import DequeModule

/// A continuous-batching inference engine without a model: who computes what in which step, and how long that takes.
///
/// The rules are those of vLLM's V1 scheduler. A step has one budget of tokens. Running sequences come first, oldest first: one
/// token each while decoding, a chunk while still in prefill. What is left goes to the waiting ones, first come first served. When
/// KV blocks run out, the youngest running sequence loses its blocks and starts over (its blocks stay findable until someone
/// needs them). Prefix hits are looked up when a sequence is scheduled, not when it arrives, and blocks are found from when they are
/// scheduled, so that siblings share within a step (`KVCacheManager.allocate_slots` registers them before the step runs); only full
/// blocks hit, and the last token is always computed, since its result is the first token of the reply.
///
/// Nothing here reads a clock: the caller says what time it is, asks for ``nextStepEnd`` and comes back then.
///
///     try engine.submit(request, now: now)
///     engine.step(now: now, events: &events)          // starts a step if none is under way
///     while let end = engine.nextStepEnd {            // or: set a timer for it
///         engine.step(now: end, events: &events)
///     }
///
/// In simulation ``advance(to:events:)`` does the same for all steps up to the next arrival, and many equal ones at once.
public struct Engine {
    public internal(set) var configuration: EngineConfiguration
    public internal(set) var counters = EngineCounters()
    /// When the step under way ends, on the caller's clock, ns; nil when the engine is idle.
    public internal(set) var nextStepEnd: UInt64?
    /// The load of the step under way, or of the last one.
    public internal(set) var load = StepLoad()

    var pool: KVBlockPool
    var sequences: [Sequence] = []
    var freeSlots: [Int] = []
    var slots: [SequenceID: Int] = [:]
    /// Slots of the sequences in the batch, in the order in which they joined it.
    var running: [Int] = []
    /// Slots of those that wait, next first.
    var waiting = Deque<Int>()
    var adapters: AdapterCache?
    /// Prompt tokens of sequences that have no first token yet.
    public internal(set) var unprefilledTokens = 0
    /// How many these sequences are.
    public internal(set) var unprefilledCount = 0
    /// Steps that the batch can go on without a change, the one under way included: see ``advance(to:events:)``. A sequence that
    /// comes or goes meanwhile makes it 1.
    var equalSteps = 1

    public init(configuration: EngineConfiguration) {
        self.configuration = configuration
        adapters = configuration.lora.map(AdapterCache.init)
        pool = KVBlockPool(count: configuration.usableBlockCount)
    }

    /// Sequences in the batch.
    public var runningCount: Int { running.count }
    /// Sequences that wait for a place, preempted ones included.
    public var waitingCount: Int { waiting.count }
    /// Uncached prompt tokens of those in the batch that have no first token yet, what is computed of them included.
    public var prefillTokens: Int {
        running.reduce(0) { $0 + (sequences[$1].produced == 0 ? sequences[$1].prompt.tokenCount - sequences[$1].cachedTokens : 0) }
    }
    /// Blocks held by running sequences.
    public var usedBlockCount: Int { pool.usedCount }
    /// The same over blocks that can be used, 0...1.
    public var cacheUsage: Double { Double(pool.usedCount) / Double(pool.count) }

    /// LoRA adapters in the batch, and those that only waiting sequences ask for, each once.
    public var runningAdapters: [AdapterID] { adapters?.active ?? [] }
    public var waitingAdapters: [AdapterID] {
        guard let active = adapters?.active else { return [] }
        var found: [AdapterID] = []
        for slot in waiting {
            if let adapter = sequences[slot].adapter, !active.contains(adapter), !found.contains(adapter) { found.append(adapter) }
        }
        return found
    }

    /// Why a request of `sequences` replies to a prompt of `promptTokens` would be refused now; nil when it would not. A server
    /// asks before it submits the first of several sequences.
    public func refusal(sequences count: Int, promptTokens: Int) -> SubmitError? {
        if waiting.count + count > configuration.maximumWaiting { return .queueFull }
        if let limit = configuration.maximumQueuedRequests, slots.count + count > limit { return .tooManyRequests }
        if let limit = configuration.maximumQueuedTokens, unprefilledTokens + count * promptTokens > limit { return .tooManyTokens }
        return nil
    }

    /// Queues a request. It is scheduled by the next step that begins.
    public mutating func submit(_ request: SequenceRequest, now: UInt64) throws(SubmitError) {
        let promptTokens = request.prompt.tokenCount
        let (total, overflow) = promptTokens.addingReportingOverflow(request.outputTokens)
        guard promptTokens > 0, request.outputTokens > 0 else { throw .empty }
        guard !overflow, total <= configuration.maximumSequenceTokens else { throw .tooLong }
        guard slots[request.id] == nil else { throw .duplicate }
        guard request.adapter == nil || adapters != nil else { throw .adaptersDisabled }
        if let refusal = refusal(sequences: 1, promptTokens: promptTokens) { throw refusal }
        let sequence = Sequence(request: request, arrival: now)
        let slot: Int
        if let free = freeSlots.popLast() {
            slot = free
            sequences[slot] = sequence
        } else {
            slot = sequences.count
            sequences.append(sequence)
        }
        slots[request.id] = slot
        waiting.append(slot)
        unprefilledTokens += promptTokens
        unprefilledCount += 1
        equalSteps = 1
    }

    /// Forgets a sequence. One that runs leaves the batch, and gives its blocks back, when the step under way ends. Returns
    /// whether it was alive.
    @discardableResult
    public mutating func abort(_ id: SequenceID) -> Bool {
        guard let slot = slots[id], !sequences[slot].isAborted else { return false }
        counters.aborted &+= 1
        equalSteps = 1
        if sequences[slot].isRunning {
            sequences[slot].isAborted = true
        } else {
            if let place = waiting.firstIndex(of: slot) { waiting.remove(at: place) }
            retire(slot)
        }
        return true
    }

    /// Ends a sequence after `outputTokens`, as when a stop string has come into sight. Returns whether that is fewer than it was to
    /// get, and more than it has got.
    @discardableResult
    public mutating func shorten(_ id: SequenceID, to outputTokens: Int) -> Bool {
        guard let slot = slots[id], outputTokens > sequences[slot].produced,
            outputTokens < sequences[slot].outputLimit
        else {
            return false
        }
        sequences[slot].shorten(to: outputTokens)
        equalSteps = 1
        return true
    }

    /// Ends the step under way if it is due, and begins the next one if there is work. Appends what happened to `events`.
    ///
    /// While there is work, steps follow each other without a gap however late the caller is, as on a device of its own; a caller
    /// that may be late by more than a step calls until ``nextStepEnd`` lies ahead.
    public mutating func step(now: UInt64, events: inout [EngineEvent]) {
        if let end = nextStepEnd {
            guard now >= end else { return }
            complete(steps: 1, at: end, events: &events)
            begin(at: end, events: &events)
        } else {
            begin(at: now, events: &events)
        }
    }

    /// Ends every step that is due by `horizon`, and begins the one that lasts beyond, exactly as ``step(now:events:)`` would one
    /// by one. What is submitted next must not be earlier than `horizon`.
    ///
    /// While every sequence in the batch decodes, none ends or needs a block, and those that wait must go on waiting, steps
    /// differ only in how much context they read: then they are taken at once, unless every token is to be reported.
    public mutating func advance(to horizon: UInt64, events: inout [EngineEvent]) {
        if nextStepEnd == nil, let latest = waiting.last { begin(at: sequences[latest].arrival, events: &events) }
        while var end = nextStepEnd, end <= horizon {
            let steps = extend(&end, by: horizon)
            complete(steps: steps, at: end, events: &events)
            begin(at: end, events: &events)
        }
    }

    /// Moves the end of the step under way to that of the last equal one which is due by `horizon`. Returns how many that makes.
    private mutating func extend(_ end: inout UInt64, by horizon: UInt64) -> Int {
        var steps = 1
        load.adapterLoadNanoseconds = 0
        while steps < equalSteps {
            load.decodeContextTokens += load.decodeSequences
            let next = end &+ configuration.stepTime.nanoseconds(of: load)
            guard next <= horizon else { break }
            end = next
            steps += 1
        }
        counters.steps &+= UInt64(steps - 1)
        return steps
    }

    private mutating func begin(at begin: UInt64, events: inout [EngineEvent]) {
        nextStepEnd = nil
        schedule(at: begin, events: &events)
        guard !load.isEmpty else { return }
        counters.steps &+= 1
        nextStepEnd = begin &+ configuration.stepTime.nanoseconds(of: load)
    }

    /// Changes how long steps take, from the next one on: a device that was throttled, or is again itself.
    public mutating func setStepTime(_ stepTime: StepTimeModel) {
        configuration.stepTime = stepTime
        equalSteps = 1
    }

    /// Forgets all cached content. Like vLLM, does nothing while a block is in use. Returns whether it was done.
    @discardableResult
    public mutating func resetPrefixCache(events: inout [EngineEvent]) -> Bool {
        guard pool.usedCount == 0 else { return false }
        pool.clearFree()
        if configuration.reportsBlocks { events.append(.cacheCleared) }
        return true
    }

    /// Drops a LoRA adapter that was unloaded. Sequences that use it run to their end.
    public mutating func forgetAdapter(_ adapter: AdapterID) { adapters?.forget(adapter) }

    /// Frees a slot for the next sequence.
    mutating func retire(_ slot: Int) {
        if sequences[slot].produced == 0 {
            unprefilledTokens -= sequences[slot].prompt.tokenCount
            unprefilledCount -= 1
        }
        slots[sequences[slot].id] = nil
        sequences[slot].clear()
        freeSlots.append(slot)
    }
}
