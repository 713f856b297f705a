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
        guard try load.stages().count == 1 else { throw ValidationError("--rate: expected one rate to begin with") }
        for (flag, value) in [("--share", goal.share), ("--precision", goal.precision)] where !(0.001...1).contains(value) {
            throw ValidationError("\(flag): expected 0.001 to 1, found \(value)")
        }
    }

    func run() throws {
        guard let wanted = load.goodputTarget else { return }
        raiseDescriptorLimit()
        let target = try LoadTarget(url)
        let first = try load.stages()[0]
        let watch = RunEnvironment.Watch()
        var result = SearchReport(
            tool: "swiftlet \(Swiftlet.release)", startedAt: Date(), command: CommandLine.arguments, url: url, target: wanted,
            share: goal.share)
        var (low, high): (Double, Double?) = (0, nil)
        var rate = max(0.001, first.meanRate)
        var salt = load.salt
        // One for all runs: a signal between two of them counts, too.
        let interruption = Interruption()
        while high.map({ $0 - low > goal.precision * $0 }) ?? true {
            salt += 1
            let stage = ArrivalSchedule.Stage(startRate: rate, seconds: first.seconds)
            let run = LoadRun(plan: try load.plan(salt: salt, stages: [stage]), target: target, settings: try load.settings(for: target))
            let (report, _) = try play(
                run, label: String(format: "%.2f/s", rate), goodput: wanted, display: .announcedFigures, interruption: interruption)
            if report.isPartial || interruption.hasCome { break }
            let step = SearchReport.Step(rate: rate, report, share: goal.share)
            result.steps.append(step)
            if result.workload == nil { result.workload = report.workload }
            result.environment = RunEnvironment(since: watch, generator: run.schedule)
            for reason in step.invalidReasons { print(String(format: "INVALID at %.2f/s: ", rate) + reason) }
            if step.holds { low = rate } else { high = rate }
            if low >= goal.highest { break }
            rate = high.map { (low + $0) / 2 } ?? min(goal.highest, rate * 2)
            // Nothing holds, however slow.
            if low == 0, rate < 0.01 { break }
        }
        result.isPartial = interruption.hasCome
        print(result.table.text)
        print(result.answer)
        try output.write(json: result.json, html: result.html)
        if result.isPartial { throw ExitCode(130) }
        if low == 0 { throw ExitCode(2) }
    }
}
