import Testing

@testable import EngineModel

@Suite struct AdvanceTests {
    /// Many steps at once must leave exactly what the same steps leave one by one: events, counters, eviction order.
    @Test(arguments: 0..<20) func manyStepsAtOnceAreTheSameAsOneByOne(seed: Int) throws {
        var generator = SeededGenerator(state: UInt64(seed))
        var configuration = EngineConfiguration(
            blockSize: 8, blockCount: 40, maximumSequences: 5, maximumBatchedTokens: 32, reportsTokens: false, reportsBlocks: true,
            stepTime: StepTimeModel(model: .llama3With8B, accelerator: .h100, tensorParallel: 1))
        configuration.reportsProgress = seed % 3 == 0
        if seed % 2 == 1 { configuration.lora = LoRASettings(slots: 2, hostSlots: 3) }
        var fast = Engine(configuration: configuration)
        var slow = Engine(configuration: configuration)
        var fastEvents: [EngineEvent] = []
        var slowEvents: [EngineEvent] = []
        var now: UInt64 = 0
        for id in SequenceID(1)...120 {
            now += UInt64.random(in: 0...200_000_000, using: &generator)
            let text = tokens(UInt32.random(in: 0..<4, using: &generator), Int.random(in: 1...60, using: &generator))
            let adapter = seed % 2 == 1 ? AdapterID.random(in: 1...4, using: &generator) : nil
            let request = SequenceRequest(
                id: id, prompt: Prompt(tokens: text, blockSize: 8, root: BlockHash.root() &+ (adapter ?? 0)),
                outputTokens: Int.random(in: 1...60, using: &generator), adapter: adapter)
            fast.advance(to: now, events: &fastEvents)
            step(&slow, to: now, events: &slowEvents)
            try fast.submit(request, now: now)
            try slow.submit(request, now: now)
            // Both begin at once when idle, as a server would.
            if fast.nextStepEnd == nil { fast.step(now: now, events: &fastEvents) }
            if slow.nextStepEnd == nil { slow.step(now: now, events: &slowEvents) }
            if id % 10 == 0 {
                let victim = SequenceID.random(in: 1...id, using: &generator)
                let wasAlive = fast.abort(victim)
                let wasAliveToo = slow.abort(victim)
                #expect(wasAlive == wasAliveToo)
            }
        }
        fast.advance(to: .max, events: &fastEvents)
        step(&slow, to: .max, events: &slowEvents)
        #expect(fastEvents == slowEvents)
        let progress = fastEvents.count { if case .progressed(_, let tokens, _) = $0 { tokens == 16 } else { false } }
        #expect((progress > 10) == configuration.reportsProgress)
        #expect(fast.counters == slow.counters)
        #expect(fast.pool.evictionOrder == slow.pool.evictionOrder)
        #expect(fast.nextStepEnd == nil)
        #expect(fast.counters.finishedByLength + fast.counters.aborted == 120)
        #expect(fast.unprefilledTokens == 0)
        #expect(fast.cacheUsage == 0)
    }

    private func step(_ engine: inout Engine, to horizon: UInt64, events: inout [EngineEvent]) {
        while let end = engine.nextStepEnd, end <= horizon { engine.step(now: end, events: &events) }
    }
}
