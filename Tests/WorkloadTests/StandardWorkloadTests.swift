import Testing
import Workload

@Suite struct StandardWorkloadTests {
    private func plan(_ name: String, seed: UInt64 = 1) -> LoadPlan? {
        let schedule = ArrivalSchedule(.poisson, stages: [.init(startRate: 100, seconds: 30)], seed: seed)
        return LoadPlan(standard: name, schedule: schedule, process: "poisson", seed: seed)
    }

    @Test(arguments: LoadPlan.standardNames) func aWorkloadIsItsSeed(name: String) throws {
        let first = try #require(self.plan(name))
        #expect(first.contentHash == plan(name)?.contentHash)
        #expect(first.contentHash != plan(name, seed: 2)?.contentHash)
        #expect(first.requests.allSatisfy { $0.plannedTokens > 0 && $0.outputTokens > 0 })
    }

    /// Mean prompt and answer, and the share of prompt tokens that come again.
    @Test(arguments: [
        ("toolagent", 7_500.0, 180.0, 0.42), ("reasoning", 1_250, 8_000, 0.2), ("rotating-zipf", 4_500, 200, 0.85),
        ("sibling-bursts", 4_000, 300, 0.875), ("no-prefix", 3_000, 250, 0),
    ]) func shapesAreAsDescribed(name: String, prompt: Double, answer: Double, reuse: Double) throws {
        let plan = try #require(self.plan(name))
        let count = Double(plan.requests.count)
        let prompts = plan.requests.reduce(0.0) { $0 + Double($1.plannedTokens) } / count
        let answers = plan.requests.reduce(0.0) { $0 + Double($1.outputTokens) } / count
        #expect(abs(prompts / prompt - 1) < 0.25, "\(prompts)")
        #expect(abs(answers / answer - 1) < 0.25, "\(answers)")
        #expect(abs(plan.idealHitRate - reuse) < 0.15, "\(plan.idealHitRate)")
    }

    @Test func thereIsNoOtherName() { #expect(plan("fastest") == nil) }
}
