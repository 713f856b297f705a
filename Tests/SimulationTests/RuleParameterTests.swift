import Testing
import Workload

@testable import Routing
@testable import Simulation

/// Whatever a rule's parameters are set to, a mistake is named and nothing else is: no run traps, none goes on for ever.
@Suite struct RuleParameterTests {
    /// A few prompts with shared prefixes on three groups, one of which restarts, behind two routers that hear of each other.
    private static let fleet: SimulatedFleet = {
        var fleet = SimulatedFleet.published(groups: 3)
        fleet.routers = 2
        fleet.reportAgeMilliseconds = 20
        fleet.events = [.init(seconds: 1, change: .restart(group: 1, downSeconds: 0.5))]
        return fleet
    }()

    private static let workload: SimulatedWorkload = {
        let schedule = ArrivalSchedule(.poisson, stages: [.init(startRate: 16, seconds: 2)], seed: 5)
        let shape = SyntheticShape(groups: 3, promptsPerGroup: 8, systemTokens: 2_000, questionTokens: 200, outputTokens: 8)
        let plan = LoadPlan(name: "tiny", shape: shape, schedule: schedule, process: "poisson", seed: 5)
        return SimulatedWorkload(plan, warmUpSeconds: 0)
    }()

    /// Each rule with each of its parameters.
    private static let parameters: [(rule: String, name: String, range: ClosedRange<Double>)] = RoutingRule.names.flatMap { name in
        guard let rule = try? RoutingRule(name) else { return [(rule: String, name: String, range: ClosedRange<Double>)]() }
        return rule.parameterNames.compactMap { parameter in rule.range(of: parameter).map { (name, parameter, $0) } }
    }

    private func expectRun(_ text: String) throws {
        let outcome = FleetSimulation.run(workload: Self.workload, fleet: Self.fleet, rule: try RoutingRule(text), seed: 1)
        #expect(outcome.ttft.count + outcome.failed == Self.workload.requests.count, "\(text)")
        #expect(outcome.meanTTFT.isFinite && outcome.meanTTFT > 0, "\(text)")
    }

    @Test func everyParameterHasARange() {
        #expect(Self.parameters.count >= 40)
        for (rule, name, range) in Self.parameters {
            #expect(range.lowerBound >= 0 && range.upperBound.isFinite && range.lowerBound < range.upperBound, "\(rule):\(name)")
        }
        for rule in RoutingRule.judged { #expect(throws: Never.self, "\(rule)") { try RoutingRule(rule) } }
        for kind in PublishedRule.Kind.allCases {
            for (name, value) in kind.defaults { #expect(kind.range(of: name).contains(value), "\(kind):\(name)") }
        }
    }

    @Test func whatIsOutsideItsRangeIsRefused() {
        for (rule, name, range) in Self.parameters {
            for value in [-1, -1e300, 1e300, range.upperBound.nextUp, range.lowerBound.nextDown] {
                #expect {
                    try RoutingRule("\(rule):\(name)=\(value)")
                } throws: {
                    "\($0)".hasPrefix("\(name) of \(rule) is from \(range.lowerBound) to \(range.upperBound)")
                }
            }
            for text in ["nan", "inf", "-inf", "1e999", "", "x"] {
                #expect {
                    try RoutingRule("\(rule):\(name)=\(text)")
                } throws: {
                    "\($0)".contains("expected key=value")
                }
            }
        }
    }

    @Test func whatIsInItsRangeIsPlayed() throws {
        for (rule, name, range) in Self.parameters where rule != "oracle" {
            for value in [range.lowerBound, range.lowerBound.nextUp, range.upperBound] { try expectRun("\(rule):\(name)=\(value)") }
        }
    }

    /// One changes what the others come to.
    @Test(arguments: 1...24 as ClosedRange<UInt64>) func manyAtOnceArePlayed(seed: UInt64) throws {
        var generator = Workload.SeededGenerator(seed: seed)
        for rule in [RoutingRule.own, "prequal", "llm-d-legacy"] {
            let changes = Self.parameters.filter { $0.rule == rule }.map { parameter in
                let range = parameter.range
                let value = [range.lowerBound, range.upperBound, .random(in: range, using: &generator)].randomElement(using: &generator)
                return ":\(parameter.name)=\(value ?? 0)"
            }
            try expectRun(rule + changes.joined())
        }
    }

    @Test func aConstantStaysWhatItWasWhenItsNewValueIsRefused() {
        var rule = CostRule()
        let mistakes: [(String, Double)] = [("othersFirst", 8), ("decode", .nan), ("decode", -.infinity), ("heat", 1)]
        let taken = mistakes.map { rule.set($0.0, to: $0.1) }
        #expect(taken == [false, false, false, false] && rule == CostRule() && CostRule.range(of: "heat") == nil)
        let isSet = rule.set("othersFirst", to: 0.25)
        #expect(isSet && rule.othersFirst == 0.25)
    }
}
