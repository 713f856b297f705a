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
        let name: String
        var runs: [LatencyHistogram] = []
        var failed = 0
        var lags: [LatencyHistogram] = []
        var invalid: Set<String> = []

        init(name: String) { self.name = name }
    }

    func run(json: String?) throws {
        let (watch, startedAt) = (RunEnvironment.Watch(), Date())
        let routers = try peer.routers()
        let settings = try peer.bed(groups: 1, load: load)
        let versions = try routers.map { try RouterBed.version(of: $0, settings) }
        let runs = sizes.count * (routers.count + 2) * (repeats + 1)
        print(
            String(
                format: "%d routers, %d sizes, %d runs of each; about %.0f minutes", routers.count, sizes.count, repeats,
                Double(runs) * (seconds + 0.5) / 60))
        let series = RunSeries(load: load, total: runs)
        let bed = try RouterBed(settings)
        defer { bed.stop() }
        let direct = "http://127.0.0.1:\(bed.groupPorts[0])"
        let targets: [LoadTarget]
        do { targets = try ([direct] + routers.map { try bed.start($0) } + [direct]).map { try LoadTarget($0) } } catch {
            guard series.isInterrupted else { throw error }
            print("Interrupted before anything was measured.")
            throw ExitCode(130)
        }
        let names = ["direct"] + routers.map(\.rawValue) + ["direct"]
        var table = OverheadTable(
            tool: "swiftlet \(Swiftlet.release)", startedAt: startedAt, command: CommandLine.arguments, repeats: repeats,
            parameters: load.parameters, environment: RunEnvironment(since: watch))
        var invalid: Set<String> = []
        for size in sizes where !series.isInterrupted {
            let sides = names.map { Side(name: $0) }
            guard let workload = try alternate(sides, targets, size, series, model: settings.model) else { break }
            table.workloads.append(workload)
            invalid.formUnion(sides.flatMap(\.invalid).map { "\(size.bytes) bytes: \($0)" })
            func row(_ name: String, _ version: String, _ side: Side, null: [LatencyDifference]?) -> OverheadTable.Row {
                .init(
                    router: name, version: version, promptBytes: size.bytes, direct: sides[0].runs, via: side.runs, null: null,
                    failed: side.failed, lags: side.lags)
            }
            let null = row("null test", "", sides[targets.count - 1], null: nil)
            table.rows.append(null)
            for (index, router) in routers.enumerated() {
                table.rows.append(row(router.rawValue, versions[index], sides[index + 1], null: null.added))
            }
        }
        table.isPartial = series.isInterrupted
        table.environment = RunEnvironment(since: watch, generator: series.schedule, groups: bed.groupSchedule)
        table.invalidReasons = invalid.sorted()
        try finish(table, json: json)
    }

    /// All targets in turns, there and back, until an interrupt.
    /// - Returns: what the first run sent; nil when not even that came to an end.
    private func alternate(
        _ sides: [Side], _ targets: [LoadTarget], _ size: (bytes: Int, rate: Double), _ series: RunSeries, model: String
    ) throws -> RunReport.Workload? {
        var workload: RunReport.Workload?
        // The first turn pays for caches and connections.
        for turn in 0...repeats {
            for index in turn % 2 == 0 ? Array(targets.indices) : targets.indices.reversed() {
                let plan = try plan(size, salt: UInt64(turn * targets.count + index))
                let name = "\(sides[index].name), \(size.bytes) bytes" + (turn == 0 ? ", warm-up" : "")
                guard let (report, measured) = try series.measure(plan, targets[index], model: model, name: name) else { return workload }
                if workload == nil {
                    workload = report.workload
                    workload?.parameters["salt"] = "\(load.salt) + turn × \(targets.count) + place, both from 0"
                }
                if turn == 0 { continue }
                sides[index].runs.append(measured.timeToFirstToken)
                sides[index].failed += report.failed
                sides[index].lags.append(measured.generatorLag)
                sides[index].invalid.formUnion(report.invalidReasonsOfDifferences)
            }
        }
        return workload
    }

    private func finish(_ table: OverheadTable, json: String?) throws {
        if table.isPartial { print("PARTIAL: interrupted; what follows is of whole pairs before it") }
        print(
            "Added to the TTFT, from the schedule; 95 % interval in round brackets, nothing is claimed of what stands in square ones; –: too few requests"
        )
        for (size, text) in table.tables { print("\nPrompts of \(size) bytes\n" + text.text) }
        for workload in table.workloads {
            print("Workload \(workload.name), content of its first run \(workload.contentHash), schedule \(workload.scheduleHash)")
        }
        for line in table.failedNullTests { print("NULL TEST FAILED: \(line)") }
        print(BenchFleetCommand.schedules(table.environment))
        for reason in table.invalidReasons { print("INVALID: \(reason)") }
        if let json {
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
            try encoder.encode(table).write(to: URL(filePath: json))
        }
        if table.isPartial { throw ExitCode(130) }
        if table.rows.contains(where: { $0.failed > 0 }) { throw ExitCode(1) }
    }

    /// A prompt's words are five bytes with their blank, on the average.
    private static let bytesPerToken = 5

    private func plan(_ size: (bytes: Int, rate: Double), salt: UInt64) throws -> LoadPlan {
        var shape = SyntheticShape(
            groups: 1, promptsPerGroup: 1_000_000, systemTokens: 0, questionTokens: max(1, size.bytes / Self.bytesPerToken), outputTokens: 2
        )
        shape.turns = 1
        let schedule = ArrivalSchedule(
            try load.process(), stages: [.init(startRate: size.rate, seconds: seconds)], seed: load.seed)
        return LoadPlan(
            name: "prompts of \(size.bytes) bytes", shape: shape, schedule: schedule, process: load.arrival, seed: load.seed,
            salt: load.salt &+ salt)
    }
}
