import ArgumentParser
import EventLoop
import Foundation
import LatencyBench
import Reporting
import Workload

/// `swiftlet bench`: what users wait for, and what a router adds.
struct BenchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench", abstract: "Measure latency under load, from the moment each request was due.",
        discussion: """
            The whole schedule is computed from a seed before anything is sent and nothing that happens moves it (open loop). Every latency is counted \
            from the schedule, and beside it from the send, as other tools count. A run whose generator was late itself says that it is invalid.
            """,
        subcommands: [
            BenchRunCommand.self, BenchOverheadCommand.self, BenchFleetCommand.self, BenchSearchCommand.self, BenchCompareCommand.self,
        ],
        defaultSubcommand: BenchRunCommand.self)
}

/// What must hold of a run.
struct ThresholdOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Exit 2 unless it holds, for example 'ttft_p99<200' (ms), 'goodput>0.99' or 'failed<1'. Repeatable.", valueName: "bound"))
    var threshold: [String] = []
}

/// One run against one target.
struct BenchRunCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run", abstract: "One run against one URL (the default).",
        discussion: """
            Examples:
              swiftlet bench http://127.0.0.1:8080 --rate 5,10,20 --duration 30 --goodput ttft:500,tpot:50 --html report.html
              swiftlet bench http://127.0.0.1:8080 --trace mooncake.jsonl --time-scale 0.5 --threshold 'ttft_p99<500'
              swiftlet bench h2c://127.0.0.1:8080/health --api plain --arrival constant --rate 5000 --duration 5
            """)

    @Argument(help: "http(s)://, h2c://, h2:// or grpc(s)://HOST:PORT[/PATH].")
    var url: String
    @OptionGroup var load: LoadOptions
    @OptionGroup(title: "Goals") var goal: ThresholdOptions
    @OptionGroup(title: "Output") var output: OutputOptions

    func validate() throws {
        try load.check()
        try load.checkTraceTimes()
        for text in goal.threshold {
            guard let one = BenchThreshold(text) else {
                throw ValidationError("--threshold: expected METRIC_PERCENTILE<MS, goodput>SHARE or failed<COUNT, found '\(text)'")
            }
            guard !one.isOfGoodput || load.goals.goodput != nil else {
                throw ValidationError("--threshold: '\(text)' asks for --goodput, which says what is good")
            }
        }
    }

    func run() throws {
        raiseDescriptorLimit()
        let target = try LoadTarget(url)
        let settings = try load.settings(for: target)
        let run = LoadRun(plan: try load.plan(), target: target, settings: settings)
        print(
            "Workload \(run.plan.name): \(run.plan.requests.count) requests, content \(ContentHash.text(run.plan.contentHash)), schedule \(ContentHash.text(run.plan.scheduleHash))"
        )
        let (report, measured) = try play(run, label: output.label ?? run.plan.name, goodput: load.goodputTarget)
        print(report.text)
        let misses = misses(report)
        for line in misses { FileHandle.standardError.write(Data("\(line)\n".utf8)) }
        try output.write(report, measured)
        // Half a run says little of what a whole one would have kept.
        if report.isPartial { throw ExitCode(130) }
        if !misses.isEmpty { throw ExitCode(2) }
        if report.completed == 0 { throw ExitCode(1) }
    }
}

/// Runs with a display, and with a partial report when interrupted.
func play(
    _ run: LoadRun, label: String, goodput: GoodputTarget?, display style: RunDisplay.Style = .figures, interruption: Interruption? = nil
) throws -> (RunReport, RunMeasurements) {
    signal(SIGPIPE, SIG_IGN)
    let interruption = interruption ?? Interruption()
    interruption.whenItComes { run.stop() }
    defer { interruption.whenItComes(nil) }
    let watch = RunEnvironment.Watch()
    let startedAt = Date()
    let display = RunDisplay(label: label, style: style)
    display.begin()
    let measured = try run.run(progressAfter: display.firstIntervalSeconds, every: display.intervalSeconds) { display.show($0) }
    display.finish()
    let report = RunReport(
        run, measured, environment: RunEnvironment(since: watch, generator: run.schedule),
        context: .init(
            tool: "swiftlet \(Swiftlet.release)", label: label, startedAt: startedAt, command: CommandLine.arguments, goodput: goodput))
    return (report, measured)
}

extension BenchRunCommand {
    /// Why the thresholds are not passed. A run that is invalid says nothing of what was measured, so it passes none.
    private func misses(_ report: RunReport) -> [String] {
        guard !goal.threshold.isEmpty else { return [] }
        return goal.threshold.compactMap { BenchThreshold($0) }.filter { !$0.holds(for: report) }.map { "threshold missed: \($0.text)" }
            + report.invalidReasons.map { "no threshold is passed, since the run is invalid: \($0)" }
    }
}

/// Ten thousand streams are ten thousand sockets: takes what the system allows.
func raiseDescriptorLimit() {
    var limit = rlimit()
    guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
    limit.rlim_cur = limit.rlim_max
    setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
}

/// `NAME_pQQ<MILLISECONDS`, `goodput>SHARE`, `failed<COUNT` or `hit_rate>SHARE`.
struct BenchThreshold {
    let text: String
    private let name: String
    private let isUpper: Bool
    private let bound: Double

    init?(_ text: String) {
        let parts = text.split(omittingEmptySubsequences: false, whereSeparator: { $0 == "<" || $0 == ">" })
        guard parts.count == 2, let bound = Double(parts[1].trimmingCharacters(in: .whitespaces)), bound.isFinite else { return nil }
        self.text = text
        name = parts[0].trimmingCharacters(in: .whitespaces)
        isUpper = text.contains("<")
        self.bound = bound
        guard ["goodput", "failed", "hit_rate", "rate"].contains(name) || Self.percentile(name) != nil else { return nil }
    }

    private static func percentile(_ name: String) -> (metric: String, percentile: Double)? {
        guard let at = name.range(of: "_p", options: .backwards), let value = Double(name[at.upperBound...]),
            (0...100).contains(value)
        else { return nil }
        let metric = String(name[..<at.lowerBound])
        guard ["ttft", "ttft_from_send", "e2e", "e2e_from_send", "tpot", "itl", "generator_lag"].contains(metric) else { return nil }
        return (metric, value)
    }

    var isOfGoodput: Bool { name == "goodput" }

    func holds(for report: RunReport) -> Bool {
        let value: Double
        switch name {
        case "goodput": value = report.goodput?.share ?? 0
        case "failed": value = Double(report.failed)
        case "hit_rate": value = report.hitRate
        case "rate": value = report.requestRate
        default:
            guard let wanted = Self.percentile(name), let metric = report.metrics[wanted.metric], metric.count > 0 else { return false }
            if isUpper, report.isFailure(wanted.metric, percentile: wanted.percentile) { return false }
            value = metric.milliseconds(percentile: wanted.percentile)
        }
        return isUpper ? value < bound : value > bound
    }
}
