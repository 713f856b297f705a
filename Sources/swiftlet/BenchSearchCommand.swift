import ArgumentParser
import Foundation
import LatencyBench
import Reporting
import Workload

/// Where a search begins to be content.
struct SearchOptions: ParsableArguments {
    @Option(help: ArgumentHelp("Share of requests that must be good, 0 to 1.", valueName: "share"))
    var share = 0.99
    @Option(help: ArgumentHelp("Stop when the interval is within this share of the rate.", valueName: "share"))
    var precision = 0.05
    @Option(help: ArgumentHelp("Highest rate tried.", valueName: "requests/s"))
    var highest = 1_000_000.0
}

/// `swiftlet bench search`: the highest rate that keeps a promise.
struct BenchSearchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "search", abstract: "Find the highest rate at which a goodput target holds.",
        discussion: "Doubles the rate until the target is missed, then halves the interval. --rate is where it begins.")

    @Argument(help: "http(s)://, h2c://, h2:// or grpc(s)://HOST:PORT[/PATH].")
    var url: String
    @OptionGroup var load: LoadOptions
    @OptionGroup(title: "Goals") var goal: SearchOptions
    @OptionGroup(title: "Output") var output: ReportFiles

    func validate() throws {
        try load.check()
        try load.checkOpenLoop()
        guard load.goodputTarget != nil else { throw ValidationError("--goodput: expected a target") }
        guard load.content.trace == nil else { throw ValidationError("--trace: a trace has its own times") }
        let stages = try load.stages()
        guard stages.count == 1, stages[0].startRate == stages[0].endRate, stages[0].startRate > 0 else {
            throw ValidationError("--rate: expected one rate above 0 to begin with, found '\(load.rate)'")
        }
        for (flag, value) in [("--share", goal.share), ("--precision", goal.precision)] where !(0.001...1).contains(value) {
            throw ValidationError("\(flag): expected 0.001 to 1, found \(value)")
        }
        guard (stages[0].startRate...10_000_000).contains(goal.highest) else {
            throw ValidationError("--highest: expected at least --rate's \(load.rate), up to 10000000, found \(goal.highest)")
        }
    }

    /// What all runs have in common, and what came of them.
    private struct Search {
        let target: LoadTarget
        let wanted: GoodputTarget
        let seconds: Double
        let watch = RunEnvironment.Watch()
        /// One for all runs: a signal between two of them counts, too.
        let interruption = Interruption()
        var salt: UInt64
        var result: SearchReport
    }

    func run() throws {
        guard let wanted = load.goodputTarget else { return }
        raiseDescriptorLimit()
        let first = try load.stages()[0]
        var search = Search(
            target: try LoadTarget(url), wanted: wanted, seconds: first.seconds, salt: load.salt,
            result: SearchReport(
                tool: "swiftlet \(Swiftlet.release)", startedAt: Date(), command: CommandLine.arguments, url: url, target: wanted,
                share: goal.share))
        try find(from: first.startRate, &search)
        search.result.isPartial = search.interruption.hasCome
        let result = search.result
        print(result.table.text)
        print(result.answer)
        try output.write(json: result.json, html: result.html)
        if result.isPartial { throw ExitCode(130) }
        if result.steps.allSatisfy({ $0.requests == $0.failed }) { throw ExitCode(1) }
        if result.highest == nil || result.inconclusive != nil { throw ExitCode(2) }
    }

    private func find(from first: Double, _ search: inout Search) throws {
        var (low, high): (Double, Double?) = (0, nil)
        var rate = first
        while high.map({ $0 - low > goal.precision * $0 }) ?? true {
            guard let step = try play(rate, &search), search.result.inconclusive == nil else { return }
            if step.holds { low = rate } else { high = rate }
            if low >= goal.highest { return }
            rate = high.map { (low + $0) / 2 } ?? min(goal.highest, rate * 2)
            // Nothing holds, however slow.
            if low == 0, rate < 0.01 { return }
        }
    }

    /// A late generator may be a moment's; what is late again and again is no step.
    private static let attempts = 3

    /// One rate, and a reason to end with when it says nothing of the target.
    /// - Returns: nil after an interrupt.
    private func play(_ rate: Double, _ search: inout Search) throws -> SearchReport.Step? {
        for attempt in 1...Self.attempts {
            search.salt += 1
            let stage = ArrivalSchedule.Stage(startRate: rate, seconds: search.seconds)
            let plan = try load.scheduled(salt: search.salt, stages: [stage])
            guard !plan.requests.isEmpty else {
                search.result.inconclusive = String(
                    format: "At %.4g requests/s nothing is due within %.4g s: a longer --duration could tell.", rate, search.seconds)
                return nil
            }
            let run = LoadRun(plan: plan, target: search.target, settings: try load.settings(for: search.target))
            let (report, _) = try swiftlet.play(
                run, label: String(format: "%.2f/s", rate), goodput: search.wanted, display: .announcedFigures,
                interruption: search.interruption)
            if report.isPartial || search.interruption.hasCome { return nil }
            let step = SearchReport.Step(rate: rate, report, share: goal.share, target: search.wanted)
            search.result.steps.append(step)
            if search.result.workload == nil { search.result.workload = report.workload }
            search.result.environment = RunEnvironment(since: search.watch, generator: run.schedule)
            for reason in step.invalidReasons { print(String(format: "INVALID at %.2f/s: ", rate) + reason) }
            if let reason = SearchReport.hopelessness(report) {
                search.result.inconclusive = reason
                return step
            }
            if step.isValid { return step }
            if attempt == Self.attempts {
                search.result.inconclusive =
                    String(
                        format: "At %.2f requests/s the run was invalid %d times and says nothing of the server: ", rate, Self.attempts)
                    + step.invalidReasons.joined(separator: "; ") + "."
                return step
            }
        }
        return nil
    }
}
