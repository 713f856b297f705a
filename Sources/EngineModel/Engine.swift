import DequeModule

/// A continuous-batching inference engine without a model: who computes what in which step, and how long that takes.
///
/// The rules are those of vLLM's V1 scheduler. A step has one budget of tokens. Running sequences come first, oldest first: one
/// token each while decoding, a chunk while still in prefill. What is left goes to the waiting ones, first come first served. When
/// KV blocks run out, the youngest running sequence loses its blocks and starts over (its blocks stay findable until someone
/// needs them). Prefix hits are looked up when a sequence is scheduled, not when it arrives; only full blocks hit, and the last
/// token is always computed, since its result is the first token of the reply.
///
/// Nothing here reads a clock: the caller says what time it is, asks for ``nextStepEnd`` and comes back then.
///
///     try engine.submit(request, now: now)
///     engine.step(now: now, events: &events)          // starts a step if none is under way
///     while let end = engine.nextStepEnd {            // or: set a timer for it
///         engine.step(now: end, events: &events)
///     }
public struct Engine {
    public let configuration: EngineConfiguration
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
    var stepBegin: UInt64 = 0

    public init(configuration: EngineConfiguration) {
        self.configuration = configuration
        pool = KVBlockPool(count: configuration.usableBlockCount)
    }

    /// Sequences in the batch.
    public var runningCount: Int { running.count }
    /// Sequences that wait for a place, preempted ones included.
    public var waitingCount: Int { waiting.count }
    /// Blocks held by running sequences over blocks that can be used, 0...1.
    public var cacheUsage: Double { Double(pool.usedCount) / Double(pool.count) }

    /// Queues a request. It is scheduled by the next step that begins.
    public mutating func submit(_ request: SequenceRequest, now: UInt64) throws(SubmitError) {
        let (total, overflow) = request.prompt.tokenCount.addingReportingOverflow(request.outputTokens)
        guard request.prompt.tokenCount > 0, request.outputTokens > 0 else { throw .empty }
        guard !overflow, total <= configuration.maximumSequenceTokens else { throw .tooLong }
        guard slots[request.id] == nil else { throw .duplicate }
        guard waiting.count < configuration.maximumWaiting else { throw .queueFull }
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
    }

    /// Forgets a sequence. One that runs leaves the batch, and gives its blocks back, when the step under way ends. Returns
    /// whether it was alive.
    @discardableResult
    public mutating func abort(_ id: SequenceID) -> Bool {
        guard let slot = slots[id], !sequences[slot].isAborted else { return false }
        counters.aborted &+= 1
        if sequences[slot].isRunning {
            sequences[slot].isAborted = true
        } else {
            if let place = waiting.firstIndex(of: slot) { waiting.remove(at: place) }
            retire(slot)
        }
        return true
    }

    /// Ends the step under way if it is due, and begins the next one if there is work. Appends what happened to `events`.
    ///
    /// While there is work, steps follow each other without a gap however late the caller is, as on a device of its own; a caller
    /// that may be late by more than a step calls until ``nextStepEnd`` lies ahead.
    public mutating func step(now: UInt64, events: inout [EngineEvent]) {
        var begin = now
        if let end = nextStepEnd {
            guard now >= end else { return }
            complete(at: end, events: &events)
            nextStepEnd = nil
            begin = end
        }
        schedule(at: begin, events: &events)
        guard !load.isEmpty else { return }
        counters.steps &+= 1
        stepBegin = begin
        nextStepEnd = begin &+ configuration.stepTime.nanoseconds(of: load)
    }

    /// Forgets all cached content that no sequence uses. Returns how many hashes went.
    @discardableResult
    public mutating func resetPrefixCache() -> Int { pool.clearFree() }

    /// Frees a slot for the next sequence.
    mutating func retire(_ slot: Int) {
        slots[sequences[slot].id] = nil
        sequences[slot].clear()
        freeSlots.append(slot)
    }
}
