import ArgumentParser
import Foundation
import LatencyBench
import Reporting
import Workload

/// `swiftlet bench overhead --via URL --direct URL`: what a router adds.
struct BenchOverheadCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "overhead", abstract: "What a router adds: one schedule in turns through it and past it.",
        discussion: """
            Runs alternate in the order ABBA, so that a drift of the machine cancels. First a null test: the same against the direct URL twice, \
            which shows what the generator itself cannot tell apart. Nothing is claimed where the interval contains zero. With --peers instead of \
            URLs it starts these routers before a simulated group and makes one table of them, for each size of --prompt-bytes.
            """)

    @Option(help: "URL of the router.")
    var via: String?
    @Option(help: "URL of what stands behind it.")
    var direct: String?
    @OptionGroup var peer: PeerOptions
    @Option(help: "Sizes of prompts, with commas, for --peers; --rate has one rate, or one for each.")
    var promptBytes = "1024,32768,262144,1048576"
    @Option(help: "Runs of each side.")
    var repeats = 6
    @OptionGroup var load: LoadOptions
    @Option(help: "Write the differences as JSON.")
    var json: String?

    struct Result: Codable {
        var via: String
        var direct: String
        var repeats: Int
        var metric: String
        var null: [LatencyDifference]
        var added: [LatencyDifference]
        var failed: Int
        var invalidReasons: [String]
        var environment: RunEnvironment
    }

    func validate() throws {
        try load.check()
        guard (2...1_000).contains(repeats) else { throw ValidationError("--repeats: expected 2 to 1000, found \(repeats)") }
        try peer.check()
        guard (peer.peers == nil) == (via != nil && direct != nil), (via == nil) == (direct == nil) else {
            throw ValidationError("expected --via with --direct, or --peers")
        }
        if peer.peers != nil {
            _ = try sizes()
            try load.checkNoWorkload()
        } else {
            try load.checkTraceTimes()
        }
    }

    private func sizes() throws -> [(bytes: Int, rate: Double)] {
        let bytes = promptBytes.split(separator: ",").compactMap { Int($0) }
        guard !bytes.isEmpty, bytes.count == promptBytes.split(separator: ",").count, bytes.allSatisfy({ (1...(16 << 20)).contains($0) })
        else {
            throw ValidationError("--prompt-bytes: expected sizes of 1 to 16777216, found '\(promptBytes)'")
        }
        let rates = try load.stages().map(\.startRate)
        guard rates.count == 1 || rates.count == bytes.count, rates.allSatisfy({ $0 > 0 }) else {
            throw ValidationError("--rate: expected one rate, or one for each of --prompt-bytes, found '\(load.rate)'")
        }
        return bytes.enumerated().map { ($1, rates[rates.count == 1 ? 0 : $0]) }
    }

    func run() throws {
        raiseDescriptorLimit()
        guard let via, let direct else {
            let run = OverheadTableRun(
                load: load, peer: peer, repeats: repeats, sizes: try sizes(), seconds: try load.stages()[0].seconds)
            return try run.run(json: json)
        }
        let (router, backend) = (try LoadTarget(via), try LoadTarget(direct))
        let watch = RunEnvironment.Watch()
        // The first run of each pays for caches and connections.
        for target in [router, backend] { _ = try measure(target, label: "warm-up") }
        let null = try alternate(backend, backend, labels: ["null A", "null B"])
        let added = try alternate(backend, router, labels: ["direct", "via"])
        let metric = load.api == "plain" || !load.stream ? "e2e" : "ttft"
        let result = Result(
            via: via, direct: direct, repeats: repeats, metric: metric,
            null: PairedComparison.differences(null.first, null.second), added: PairedComparison.differences(added.first, added.second),
            failed: null.failed + added.failed, invalidReasons: Array(Set(null.invalid + added.invalid)).sorted(),
            environment: RunEnvironment(since: watch, generator: added.schedule))
        print("Null test: the direct URL against itself, \(metric) from the schedule")
        print(differenceTable(result.null, unit: "µs", scale: 1e3, title: "null").text)
        print("\nAdded by \(via), \(metric) from the schedule, \(repeats) runs of each in turns")
        print(differenceTable(result.added, unit: "µs", scale: 1e3, title: "added").text)
        if result.failed > 0 { print("FAILED: \(result.failed) requests") }
        for reason in result.invalidReasons { print("INVALID: \(reason)") }
        if let json {
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
            try encoder.encode(result).write(to: URL(filePath: json))
        }
        if result.failed > 0 { throw ExitCode(1) }
    }

    private struct Sides {
        var first: [LatencyHistogram] = []
        var second: [LatencyHistogram] = []
        var failed = 0
        var invalid: [String] = []
        var schedule: String?
    }

    private func alternate(_ first: LoadTarget, _ second: LoadTarget, labels: [String]) throws -> Sides {
        var sides = Sides()
        for isSecond in PairedComparison.order(repeats: repeats) {
            let (report, measured) = try measure(isSecond ? second : first, label: labels[isSecond ? 1 : 0])
            if report.isPartial { throw ExitCode(130) }
            let histogram = load.api == "plain" || !load.stream ? measured.endToEnd : measured.timeToFirstToken
            if isSecond { sides.second.append(histogram) } else { sides.first.append(histogram) }
            sides.schedule = report.environment.generatorSchedule
            sides.failed += report.failed
            sides.invalid += Self.reasonsThatCount(report)
        }
        return sides
    }

    /// The second half of the validity rule compares with the latency itself, which here is the microseconds that are sought.
    static func reasonsThatCount(_ report: RunReport) -> [String] {
        report.invalidReasons.filter { $0.contains("over 1 ms") || $0.contains("sent") }
    }

    private func measure(_ target: LoadTarget, label: String) throws -> (RunReport, RunMeasurements) {
        let run = LoadRun(plan: try load.plan(), target: target, settings: try load.settings(for: target))
        return try play(run, label: label, goodput: nil, isQuiet: true)
    }
}
