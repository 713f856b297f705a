import ArgumentParser
import Foundation
import LatencyBench
import Reporting
import Workload

/// How large a fleet, and how often.
struct FleetOptions: ParsableArguments {
    @Option(name: .customLong("groups"), help: ArgumentHelp("Simulated groups.", valueName: "count"))
    var groups = 8
    @Option(
        help: ArgumentHelp(
            "So many of each router, which get requests in turns; those of swiftlet tell one another, those of swiftlet-apart do not.",
            valueName: "count"))
    var replicas = 1
    @Option(help: ArgumentHelp("Runs of each router at each rate.", valueName: "count"))
    var repeats = 3
}

struct FleetOutputOptions: ParsableArguments {
    @OptionGroup(title: "Output") var files: ReportFiles
    @Option(help: ArgumentHelp("Write the plots of rate against TTFT, mean and p99, as SVG.", valueName: "file"))
    var plot: String?

    func validate() throws { try OutputFile.check([.init("--plot", plot)]) }
}

/// `swiftlet bench fleet`: several routers before the same simulated groups.
struct BenchFleetCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "fleet", abstract: "Play one schedule through several routers before simulated groups.",
        discussion: """
            Every run has groups and a router of its own, started for it, so that no cache remembers the run before. Runs alternate between routers, \
            there and back. The workload is b2b-saas unless one is named: where prompts share nothing, routers that follow caches cannot differ \
            from others. --rate has the rates to compare, with commas; a trace is stretched to each of them, and --duration bounds its rows. \
            'make bench-peers' installs the peers.
            """)

    @OptionGroup(title: "Routers and groups") var peer: PeerOptions
    @OptionGroup(title: "Routers and groups") var fleet: FleetOptions
    @OptionGroup var load: LoadOptions
    @OptionGroup(title: "Output") var output: FleetOutputOptions

    func validate() throws {
        try load.check()
        try load.checkOpenLoop()
        guard try !peer.routers().isEmpty else { throw ValidationError("--peers: expected at least one router") }
        guard Set(try peer.routers()).count == (try peer.routers().count) else { throw ValidationError("--peers: a router stands twice") }
        guard (1...100).contains(fleet.repeats) else { throw ValidationError("--repeats: expected 1 to 100, found \(fleet.repeats)") }
        guard (1...32).contains(fleet.replicas) else { throw ValidationError("--replicas: expected 1 to 32, found \(fleet.replicas)") }
        guard (1...256).contains(fleet.groups) else { throw ValidationError("--groups: expected 1 to 256, found \(fleet.groups)") }
        guard load.request.api == "chat" || load.request.api == "text" else {
            throw ValidationError("--api: expected chat or text, found '\(load.request.api)'")
        }
        guard try load.stages().allSatisfy({ $0.startRate == $0.endRate && $0.startRate > 0 }) else {
            throw ValidationError("--rate: expected rates above 0, without ramps, found '\(load.rate)'")
        }
    }

    /// Without a named workload one whose prompts share their beginnings.
    private var shared: LoadOptions {
        var result = load
        if result.content.givenWorkload == nil, result.content.trace == nil { result.content.givenWorkload = "b2b-saas" }
        return result
    }

    private final class Gathered {
        var reports: [RunReport] = []
        var measured = RunMeasurements()
    }

    /// What all runs have in common, and what came of them.
    private struct Play {
        let routers: [PeerRouter]
        let settings: RouterBed.Settings
        let stages: [ArrivalSchedule.Stage]
        let plans: [LoadPlan]
        let interruption: Interruption
        /// By rate, then by router.
        let gathered: [[Gathered]]
        var failures: [String: String] = [:]
        var isPartial = false
        var groupSchedule: String?
    }

    func run() throws {
        raiseDescriptorLimit()
        let load = shared
        let (watch, startedAt) = (RunEnvironment.Watch(), Date())
        let routers = try peer.routers()
        var settings = try peer.bed(groups: fleet.groups, load: load)
        settings.replicas = fleet.replicas
        let stages = try load.stages().sorted { $0.startRate < $1.startRate }
        var play = Play(
            routers: routers, settings: settings, stages: stages, plans: try stages.map { try load.plan(forStage: $0) },
            interruption: Interruption(), gathered: stages.map { _ in routers.map { _ in Gathered() } })
        let versions = routers.map { router in
            // One that is not there costs its own rows alone, and need not be started to know it.
            do { return FleetReport.Router(name: router.rawValue, version: try RouterBed.version(of: router, settings)) } catch {
                Self.tell(router, "\(error)", in: &play.failures)
                return FleetReport.Router(name: router.rawValue, version: "")
            }
        }
        try playAll(&play)
        let gathered = play.gathered
        let generatorSchedule = gathered.joined().lazy.compactMap { $0.reports.first?.environment.generatorSchedule }.first
        var report = FleetReport(
            tool: "swiftlet \(Swiftlet.release)", startedAt: startedAt, command: CommandLine.arguments, isPartial: play.isPartial,
            environment: RunEnvironment(since: watch, generator: generatorSchedule, groups: play.groupSchedule), groups: fleet.groups,
            stubFlags: settings.stubFlags, repeats: fleet.repeats, goodput: load.goodputTarget, routers: versions,
            workloads: gathered.map { $0.first { !$0.reports.isEmpty }?.reports.first?.workload }.compactMap { $0 },
            cells: cells(play, load.goodputTarget))
        report.failures = play.failures
        report.replicas = fleet.replicas
        try finish(report)
    }

    private static func tell(_ router: PeerRouter, _ reason: String, in failures: inout [String: String]) {
        failures[router.rawValue] = reason
        FileHandle.standardError.write(Data("\(router.rawValue) did not start: \(reason)\n".utf8))
    }

    private func playAll(_ play: inout Play) throws {
        let present = play.routers.count { play.failures[$0.rawValue] == nil }
        let seconds = play.plans.reduce(0) { $0 + Double($1.requests.map(\.offsetNanoseconds).max() ?? 0) / 1e9 }
        let runs = present * play.plans.count * fleet.repeats
        print(
            String(
                format: "%d runs: %d routers, %d rates, %d repeats; about %.0f minutes and what queues take to empty", runs, present,
                play.plans.count, fleet.repeats, (seconds * Double(present * fleet.repeats) + Double(runs) * 3) / 60))
        var number = 0
        for turn in 0..<fleet.repeats {
            for (row, plan) in play.plans.enumerated() {
                for column in turn % 2 == 0 ? Array(play.routers.indices) : play.routers.indices.reversed() {
                    let router = play.routers[column]
                    if play.interruption.hasCome { play.isPartial = true }
                    if play.isPartial { return }
                    if play.failures[router.rawValue] != nil { continue }
                    number += 1
                    let label = "run \(number) of \(runs): \(router.rawValue) at \(String(format: "%g", play.stages[row].startRate))/s"
                    switch try one(router, plan, play.settings, play.interruption, label: label) {
                    case .interrupted: play.isPartial = true
                    case .notStarted(let reason): Self.tell(router, reason, in: &play.failures)
                    case .played(let report, let measured, let schedule):
                        play.groupSchedule = schedule
                        play.gathered[row][column].reports.append(report)
                        play.gathered[row][column].measured.add(measured)
                    }
                }
            }
        }
    }

    private func cells(_ play: Play, _ goodput: GoodputTarget?) -> [FleetReport.Cell] {
        play.stages.indices.flatMap { row in
            play.routers.indices.compactMap { column in
                let all = play.gathered[row][column]
                guard !all.reports.isEmpty else { return nil }
                return FleetReport.Cell(
                    router: play.routers[column].rawValue, rate: play.stages[row].startRate, reports: all.reports, measured: all.measured,
                    goodput: goodput)
            }
        }
    }

    private func finish(_ report: FleetReport) throws {
        if !report.cells.isEmpty { print(report.table.text) }
        for line in report.silent { print("NO ANSWER: \(line)") }
        for reason in report.invalidReasons { print("INVALID: \(reason)") }
        print(Self.schedules(report.environment))
        try output.files.write(
            json: report.json, html: report.html, others: [(.init("--plot", output.plot), { Data(report.picture.utf8) })])
        if report.isPartial { throw ExitCode(130) }
        // A router that answered nothing at some rate is a result. Where none ever did, nothing was measured.
        if !report.failures.isEmpty || !report.cells.contains(where: \.hasAnswers) { throw ExitCode(1) }
    }

    /// Who ran ahead of whom.
    static func schedules(_ environment: RunEnvironment) -> String {
        "Threads: generator \(environment.generatorSchedule ?? "unknown"), groups \(environment.groupSchedule ?? "unknown"), routers ordinary"
    }

    private enum Outcome {
        case interrupted
        case notStarted(String)
        case played(RunReport, RunMeasurements, groupSchedule: String?)
    }

    private func one(
        _ router: PeerRouter, _ plan: LoadPlan, _ settings: RouterBed.Settings, _ interruption: Interruption, label: String
    ) throws -> Outcome {
        let bed = try RouterBed(settings)
        defer { bed.stop() }
        let urls: [String]
        do { urls = try bed.start(router) } catch {
            return interruption.hasCome ? .interrupted : .notStarted("\(error)")
        }
        let target = try LoadTarget(replicas: urls)
        guard !interruption.hasCome else { return .interrupted }
        var load = try load.settings(for: target)
        load.model = settings.model
        let (report, measured) = try play(
            LoadRun(plan: plan, target: target, settings: load), label: label, goodput: self.load.goodputTarget, display: .announcedFigures,
            interruption: interruption)
        return report.isPartial ? .interrupted : .played(report, measured, groupSchedule: bed.groupSchedule)
    }
}
