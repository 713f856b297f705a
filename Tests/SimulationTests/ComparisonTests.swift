import EngineModel
import Foundation
import Reporting
import Testing
import Workload

@testable import Routing
@testable import Simulation

/// What rules had on a row, from their mean TTFT by seed; the 99th percentile is ten times the mean.
private func summaries(_ row: String, _ rules: [(name: String, ttft: [Double])]) -> [SimulationSummary] {
    rules.map { rule in
        SimulationSummary(
            row: row, rule: rule.name,
            outcomes: rule.ttft.map { seconds in
                var outcome = SimulationOutcome()
                outcome.meanTTFT = seconds
                outcome.ttft = [Float(seconds), Float(10 * seconds)]
                outcome.outputTokensPerSecond = 100
                return outcome
            })
    }
}

private func row(_ name: String, fleet: SimulatedFleet = .published(groups: 1), load: Double = 1) -> SimulationRow {
    SimulationRow(name: name, family: "family", load: load, loadLabel: "load, parts/s", fleet: fleet, warmUpSeconds: 0) { _ in
        LoadPlan(name: name, parameters: [:], requests: [], stages: [], process: "trace")
    }
}

@Suite struct ComparisonTests {
    /// Half of the other's on a row of milliseconds, a quarter on one of minutes: the geometric mean is 1/√8 whatever their seconds.
    @Test func rowsCountAlikeHoweverLongTheirSecondsAre() throws {
        var report = SimulationReport(seeds: [1, 2])
        report.add(row("short"), summaries("short", [("ours", [0.01, 0.02]), ("theirs", [0.02, 0.04])]))
        report.add(row("long"), summaries("long", [("ours", [50, 100]), ("theirs", [200, 400])]))
        let found = try #require(report.comparisons().first)
        #expect(abs(found.mean.value - 1 / 8.0.squareRoot()) < 1e-9)
        // Both seeds say the same ratio.
        #expect(found.mean.high - found.mean.low < 1e-9)
        #expect(abs(found.p99.value - found.mean.value) < 1e-6)
        #expect(abs(found.output.value - 1) < 1e-9)
        #expect(abs(found.ratioOfSums - 75.015 / 300.03) < 1e-9)
    }

    /// The interval is that of the ratio, and a row whose difference changes its sign with the seed tells nobody apart.
    @Test func whatSeedsDisagreeOnIsNotToldApart() throws {
        var report = SimulationReport(seeds: [1, 2, 3])
        report.add(row("a"), summaries("a", [("ours", [1, 1, 1]), ("theirs", [0.5, 2, 1])]))
        report.add(row("b"), summaries("b", [("ours", [1, 1.01, 1.02]), ("theirs", [2, 2.01, 2.02])]))
        report.add(row("c"), summaries("c", [("ours", [3, 3.01, 3.02]), ("theirs", [2, 2.01, 2.02])]))
        let found = try #require(report.comparisons().first)
        #expect((found.sooner, found.later) == (1, 1))
        #expect(found.mean.low < found.mean.value && found.mean.value < found.mean.high)
    }

    /// Of several others the one that comes nearest stands first.
    @Test func theStrongestOtherStandsFirst() {
        var report = SimulationReport(seeds: [1])
        report.add(row("a"), summaries("a", [("ours", [1]), ("weak", [4]), ("strong", [0.9])]))
        #expect(report.comparisons().map(\.rule) == ["strong", "weak"])
        #expect(report.conclusions().isEmpty)
    }

    /// In mean, in p99 and in output, each once; the product's rule and other forms of it are no rivals of theirs.
    @Test func rivalsAreThoseThatWereBestOnTheRow() {
        var report = SimulationReport(seeds: [1, 2])
        var made = summaries("a", [("ours", [1, 1]), ("steady", [3, 3]), ("mostly", [2, 2]), ("never", [9, 9])])
        (made[1].p99TTFT, made[2].p99TTFT) = (Estimate([4]), Estimate([8]))
        made[3].outputTokensPerSecond = Estimate([1e6])
        report.add(row("a"), made)
        #expect(report.rivals(ofRow: "a", but: ["ours"]) == ["mostly", "steady", "never"])
        #expect(report.rivals(ofRow: "a", but: ["ours", "never", "steady"]) == ["mostly"])
        #expect(report.rivals(ofRow: "b", but: []).isEmpty)
        #expect(
            RoutingRule.isRival("llm-d-legacy:kv=3") && !RoutingRule.isRival("least-cost:stall=0")
                && !RoutingRule.isRival("oracle:explore=0.1"))
    }

    /// With rivals of its own on each row the first rule is judged by row alone, and a family's charts have the rules that all its rows have.
    @Test func rowsOfDifferentRulesAreNoSum() throws {
        var report = SimulationReport(seeds: [1, 2])
        report.add(row("a", load: 1), summaries("a", [("ours", [1, 1]), ("x", [2, 2]), ("y", [3, 3])]))
        report.add(row("b", load: 2), summaries("b", [("ours", [4, 4]), ("y", [2, 2])]))
        #expect(
            report.conclusions().map(\.heading) == [
                "ours against the best of the others on each row: holds on 1 of 2 in mean, 1 in p99"
            ])
        let page = report.html(title: "t")
        #expect(page.contains(">y</text>") && !page.contains(">x</text>"))
    }

    @Test func theGridIsMeasuredAgainstOneRouterWithFreshReports() throws {
        var report = SimulationReport(seeds: [1])
        for (routers, age, seconds) in [(1, 0.0, 0.1), (1, 100, 0.1), (16, 0, 0.105), (16, 100, 0.12)] {
            var fleet = SimulatedFleet.published(groups: 1)
            fleet.routers = routers
            var row = row("\(routers), \(age)", fleet: fleet, load: age)
            row.isOfGrid = true
            report.add(row, summaries(row.name, [("ours", [seconds])]))
        }
        let table = try #require(report.gridTable())
        #expect(table.header.dropFirst() == ["0 ms old", "100 ms old"])
        #expect(table.rows.map { $0[0] } == ["1 routers", "16 routers"])
        #expect(table.rows[1][2].hasPrefix("120.0, 1.200"))
        #expect(report.conclusions().map(\.heading) == ["Routers by the age of reports"])
    }

    /// Each percentile has a picture of its own, over an axis that says what it is and in which unit.
    @Test func percentilesAreDrawnOverALoadWithItsUnit() throws {
        var report = SimulationReport(seeds: [1])
        for load in [1.0, 2] {
            var outcome = SimulationOutcome()
            outcome.ttft = [Float](repeating: 0.012, count: 80) + [Float](repeating: 0.3, count: 15) + [Float](repeating: 7, count: 5)
            outcome.meanTTFT = 60
            report.add(row("at \(load)", load: load), [SimulationSummary(row: "", rule: "ours", outcomes: [outcome])])
        }
        let page = report.html(title: "t")
        for (label, low, high) in [
            ("TTFT mean", "50", "100"), ("TTFT p50", "0.01", "0.02"), ("TTFT p90", "0.2", "0.5"), ("TTFT p99", "5", "10"),
        ] {
            let end = try #require(page.range(of: "<figcaption>\(label) by load, parts/s</figcaption>"), "\(label)")
            let begin = try #require(page.range(of: "<figure>", options: .backwards, range: page.startIndex..<end.lowerBound))
            let figure = page[begin.lowerBound..<end.lowerBound]
            #expect(figure.matches(of: /text-anchor="end">([^<]*)</).map { String($0.1) } == [low, high], "\(label)")
            #expect(figure.contains("text-anchor=\"middle\">load, parts/s</text>") && figure.contains(">\(label), s</text>"))
        }
    }

    @Test func everyRuleIsJudgedAsPublishedAndEveryTermIsAblated() throws {
        let judged = try RoutingRule.judged.map { try RoutingRule($0) }
        #expect(judged[0].published == nil)
        let asPublished = Set(judged.filter { $0.parameters.isEmpty }.compactMap(\.published))
        #expect(asPublished == Set(PublishedRule.Kind.allCases).subtracting([.oracle]))
        // A variant that says what is published anyway would be judged twice.
        for rule in judged {
            for (name, value) in rule.parameters { #expect(rule.published?.defaults[name] != value || rule.parameters.count > 1) }
        }

        let ablations = try RoutingRule.ablations()
        #expect(ablations[0].cost == CostRule())
        #expect(Set(ablations.map(\.text)).count == ablations.count)
        for (index, rule) in ablations.enumerated().dropFirst() { #expect(rule.cost != ablations[0].cost, "\(index)") }
        #expect(ablations.map(\.text).contains("least-cost:stall=0"))
    }
}

@Suite struct SuiteTests {
    /// What is before the measured requests, and the silence after it, is no part of the picture.
    @Test func theHeatMapIsOfTheMeasuredTime() throws {
        let row = SimulationRow(
            name: "gap", family: "gap", load: 8, loadLabel: "load, requests/s", fleet: .published(groups: 2), warmUpSeconds: 5
        ) { seed in
            let stages: [ArrivalSchedule.Stage] = [.init(startRate: 8, seconds: 5, gapSeconds: 300), .init(startRate: 8, seconds: 10)]
            let shape = SyntheticShape(groups: 4, promptsPerGroup: 4, systemTokens: 1_000, questionTokens: 500, outputTokens: 200)
            return LoadPlan(
                name: "gap", shape: shape, schedule: ArrivalSchedule(.poisson, stages: stages, seed: seed), process: "poisson", seed: seed)
        }
        let found = row.run([try RoutingRule("round-robin")], seeds: [1])[0]
        let columns = (0..<60).map { column in found.shares.reduce(0) { $0 + $1[column] } }
        #expect(columns.count { $0 == 0 } <= 3)
    }

    /// A family is one curve: its loads differ, and are of one unit.
    @Test func loadsOfAFamilyAreOfOneUnitAndDiffer() {
        let rows = SimulationSuite.rows(traces: "nowhere") + SimulationSuite.manyRouters
        for (family, members) in Dictionary(grouping: rows, by: \.family) {
            #expect(Set(members.map(\.loadLabel)).count == 1, "\(family)")
            #expect(Set(members.map(\.load)).count == members.count, "\(family)")
        }
        func label(_ name: String) -> String? { rows.first { $0.name == name }?.loadLabel }
        #expect(label("b2b-saas @3") == "load, requests/s" && label("engine restart @6") == "load, requests/s")
        #expect(label("sibling-bursts @0.1") == "load, bursts/s")
        #expect(label("predicted-latency-a @5") == "load, conversations/s")
        #expect(label("16 routers, reports 100 ms old") == "age of the reports, ms")
        #expect(label("no-prefix @25, 16 routers, reports 500 ms old") == "age of the reports, ms")
        #expect(SimulationSuite.arrivals(of: "multi-turn-chat") == "conversations")
    }

    @Test func aTracesLoadIsItsSpeed() throws {
        let line = #"{"timestamp":0,"input_length":600,"output_length":9,"hash_ids":[1,2]}"#
        let row = try SimulationSuite.traceRow(line, path: "t.jsonl", name: "t", load: 2, limit: .max)
        #expect(row.name == "t ×2" && row.loadLabel == "load, times the trace's own speed")
    }

    /// Each session begins for itself, as often as told, and its turns follow its answers.
    @Test func sessionsOfAgentsBeginOneByOne() throws {
        let lines = (0..<40).flatMap { session in
            (0..<3).map { turn in
                "{\"session_id\":\"s\(session)\",\"input_length\":600,\"output_length\":9,\"hash_ids\":[\(session * 10 + turn * 2),\(session * 10 + turn * 2 + 1)],"
                    + (turn == 0 ? "\"timestamp\":0}" : "\"delay\":1000}")
            }
        }
        let row = try SimulationSuite.sessionRow(lines.joined(separator: "\n"), path: "t.jsonl", name: "t", perMinute: 30, limit: .max)
        let plan = row.plan(7)
        let workload = SimulatedWorkload(plan, warmUpSeconds: row.warmUpSeconds)
        let starts = workload.requests.filter(\.isFirstTurn).map { Double($0.offsetNanoseconds) / 1e9 }
        #expect(starts.count == 40 && Set(starts).count == 40)
        // Forty exponential gaps of two seconds.
        #expect(starts.max() ?? 0 > 50 && starts.max() ?? 0 < 120)
        #expect(row.warmUpSeconds == 20 && row.loadLabel == "load, sessions/min")
        #expect(row.plan(7).requests.map(\.offsetNanoseconds) == plan.requests.map(\.offsetNanoseconds))
        #expect(row.plan(8).requests.map(\.offsetNanoseconds) != plan.requests.map(\.offsetNanoseconds))
    }

    /// Of two groups both are drawn, so the busier one never gets anything.
    @Test func powerOfTwoDrawsTwo() {
        let fleet = SimulatedFleet.published(groups: 2)
        var rule = PublishedRule(.powerOfTwo, parameters: [:], fleet: fleet, seed: 1)
        let candidates = [3.0, 4].enumerated().map { slot, running in
            Candidate(
                slot: UInt32(slot), identity: UInt64(slot), cachedTokens: 0, tokensAhead: 0, waiting: 0, running: running, activeTokens: 0,
                heldTokens: 0, capacityTokens: 1)
        }
        for _ in 0..<50 {
            let request = RuleRequest(promptTokens: 1, outputTokens: 1, hashes: .init(start: nil, count: 0), session: 0, rollouts: [:])
            #expect(rule.choose(candidates, request, now: 0) == 0)
        }
    }
}
