import ArgumentParser
import Foundation
import LatencyBench
import Reporting
import Workload

/// `swiftlet bench overhead --peers …`: what each router adds for each size of prompt. All stand before the same group at once and take turns: direct,
/// every router, direct again; then the same backwards.
struct OverheadTableRun {
    let load: LoadOptions
    let peer: PeerOptions
    let repeats: Int
    /// By size, and requests per second of each.
    let sizes: [(bytes: Int, rate: Double)]
    let seconds: Double

    /// What has been measured of one router, or of the group itself, and of one size.
    private final class Side {
        var runs: [LatencyHistogram] = []
        var failed = 0
        var lags: [LatencyHistogram] = []
    }

    func run(json: String?) throws {
        let (watch, interruption) = (RunEnvironment.Watch(), Interruption())
        let routers = try peer.routers()
        let settings = try peer.bed(groups: 1, load: load)
        let versions = try routers.map { try RouterBed.version(of: $0, settings) }
        let runs = sizes.count * (routers.count + 2)
        print(
            String(
                format: "%d routers, %d sizes, %d runs of each; about %.0f minutes", routers.count, sizes.count, repeats,
                Double(runs * (repeats + 1)) * (seconds + 0.5) / 60))
        let bed = try RouterBed(settings)
        defer { bed.stop() }
        let direct = "http://127.0.0.1:\(bed.groupPorts[0])"
        let targets = try ([direct] + routers.map { try bed.start($0) } + [direct]).map { try LoadTarget($0) }
        var rows: [OverheadTable.Row] = []
        var invalid: Set<String> = []
        var generatorSchedule: String?
        for size in sizes {
            let sides = targets.map { _ in Side() }
            // The first turn pays for caches and connections.
            for turn in 0...repeats {
                for index in turn % 2 == 0 ? Array(targets.indices) : targets.indices.reversed() {
                    if interruption.hasCome { throw ExitCode(130) }
                    let (report, measured) = try measure(
                        size, targets[index], settings, interruption, salt: UInt64(turn * targets.count + index))
                    if report.isPartial { throw ExitCode(130) }
                    generatorSchedule = report.environment.generatorSchedule
                    if turn == 0 { continue }
                    sides[index].runs.append(measured.timeToFirstToken)
                    sides[index].failed += report.failed
                    sides[index].lags.append(measured.generatorLag)
                    invalid.formUnion(BenchOverheadCommand.reasonsThatCount(report).map { "\(size.bytes) bytes: \($0)" })
                }
            }
            func row(_ name: String, _ version: String, _ side: Side) -> OverheadTable.Row {
                .init(
                    router: name, version: version, promptBytes: size.bytes, direct: sides[0].runs, via: side.runs, failed: side.failed,
                    lags: side.lags)
            }
            rows.append(row("null test", "", sides[targets.count - 1]))
            for (index, router) in routers.enumerated() { rows.append(row(router.rawValue, versions[index], sides[index + 1])) }
            FileHandle.standardError.write(Data("\(size.bytes) bytes done\n".utf8))
        }
        let table = OverheadTable(
            tool: "swiftlet \(Swiftlet.release)", command: CommandLine.arguments,
            environment: RunEnvironment(since: watch, generator: generatorSchedule, groups: bed.groupSchedule), rows: rows,
            invalidReasons: invalid.sorted())
        try finish(table, json: json)
    }

    private func finish(_ table: OverheadTable, json: String?) throws {
        print("Added to the TTFT, from the schedule; 95 % interval in round brackets, nothing is claimed of what stands in square ones")
        for (size, text) in table.tables { print("\nPrompts of \(size) bytes\n" + text.text) }
        print(BenchFleetCommand.schedules(table.environment))
        for reason in table.invalidReasons { print("INVALID: \(reason)") }
        if let json {
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
            try encoder.encode(table).write(to: URL(filePath: json))
        }
        if table.rows.contains(where: { $0.failed > 0 }) { throw ExitCode(1) }
    }

    /// A prompt's words are five bytes with their blank, on the average.
    private static let bytesPerToken = 5

    private func measure(
        _ size: (bytes: Int, rate: Double), _ target: LoadTarget, _ settings: RouterBed.Settings, _ interruption: Interruption, salt: UInt64
    ) throws -> (
        RunReport, RunMeasurements
    ) {
        var shape = SyntheticShape(
            groups: 1, promptsPerGroup: 1_000_000, systemTokens: 0, questionTokens: max(1, size.bytes / Self.bytesPerToken), outputTokens: 2
        )
        shape.turns = 1
        let schedule = ArrivalSchedule(
            try load.process(), stages: [.init(startRate: size.rate, seconds: seconds)], seed: load.seed)
        let plan = LoadPlan(
            name: "prompts of \(size.bytes) bytes", shape: shape, schedule: schedule, process: load.arrival, seed: load.seed,
            salt: load.salt &+ salt)
        var loading = try load.settings(for: target)
        loading.model = settings.model
        return try play(
            LoadRun(plan: plan, target: target, settings: loading), label: "", goodput: nil, isQuiet: true, interruption: interruption)
    }
}
