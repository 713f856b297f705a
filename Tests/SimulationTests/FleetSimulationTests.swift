import EngineModel
import Routing
import Testing
import Workload

@testable import Simulation

/// A few seconds of shared prefixes on four groups.
private func smallRow(rate: Double = 12, _ change: (inout SimulatedFleet) -> Void = { _ in }) -> SimulationRow {
    var fleet = SimulatedFleet.published(groups: 4)
    change(&fleet)
    return SimulationRow(
        name: "small", family: "small", load: rate, loadLabel: "load, requests/s", fleet: fleet, warmUpSeconds: 2
    ) { seed in
        let schedule = ArrivalSchedule(.poisson, stages: [.init(startRate: rate, seconds: 8)], seed: seed)
        let shape = SyntheticShape(groups: 12, promptsPerGroup: 4, systemTokens: 4_000, questionTokens: 500, outputTokens: 60)
        return LoadPlan(name: "small", shape: shape, schedule: schedule, process: "poisson", seed: seed)
    }
}

private func rules(_ texts: [String]) throws -> [RoutingRule] { try texts.map { try RoutingRule($0) } }

@Suite struct FleetSimulationTests {
    @Test func equalSeedsAreEqualRuns() throws {
        let rules = try rules(["least-cost", "power-of-two"])
        let first = smallRow().run(rules, seeds: [1, 2], threads: 2)
        let second = smallRow().run(rules, seeds: [1, 2], threads: 1)
        #expect(first.map(\.fingerprints) == second.map(\.fingerprints))
        #expect(first.map(\.meanTTFTBySeed) == second.map(\.meanTTFTBySeed))
        #expect(first[0].fingerprints[0] != first[0].fingerprints[1])
        #expect(first[0].fingerprints[0] != first[1].fingerprints[0])
    }

    /// Whatever the rule, everything that was asked for is answered.
    @Test(arguments: RoutingRule.names) func everyRuleAnswersEverything(name: String) throws {
        let row = smallRow(rate: 6)
        let found = row.run(try rules([name]), seeds: [3])[0]
        let asked = SimulatedWorkload(row.plan(3), warmUpSeconds: row.warmUpSeconds).requests.filter(\.isMeasured).count
        #expect(found.requests == asked && found.failed == 0)
        #expect(found.meanTTFT.mean > 0.01)
    }

    @Test func affinityBeatsRoundRobinAndTheCacheIsWhy() throws {
        let found = smallRow(rate: 25).run(try rules(["least-cost", "round-robin"]), seeds: [1, 2])
        #expect(found[0].hitShare.mean > found[1].hitShare.mean + 0.05)
        #expect(found[0].meanTTFT.mean < 0.97 * found[1].meanTTFT.mean)
    }

    /// A later turn finds the turn before and its answer in the cache, as far as blocks are full.
    @Test func turnsFindTheirAnswers() throws {
        var first = PlannedRequest(offsetNanoseconds: 0, user: [.init(id: 1, tokens: 1_000)], outputTokens: 300)
        first.nextTurn = 1
        let second = PlannedRequest(offsetNanoseconds: 0, user: [.init(id: 2, tokens: 100)], outputTokens: 2)
        let plan = LoadPlan(name: "turns", parameters: [:], requests: [first, second], stages: [], process: "trace")
        let workload = SimulatedWorkload(plan, warmUpSeconds: 0)
        #expect(workload.requests[1].prompt.tokenCount == 1_400)
        let outcome = FleetSimulation.run(
            workload: workload, fleet: .published(groups: 1), rule: try RoutingRule("least-cost"), seed: 1)
        // 1,299 tokens were computed, the answer's last one was not: 20 full blocks of 64.
        #expect(abs(outcome.hitShare - 1_280.0 / 2_400) < 1e-9)
    }

    @Test func aRestartLosesOnlyAnswersThatHadBegun() throws {
        let row = smallRow { $0.events = [.init(seconds: 4, change: .restart(group: 1, downSeconds: 2))] }
        let asked = SimulatedWorkload(row.plan(1), warmUpSeconds: 2).requests.filter(\.isMeasured).count
        let found = row.run(try rules(["least-cost"]), seeds: [1])[0]
        #expect(found.requests + found.failed == asked)
        #expect(found.failed < asked / 4)
    }

    @Test func aGroupThatLeftGetsNothingNew() throws {
        let row = smallRow { $0.events = [.init(seconds: 1, change: .leave(group: 2)), .init(seconds: 6, change: .join(group: 3))] }
        let found = row.run(try rules(["round-robin"]), seeds: [1])[0]
        // Columns are sixtieths of eight seconds.
        #expect(found.shares[2][30...].allSatisfy { $0 == 0 })
        #expect(found.shares[3][..<40].allSatisfy { $0 == 0 })
        #expect(found.shares[3][50...].contains { $0 > 0 })
    }

    @Test(arguments: [0.0, 100]) func routersThatShareAFleetAnswerEverything(age: Double) throws {
        let row = smallRow {
            $0.routers = 4
            $0.reportAgeMilliseconds = age
        }
        let found = row.run(try rules(["least-cost", "least-tokens"]), seeds: [1])
        #expect(found.allSatisfy { $0.failed == 0 && $0.meanTTFT.mean < 2 })
    }

    /// `no-prefix` of the suite on half of its fleet, and half as long.
    private func noPrefix(rate: Double) -> SimulationRow {
        SimulationRow(
            name: "no-prefix", family: "no-prefix", load: rate, loadLabel: "load, requests/s", fleet: .published(groups: 4),
            warmUpSeconds: 10
        ) { seed in
            let schedule = ArrivalSchedule(.poisson, stages: [.init(startRate: rate, seconds: 40)], seed: seed)
            return LoadPlan(standard: "no-prefix", schedule: schedule, process: "poisson", seed: seed)
                ?? LoadPlan(name: "none", parameters: [:], requests: [], stages: [], process: "poisson")
        }
    }

    /// Late binding is for fleets that have more to do than they can: there whoever came first is not behind who came to another group later.
    @Test func nobodyWaitsAsLongAsTheLastWouldAtTheirGroups() throws {
        let found = noPrefix(rate: 16).run(try rules(["least-cost", "least-cost:holdFrom=0"]), seeds: [1])
        #expect(found[0].requests > 400 && found[0].requests == found[1].requests && found[0].failed == 0)
        #expect(found[0].fingerprints != found[1].fingerprints)
        #expect(found[0].meanTTFT.mean < 1.1 * found[1].meanTTFT.mean)
        #expect(found[0].p99TTFT.mean < 0.9 * found[1].p99TTFT.mean)
    }

    @Test func nobodyWaitsInTheRouterOfAQuietFleet() throws {
        let found = noPrefix(rate: 4).run(try rules(["least-cost", "least-cost:holdFrom=0"]), seeds: [1])
        #expect(found[0].requests > 100 && found[0].fingerprints == found[1].fingerprints)
    }

    /// An engine that does not take a request makes room for those behind it, though it takes no step; so does a group that joins.
    @Test func whoWaitsInTheRouterIsAnswered() throws {
        let row = smallRow(rate: 30) {
            $0.events = [.init(seconds: 3, change: .leave(group: 0)), .init(seconds: 5, change: .join(group: 0))]
        }
        let asked = SimulatedWorkload(row.plan(1), warmUpSeconds: 2).requests.filter(\.isMeasured).count
        let found = row.run(try rules(["least-cost:holdFrom=1"]), seeds: [1])[0]
        #expect(found.requests + found.failed == asked && found.failed == 0)
    }

    @Test func aSlowGroupGetsLess() throws {
        let row = smallRow(rate: 20) { $0.slow(group: 0, factor: 4) }
        let found = row.run(try rules(["least-cost", "round-robin"]), seeds: [1])
        #expect(found[0].meanTTFT.mean < found[1].meanTTFT.mean)
    }
}

@Suite struct JudgementTests {
    @Test func intervalsAreStudents() {
        let estimate = Estimate([1, 2, 3])
        #expect(estimate.mean == 2)
        #expect(abs(estimate.halfWidth - 4.303 / 3.0.squareRoot()) < 1e-9)
        #expect(Estimate([5]).halfWidth == 0)
    }

    @Test(arguments: [
        ("fastest", "expected one of least-cost"), ("dynamo:temperature", "expected key=value"),
        ("dynamo:heat=1", "has no parameter 'heat'"),
        ("least-cost:heat=1", "has no parameter 'heat'"), ("least-cost:eviction=nan", "expected key=value"), ("", "expected one of"),
    ]) func aMistakeInARuleIsNamed(text: String, expected: String) {
        #expect { try RoutingRule(text) } throws: { "\($0)".contains(expected) }
    }

    @Test func aRulesParametersAreItsOwn() throws {
        #expect(try RoutingRule("least-cost:stall=0").cost.stall == 0)
        #expect(try RoutingRule("dynamo:temperature=0.5").parameters == ["temperature": 0.5])
    }

    @Test func verdictsCompareTheFirstWithTheBest() throws {
        var report = SimulationReport(seeds: [1, 2])
        let row = smallRow(rate: 25)
        report.add(row, row.run(try rules(["round-robin", "least-cost", "random"]), seeds: [1, 2]))
        let verdict = try #require(report.verdicts().first)
        #expect(verdict.bestMean == "least-cost" && verdict.ratioOfMeans > 1)
        #expect(report.csv().split(separator: "\n").count == 4)
        #expect(report.ranking().first?.rule == "least-cost")
        #expect(report.html(title: "t").contains("sequences in flight"))
    }
}
