import Testing

@testable import EngineModel

/// Schedules computed by hand: 1 ns per prefill token, 10 ns for the weights, whichever is longer.
@Suite struct InterferenceTests {
    @Test func aPrefillDelaysTheTokensOfThoseThatDecode() throws {
        var bench = Bench()  // 64 tokens per step
        try bench.submit(1, tokens(1, 8), output: 6)
        bench.expectStepEnd(10)
        try bench.submit(2, tokens(2, 100), output: 1)
        bench.expectStepEnd(10 + 63)  // 1's second token waits for 63 tokens of 2
        #expect(bench.engine.load.decodeSequences == 1)
        #expect(bench.engine.load.prefillTokens == 63)
        bench.expectStepEnd(73 + 37)  // and its third for the other 37
        bench.expectStepEnd(110 + 10)  // alone again
        #expect(bench.summary(of: 2)?.firstTokenNanoseconds == 110)
        #expect(bench.tokens(of: 1).count == 3)
    }

    @Test func promptsShareABudgetInTheOrderInWhichTheyCame() throws {
        var bench = Bench { $0.maximumBatchedTokens = 16 }
        for id in 1...3 { try bench.submit(SequenceID(id), tokens(UInt32(id), 20), output: 2) }
        bench.expectStepEnd(16)  // 16 of the first
        bench.expectStepEnd(32)  // its 4, 12 of the second
        #expect(bench.engine.load.prefillSequences == 2)
        bench.expectStepEnd(47)  // 1 decodes and is done; 8 of the second, 7 of the third
        #expect(bench.engine.load.decodeSequences == 1)
        #expect(bench.engine.load.prefillTokens == 15)
        bench.expectStepEnd(60)  // 2 decodes; 13 of the third
        #expect(bench.summary(of: 1)?.endNanoseconds == 47)
        #expect(bench.engine.load.prefillTokens == 13)
        bench.expectStepEnd(70)
        bench.expectStepEnd(nil)
        #expect(bench.summary(of: 2)?.firstTokenNanoseconds == 47)
        #expect(bench.summary(of: 3)?.firstTokenNanoseconds == 60)
        #expect(bench.finishOrder == [1, 2, 3])
    }

    @Test func aPreemptedSequenceComesBeforeThoseThatWait() throws {
        var bench = Bench { $0.blockCount = 6 }  // five usable blocks of four
        try bench.submit(1, tokens(1, 8), output: 8)
        try bench.submit(2, tokens(2, 8), output: 4)
        try bench.submit(3, tokens(3, 4), output: 1)
        bench.expectStepEnd(20)  // 1 and 2, two blocks each, and 3 with the last
        #expect(bench.engine.runningCount == 3)
        bench.step()  // 3 is done; 1 takes its block, 2 finds none and has to go
        #expect(bench.events.last == .preempted(2))
        try bench.submit(4, tokens(4, 12), output: 1)
        bench.run()
        #expect(bench.finishOrder == [3, 1, 2, 4])
    }

    @Test func aPreemptedSequenceFindsWhatIsLeftOfItsOwnBlocks() throws {
        var bench = Bench { $0.blockCount = 8 }  // seven usable
        try bench.submit(1, tokens(1, 12), output: 2)
        try bench.submit(2, tokens(2, 16), output: 3)
        bench.expectStepEnd(28)  // three blocks and four: all
        bench.step()  // 1's 13th token takes the last block of 2, the tail
        #expect(bench.events.last == .preempted(2))
        bench.step()  // 1 is done; 2 has three of its four blocks, and computes 5 tokens: the tail, and what it said
        #expect(bench.engine.load.prefillTokens == 5)
        bench.run()
        #expect(bench.summary(of: 2)?.preemptions == 1)
        #expect(bench.tokens(of: 2).count == 3)
    }

    @Test func aScaledClockScalesEveryStep() {
        let model = StepTimeModel(model: .llama3With8B, accelerator: .h100, tensorParallel: 2)
        var load = StepLoad()
        load.addPrefill(tokens: 700, context: 300)
        load.decodeSequences = 5
        load.decodeContextTokens = 9_000
        let plain = model.nanoseconds(of: load)
        let scaled = model.scaled(by: 0.25).nanoseconds(of: load)
        #expect(abs(Double(scaled) - Double(plain) / 4) <= 1)
    }
}

@Suite struct PromptPieceTests {
    private func prompt(_ pieces: (UInt64, Int)..., uniqueness: UInt64 = 1) -> Prompt {
        Prompt(pieces: pieces.map { (id: $0.0, tokens: $0.1) }, blockSize: 4, uniqueness: uniqueness)
    }

    @Test func equalPiecesInEqualPlacesAreEqualBlocks() {
        let long = prompt((7, 8), (8, 9))
        let short = prompt((7, 8), (9, 9), uniqueness: 2)
        #expect(long.tokenCount == 17)
        #expect(long.blockHashes.count == 4)
        #expect(long.blockHashes.prefix(2) == short.blockHashes.prefix(2))
        #expect(long.blockHashes[2] != short.blockHashes[2])
        #expect(long.blockHashes[3] != short.blockHashes[3])
        #expect(long.tail != short.tail)
    }

    @Test func aBlockIsMadeOfAllPiecesInIt() {
        let one = prompt((7, 6), (8, 6))
        let other = prompt((7, 6), (9, 6))
        #expect(one.blockHashes.first == other.blockHashes.first)
        #expect(one.blockHashes[1] != other.blockHashes[1])
        // The same piece in another place is another text.
        #expect(prompt((8, 6), (7, 6)).blockHashes[1] != one.blockHashes[1])
        // So is a piece cut at another place.
        #expect(prompt((7, 5), (8, 7)).blockHashes[1] != one.blockHashes[1])
    }

    @Test func emptyPiecesAreNothing() {
        #expect(prompt((7, 0), (8, 4)).blockHashes == prompt((8, 4)).blockHashes)
        #expect(prompt().tokenCount == 0)
    }
}
