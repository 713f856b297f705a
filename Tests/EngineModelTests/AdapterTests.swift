import Testing

@testable import EngineModel

@Suite struct AdapterTests {
    private static let first = BlockHash.adapter(named: "first")
    private static let second = BlockHash.adapter(named: "second")

    private func bench(slots: Int, hostSlots: Int) -> Bench {
        Bench { $0.lora = LoRASettings(slots: slots, hostSlots: hostSlots, activationNanoseconds: 5, loadNanoseconds: 50) }
    }

    private func submit(_ id: SequenceID, _ adapter: AdapterID?, output: Int, to bench: inout Bench) throws {
        try bench.engine.submit(
            SequenceRequest(id: id, prompt: bench.prompt(tokens(UInt32(id), 8)), outputTokens: output, adapter: adapter), now: bench.now)
    }

    @Test func aStepWaitsForItsAdapterAndWhoFindsNoSlotIsPassedOver() throws {
        var bench = bench(slots: 1, hostSlots: 2)
        try submit(1, Self.first, output: 3, to: &bench)
        try submit(2, Self.second, output: 1, to: &bench)
        try submit(3, nil, output: 1, to: &bench)
        // Sixteen prompt tokens of 1 and 3, and the first adapter from storage: 16 + 50 + 5.
        bench.expectStepEnd(71)
        #expect(bench.engine.runningAdapters == [Self.first])
        #expect(bench.engine.waitingAdapters == [Self.second])
        bench.expectStepEnd(81)
        bench.expectStepEnd(91)
        // The slot is free: eight prompt tokens within one read of the weights, and the other adapter.
        bench.expectStepEnd(91 + 10 + 55)
        bench.expectStepEnd(nil)
        #expect(bench.finishOrder == [3, 1, 2])
        // The first is still in the host's memory: it only has to be activated. Then it is there.
        try submit(4, Self.first, output: 1, to: &bench)
        bench.expectStepEnd(156 + 10 + 5)
        bench.expectStepEnd(nil)
        try submit(5, Self.first, output: 1, to: &bench)
        bench.expectStepEnd(171 + 10)
    }

    @Test func theHostForgetsTheAdapterThatWasUnusedForLongest() throws {
        var bench = bench(slots: 1, hostSlots: 1)
        var times: [UInt64] = []
        for (id, adapter) in [Self.first, Self.second, Self.first].enumerated() {
            let begin = bench.now
            try submit(SequenceID(id), adapter, output: 1, to: &bench)
            bench.run()
            times.append(bench.now - begin)
        }
        #expect(times == [65, 65, 65])
    }

    @Test func anUnloadedAdapterIsLoadedAnew() throws {
        var bench = bench(slots: 2, hostSlots: 2)
        try submit(1, Self.first, output: 1, to: &bench)
        bench.run()
        bench.engine.forgetAdapter(Self.first)
        let begin = bench.now
        try submit(2, Self.first, output: 1, to: &bench)
        bench.run()
        #expect(bench.now - begin == 65)
    }

    @Test func anEngineWithoutAdaptersRefusesThem() throws {
        var bench = Bench()
        #expect(throws: SubmitError.adaptersDisabled) { try submit(1, Self.first, output: 1, to: &bench) }
    }

    @Test func aSlowerClockMakesLoadingSlower() {
        let settings = LoRASettings(slots: 2, activationNanoseconds: 5, loadNanoseconds: 50).scaled(by: 2)
        #expect(settings == LoRASettings(slots: 2, activationNanoseconds: 10, loadNanoseconds: 100))
    }
}
