import DequeModule

/// How a step begins: who takes part, with how many tokens, in which blocks.
extension Engine {
    mutating func schedule(at begin: UInt64, events: inout [EngineEvent]) {
        load = StepLoad()
        var budget = configuration.maximumBatchedTokens
        let preempted = scheduleRunning(budget: &budget, events: &events)
        // A step that had to take blocks from one sequence has none to give to another.
        if !preempted { scheduleWaiting(at: begin, budget: &budget, events: &events) }
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
            assign(tokens, to: slot, budget: &budget)
            place += 1
        }
        return preempted
    }

    /// Lets the waiting sequences in, first come first served, until the first that finds no room.
    private mutating func scheduleWaiting(at begin: UInt64, budget: inout Int, events: inout [EngineEvent]) {
        while budget > 0, running.count < configuration.maximumSequences, let slot = waiting.first {
            let size = configuration.blockSize
            let hits = cachedBlocks(of: slot)
            let tokens = min(sequences[slot].total - hits.count * size, budget)
            let needed = (hits.count * size + tokens + size - 1) / size - hits.count
            let revived = hits.count { pool.isFree($0) }
            guard needed + revived <= pool.freeCount else { return }
            waiting.removeFirst()
            // Before anything is allocated, or the hits themselves could be evicted.
            for block in hits { pool.retain(block) }
            sequences[slot].blocks = hits
            sequences[slot].storedBlocks = hits.count
            sequences[slot].computed = hits.count * size
            // Cannot fail: the room was counted above.
            _ = extend(slot, by: tokens, events: &events)
            sequences[slot].isRunning = true
            running.append(slot)
            if sequences[slot].firstScheduled == nil { admitFirst(slot, at: begin, events: &events) }
            assign(tokens, to: slot, budget: &budget)
        }
    }

    /// The leading blocks of a sequence's text that the cache holds; never all of the text, since the last token must be computed.
    private func cachedBlocks(of slot: Int) -> [KVBlockPool.Block] {
        let usable = (sequences[slot].total - 1) / configuration.blockSize
        var hits: [KVBlockPool.Block] = []
        for hash in sequences[slot].hashes.prefix(usable) {
            guard let block = pool.block(holding: hash) else { break }
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

    private mutating func assign(_ tokens: Int, to slot: Int, budget: inout Int) {
        budget -= tokens
        if sequences[slot].isDecoding {
            load.decodeSequences += 1
            load.decodeContextTokens += sequences[slot].computed
        } else {
            load.prefillTokens += tokens
        }
        sequences[slot].scheduled = tokens
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
        releaseBlocks(of: slot)
        sequences[slot].computed = 0
        sequences[slot].scheduled = 0
        sequences[slot].isRunning = false
        sequences[slot].preemptions += 1
        counters.preemptions &+= 1
        waiting.prepend(slot)
        events.append(.preempted(sequences[slot].id))
    }

    /// Last block first: of one text the tail is evicted before the head, which is worth more to others.
    mutating func releaseBlocks(of slot: Int) {
        for block in sequences[slot].blocks.reversed() { pool.release(block) }
        sequences[slot].blocks.removeAll()
        sequences[slot].storedBlocks = 0
    }
}

/// How a step ends: what was computed, who got a token, who is done.
extension Engine {
    mutating func complete(at end: UInt64, events: inout [EngineEvent]) {
        var kept = 0
        for place in running.indices {
            let slot = running[place]
            if sequences[slot].isAborted || advance(slot, at: end, events: &events) {
                releaseBlocks(of: slot)
                retire(slot)
            } else {
                running[kept] = slot
                kept += 1
            }
        }
        running.removeLast(running.count - kept)
    }

    /// Books what the step computed for one sequence. Returns whether the sequence is complete.
    private mutating func advance(_ slot: Int, at end: UInt64, events: inout [EngineEvent]) -> Bool {
        // Nothing, when the budget was spent before its turn came.
        guard sequences[slot].scheduled > 0 else { return false }
        sequences[slot].computed += sequences[slot].scheduled
        sequences[slot].scheduled = 0
        storeFullBlocks(of: slot, events: &events)
        guard sequences[slot].computed == sequences[slot].total else { return false }

        let token = sequences[slot].produce(blockSize: configuration.blockSize)
        counters.generatedTokens &+= 1
        if sequences[slot].produced == 1 {
            sequences[slot].firstToken = end
            counters.promptTokens &+= UInt64(clamping: sequences[slot].prompt.tokenCount)
        }
        events.append(.token(sequences[slot].id, token))
        guard sequences[slot].produced == sequences[slot].outputLimit else { return false }
        if sequences[slot].endsTurn { counters.finishedByStop &+= 1 } else { counters.finishedByLength &+= 1 }
        events.append(.finished(sequences[slot].id, sequences[slot].summary(end: end)))
        return true
    }

    private mutating func storeFullBlocks(of slot: Int, events: inout [EngineEvent]) {
        let full = sequences[slot].computed / configuration.blockSize
        while sequences[slot].storedBlocks < full {
            let index = sequences[slot].storedBlocks
            let hash = sequences[slot].hashes[index]
            pool.store(sequences[slot].blocks[index], hash: hash)
            sequences[slot].storedBlocks += 1
            guard configuration.reportsBlocks else { continue }
            events.append(.blockStored(hash: hash, parent: index > 0 ? sequences[slot].hashes[index - 1] : nil))
        }
    }
}
