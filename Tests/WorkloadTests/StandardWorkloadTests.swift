import Testing
import Workload

@Suite struct StandardWorkloadTests {
    private func plan(_ name: String, seed: UInt64 = 1) -> LoadPlan? {
        // Conversations of hundreds of turns are plenty with fewer of them.
        let rate: Double = name == "code-generation" ? 2 : 100
        let schedule = ArrivalSchedule(.poisson, stages: [.init(startRate: rate, seconds: 30)], seed: seed)
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

    /// What a conversation shares with others, mean tokens of its own start, mean turns, tokens a turn adds and answers, as published,
    /// where bounds that cut a tail leave the mean where it was.
    @Test(arguments: [
        ("interactive-chat", 1_000, 4_000.0, 4, 50.0, 300.0), ("deep-research", 2_000, 45_000, 15, 3_000, 300),
        ("synthetic-data-gen", 2_000, 0, 1, 500, 4_250), ("predicted-latency-a", 1_000, 0, 5, 30, 1_000),
        ("predicted-latency-b", 1_000, 0, 5, 3_000, 1_000),
        ("predicted-latency-d", 1_000, 0, 5, 6_200, 1_000), ("aiperf-agentic", 32_000, 15_000, 10.5, 5_300, 1_000),
        ("code-generation-blog", 0, 55_000, 6, 1_500, 800),
        ("contentgen", 0, 0, 1, 1_024, 1_024),
    ]) func conversationsAreAsPublished(name: String, shared: Int, own: Double, turns: Double, input: Double, output: Double) throws {
        let plan = try #require(self.plan(name))
        let starts = plan.requests.filter { $0.thinkNanoseconds == 0 && (!$0.system.isEmpty || shared == 0) }
        let count = Double(starts.count)
        func near(_ value: Double, _ expected: Double) -> Bool { abs(value - expected) <= 0.15 * expected }
        #expect(shared == 0 || starts.allSatisfy { $0.system.first?.tokens == shared })
        #expect(near(starts.reduce(0.0) { $0 + Double($1.system.dropFirst(shared > 0 ? 1 : 0).reduce(0) { $0 + $1.tokens }) } / count, own))
        #expect(near(Double(plan.requests.count) / count, turns))
        let all = Double(plan.requests.count)
        #expect(near(plan.requests.reduce(0.0) { $0 + Double($1.user[0].tokens) } / all, input))
        #expect(near(plan.requests.reduce(0.0) { $0 + Double($1.outputTokens) } / all, output))
    }

    @Test(arguments: LoadPlan.standardNames) func aReportHasTheSizes(name: String) throws {
        let few = ArrivalSchedule(.constant, stages: [.init(startRate: 1, seconds: 2)], seed: 1)
        let parameters = try #require(LoadPlan(standard: name, schedule: few, process: "constant", seed: 1)).parameters
        #expect(parameters["seed"] == "1" && parameters.count > 3, "\(parameters)")
    }

    /// Contexts stay within AIPerf's longest, some conversations end early, and seven of ten pauses are an agent's.
    @Test func agentsPauseAndBeginAnew() throws {
        let plan = try #require(self.plan("aiperf-agentic"))
        var context: [Int: Int] = [:]
        for (index, request) in plan.requests.enumerated() {
            let total = (context[index] ?? 0) + request.plannedTokens
            #expect(total <= 167_000 || context[index] == nil)
            if request.nextTurn >= 0 { context[Int(request.nextTurn)] = total + request.outputTokens }
        }
        let pauses = plan.requests.map(\.thinkNanoseconds).filter { $0 > 0 }.sorted()
        let mean = Double(pauses.reduce(0, +)) / Double(pauses.count) / 1e9
        #expect(abs(mean - (0.7 * 2.5 + 0.3 * 40)) < 2, "\(mean)")
        #expect(pauses[pauses.count * 3 / 10] < 2_500_000_000 && pauses[pauses.count * 9 / 10] > 25_000_000_000)
        let shape = try #require(ConversationShape.catalogue["aiperf-agentic"])
        #expect(shape.resetShare == 0.01 && plan.parameters["longest_context_tokens"] == "167000")
    }

    @Test func publishedLoadsAreOfWorkloads() {
        for (name, load) in LoadPlan.publishedLoads {
            #expect(LoadPlan.names.contains(name))
            #expect(load.seconds.map { $0.count == 1 || $0.count == load.rates.count } ?? true, "\(name)")
        }
        #expect(LoadPlan.publishedLoads["b2b-saas"]?.rates.count == 17)
    }

    @Test func aSaltChangesEveryTextAndKeepsWhatIsShared() throws {
        let plain = try #require(self.plan("interactive-chat"))
        var salted = plain
        salted.salt(0)
        #expect(salted.contentHash == plain.contentHash)
        salted.salt(9)
        let blocks = { (plan: LoadPlan) in plan.requests.flatMap { $0.system + $0.user } }
        #expect(zip(blocks(plain), blocks(salted)).allSatisfy { $0.id != $1.id && $0.tokens == $1.tokens })
        #expect(Set(blocks(plain).map(\.id)).count == Set(blocks(salted).map(\.id)).count)
        #expect(salted.contentHash != plain.contentHash)
    }

    @Test func thereIsNoOtherName() { #expect(plan("fastest") == nil) }
}
