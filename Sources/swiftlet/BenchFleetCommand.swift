import ArgumentParser
import Foundation
import LatencyBench
import Reporting
import Workload

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

    @OptionGroup var peer: PeerOptions
    @Option(name: .customLong("groups"), help: "Simulated groups.")
    var groups = 8
    @Option(help: "Runs of each router at each rate.")
    var repeats = 3
    @OptionGroup var load: LoadOptions
    @Option(help: "Write the report as JSON.")
    var json: String?
    @Option(help: "Write a page with plots, in one file.")
    var html: String?
    @Option(help: "Write the plot of rate against TTFT as SVG.")
    var plot: String?

    func validate() throws {
        try load.check()
        guard try !peer.routers().isEmpty else { throw ValidationError("--peers: expected at least one router") }
        guard Set(try peer.routers()).count == (try peer.routers().count) else { throw ValidationError("--peers: a router stands twice") }
        guard (1...100).contains(repeats) else { throw ValidationError("--repeats: expected 1 to 100, found \(repeats)") }
        guard (1...256).contains(groups) else { throw ValidationError("--groups: expected 1 to 256, found \(groups)") }
        guard load.api == "chat" || load.api == "text" else { throw ValidationError("--api: expected chat or text, found '\(load.api)'") }
        guard try load.stages().allSatisfy({ $0.startRate == $0.endRate && $0.startRate > 0 }) else {
            throw ValidationError("--rate: expected rates above 0, without ramps, found '\(load.rate)'")
        }
    }

    /// Without a named workload one whose prompts share their beginnings.
    private var shared: LoadOptions {
        var result = load
        if result.givenWorkload == nil, result.trace == nil { result.givenWorkload = "b2b-saas" }
        return result
    }

    private final class Gathered {
        var reports: [RunReport] = []
        var measured = RunMeasurements()
    }

    func run() throws {
        raiseDescriptorLimit()
        let load = shared
        let (watch, startedAt, interruption) = (RunEnvironment.Watch(), Date(), Interruption())
        let routers = try peer.routers()
        let settings = try peer.bed(groups: groups, load: load)
        let versions = try routers.map { FleetReport.Router(name: $0.rawValue, version: try RouterBed.version(of: $0, settings)) }
        let stages = try load.stages().sorted { $0.startRate < $1.startRate }
        let plans = try stages.map { try load.plan(forStage: $0) }
        let seconds = plans.reduce(0) { $0 + Double($1.requests.map(\.offsetNanoseconds).max() ?? 0) / 1e9 }
        let runs = routers.count * stages.count * repeats
        print(
            String(
                format: "%d runs: %d routers, %d rates, %d repeats; about %.0f minutes and what queues take to empty", runs, routers.count,
                stages.count, repeats, (seconds * Double(routers.count * repeats) + Double(runs) * 3) / 60))
        let gathered: [[Gathered]] = stages.map { _ in routers.map { _ in Gathered() } }
        var (isPartial, groupSchedule, number) = (false, String?.none, 0)
        var failures: [String: String] = [:]
        repeats: for turn in 0..<repeats {
            for (row, plan) in plans.enumerated() {
                for column in turn % 2 == 0 ? Array(routers.indices) : routers.indices.reversed() {
                    number += 1
                    if interruption.hasCome { isPartial = true }
                    if isPartial { break repeats }
                    if failures[routers[column].rawValue] != nil { continue }
                    let label = "run \(number) of \(runs): \(routers[column].rawValue) at \(String(format: "%g", stages[row].startRate))/s"
                    switch try one(routers[column], plan, settings, interruption, label: label) {
                    case .interrupted:
                        isPartial = true
                        break repeats
                    case .notStarted(let reason):
                        failures[routers[column].rawValue] = reason
                        FileHandle.standardError.write(Data("\(routers[column].rawValue) did not start: \(reason)\n".utf8))
                    case .played(let report, let measured, let schedule):
                        groupSchedule = schedule
                        gathered[row][column].reports.append(report)
                        gathered[row][column].measured.add(measured)
                    }
                }
            }
        }
        let generatorSchedule = gathered.joined().lazy.compactMap { $0.reports.first?.environment.generatorSchedule }.first
        let workloads = gathered.map { $0.first { !$0.reports.isEmpty }?.reports.first?.workload }.compactMap { $0 }
        let cells = stages.indices.flatMap { row in
            routers.indices.compactMap { column -> FleetReport.Cell? in
                let all = gathered[row][column]
                guard !all.reports.isEmpty else { return nil }
                return .init(
                    router: routers[column].rawValue, rate: stages[row].startRate, reports: all.reports, measured: all.measured,
                    goodput: load.goodputTarget)
            }
        }
        var report = FleetReport(
            tool: "swiftlet \(Swiftlet.release)", startedAt: startedAt, command: CommandLine.arguments, isPartial: isPartial,
            environment: RunEnvironment(since: watch, generator: generatorSchedule, groups: groupSchedule), groups: groups,
            stubFlags: settings.stubFlags, repeats: repeats,
            goodput: load.goodputTarget, routers: versions, workloads: workloads, cells: cells)
        report.failures = failures
        try finish(report)
    }

    private func finish(_ report: FleetReport) throws {
        print(report.table.text)
        for line in report.silent { print("NO ANSWER: \(line)") }
        for reason in report.invalidReasons { print("INVALID: \(reason)") }
        print(Self.schedules(report.environment))
        if let json { try report.json().write(to: URL(filePath: json)) }
        if let html { try Data(report.html.utf8).write(to: URL(filePath: html)) }
        if let plot { try Data(report.meanChart.standalone.utf8).write(to: URL(filePath: plot)) }
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
        let url: String
        do { url = try bed.start(router) } catch {
            return interruption.hasCome ? .interrupted : .notStarted("\(error)")
        }
        let target = try LoadTarget(url)
        guard !interruption.hasCome else { return .interrupted }
        var load = try load.settings(for: target)
        load.model = settings.model
        let (report, measured) = try play(
            LoadRun(plan: plan, target: target, settings: load), label: label, goodput: self.load.goodputTarget, display: .announcedFigures,
            interruption: interruption)
        return report.isPartial ? .interrupted : .played(report, measured, groupSchedule: bed.groupSchedule)
    }
}
