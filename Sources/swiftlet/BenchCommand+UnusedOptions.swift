import ArgumentParser
import Foundation
import Workload

/// Options of which it matters whether they were given: where another one leaves nothing for them to do, the run would not be what was asked
/// for, and that is an error.
extension LoadOptions {
    var rate: String { published.map { Self.list($0.rates) } ?? traffic.givenRate ?? "10" }
    var duration: String { published?.seconds.map(Self.list) ?? traffic.givenDuration ?? "10" }
    var stageGap: Double { published?.gapSeconds ?? traffic.stageGap }
    var maxConcurrency: Int? { published?.concurrency ?? traffic.maxConcurrency }

    /// With `--rate published` the load that the workload's authors publish.
    private var published: PublishedLoad? { traffic.givenRate == "published" ? LoadPlan.publishedLoads[workload] : nil }

    private static func list(_ values: [Double]) -> String { values.map { String(format: "%g", $0) }.joined(separator: ",") }

    /// `--rate published` brings all that is published, and is for workloads of which something is.
    func checkPublished() throws {
        guard traffic.givenRate == "published" else { return }
        guard content.trace == nil, let published else {
            throw ValidationError(
                "--rate published: expected --workload to be one of \(LoadPlan.publishedLoads.keys.sorted().joined(separator: ", "))")
        }
        try Self.refuse(
            Self.names([
                ("--duration", traffic.givenDuration != nil && published.seconds != nil), ("--stage-gap", traffic.stageGap != 0),
                ("--max-concurrency", traffic.maxConcurrency != nil && published.concurrency != nil),
            ]), "--rate published brings its own")
    }

    /// A closed loop needs only the number that the rate gives.
    var arrival: String { traffic.givenArrival ?? (traffic.closedLoop == nil ? "poisson" : "constant") }
    var seed: UInt64 { content.givenSeed ?? 1 }
    var salt: UInt64 { content.givenSalt ?? 0 }

    /// Those of a synthetic workload.
    private var givenShape: [String] {
        Self.names([
            ("--workload", content.givenWorkload != nil), ("--prompt-groups", content.groups != nil),
            ("--prompts-per-group", content.promptsPerGroup != nil),
            ("--system-tokens", content.systemTokens != nil), ("--input-tokens", content.inputTokens != nil),
            ("--output-tokens", content.outputTokens != nil),
            ("--turns", content.turns != nil), ("--think-seconds", content.thinkSeconds != nil),
        ])
    }

    private var givenTraceOptions: [String] {
        Self.names([
            ("--time-scale", content.timeScale != 1), ("--length-scale", content.lengthScale != 1),
            ("--trace-skip", content.traceSkip != 0), ("--trace-block-tokens", content.traceBlockTokens != nil),
        ])
    }

    /// A trace has its text and arrivals; a synthetic workload has nothing to scale.
    func checkTraceAlone() throws {
        guard content.trace != nil else { return try Self.refuse(givenTraceOptions, "they are for --trace") }
        let others = [
            ("--arrival", traffic.givenArrival != nil), ("--seed", content.givenSeed != nil),
        ]
        try Self.refuse(givenShape + Self.names(others), "--trace brings its own requests")
    }

    /// A closed loop keeps no times.
    func checkClosedLoop() throws {
        guard traffic.closedLoop != nil else { return }
        let others = [
            ("--arrival", traffic.givenArrival != nil), ("--stage-gap", traffic.stageGap != 0), ("--time-scale", content.timeScale != 1),
            ("--max-concurrency", traffic.maxConcurrency != nil),
        ]
        try Self.refuse(Self.names(others), "--closed-loop sends when it is answered")
    }

    /// For runs that are of rates.
    func checkOpenLoop() throws {
        try Self.refuse(Self.names([("--closed-loop", traffic.closedLoop != nil)]), "rates are offered by an open loop")
    }

    /// For runs that play a trace at its own times.
    func checkTraceTimes() throws {
        guard content.trace != nil else { return }
        let times = [
            ("--rate", traffic.givenRate != nil), ("--duration", traffic.givenDuration != nil), ("--stage-gap", traffic.stageGap != 0),
        ]
        try Self.refuse(Self.names(times), "--trace brings its own times; --time-scale stretches them")
    }

    /// For `overhead --peers`, whose prompts are those of --prompt-bytes.
    func checkNoWorkload() throws {
        try Self.refuse(
            givenShape + givenTraceOptions + Self.names([("--trace", content.trace != nil), ("--limit", content.limit != nil)]),
            "with --peers the prompts are those of --prompt-bytes")
    }

    /// Names of those that were given.
    private static func names(_ options: [(String, Bool)]) -> [String] { options.filter { $0.1 }.map { $0.0 } }

    private static func refuse(_ names: [String], _ reason: String) throws {
        guard names.isEmpty else { throw ValidationError("\(names.joined(separator: ", ")): would not be heeded: \(reason)") }
    }
}
