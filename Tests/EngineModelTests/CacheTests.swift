import Testing

@testable import EngineModel

@Suite struct CacheTests {
    @Test func onlyFullBlocksHitAndTheLastTokenIsComputedAnyway() throws {
        var bench = Bench()
        try bench.submit(1, tokens(1, 10), output: 1)
        bench.run()
        try bench.submit(2, tokens(1, 10), output: 1)  // two full blocks and two tokens
        bench.run()
        #expect(bench.cachedTokens(of: 2) == 8)
        try bench.submit(3, tokens(1, 8), output: 1)  // both blocks are there, but the 8th token must be computed
        bench.run()
        #expect(bench.cachedTokens(of: 3) == 4)
        try bench.submit(4, tokens(1, 9), output: 1)
        bench.run()
        #expect(bench.cachedTokens(of: 4) == 8)
        #expect(bench.engine.counters.prefixQueryTokens == 37)
        #expect(bench.engine.counters.prefixHitTokens == 20)
    }

    @Test func aHitSavesItsPrefill() throws {
        var bench = Bench()
        try bench.submit(1, tokens(1, 40), output: 1)
        bench.run()
        #expect(bench.now == 40)
        try bench.submit(2, tokens(1, 40) + tokens(2, 20), output: 1)
        bench.run()
        #expect(bench.now == 60)
    }

    @Test func hitsAreLookedUpWhenScheduledAndSiblingsOfOneStepShare() throws {
        var bench = Bench { $0.maximumSequences = 2 }
        for id in 1...3 { try bench.submit(SequenceID(id), tokens(1, 9), output: 1) }
        try bench.submit(4, tokens(2, 9), output: 1)
        bench.run()
        #expect(bench.cachedTokens(of: 1) == 0)
        #expect(bench.cachedTokens(of: 2) == 8)  // the same step computes the blocks for both
        #expect(bench.cachedTokens(of: 3) == 8)
        #expect(bench.cachedTokens(of: 4) == 0)
        #expect(bench.now == 9 + 1 + 1 + 9)
    }

    @Test func saltAndAdapterPartTheCache() throws {
        var bench = Bench()
        let text = tokens(1, 9)
        let variants: [(String?, String?)] = [(nil, nil), ("a", nil), ("b", nil), (nil, "a"), ("a", "a")]
        for (index, variant) in variants.enumerated() {
            try bench.submit(SequenceID(index), bench.prompt(text, salt: variant.0, adapter: variant.1), output: 1)
            bench.run()
            #expect(bench.cachedTokens(of: SequenceID(index)) == 0)
        }
        try bench.submit(9, bench.prompt(text, salt: "a"), output: 1)
        bench.run()
        #expect(bench.cachedTokens(of: 9) == 8)
    }

    @Test func aDifferentBeginningSharesNothing() throws {
        var bench = Bench()
        try bench.submit(1, tokens(1, 4) + tokens(3, 8), output: 1)
        bench.run()
        try bench.submit(2, tokens(2, 4) + tokens(3, 8), output: 1)
        bench.run()
        #expect(bench.cachedTokens(of: 2) == 0)
    }

    @Test func theLeastRecentlyUsedGoesFirstAndOfOneTextTheTail() throws {
        var bench = Bench {
            $0.blockCount = 7  // six usable
            $0.reportsBlocks = true
        }
        let old = bench.prompt(tokens(1, 8))
        let new = bench.prompt(tokens(2, 8))
        try bench.submit(1, old, output: 1)
        bench.run()
        try bench.submit(2, new, output: 1)
        bench.run()
        bench.events = []
        // Two blocks were never used; these three need one more, and the tail of the older text makes room.
        try bench.submit(3, tokens(3, 12), output: 1)
        bench.run()
        #expect(bench.events.first == .blockRemoved(hash: old.blockHashes[1]))
        let removed = bench.events.filter { if case .blockRemoved = $0 { true } else { false } }
        #expect(removed.count == 1)
        // The old head is still there. Its fifth token takes the block of the newer text's tail; that is the oldest by now.
        bench.events = []
        try bench.submit(4, tokens(1, 5), output: 1)
        bench.run()
        #expect(bench.cachedTokens(of: 4) == 4)
        #expect(bench.events.first == .blockRemoved(hash: new.blockHashes[1]))
        // Being used made it the newest: three blocks later it is still there.
        bench.events = []
        let third = bench.prompt(tokens(3, 12))
        try bench.submit(5, tokens(5, 9), output: 1)
        bench.run()
        let evicted = bench.events.compactMap { if case .blockRemoved(let hash) = $0 { hash } else { nil } }
        #expect(evicted == [new.blockHashes[0], third.blockHashes[2], third.blockHashes[1]])
        #expect(bench.engine.pool.block(holding: old.blockHashes[0]) != nil)
    }

    @Test func theNextTurnFindsTheReplyThatItRepeats() throws {
        var bench = Bench()
        let first = tokens(1, 10)
        try bench.engine.submit(
            SequenceRequest(id: 1, prompt: bench.prompt(first), replySeed: 7, outputTokens: 12, endsTurn: true), now: 0)
        bench.run()
        var reply: [UInt32] = []
        let text = bench.tokens(of: 1).flatMap { $0.text(of: nil) }
        text.withUnsafeBytes { Tokeniser.append($0, to: &reply) }
        reply.append(Tokeniser.endOfTurn)
        #expect(reply == bench.tokens(of: 1).map { $0.id(of: nil) })
        try bench.submit(2, first + reply + tokens(2, 5), output: 1)
        bench.run()
        // 22 tokens so far, of which the last was sampled and never computed: five full blocks.
        #expect(bench.cachedTokens(of: 2) == 20)
    }

    @Test func aBlockStoredTwiceIsThereUntilBothCopiesAreGone() throws {
        var bench = Bench {
            $0.blockCount = 5
            $0.reportsBlocks = true
        }
        // The last token is computed in any case, and its block with it.
        let twice = bench.prompt(tokens(1, 4))
        try bench.submit(1, twice, output: 1)
        try bench.submit(2, twice, output: 1)
        bench.run()
        for id in SequenceID(1)...2 {
            #expect(bench.events.contains(.blockStored(hash: twice.blockHashes[0], parent: nil, sequence: id, index: 0)))
        }
        // Two blocks that were never used and one copy make room: the other copy is still found.
        try bench.submit(3, tokens(3, 12), output: 1)
        bench.run()
        #expect(bench.events.filter { $0 == .blockRemoved(hash: twice.blockHashes[0]) }.count == 1)
        try bench.submit(4, tokens(1, 5), output: 1)
        bench.run()
        #expect(bench.cachedTokens(of: 4) == 4)
    }

    @Test func resettingForgetsEverythingUnlessSomethingIsInUse() throws {
        var bench = Bench { $0.reportsBlocks = true }
        try bench.submit(1, tokens(1, 9), output: 2)
        bench.step()
        var done = bench.engine.resetPrefixCache(events: &bench.events)
        #expect(!done)
        bench.run()
        done = bench.engine.resetPrefixCache(events: &bench.events)
        #expect(done)
        #expect(bench.events.last == .cacheCleared)
        #expect(bench.engine.pool.cachedHashCount == 0)
        try bench.submit(2, tokens(1, 9), output: 1)
        bench.run()
        #expect(bench.cachedTokens(of: 2) == 0)
    }
}
