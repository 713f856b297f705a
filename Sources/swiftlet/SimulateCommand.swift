import ArgumentParser
import EngineModel
import Foundation
import Reporting
import Simulation
import Workload

/// `swiftlet simulate`: what would rules do with this workload?
struct SimulateCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "simulate", abstract: "Compare routing rules on a virtual clock: no network, no GPU, thousands of requests a second.",
        discussion: """
            The engines are the stub's, the decisions are the router's own code. Rules that others publish see the same accounts, prefix index \
            and reports. Equal seeds give equal results. Rules: \(RoutingRule.names.joined(separator: ", ")). A rule's parameters follow \
            colons: dynamo:temperature=0.1, least-cost:stall=0.
            """)

    @Option(help: "Trace to play: Mooncake's JSONL, AIPerf's, Azure's or BurstGPT's CSV.")
    var trace: String?
    @Option(help: "Named workload: \(LoadPlan.names.joined(separator: ", ")).")
    var workload = "b2b-saas"
    @Option(help: "Requests (or sessions, or bursts) per second; for a trace, times its own speed. Several are separated by commas.")
    var rate = "10"
    @Option(help: "Rows of the trace to play, from its start.")
    var limit = Int.max
    @Option(
        help: "Rules, separated by commas; the first is compared with the others. Of --suite all but the oracle, which sees the future.")
    var policy: String?
    @Flag(help: "Instead of --policy: least-cost as it is, and without each of its constants, one at a time.")
    var ablate = false
    @Option(
        help: """
            JSON of an earlier run of these rows with other seeds: to the rules of --policy (least-cost) come those that were best there, on each row in \
            mean, in p99 and in output. Of --suite and --grid. Of many rules the best in the very run that judges them is partly the luckiest.
            """)
    var rivals: String?
    @Option(help: "Engines' preset, MODEL-DEVICE-tpN.")
    var preset = "qwen3-32b-h100-tp2"
    @Option(name: .customLong("cache-tokens"), help: "KV cache of a group in tokens; the preset's own when not given.")
    var cacheTokens: Int?
    @Option(help: "Groups, 1 to 1,024.")
    var groups = 8
    @Option(help: "Routers that know of one another only what engines report, or what --replica-sync has them tell, 1 to 1,024.")
    var routers = 1
    @Option(name: .customLong("report-age"), help: "Age of the engines' reports in milliseconds; without it nothing is reported.")
    var reportAge: Double?
    @Option(
        name: .customLong("replica-sync"), help: "How often routers tell one another what they place, in milliseconds; without it never.")
    var replicaSync: Double?
    @Option(help: "First seed.")
    var seed: UInt64 = 1
    @Option(help: "Seeds to repeat with, from the first on; 2 and more give intervals.")
    var seeds = 3
    @Flag(help: "The suite: every standard workload below, at and above the load that round robin bears, and changing fleets.")
    var suite = false
    @Flag(help: "The grid: 1 to 64 routers with reports 0 to 500 ms old; and 16 on other workloads.")
    var grid = false
    @Option(help: "Of suite and grid, the rows whose names contain this.")
    var rows = ""
    @Option(help: "Folder of published traces for the suite.")
    var traces = "../shared/traces"
    @Option(help: "Runs at a time.")
    var threads = 2
    @Option(help: "Write everything as JSON.")
    var json: String?
    @Option(help: "Write a line per row and rule as CSV.")
    var csv: String?
    @Option(help: "Write a page with charts and heat maps.")
    var html: String?

    func validate() throws {
        guard (1...1_024).contains(groups) else { throw ValidationError("--groups: expected 1 to 1,024, found \(groups)") }
        guard (1...1_024).contains(routers) else { throw ValidationError("--routers: expected 1 to 1,024, found \(routers)") }
        guard (1...1_000).contains(seeds) else { throw ValidationError("--seeds: expected 1 to 1,000, found \(seeds)") }
        guard (1...64).contains(threads) else { throw ValidationError("--threads: expected 1 to 64, found \(threads)") }
        if let replicaSync, !(replicaSync >= 1 && replicaSync <= 1_000) {
            throw ValidationError("--replica-sync: expected 1 to 1,000 ms, found \(replicaSync)")
        }
        if let reportAge, !(reportAge >= 0 && reportAge <= 60_000) {
            throw ValidationError("--report-age: expected 0 to 60,000 ms, found \(reportAge)")
        }
        if let cacheTokens, !(1_024...1_000_000_000).contains(cacheTokens) {
            throw ValidationError("--cache-tokens: expected 1,024 to 1,000,000,000, found \(cacheTokens)")
        }
        guard EnginePreset(name: preset)?.fits == true else {
            throw ValidationError("--preset: expected one of \(EnginePreset.all.map(\.name).joined(separator: ", ")), found '\(preset)'")
        }
        guard SimulationSuite.workloads.contains(workload) else {
            throw ValidationError("--workload: expected one of \(SimulationSuite.workloads.joined(separator: ", ")), found '\(workload)'")
        }
        guard rivals == nil || suite || grid else {
            throw ValidationError("--rivals: expected --suite or --grid, whose rows are always the same")
        }
        guard rivals == nil || !ablate else { throw ValidationError("--rivals: expected --policy's rules, not --ablate's") }
        _ = try rates()
        _ = try rules()
    }

    private func rates() throws -> [Double] {
        try rate.split(separator: ",").map { part in
            guard let value = Double(part), value > 0, value <= 100_000 else {
                throw ValidationError("--rate: expected numbers above 0 and up to 100,000, found '\(part)'")
            }
            return value
        }
    }

    private func rules() throws -> [RoutingRule] {
        if ablate { return try RoutingRule.ablations() }
        let policy =
            policy ?? (rivals != nil ? RoutingRule.own : suite ? RoutingRule.judged.joined(separator: ",") : "least-cost,round-robin")
        let rules = try policy.split(separator: ",").map { part in
            do { return try RoutingRule(String(part)) } catch { throw ValidationError("--policy: \(error)") }
        }
        guard !rules.isEmpty else { throw ValidationError("--policy: expected at least one rule, found '\(policy)'") }
        return rules
    }

    /// Of each row the rules that stand against it, when `--rivals` names them.
    private func chosenRivals(of rows: [SimulationRow], seeds: [UInt64], but own: [RoutingRule]) throws -> [[RoutingRule]] {
        guard let rivals else { return rows.map { _ in [] } }
        let earlier: SimulationReport
        do {
            earlier = try JSONDecoder().decode(SimulationReport.self, from: Data(contentsOf: URL(fileURLWithPath: rivals)))
        } catch {
            throw ValidationError("--rivals: expected what --json has written, found \(rivals): \(error)")
        }
        if let both = seeds.first(where: earlier.seeds.contains) {
            throw ValidationError("--rivals: expected other seeds than those that chose, found \(both) in both")
        }
        return try rows.map { row in
            let names = earlier.rivals(ofRow: row.name, but: own.map(\.text))
            guard !names.isEmpty else {
                throw ValidationError("--rivals: expected other rules on all rows, found none on '\(row.name)' in \(rivals)")
            }
            return try names.map { name in
                do { return try RoutingRule(name) } catch { throw ValidationError("--rivals: \(error)") }
            }
        }
    }

    private func chosenRows() throws -> [SimulationRow] {
        if suite || grid {
            let missing = suite ? SimulationSuite.missingTraces(in: traces) : []
            if !missing.isEmpty {
                let note = "swiftlet simulate: left out, for they are not in \(traces) (--traces): \(missing.joined(separator: ", "))\n"
                FileHandle.standardError.write(Data(note.utf8))
            }
            let all = (suite ? SimulationSuite.rows(traces: traces) : []) + (grid ? SimulationSuite.manyRouters : [])
            let chosen = all.filter { rows.isEmpty || $0.name.contains(rows) }
            guard !chosen.isEmpty else {
                throw ValidationError("--rows: expected a part of one of \(all.map(\.name).joined(separator: "; ")), found '\(rows)'")
            }
            return chosen
        }
        guard let preset = EnginePreset(name: preset) else { return [] }
        var fleet = SimulatedFleet(preset: preset, groups: groups, cacheTokens: cacheTokens)
        fleet.routers = routers
        fleet.reportAgeMilliseconds = reportAge
        fleet.replicaSyncMilliseconds = replicaSync
        guard let trace else { return try rates().map { SimulationSuite.row(workload, $0, fleet) } }
        let text = try String(contentsOfFile: trace, encoding: .utf8)
        let name = (trace as NSString).lastPathComponent
        return try rates().map {
            try SimulationSuite.traceRow(text, path: trace, name: name, load: $0, limit: limit, fleet: fleet)
        }
    }

    func run() throws {
        let (rules, numbers) = (try rules(), (0..<UInt64(seeds)).map { seed &+ $0 })
        var report = SimulationReport(seeds: numbers)
        let rows = try chosenRows()
        for (row, rivals) in zip(rows, try chosenRivals(of: rows, seeds: numbers, but: rules)) {
            let summaries = row.run(rules + rivals, seeds: numbers, threads: threads)
            report.add(row, summaries)
            print("\(row.name), \(seeds) seeds, \(summaries.first.map { $0.requests / seeds } ?? 0) measured requests each")
            print(SimulationReport.table(summaries).text)
            print()
        }
        for (heading, table) in report.conclusions() {
            print(heading)
            print(table.text)
            print()
        }
        if let json { try report.json().write(to: URL(fileURLWithPath: json)) }
        if let csv { try Data(report.csv().utf8).write(to: URL(fileURLWithPath: csv)) }
        if let html { try Data(report.html(title: "swiftlet simulate").utf8).write(to: URL(fileURLWithPath: html)) }
    }
}
