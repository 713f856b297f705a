import Testing

@testable import EngineModel

@Suite struct ScheduleTests {
    @Test func aSequenceAloneIsPrefilledThenDecodedTokenByToken() throws {
        var bench = Bench()
        try bench.submit(1, tokens(1, 20), output: 3)
        #expect(bench.engine.nextStepEnd == nil)
        bench.expectStepEnd(20)  // prefill: 20 tokens at 1 ns
        #expect(bench.events == [.scheduled(1, cachedTokens: 0)])
        bench.expectStepEnd(30)  // the first token came at 20; one decode step
        #expect(bench.tokens(of: 1).count == 1)
        bench.expectStepEnd(40)
        bench.expectStepEnd(nil)
        #expect(
            bench.summary(of: 1)
                == SequenceSummary(
                    promptTokens: 20, cachedTokens: 0, outputTokens: 3, endsTurn: false, preemptions: 0, arrivalNanoseconds: 0,
                    scheduledNanoseconds: 0, firstTokenNanoseconds: 20, endNanoseconds: 40))
        #expect(bench.engine.cacheUsage == 0)
    }

    @Test func decodesComeBeforePrefillAndALongPromptIsCutIntoChunks() throws {
        var bench = Bench { $0.maximumBatchedTokens = 16 }
        try bench.submit(1, tokens(1, 8), output: 10)
        bench.step()
        try bench.submit(2, tokens(2, 40), output: 1)
        bench.expectStepEnd(10 + 15)  // ends the first step; 1 decode and 15 of the 40
        var expected = StepLoad()
        expected.decodeSequences = 1
        expected.decodeContextTokens = 8
        expected.addPrefill(tokens: 15, context: 0)
        #expect(bench.engine.load == expected)
        bench.expectStepEnd(10 + 15 + 15)
        bench.expectStepEnd(10 + 15 + 15 + 10)  // the last 10
        #expect(bench.engine.load.prefillTokens == 10)
        #expect(bench.tokens(of: 1).count == 3)
        #expect(bench.tokens(of: 2).isEmpty)
        bench.step()
        #expect(bench.tokens(of: 2).count == 1)
        #expect(bench.summary(of: 2)?.firstTokenNanoseconds == 50)
    }

    @Test func waitingIsFirstComeFirstServedAndBoundedByTheSequenceLimit() throws {
        var bench = Bench { $0.maximumSequences = 2 }
        for id in 1...4 { try bench.submit(SequenceID(id), tokens(UInt32(id), 8), output: 2) }
        bench.step()
        #expect(bench.engine.runningCount == 2)
        #expect(bench.engine.waitingCount == 2)
        bench.run()
        #expect(bench.finishOrder == [1, 2, 3, 4])
        // 1 and 2: prefill of 16 tokens, one decode; then 3 and 4 the same.
        #expect(bench.now == 16 + 10 + 16 + 10)
    }

    @Test func theOldestThatDoesNotFitHoldsUpThoseBehindIt() throws {
        var bench = Bench { $0.blockCount = 11 }  // ten usable blocks, 40 tokens
        try bench.submit(1, tokens(1, 28), output: 2)  // 7 blocks, the 8th with the second token
        try bench.submit(2, tokens(2, 20), output: 1)
        try bench.submit(3, tokens(3, 4), output: 1)
        bench.step()
        #expect(bench.engine.runningCount == 1)
        bench.run()
        #expect(bench.finishOrder == [1, 2, 3])
    }

    @Test func aStepIsAsLongAsComputingOrReadingTheWeightsWhicheverIsLonger() {
        var load = StepLoad()
        let model = StepTimeModel(
            prefillNanosecondsPerToken: 3, decodeNanosecondsPerStep: 100, decodeNanosecondsPerSequence: 7, overheadNanoseconds: 5)
        load.prefillTokens = 10
        #expect(model.nanoseconds(of: load) == 105)
        load.prefillTokens = 50
        #expect(model.nanoseconds(of: load) == 155)
        load.decodeSequences = 2
        #expect(model.nanoseconds(of: load) == 169)
    }

    @Test func stepsFollowEachOtherWithoutAGapWhenTheCallerIsLate() throws {
        var bench = Bench()
        try bench.submit(1, tokens(1, 4), output: 3)
        bench.step()
        bench.engine.step(now: 15, events: &bench.events)  // due at 10
        #expect(bench.engine.nextStepEnd == 20)
        bench.engine.step(now: 19, events: &bench.events)  // too early: nothing happens
        #expect(bench.tokens(of: 1).count == 1)
    }

    @Test func whatCannotBeServedIsRefused() throws {
        var bench = Bench {
            $0.blockCount = 6
            $0.maximumWaiting = 1
        }
        #expect(throws: SubmitError.empty) { try bench.submit(1, [], output: 1) }
        #expect(throws: SubmitError.empty) { try bench.submit(1, tokens(1, 1), output: 0) }
        #expect(throws: SubmitError.tooLong) { try bench.submit(1, tokens(1, 20), output: 1) }
        #expect(throws: SubmitError.tooLong) { try bench.submit(1, tokens(1, 20), output: .max) }
        try bench.submit(1, tokens(1, 19), output: 1)
        #expect(throws: SubmitError.duplicate) { try bench.submit(1, tokens(1, 4), output: 1) }
        #expect(throws: SubmitError.queueFull) { try bench.submit(2, tokens(1, 4), output: 1) }
    }

    @Test func anAbortedSequenceLeavesAtTheEndOfTheStep() throws {
        var bench = Bench { $0.maximumSequences = 1 }
        try bench.submit(1, tokens(1, 8), output: 100)
        try bench.submit(2, tokens(2, 8), output: 1)
        try bench.submit(3, tokens(3, 8), output: 1)
        bench.step()
        // Twice the one that runs, then one that waits and is gone at once, then one that never was.
        let alive = [1, 1, 2, 9].map { bench.engine.abort($0) }
        #expect(alive == [true, false, true, false])
        #expect(bench.engine.runningCount == 1)
        #expect(bench.engine.waitingCount == 1)
        bench.run()
        #expect(bench.tokens(of: 1).isEmpty)
        #expect(bench.finishOrder == [3])
        #expect(bench.now == 20)
        #expect(bench.engine.counters.aborted == 2)
        #expect(bench.engine.cacheUsage == 0)
        #expect(bench.engine.slots.isEmpty)
    }
}
