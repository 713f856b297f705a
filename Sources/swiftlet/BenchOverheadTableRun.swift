import ArgumentParser
import Foundation
import LatencyBench
import Reporting
import Workload

/// `swiftlet bench overhead --peers …`: what each router adds for each size of prompt. All stand before the same group at once and take turns: direct,
/// two routers, direct, two routers and so on; then the same backwards. A router's runs are compared with the direct ones beside them.
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
        let target: LoadTarget
        var runs: [LatencyHistogram] = []
        var failed = 0
        var lags: [LatencyHistogram] = []
        var invalid: Set<String> = []

        init(name: String, target: LoadTarget) {
            self.name = name
            self.target = target
        }
    }

    /// The routers that stand there, and what they answer to.
    private struct Routers {
        var running: [PeerRouter] = []
        var versions: [String] = []
        var targets: [LoadTarget] = []
        var failures: [String: String] = [:]
    }

    func run(output: ReportFiles) throws {
        let (watch, startedAt) = (RunEnvironment.Watch(), Date())
        let settings = try peer.bed(groups: 1, load: load)
        let bed = try RouterBed(settings)
        defer { bed.stop() }
        let interruption = Interruption()
        let routers = try start(bed, settings)
        if interruption.hasCome {
            print("Interrupted before anything was measured.")
            throw ExitCode(130)
        }
        let turn = OverheadTable.Turn(routers: routers.running.count)
        let runs = sizes.count * turn.places.count * (repeats + 1)
        let minutes = Double(sizes.count * turn.places.count) * (Double(repeats) * (seconds + 0.5) + warmUpSeconds + 0.5) / 60
        print(
            "\(routers.running.count) routers, \(sizes.count) sizes, \(repeats) runs of each;",
            String(format: "about %.0f minutes", minutes))
        let series = RunSeries(load: load, total: runs, interruption: interruption)
        let direct = try LoadTarget("http://127.0.0.1:\(bed.groupPorts[0])")
        var table = OverheadTable(
            tool: "swiftlet \(Swiftlet.release)", startedAt: startedAt, command: CommandLine.arguments, repeats: repeats,
            parameters: load.parameters, environment: RunEnvironment(since: watch))
        table.failures = routers.failures
        var invalid: Set<String> = []
        for size in sizes where !series.isInterrupted && !routers.running.isEmpty {
            let sides = turn.places.map { place in
                if case .router(let number) = place { return Side(name: routers.running[number].rawValue, target: routers.targets[number]) }
                return Side(name: "direct", target: direct)
            }
            guard let workload = try alternate(sides, size, series, model: settings.model) else { break }
            table.workloads.append(workload)
            invalid.formUnion(sides.flatMap(\.invalid).map { "\(size.bytes) bytes: \($0)" })
            table.rows += rows(turn, sides, routers, bytes: size.bytes)
        }
        table.isPartial = series.isInterrupted
        table.environment = RunEnvironment(since: watch, generator: series.schedule, groups: bed.groupSchedule)
        table.invalidReasons = invalid.sorted()
        try finish(table, output)
    }

    /// All that can be had; one that cannot costs its own row alone.
    private func start(_ bed: RouterBed, _ settings: RouterBed.Settings) throws -> Routers {
        var routers = Routers()
        for router in try peer.routers() {
            do {
                let version = try RouterBed.version(of: router, settings)
                routers.targets.append(try LoadTarget(replicas: try bed.start(router)))
                routers.running.append(router)
                routers.versions.append(version)
            } catch {
                routers.failures[router.rawValue] = "\(error)"
                FileHandle.standardError.write(Data("\(router.rawValue) did not start: \(error)\n".utf8))
            }
        }
        return routers
    }

    private func rows(_ turn: OverheadTable.Turn, _ sides: [Side], _ routers: Routers, bytes: Int) -> [OverheadTable.Row] {
        func side(_ place: OverheadTable.Turn.Place) -> Side { sides[turn.places.firstIndex(of: place) ?? 0] }
        func row(_ name: String, _ version: String, _ direct: Side, _ via: Side, null: [LatencyDifference]?) -> OverheadTable.Row {
            .init(
                router: name, version: version, promptBytes: bytes, direct: direct.runs, via: via.runs, null: null, failed: via.failed,
                lags: via.lags)
        }
        let null = row("null test", "", side(.direct(0)), side(.direct(1)), null: nil)
        return [null]
            + routers.running.indices.map { index in
                row(
                    routers.running[index].rawValue, routers.versions[index],
                    side(.direct(OverheadTable.Turn.direct(beside: index))), side(.router(index)), null: null.added)
            }
    }

    /// The first turn pays for caches and connections; it need not be long.
    private var warmUpSeconds: Double { min(seconds, 0.5) }

    /// All in turns, there and back, until an interrupt.
    /// - Returns: what the first whole run sent; nil when not even the first turn came to an end.
    private func alternate(_ sides: [Side], _ size: (bytes: Int, rate: Double), _ series: RunSeries, model: String) throws
        -> RunReport.Workload?
    {
        var workload: RunReport.Workload?
        for turn in 0...repeats {
            for index in turn % 2 == 0 ? Array(sides.indices) : sides.indices.reversed() {
                let side = sides[index]
                let plan = try plan(size, salt: UInt64(turn * sides.count + index), seconds: turn == 0 ? warmUpSeconds : seconds)
                let name = "\(side.name), \(size.bytes) bytes" + (turn == 0 ? ", warm-up" : "")
                guard let (report, measured) = try series.measure(plan, side.target, model: model, name: name) else { return workload }
                if turn == 0 { continue }
                if workload == nil {
                    workload = report.workload
                    workload?.parameters["salt"] = "\(load.salt) + turn × \(sides.count) + place, both from 0"
                }
                side.runs.append(measured.timeToFirstToken)
                side.failed += report.failed
                side.lags.append(measured.generatorLag)
                side.invalid.formUnion(report.invalidReasonsOfDifferences)
            }
        }
        return workload
    }

    private func finish(_ table: OverheadTable, _ output: ReportFiles) throws {
        if table.isPartial { print("PARTIAL: interrupted; what follows is of whole pairs before it") }
        print(
            "Added to the TTFT, from the schedule; 95 % interval in round brackets, nothing is claimed of what stands in square ones; –: too few requests"
        )
        for (size, text) in table.tables { print("\nPrompts of \(size) bytes\n" + text.text) }
        for workload in table.workloads {
            print("Workload \(workload.name), content of its first run \(workload.contentHash), schedule \(workload.scheduleHash)")
        }
        for line in table.silent { print("NO ANSWER: \(line)") }
        for line in table.failedNullTests { print("NULL TEST FAILED: \(line)") }
        print(BenchFleetCommand.schedules(table.environment))
        for reason in table.invalidReasons { print("INVALID: \(reason)") }
        try output.write(json: table.json, html: table.html)
        if table.isPartial { throw ExitCode(130) }
        if !table.failures.isEmpty || table.rows.contains(where: { $0.failed > 0 }) { throw ExitCode(1) }
    }

    /// A prompt's words are five bytes with their blank, on the average.
    private static let bytesPerToken = 5

    private func plan(_ size: (bytes: Int, rate: Double), salt: UInt64, seconds: Double) throws -> LoadPlan {
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
