import Foundation
import Workload

/// The rows on which rules are judged: for each workload a load below, at and above that at which round robin saturates.
public enum SimulationSuite {
    /// Measured seconds of an open-loop row.
    static let seconds = 60.0

    /// - Parameter traces: folder of the published traces; rows of those that are not there are left out.
    public static func rows(traces: String) -> [SimulationRow] {
        ladder + standard + traceRows(traces) + fleetRows
    }

    /// Named workloads.
    public static var workloads: [String] { LoadPlan.names }

    /// One of `workloads` at a load; a warm-up at `warmRate` goes before it.
    public static func row(
        _ family: String, _ load: Double, _ fleet: SimulatedFleet, warmUp: Double = 30, warmRate: Double? = nil
    ) -> SimulationRow {
        SimulationRow(
            name: "\(family) @\(text(load))", family: family, load: load, loadLabel: "load, \(arrivals(of: family))/s", fleet: fleet,
            warmUpSeconds: warmUp
        ) { seed in
            plan(family, rate: load, warmRate: warmRate ?? load, warmUp: warmUp, seed: seed)
        }
    }

    /// What comes so many times a second when a workload is played at a rate.
    static func arrivals(of workload: String) -> String {
        if workload == "sibling-bursts" { return "bursts" }
        let isOfTurns =
            ConversationShape.catalogue[workload].map { $0.turns != .fixed(1) } ?? ((SyntheticShape.named[workload]?.turns ?? 1) > 1)
        return isOfTurns ? "conversations" : "requests"
    }

    static func text(_ load: Double) -> String { load == load.rounded() ? "\(Int(load))" : String(format: "%.3g", load) }

    /// A named workload, synthetic or standard: a warm-up and a measured stage.
    static func plan(_ name: String, rate: Double, warmRate: Double, warmUp: Double, seed: UInt64) -> LoadPlan {
        let isOfLadder = name == "b2b-saas"
        let stages: [ArrivalSchedule.Stage] = [
            .init(startRate: warmRate, seconds: warmUp, gapSeconds: isOfLadder ? silence : 0),
            .init(startRate: rate, seconds: isOfLadder ? ladderSeconds[rate] ?? seconds : measuredSeconds[name] ?? seconds),
        ]
        let schedule = ArrivalSchedule(.poisson, stages: stages, seed: seed)
        if let standard = LoadPlan(standard: name, schedule: schedule, process: "poisson", seed: seed) { return standard }
        let shape =
            SyntheticShape.named[name]
            ?? SyntheticShape(
                groups: 1, promptsPerGroup: 1, systemTokens: 0, questionTokens: 1_024, outputTokens: 128)
        return LoadPlan(name: name, shape: shape, schedule: schedule, process: "poisson", seed: seed)
    }

    /// The ladder's generator lets every request end before the next stage begins; the silence of five minutes after the warm-up, which
    /// costs no time here, does the same also for rules that fall behind.
    static let silence = 300.0
    /// Longer than `seconds`: so that the ranks change twice, and that there are several bursts.
    static let measuredSeconds = ["rotating-zipf": 150.0, "sibling-bursts": 150.0]
    /// Seconds of the published ladder's stages by rate.
    static let ladderSeconds: [Double: Double] = [3: 20, 10: 20, 15: 20, 20: 38, 22: 34, 25: 30, 30: 25, 35: 21, 40: 38, 49: 30, 60: 25]

    /// llm-d's ladder: the warm-up is theirs.
    static var ladder: [SimulationRow] {
        [3, 10, 15, 20, 22, 30, 40, 60].map { row("b2b-saas", $0, .published(), warmUp: 50, warmRate: 15) }
    }

    static var standard: [SimulationRow] {
        let loads: [(String, [Double])] = [
            ("toolagent", [8, 14, 22]), ("reasoning", [4, 8, 11]), ("rotating-zipf", [15, 30, 45, 60]),
            ("sibling-bursts", [0.05, 0.1, 0.2, 0.3]),
            ("no-prefix", [15, 25, 32]), ("shared-prefix-heavy", [15, 30, 50, 100]), ("predicted-latency-a", [2, 5, 8, 12]),
        ]
        return loads.flatMap { name, rates in rates.map { row(name, $0, .published()) } }
    }

    private static let traces: [(file: String, name: String, loads: [Double], rows: Int)] = [
        ("mooncake_synthetic_trace.jsonl", "mooncake-synthetic", [0.5, 1, 2, 3], 1_500),
        ("AzureLLMInferenceTrace_conv.csv", "azure-conversation", [4, 8, 12, 20], 3_000),
    ]
    private static let agents = "agentic_coding_200_sessions.jsonl"

    /// Files whose rows `rows` leaves out.
    public static func missingTraces(in folder: String) -> [String] {
        (traces.map(\.file) + [agents]).filter { !FileManager.default.isReadableFile(atPath: "\(folder)/\($0)") }
    }

    static func traceRows(_ folder: String) -> [SimulationRow] {
        let played = traces.flatMap { trace -> [SimulationRow] in
            let path = "\(folder)/\(trace.file)"
            guard let text = try? String(contentsOfFile: path, encoding: .utf8) else { return [] }
            return trace.loads.compactMap { load -> SimulationRow? in
                try? traceRow(text, path: path, name: trace.name, load: load, limit: trace.rows)
            }
        }
        let path = "\(folder)/\(agents)"
        guard let text = try? String(contentsOfFile: path, encoding: .utf8) else { return played }
        return played + [0.5, 1, 2, 4].compactMap { try? sessionRow(text, path: path, name: "agentic-coding", perMinute: $0, limit: 600) }
    }

    /// Sessions of a file that does not say when they begin: independently of one another, so many per minute.
    static func sessionRow(_ text: String, path: String, name: String, perMinute: Double, limit: Int) throws(TraceError) -> SimulationRow {
        var options = TraceOptions()
        options.limit = limit
        let trace = try LoadPlan(trace: text, file: path, options: options)
        var isFirst = [Bool](repeating: true, count: trace.requests.count)
        for request in trace.requests where request.nextTurn >= 0 { isFirst[Int(request.nextTurn)] = false }
        let first = isFirst.indices.filter { isFirst[$0] }
        // Until there are as many as there will be: sessions take minutes.
        let warmUp = Double(first.count / 4) * 60 / perMinute
        return SimulationRow(
            name: "\(name), \(Self.text(perMinute)) sessions/min", family: name, load: perMinute, loadLabel: "load, sessions/min",
            fleet: .published(), warmUpSeconds: warmUp
        ) { seed in
            var plan = trace
            let stages = [ArrivalSchedule.Stage(startRate: perMinute / 60, seconds: Double(first.count + 1) * 600 / perMinute)]
            let arrivals = ArrivalSchedule(.poisson, stages: stages, seed: seed, limit: first.count).arrivals
            for (index, arrival) in zip(first, arrivals) { plan.requests[index].offsetNanoseconds = arrival.offsetNanoseconds }
            return plan
        }
    }

    /// A trace at `load` times its speed. Seeds move every arrival within a second: a trace is one sample, and its times are rounded.
    public static func traceRow(
        _ text: String, path: String, name: String, load: Double, limit: Int, fleet: SimulatedFleet = .published()
    ) throws(TraceError) -> SimulationRow {
        var options = TraceOptions()
        options.timeScale = 1 / load
        options.limit = limit
        let trace = try LoadPlan(trace: text, file: path, options: options)
        let end = Double(trace.requests.map(\.offsetNanoseconds).max() ?? 0) / 1e9
        return SimulationRow(
            name: "\(name) ×\(Self.text(load))", family: name, load: load, loadLabel: "load, times the trace's own speed", fleet: fleet,
            warmUpSeconds: end * 0.15
        ) { seed in
            var plan = trace
            var generator = SeededGenerator(seed: seed)
            for index in plan.requests.indices {
                plan.requests[index].offsetNanoseconds += UInt64.random(in: 0..<1_000_000_000, using: &generator)
            }
            return plan
        }
    }

    /// Groups that differ, and groups that come and go, under the b2b workload.
    static var fleetRows: [SimulationRow] {
        let warmUp = 50.0
        let begin = warmUp + silence
        var unequal = SimulatedFleet.published()
        for group in 4..<8 { unequal.slow(group: group, factor: group < 6 ? 1.5 : 2) }
        var slow = SimulatedFleet.published()
        slow.events = [
            .init(seconds: begin + 10, change: .slowdown(group: 3, factor: 2)),
            .init(seconds: begin + 40, change: .slowdown(group: 3, factor: 1)),
        ]
        var restart = SimulatedFleet.published()
        restart.events = [.init(seconds: begin + 10, change: .restart(group: 2, downSeconds: 15))]
        var elastic = SimulatedFleet.published()
        elastic.events = [.init(seconds: begin + 5, change: .leave(group: 5)), .init(seconds: begin + 25, change: .join(group: 7))]
        let fleets = [("unequal groups", unequal), ("one slow group", slow), ("engine restart", restart), ("leave and join", elastic)]
        return fleets.flatMap { name, fleet in
            [6.0, 9, 12].map { rate in
                var row = row("b2b-saas", rate, fleet, warmUp: warmUp, warmRate: 15)
                row.name = "\(name) @\(Self.text(rate))"
                row.family = name
                return row
            }
        }
    }

    /// Routers that know of one another only what engines report, and such that tell one another what they place: the grid, and on other
    /// workloads one with fresh reports beside many with old.
    public static var manyRouters: [SimulationRow] {
        let loads: [(String, Double)] = [
            ("toolagent", 8), ("toolagent", 14), ("rotating-zipf", 30), ("shared-prefix-heavy", 30), ("no-prefix", 25),
            ("predicted-latency-a", 5),
        ]
        return grid
            + loads.flatMap { name, load in
                [(1, 0.0, false), (16, 100, false), (16, 500, false), (16, 100, true), (16, 500, true)].map { routers, age, isSynced in
                    byAge(row(name, load, manyRouters(routers, age, isSynced: isSynced)), prefix: "\(name) @\(text(load)), ")
                }
            }
    }

    private static var grid: [SimulationRow] {
        let routers = [(1, false), (4, false), (16, false), (64, false), (4, true), (16, true), (64, true)]
        return routers.flatMap { routers, isSynced in
            [0.0, 10, 50, 100, 500].map { age in
                var row = row("b2b-saas", 20, manyRouters(routers, age, isSynced: isSynced), warmUp: 50, warmRate: 15)
                row = byAge(row, prefix: "")
                row.isOfGrid = true
                return row
            }
        }
    }

    private static func manyRouters(_ routers: Int, _ age: Double, isSynced: Bool) -> SimulatedFleet {
        var fleet = SimulatedFleet.published()
        fleet.routers = routers
        fleet.reportAgeMilliseconds = age
        fleet.replicaSyncMilliseconds = isSynced ? syncMilliseconds : nil
        return fleet
    }

    /// What `replicas.interval` is when nobody says otherwise.
    private static let syncMilliseconds = 20.0

    /// The row as one of a family in which nothing but the age of the reports differs.
    private static func byAge(_ row: SimulationRow, prefix: String) -> SimulationRow {
        var row = row
        row.load = row.fleet.reportAgeMilliseconds ?? 0
        row.loadLabel = "age of the reports, ms"
        row.family = prefix + row.routersText
        row.name = "\(row.family), reports \(text(row.load)) ms old"
        return row
    }
}
