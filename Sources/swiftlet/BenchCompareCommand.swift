import ArgumentParser
import Foundation
import LatencyBench
import Reporting

/// `swiftlet bench compare A.json B.json`.
struct BenchCompareCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "compare", abstract: "Compare two reports; says nothing of differences that may be chance.")

    @Argument(help: "Report of the first run (--json).")
    var first: String
    @Argument(help: "Report of the second.")
    var second: String

    func run() throws {
        let (left, right) = (try Self.read(first), try Self.read(second))
        print("\(left.label) against \(right.label)")
        for (name, a, b) in [
            ("content", left.workload.contentHash, right.workload.contentHash),
            ("schedule", left.workload.scheduleHash, right.workload.scheduleHash),
            ("mode", left.mode, right.mode), ("API", left.api, right.api), ("streaming", "\(left.streams)", "\(right.streams)"),
            ("warm-up", Self.warmUp(left), Self.warmUp(right)),
            ("goodput target", left.goodput?.target.name ?? "none", right.goodput?.target.name ?? "none"),
            ("CPU", left.environment.cpu, right.environment.cpu), ("kernel", left.environment.kernel, right.environment.kernel),
        ] where a != b { print("NOT ALIKE: \(name) \(a) and \(b)") }
        for report in [left, right] { for reason in report.invalidReasons { print("INVALID, \(report.label): \(reason)") } }
        for metric in ["ttft", "e2e", "tpot", "itl"] {
            guard let a = left.metrics[metric], let b = right.metrics[metric], a.count > 0, b.count > 0 else { continue }
            let differences = PairedComparison.differences(
                a, b, effects: (left.designEffects?[metric] ?? [:], right.designEffects?[metric] ?? [:]))
            print("\n" + differenceTable(differences, unit: "ms", scale: 1e6, title: metric).text)
        }
        var totals = TextTable(header: ["", left.label, right.label])
        totals.rows = [
            ["requests/s", String(format: "%.2f", left.requestRate), String(format: "%.2f", right.requestRate)],
            ["output tokens/s", String(format: "%.2f", left.outputTokenRate), String(format: "%.2f", right.outputTokenRate)],
            ["failed", "\(left.failed)", "\(right.failed)"],
            ["hit rate", String(format: "%.1f %%", left.hitRate * 100), String(format: "%.1f %%", right.hitRate * 100)],
        ]
        print("\n" + totals.text)
        print(
            """

            Intervals are of chance within one run each, with regard to how its requests hang together; only repeats in turns (bench overhead, \
            bench fleet) show how runs differ. –: fewer than ten independent requests beyond that percentile.
            """)
    }

    private static func warmUp(_ report: RunReport) -> String {
        report.warmUpSeconds.map { String(format: "%g s", $0) } ?? "not recorded"
    }

    private static func read(_ path: String) throws -> RunReport {
        guard let data = FileManager.default.contents(atPath: path) else { throw ValidationError("cannot read '\(path)'") }
        do { return try JSONDecoder().decode(RunReport.self, from: data) } catch {
            throw ValidationError("'\(path)' is no report of swiftlet bench (--json)")
        }
    }
}

/// Differences with their intervals; those that may be chance say so, and those of too few requests have dashes.
func differenceTable(_ differences: [LatencyDifference], unit: String, scale: Double, title: String) -> TextTable {
    TextTable(
        header: ["\(title), \(unit)", "first", "second", "difference", "95 % interval", ""],
        rows: PairedComparison.names.map { name in
            guard let one = differences.first(where: { $0.name == name }) else { return [name, "–", "–", "–", "–", "too few requests"] }
            func text(_ value: Double) -> String { String(format: "%.3f", value / scale) }
            return [
                one.name, text(one.first), text(one.second), String(format: "%+.3f", one.difference / scale),
                "\(text(one.low)) to \(text(one.high))", one.verdict,
            ]
        })
}
