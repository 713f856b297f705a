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
        let sides = Self.names(first, second)
        print("\(sides.0) (\(left.label)) against \(sides.1) (\(right.label))")
        for (name, a, b) in Self.conditions(left, right) where a != b { print("NOT ALIKE: \(name) \(a) and \(b)") }
        for (name, report) in [(sides.0, left), (sides.1, right)] {
            for reason in report.invalidReasons { print("INVALID, \(name): \(reason)") }
        }
        for metric in ["ttft", "e2e", "tpot", "itl"] {
            guard let a = left.metrics[metric], let b = right.metrics[metric], a.count > 0, b.count > 0 else { continue }
            let differences = PairedComparison.differences(
                a, b, effects: (left.designEffects?[metric] ?? [:], right.designEffects?[metric] ?? [:]))
            print("\n" + differenceTable(differences, unit: "ms", scale: 1e6, title: metric, sides: sides).text)
        }
        var totals = TextTable(header: ["", sides.0, sides.1])
        totals.rows = [
            ["requests/s", String(format: "%.2f", left.requestRate), String(format: "%.2f", right.requestRate)],
            ["output tokens/s", String(format: "%.2f", left.outputTokenRate), String(format: "%.2f", right.outputTokenRate)],
            ["failed", "\(left.failed)", "\(right.failed)"],
            ["generator lag p99, ms", lag(left), lag(right)],
            ["hit rate", String(format: "%.1f %%", left.hitRate * 100), String(format: "%.1f %%", right.hitRate * 100)],
        ]
        print("\n" + totals.text)
        print(
            """

            Intervals are of chance within one run each, with regard to how its requests hang together; only repeats in turns (bench overhead, \
            bench fleet) show how runs differ. –: fewer than ten independent requests beyond that percentile.
            """)
    }

    /// The files by their names, or where these are the same by their paths.
    private static func names(_ first: String, _ second: String) -> (String, String) {
        let names = [first, second].map { URL(filePath: $0).lastPathComponent }
        return names[0] == names[1] ? (first, second) : (names[0], names[1])
    }

    /// What must be alike for a difference to mean anything.
    private static func conditions(_ left: RunReport, _ right: RunReport) -> [(String, String, String)] {
        let both = [
            ("content", left.workload.contentHash, right.workload.contentHash),
            ("schedule", left.workload.scheduleHash, right.workload.scheduleHash),
            ("mode", left.mode, right.mode), ("API", left.api, right.api), ("streaming", "\(left.streams)", "\(right.streams)"),
            ("warm-up", warmUp(left), warmUp(right)),
            ("goodput target", left.goodput?.target.name ?? "none", right.goodput?.target.name ?? "none"),
            ("CPU", left.environment.cpu, right.environment.cpu), ("kernel", left.environment.kernel, right.environment.kernel),
            (
                "generator's threads", left.environment.generatorSchedule ?? "not recorded",
                right.environment.generatorSchedule ?? "not recorded"
            ),
            ("failed requests, whose times are in no figure,", "\(left.failed)", "\(right.failed)"),
        ]
        let names = Set((left.conditions ?? [:]).keys).union((right.conditions ?? [:]).keys)
        func value(_ report: RunReport, _ name: String) -> String {
            guard let value = report.conditions?[name] else { return "not recorded" }
            return value.isEmpty ? "none" : value
        }
        return both + names.sorted().map { ($0, value(left, $0), value(right, $0)) }
    }

    private func lag(_ report: RunReport) -> String {
        report.metrics["generator_lag"].map { String(format: "%.3f", Double($0.p99) / 1e6) } ?? "not recorded"
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
/// - Parameter sides: headings of the two columns.
func differenceTable(_ differences: [LatencyDifference], unit: String, scale: Double, title: String, sides: (String, String)) -> TextTable {
    TextTable(
        header: ["\(title), \(unit)", sides.0, sides.1, "difference", "95 % interval", ""],
        rows: PairedComparison.names.map { name in
            guard let one = differences.first(where: { $0.name == name }) else { return [name, "–", "–", "–", "–", "too few requests"] }
            func text(_ value: Double) -> String { String(format: "%.3f", value / scale) }
            return [
                one.name, text(one.first), text(one.second), String(format: "%+.3f", one.difference / scale),
                "\(text(one.low)) to \(text(one.high))", one.verdict,
            ]
        })
}
