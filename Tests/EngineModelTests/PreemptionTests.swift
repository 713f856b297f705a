import Testing

@testable import EngineModel

@Suite struct PreemptionTests {
    @Test func theYoungestStartsOverWhenBlocksRunOut() throws {
        var bench = Bench { $0.blockCount = 6 }  // five usable blocks of four
        try bench.submit(1, tokens(1, 8), output: 8)
        try bench.submit(2, tokens(2, 8), output: 4)
        bench.step()  // both prefill: two blocks each, one is left
        #expect(bench.engine.runningCount == 2)
        bench.step()  // the ninth token of both needs a block: the first gets it, the second has to go
        #expect(bench.events.last == .preempted(2))
        #expect(bench.engine.runningCount == 1)
        #expect(bench.engine.waitingCount == 1)
        bench.run()
        #expect(bench.finishOrder == [1, 2])
        #expect(bench.summary(of: 2)?.preemptions == 1)
        #expect(bench.summary(of: 2)?.outputTokens == 4)
        #expect(bench.tokens(of: 2).count == 4)
        #expect(bench.engine.counters.preemptions == 1)
        // Its first scheduling counts, not the one after.
        #expect(bench.summary(of: 2)?.cachedTokens == 0)
        #expect(bench.engine.counters.prefixQueryTokens == 16)
    }

    @Test func whatItSaidBeforeIsNotSaidTwice() throws {
        var alone = Bench()
        try alone.submit(2, tokens(2, 8), output: 4)
        alone.run()
        var crowded = Bench { $0.blockCount = 6 }
        try crowded.submit(1, tokens(1, 8), output: 8)
        try crowded.submit(2, tokens(2, 8), output: 4)
        crowded.run()
        #expect(crowded.summary(of: 2)?.preemptions == 1)
        #expect(crowded.tokens(of: 2) == alone.tokens(of: 2))
    }

    /// Random traffic on an engine with few blocks. After every step each block is either in the eviction list once, or held as
    /// often as sequences hold it; every sequence that is not aborted ends with exactly the tokens it asked for.
    @Test(arguments: 0..<20) func noBlockIsLostAndNoneUsedTwice(seed: Int) throws {
        var generator = SeededGenerator(state: UInt64(seed))
        var bench = Bench {
            $0.blockCount = 24
            $0.maximumBatchedTokens = 24
            $0.maximumSequences = 6
            $0.reportsBlocks = true
        }
        var wanted: [SequenceID: Int] = [:]
        var aborted: Set<SequenceID> = []
        for id in SequenceID(0)..<150 {
            let shared = tokens(UInt32.random(in: 0..<4, using: &generator), Int.random(in: 1...20, using: &generator))
            let own = tokens(100 + UInt32(id), Int.random(in: 0...20, using: &generator))
            let output = Int.random(in: 1...30, using: &generator)
            try bench.submit(id, shared + own, output: output)
            wanted[id] = output
            for _ in 0..<Int.random(in: 0...12, using: &generator) {
                bench.step()
                check(bench.engine)
            }
            if Int.random(in: 0..<8, using: &generator) == 0 {
                let victim = SequenceID.random(in: 0...id, using: &generator)
                if bench.engine.abort(victim) { aborted.insert(victim) }
            }
        }
        bench.run()
        check(bench.engine)
        #expect(bench.engine.nextStepEnd == nil)
        #expect(bench.engine.cacheUsage == 0)
        #expect(bench.engine.counters.preemptions > 0)
        for (id, output) in wanted where !aborted.contains(id) {
            #expect(bench.tokens(of: id).count == output)
            #expect(bench.summary(of: id)?.outputTokens == output)
        }
        for id in aborted { #expect(bench.summary(of: id) == nil) }
        checkBlockEvents(bench)
    }

    private func check(_ engine: Engine) {
        var holders = [Int](repeating: 0, count: engine.pool.count)
        for slot in engine.running {
            let blocks = engine.sequences[slot].blocks
            #expect(Set(blocks).count == blocks.count)
            for block in blocks { holders[Int(block)] += 1 }
        }
        let free = engine.pool.evictionOrder
        #expect(free.count == engine.pool.freeCount)
        #expect(Set(free).count == free.count)
        for block in free { #expect(holders[Int(block)] == 0) }
        for block in holders.indices { #expect(engine.pool.shares(of: KVBlockPool.Block(block)) == holders[block]) }
        #expect(holders.count { $0 > 0 } + free.count == engine.pool.count)
        #expect(engine.load.tokens <= engine.configuration.maximumBatchedTokens)
        #expect(engine.runningCount <= engine.configuration.maximumSequences)
    }

    /// Whoever follows the block events knows what the cache holds.
    private func checkBlockEvents(_ bench: Bench) {
        var copies: [UInt64: Int] = [:]
        for event in bench.events {
            switch event {
            case .blockStored(let hash, _, _, _): copies[hash, default: 0] += 1
            case .blockRemoved(let hash): copies[hash, default: 0] -= 1
            default: break
            }
        }
        #expect(copies.values.allSatisfy { $0 >= 0 })
        let held = copies.filter { $0.value > 0 }
        #expect(held.count == bench.engine.pool.cachedHashCount)
        for hash in held.keys { #expect(bench.engine.pool.block(holding: hash) != nil) }
    }
}
