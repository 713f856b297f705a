import ArgumentParser
import EventLoop
import Foundation
import LatencyBench
import Reporting
import Workload

/// What is compared, and how often.
struct OverheadOptions: ParsableArguments {
    @Option(help: ArgumentHelp("URL of the router.", valueName: "url"))
    var via: String?
    @Option(help: ArgumentHelp("URL of what stands behind it.", valueName: "url"))
    var direct: String?
    @Option(help: ArgumentHelp("Sizes of prompts, with commas, for --peers; --rate has one rate, or one for each.", valueName: "bytes"))
    var promptBytes = "1024,32768,262144,1048576"
    @Option(help: ArgumentHelp("Runs of each side.", valueName: "count"))
    var repeats = 6
}

/// `swiftlet bench overhead --via URL --direct URL`: what a router adds.
struct BenchOverheadCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "overhead", abstract: "What a router adds: one schedule in turns through it and past it.",
        discussion: """
            Runs alternate in the order ABBA, so that a drift of the machine cancels; intervals are Student's t over pairs of neighbours. First a \
            null test: the same against the direct URL twice. Nothing is claimed where the interval contains zero or the null test's does not, nor \
            of percentiles with fewer than ten requests beyond them. With --peers instead of URLs it starts these routers before a simulated group \
            and makes one table of them, for each size of --prompt-bytes.
            """)

    @OptionGroup(title: "Sides") var sides: OverheadOptions
    @OptionGroup(title: "Routers and groups") var peer: PeerOptions
    @OptionGroup var load: LoadOptions
    @OptionGroup(title: "Output") var output: ReportFiles

    struct Result: Codable {
        var tool: String
        var startedAt: String
        var command: [String]
        /// Interrupted: of what came before.
        var isPartial: Bool
        var via: String
        var direct: String
        var repeats: Int
        var metric: String
        /// What every run sent, and what else was asked for.
        var workload: RunReport.Workload?
        var parameters: [String: String]
        var null: [LatencyDifference]
        var added: [LatencyDifference]
        var failed: Int
        var invalidReasons: [String]
        /// Of all runs together, in nanoseconds.
        var generatorLag: Distribution
        var environment: RunEnvironment
    }

    func validate() throws {
        try load.check()
        guard (2...1_000).contains(sides.repeats) else { throw ValidationError("--repeats: expected 2 to 1000, found \(sides.repeats)") }
        try peer.check()
        let hasURLs = (sides.via != nil, sides.direct != nil)
        guard (peer.peers == nil) == hasURLs.0, hasURLs.0 == hasURLs.1 else {
            throw ValidationError("expected --via with --direct, or --peers")
        }
        if peer.peers != nil {
            _ = try sizes()
            try load.checkNoWorkload()
        } else {
            try load.checkTraceTimes()
        }
    }

    private func sizes() throws -> [(bytes: Int, rate: Double)] {
        let bytes = sides.promptBytes.split(separator: ",").compactMap { Int($0) }
        guard !bytes.isEmpty, bytes.count == sides.promptBytes.split(separator: ",").count,
            bytes.allSatisfy({ (1...(16 << 20)).contains($0) })
        else {
            throw ValidationError("--prompt-bytes: expected sizes of 1 to 16777216, found '\(sides.promptBytes)'")
        }
        let rates = try load.stages().map(\.startRate)
        guard rates.count == 1 || rates.count == bytes.count, rates.allSatisfy({ $0 > 0 }) else {
            throw ValidationError("--rate: expected one rate, or one for each of --prompt-bytes, found '\(load.rate)'")
        }
        return bytes.enumerated().map { ($1, rates[rates.count == 1 ? 0 : $0]) }
    }

    func run() throws {
        raiseDescriptorLimit()
        guard let via = sides.via, let direct = sides.direct else {
            let run = OverheadTableRun(
                load: load, peer: peer, repeats: sides.repeats, sizes: try sizes(), seconds: try load.stages()[0].seconds)
            return try run.run(output: output)
        }
        let (router, backend) = (try LoadTarget(via), try LoadTarget(direct))
        let (watch, startedAt) = (RunEnvironment.Watch(), Date())
        let series = RunSeries(load: load, total: 2 + 4 * sides.repeats, interruption: Interruption())
        let plan = try load.plan()
        // The first run of each pays for caches and connections.
        for (target, name) in [(router, "through, warm-up"), (backend, "direct, warm-up")] {
            _ = try series.measure(plan, target, name: name)
        }
        let null = try alternate(series, plan, backend, backend, names: ["null test, first side", "null test, second side"])
        let added = try alternate(series, plan, backend, router, names: ["direct", "through"])
        let differences = PairedComparison.differences(null.first, null.second)
        let result = Result(
            tool: "swiftlet \(Swiftlet.release)", startedAt: ISO8601DateFormatter().string(from: startedAt),
            command: series.command, isPartial: series.isInterrupted, via: via, direct: direct, repeats: sides.repeats,
            metric: load.request.api == "plain" || !load.request.stream ? "e2e" : "ttft", workload: series.workload,
            parameters: load.parameters,
            null: differences,
            added: PairedComparison.doubted(PairedComparison.differences(added.first, added.second), by: differences),
            failed: null.failed + added.failed, invalidReasons: Array(Set(null.invalid + added.invalid)).sorted(),
            generatorLag: Distribution(ofAll: null.lags + added.lags), environment: RunEnvironment(since: watch, generator: series.schedule)
        )
        try finish(result, runs: series.number)
    }

    private func finish(_ result: Result, runs: Int) throws {
        let clock = "\(result.metric) from the schedule"
        if result.isPartial {
            print("PARTIAL: interrupted in run \(runs) of \(2 + 4 * result.repeats); what follows is of whole pairs before it")
        }
        print("Null test: the direct URL against itself, \(clock)")
        print(differenceTable(result.null, unit: "µs", scale: 1e3, title: "null", sides: ("first", "second")).text)
        print("\nAdded by \(result.via), \(clock), \(result.repeats) runs of each in turns")
        print(differenceTable(result.added, unit: "µs", scale: 1e3, title: "added", sides: ("direct", "through")).text)
        if let workload = result.workload {
            print("Workload \(workload.name), content \(workload.contentHash), schedule \(workload.scheduleHash)")
        }
        print("Generator lag p50 \(milliseconds(result.generatorLag.p50)), p99 \(milliseconds(result.generatorLag.p99)) ms over all runs")
        if result.failed > 0 { print("FAILED: \(result.failed) requests") }
        for reason in result.invalidReasons { print("INVALID: \(reason)") }
        try output.write(
            json: {
                let encoder = JSONEncoder()
                encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
                return try encoder.encode(result)
            }, html: result.html)
        if result.isPartial { throw ExitCode(130) }
        if result.failed > 0 { throw ExitCode(1) }
    }

    private func milliseconds(_ nanoseconds: UInt64) -> String { String(format: "%.3f", Double(nanoseconds) / 1e6) }

    private struct Gathered {
        var first: [LatencyHistogram] = []
        var second: [LatencyHistogram] = []
        var failed = 0
        var invalid: [String] = []
        var lags: [LatencyHistogram] = []
    }

    /// Runs of both sides in turns, until an interrupt.
    private func alternate(_ series: RunSeries, _ plan: LoadPlan, _ first: LoadTarget, _ second: LoadTarget, names: [String]) throws
        -> Gathered
    {
        var gathered = Gathered()
        for isSecond in PairedComparison.order(repeats: sides.repeats) {
            guard let (report, measured) = try series.measure(plan, isSecond ? second : first, name: names[isSecond ? 1 : 0]) else { break }
            let histogram = load.request.api == "plain" || !load.request.stream ? measured.endToEnd : measured.timeToFirstToken
            if isSecond { gathered.second.append(histogram) } else { gathered.first.append(histogram) }
            gathered.lags.append(measured.generatorLag)
            gathered.failed += report.failed
            gathered.invalid += report.invalidReasonsOfDifferences
        }
        return gathered
    }
}

/// Runs one after another of which only differences are used: each announced by its number, all ended by one interrupt.
final class RunSeries {
    private let load: LoadOptions
    private let total: Int
    private let interruption: Interruption
    private(set) var number = 0
    /// Of the first run, and its command line as reports keep it.
    private(set) var workload: RunReport.Workload?
    private(set) var command: [String] = []
    /// How the generator's threads were scheduled.
    private(set) var schedule: String?

    init(load: LoadOptions, total: Int, interruption: Interruption) {
        self.load = load
        self.total = total
        self.interruption = interruption
    }

    var isInterrupted: Bool { interruption.hasCome }

    /// - Returns: nil when it was interrupted before its end: half a run's requests are others than a whole one's.
    func measure(_ plan: LoadPlan, _ target: LoadTarget, model: String? = nil, name: String) throws -> (RunReport, RunMeasurements)? {
        guard !isInterrupted else { return nil }
        number += 1
        var settings = try load.settings(for: target)
        if let model { settings.model = model }
        let (report, measured) = try play(
            LoadRun(plan: plan, target: target, settings: settings), label: "run \(number) of \(total): \(name)", goodput: nil,
            display: .announcement, interruption: interruption)
        if workload == nil { (workload, command) = (report.workload, report.command) }
        schedule = report.environment.generatorSchedule
        return report.isPartial ? nil : (report, measured)
    }
}

extension BenchOverheadCommand.Result {
    /// The comparison as a page in one file.
    var html: String {
        var page = HTMLPage(title: "swiftlet bench overhead: what \(via) adds")
        if isPartial { page.warning("Partial: it was interrupted.") }
        if failed > 0 { page.warning("\(failed) requests failed.") }
        for reason in invalidReasons { page.warning("Invalid runs: \(reason).") }
        page.paragraph(
            "Latency (\(metric)) through \(via) against \(direct), counted from when each request was due: \(repeats) runs of each in the order ABBA, 95 % intervals of Student's t over pairs of neighbours. Nothing is claimed of what is hollow and dashed."
        )
        let names = PairedComparison.names.prefix(4).filter { name in added.contains { $0.name == name } }
        let chart = IntervalChart(
            title: "Added, and the null test", label: "difference, µs", kinds: names,
            rows: [("null test", null), ("added", added)].map { name, differences in
                (name, names.map { one in differences.first { $0.name == one }.map(IntervalChart.Mark.init) })
            }, evenBelow: 100)
        if !names.isEmpty { page.figure(chart.svg, caption: "Even up to 100 µs about zero, logarithmic beyond, on either side.") }
        page.heading("Added")
        page.table(differenceTable(added, unit: "µs", scale: 1e3, title: "added", sides: ("direct", "through")))
        page.heading("Null test: the direct URL against itself")
        page.table(differenceTable(null, unit: "µs", scale: 1e3, title: "null", sides: ("first", "second")))
        page.heading("How it was measured")
        var facts = [["tool", tool], ["started", startedAt], ["command", command.joined(separator: " ")]]
        if let workload {
            facts.append(["workload", "\(workload.name), content \(workload.contentHash), schedule \(workload.scheduleHash)"])
        }
        facts += parameters.sorted { $0.key < $1.key }.map { [$0.key, $0.value] } + environment.rows
        page.facts(TextTable(header: ["", ""], rows: facts))
        return page.html
    }
}

extension LoadOptions {
    /// What was asked for beside the workload, by the flags' names, for reports that have no run's own.
    var parameters: [String: String] {
        [
            "api": request.api, "stream": "\(request.stream)", "ignore-eos": "\(request.ignoreEnd)", "rate": rate, "duration": duration,
            "stage-gap": "\(stageGap)",
            "arrival": arrival, "seed": "\(seed)", "salt": "\(salt)", "max-concurrency": maxConcurrency.map { "\($0)" } ?? "",
            "closed-loop": traffic.closedLoop.map { "\($0)" } ?? "", "warm-up": "\(traffic.warmUp)", "timeout": "\(request.timeout)",
            "drain": "\(traffic.drain)",
            "loops": "\(generator.loops)", "connections": "\(request.connections)", "realtime": generator.realtime.rawValue,
            "busy-poll": "\(generator.busyPoll)",
        ]
    }
}
