import EngineModel
import Reporting
import Testing
import Workload

@testable import Simulation

@Suite struct EngineReplayTests {
    /// Conversations that share beginnings, at random times.
    private static func plan(seed: UInt64, count: Int = 400) -> LoadPlan {
        var generator = SeededGenerator(seed: seed)
        var time: UInt64 = 0
        let requests = (0..<count).map { _ in
            time += UInt64.random(in: 0...40_000_000, using: &generator)
            let shared = PromptBlock(id: UInt64.random(in: 0..<8, using: &generator), tokens: 1_024)
            let own = PromptBlock(
                id: UInt64.random(in: 100..<1_000_000, using: &generator), tokens: Int.random(in: 1...600, using: &generator))
            return PlannedRequest(offsetNanoseconds: time, user: [shared, own], outputTokens: Int.random(in: 1...80, using: &generator))
        }
        return LoadPlan(name: "test", parameters: [:], requests: requests, stages: [], process: "test")
    }

    private let engine = EnginePreset(model: .llama3With8B, accelerator: .h100, tensorParallel: 1).configuration(blockSize: 64)

    @Test func equalPlansGiveEqualTimes() {
        let first = EngineReplay.play(Self.plan(seed: 1), groups: 4, engine: engine)
        let second = EngineReplay.play(Self.plan(seed: 1), groups: 4, engine: engine)
        #expect(first.completed == 400)
        #expect(first.fingerprint == second.fingerprint)
        #expect(first.nanoseconds == second.nanoseconds)
        #expect(EngineReplay.play(Self.plan(seed: 2), groups: 4, engine: engine).fingerprint != first.fingerprint)
        #expect(EngineReplay.play(Self.plan(seed: 1), groups: 3, engine: engine).fingerprint != first.fingerprint)
    }

    @Test func whatIsSharedIsCachedAndWhatIsAskedForIsGenerated() {
        let plan = Self.plan(seed: 3)
        let outcome = EngineReplay.play(plan, groups: 1, engine: engine)
        #expect(outcome.promptTokens == plan.requests.reduce(0) { $0 + $1.plannedTokens })
        #expect(outcome.outputTokens == plan.requests.reduce(0) { $0 + $1.outputTokens })
        // All but the first of each beginning find it, or nearly: some come while it is being computed.
        #expect(outcome.cachedTokens <= 392 * 1_024)
        #expect(outcome.cachedTokens > 300 * 1_024)
        #expect(Distribution(outcome.timeToFirstToken).count == 400)
    }

    @Test func whatDoesNotFitIsRefusedAndCounted() {
        var plan = Self.plan(seed: 4, count: 10)
        plan.requests[3].user = [PromptBlock(id: 1, tokens: 1_000_000)]
        plan.requests[5].user = []
        let outcome = EngineReplay.play(plan, groups: 2, engine: engine)
        #expect(outcome.refused == 2)
        #expect(outcome.completed == 8)
    }
}
