import DequeModule

/// How a step begins: who takes part, with how many tokens, in which blocks.
extension Engine {
    mutating func schedule(at begin: UInt64, events: inout [EngineEvent]) {
        load = StepLoad()
        var budget = configuration.maximumBatchedTokens
        let preempted = scheduleRunning(budget: &budget, events: &events)
        // A step that had to take blocks from one sequence has none to give to another.
        if !preempted { scheduleWaiting(at: begin, budget: &budget, events: &events) }
        equalSteps = configuration.reportsTokens || preempted ? 1 : countEqualSteps()
    }

    /// How often the step just scheduled could be repeated, itself included, before a sequence ends or needs a block.
    private func countEqualSteps() -> Int {
        guard load.prefillSequences == 0, load.decodeSequences == running.count else { return 1 }
        var steps = Int.max
        for slot in running {
            let room = sequences[slot].blocks.count * configuration.blockSize - sequences[slot].computed
            let produced = sequences[slot].produced
            steps = min(steps, room, sequences[slot].outputLimit - produced)
            if configuration.reportsProgress { steps = min(steps, Self.progressMark(after: produced) - produced) }
        }
        return max(1, steps)
    }

    /// Continues the sequences in the batch, oldest first. Returns whether any lost its place.
    private mutating func scheduleRunning(budget: inout Int, events: inout [EngineEvent]) -> Bool {
        var preempted = false
        var place = 0
        while place < running.count, budget > 0 {
            let slot = running[place]
            let tokens = min(sequences[slot].total - sequences[slot].computed, budget)
            while !extend(slot, by: tokens, events: &events) {
                let victim = running.removeLast()
                preempt(victim, events: &events)
                preempted = true
                if victim == slot { return true }
            }
            assign(tokens, to: slot, budget: &budget, events: &events)
            place += 1
        }
        return preempted
    }

    /// Lets the waiting sequences in, first come first served, until the first that finds no room. Those whose LoRA adapter finds no
    /// slot are passed over.
    private mutating func scheduleWaiting(at begin: UInt64, budget: inout Int, events: inout [EngineEvent]) {
        var place = 0
        while budget > 0, running.count < configuration.maximumSequences, place < waiting.count {
            let slot = waiting[place]
            if let adapter = sequences[slot].adapter, adapters?.admits(adapter) == false {
                place += 1
                continue
            }
            let size = configuration.blockSize
            let hits = cachedBlocks(of: slot)
            let tokens = min(sequences[slot].total - hits.count * size, budget)
            let needed = (hits.count * size + tokens + size - 1) / size - hits.count
            let revived = hits.count { pool.isFree($0) }
            guard needed + revived <= pool.freeCount else { return }
            if place == 0 { waiting.removeFirst() } else { waiting.remove(at: place) }
            // Before anything is allocated, or the hits themselves could be evicted.
            for block in hits { pool.retain(block) }
            sequences[slot].blocks = hits
            sequences[slot].storedBlocks = hits.count
            sequences[slot].computed = hits.count * size
            // Cannot fail: the room was counted above.
            _ = extend(slot, by: tokens, events: &events)
            join(slot, at: begin, events: &events)
            assign(tokens, to: slot, budget: &budget, events: &events)
        }
    }

    private mutating func join(_ slot: Int, at begin: UInt64, events: inout [EngineEvent]) {
        sequences[slot].isRunning = true
        running.append(slot)
        if let adapter = sequences[slot].adapter { load.adapterLoadNanoseconds &+= adapters?.join(adapter) ?? 0 }
        if sequences[slot].firstScheduled == nil { admitFirst(slot, at: begin, events: &events) }
    }

    private mutating func leave(_ slot: Int) {
        sequences[slot].isRunning = false
        releaseBlocks(of: slot)
        if let adapter = sequences[slot].adapter { adapters?.leave(adapter) }
    }

    /// The leading blocks of a sequence's text that the cache holds; never all of the text, since the last token must be computed.
    private func cachedBlocks(of slot: Int) -> [KVBlockPool.Block] {
        let usable = (sequences[slot].total - 1) / configuration.blockSize
        var hits: [KVBlockPool.Block] = []
        for index in 0..<usable {
            guard let block = pool.block(holding: sequences[slot].hash(at: index)) else { break }
            hits.append(block)
        }
        return hits
    }

    private mutating func admitFirst(_ slot: Int, at begin: UInt64, events: inout [EngineEvent]) {
        let cached = sequences[slot].computed
        sequences[slot].firstScheduled = begin
        sequences[slot].cachedTokens = cached
        counters.prefixQueryTokens &+= UInt64(clamping: sequences[slot].prompt.tokenCount)
        counters.prefixHitTokens &+= UInt64(clamping: cached)
        events.append(.scheduled(sequences[slot].id, cachedTokens: cached))
    }

    private mutating func assign(_ tokens: Int, to slot: Int, budget: inout Int, events: inout [EngineEvent]) {
        budget -= tokens
        sequences[slot].scheduled = tokens
        if sequences[slot].isDecoding {
            load.decodeSequences += 1
            load.decodeContextTokens += sequences[slot].computed
        } else {
            load.addPrefill(tokens: tokens, context: sequences[slot].computed)
            // Before it is computed: who is scheduled after it in the same step finds it already.
            storeFullBlocks(of: slot, computed: sequences[slot].computed + tokens, events: &events)
        }
    }

    /// Gets the blocks that `tokens` more tokens need. Returns false, with what it got kept, when there are none left.
    private mutating func extend(_ slot: Int, by tokens: Int, events: inout [EngineEvent]) -> Bool {
        let size = configuration.blockSize
        let needed = (sequences[slot].computed + tokens + size - 1) / size
        while sequences[slot].blocks.count < needed {
            guard let (block, evicted) = pool.allocate() else { return false }
            if evicted != 0, configuration.reportsBlocks { events.append(.blockRemoved(hash: evicted)) }
            sequences[slot].blocks.append(block)
        }
        return true
    }

    /// Sends a sequence back to the head of the queue, to be computed anew.
    private mutating func preempt(_ slot: Int, events: inout [EngineEvent]) {
        leave(slot)
        sequences[slot].computed = 0
        sequences[slot].scheduled = 0
        sequences[slot].preemptions += 1
        counters.preemptions &+= 1
        waiting.prepend(slot)
        events.append(.preempted(sequences[slot].id))
    }

    /// Last block first: of one text the tail is evicted before the head, which is worth more to others.
    private mutating func releaseBlocks(of slot: Int) {
        for block in sequences[slot].blocks.reversed() { pool.release(block) }
        sequences[slot].blocks.removeAll()
        sequences[slot].storedBlocks = 0
    }
}

/// How a step ends: what was computed, who got a token, who is done.
extension Engine {
    /// Ends `steps` steps, equal if more than one, of which the last ends at `end`.
    mutating func complete(steps: Int, at end: UInt64, events: inout [EngineEvent]) {
        var kept = 0
        for place in running.indices {
            let slot = running[place]
            if sequences[slot].isAborted || advance(slot, steps: steps, at: end, events: &events) {
                leave(slot)
                retire(slot)
            } else {
                running[kept] = slot
                kept += 1
            }
        }
        running.removeLast(running.count - kept)
    }

    /// Books what the steps computed for one sequence. Returns whether the sequence is complete.
    private mutating func advance(_ slot: Int, steps: Int, at end: UInt64, events: inout [EngineEvent]) -> Bool {
        // Nothing, when the budget was spent before its turn came.
        guard sequences[slot].scheduled > 0 else { return false }
        sequences[slot].computed += sequences[slot].scheduled + steps - 1
        sequences[slot].scheduled = 0
        if steps > 1 { sequences[slot].produceUnseen(steps - 1, blockSize: configuration.blockSize) }
        storeFullBlocks(of: slot, computed: sequences[slot].computed, events: &events)
        guard sequences[slot].computed == sequences[slot].total else { return false }

        if sequences[slot].produced == 0 { prefilled(slot, at: end, events: &events) }
        if configuration.reportsTokens {
            let token = sequences[slot].produce(blockSize: configuration.blockSize)
            events.append(.token(sequences[slot].id, token))
        } else {
            sequences[slot].produceUnseen(1, blockSize: configuration.blockSize)
            if configuration.reportsProgress, Self.progressMark(after: sequences[slot].produced - 1) == sequences[slot].produced {
                events.append(.progressed(sequences[slot].id, tokens: sequences[slot].produced, nanoseconds: end))
            }
        }
        counters.generatedTokens &+= UInt64(steps)
        guard sequences[slot].produced == sequences[slot].outputLimit else { return false }
        if sequences[slot].endsTurn { counters.finishedByStop &+= 1 } else { counters.finishedByLength &+= 1 }
        events.append(.finished(sequences[slot].id, sequences[slot].summary(end: end)))
        return true
    }

    /// Tokens of a reply at which ``EngineEvent/progressed`` is reported.
    private static func progressMark(after tokens: Int) -> Int {
        tokens < 16 ? 16 : tokens < 64 ? 64 : 1 << (Int.bitWidth - tokens.leadingZeroBitCount)
    }

    private mutating func prefilled(_ slot: Int, at end: UInt64, events: inout [EngineEvent]) {
        sequences[slot].firstToken = end
        unprefilledTokens -= sequences[slot].prompt.tokenCount
        unprefilledCount -= 1
        counters.promptTokens &+= UInt64(clamping: sequences[slot].prompt.tokenCount)
        counters.promptHitTokens &+= UInt64(clamping: sequences[slot].cachedTokens)
        if !configuration.reportsTokens { events.append(.firstToken(sequences[slot].id, nanoseconds: end)) }
    }

    private mutating func storeFullBlocks(of slot: Int, computed: Int, events: inout [EngineEvent]) {
        let full = computed / configuration.blockSize
        while sequences[slot].storedBlocks < full {
            let index = sequences[slot].storedBlocks
            let hash = sequences[slot].hash(at: index)
            pool.store(sequences[slot].blocks[index], hash: hash)
            sequences[slot].storedBlocks += 1
            guard configuration.reportsBlocks else { continue }
            let parent = index > 0 ? sequences[slot].hash(at: index - 1) : nil
            events.append(.blockStored(hash: hash, parent: parent, sequence: sequences[slot].id, index: index))
        }
    }
}
