import ArgumentParser
import Foundation
import LatencyBench
import Reporting
import Workload

/// `swiftlet bench search`: the highest rate that keeps a promise.
struct BenchSearchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "search", abstract: "Find the highest rate at which a goodput target holds.",
        discussion: "Doubles the rate until the target is missed, then halves the interval. --rate is where it begins.")

    @Argument(help: "http(s)://, h2c://, h2:// or grpc(s)://HOST:PORT[/PATH].")
    var url: String
    @OptionGroup var load: LoadOptions
    @Option(help: "Share of requests that must be good, 0 to 1.")
    var share = 0.99
    @Option(help: "Stop when the interval is within this share of the rate.")
    var precision = 0.05
    @Option(help: "Highest rate tried.")
    var highest = 1_000_000.0

    func validate() throws {
        try load.check()
        guard load.goodputTarget != nil else { throw ValidationError("--goodput: expected a target") }
        guard load.trace == nil else { throw ValidationError("--trace: a trace has its own times") }
        guard try load.stages().count == 1 else { throw ValidationError("--rate: expected one rate to begin with") }
        guard (0.001...1).contains(share) else { throw ValidationError("--share: expected 0.001 to 1, found \(share)") }
        guard (0.001...1).contains(precision) else { throw ValidationError("--precision: expected 0.001 to 1, found \(precision)") }
    }

    func run() throws {
        raiseDescriptorLimit()
        let target = try LoadTarget(url)
        let first = try load.stages()[0]
        var table = TextTable(header: ["rate", "goodput", "TTFT p50 ms", "TTFT p99 ms", "failed", "lag p99 ms", ""])
        var (low, high): (Double, Double?) = (0, nil)
        var rate = max(0.001, first.meanRate)
        var salt = load.salt
        // One for all runs: a signal between two of them counts, too.
        let interruption = Interruption()
        while high.map({ $0 - low > precision * $0 }) ?? true {
            salt += 1
            let stage = ArrivalSchedule.Stage(startRate: rate, seconds: first.seconds)
            let run = LoadRun(plan: try load.plan(salt: salt, stages: [stage]), target: target, settings: try load.settings(for: target))
            let (report, _) = try play(
                run, label: String(format: "%.2f/s", rate), goodput: load.goodputTarget, display: .announcedFigures,
                interruption: interruption)
            if report.isPartial || interruption.hasCome { break }
            let holds = (report.goodput?.share ?? 0) >= share
            table.rows.append([
                String(format: "%.2f", rate), String(format: "%.2f %%", (report.goodput?.share ?? 0) * 100),
                String(format: "%.2f", report.metrics["ttft"]?.milliseconds(percentile: 50) ?? 0),
                String(format: "%.2f", report.metrics["ttft"]?.milliseconds(percentile: 99) ?? 0), "\(report.failed)",
                String(format: "%.3f", report.metrics["generator_lag"]?.milliseconds(percentile: 99) ?? 0),
                (holds ? "holds" : "missed") + (report.isValid ? "" : ", invalid"),
            ])
            for reason in report.invalidReasons { print(String(format: "INVALID at %.2f/s: ", rate) + reason) }
            if holds { low = rate } else { high = rate }
            if low >= highest { break }
            rate = high.map { (low + $0) / 2 } ?? min(highest, rate * 2)
            // Nothing holds, however slow.
            if low == 0, rate < 0.01 { break }
        }
        print(table.text)
        if interruption.hasCome {
            print(
                "Interrupted: no answer yet. "
                    + (low > 0
                        ? String(format: "It held at %.2f requests/s and lower rates tried.", low) : "It held at no rate tried so far.")
            )
            throw ExitCode(130)
        }
        print(
            low > 0
                ? String(format: "Highest rate with %.1f %% good: %.2f requests/s", share * 100, low) : "The target holds at no rate tried."
        )
        if low == 0 { throw ExitCode(2) }
    }
}
