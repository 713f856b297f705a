import ArgumentParser
import EventLoop
import Foundation
import LatencyBench
import Workload

/// What to send, when, and how.
struct LoadOptions: ParsableArguments {
    @Option(help: "chat, text, plain (any HTTP) or infer (gRPC, Open Inference Protocol).")
    var api = "chat"
    @Option(help: "Model asked for; without it engines take their own. Required by --api infer.")
    var model = ""
    @Flag(inversion: .prefixedNo, help: "Stream the answers.")
    var stream = true
    @Flag(name: .customLong("ignore-eos"), inversion: .prefixedNo, help: "Ask for answers of the planned length.")
    var ignoreEnd = true

    @Option(
        name: .customLong("workload"),
        help: "Named workload: \(SyntheticShape.named.keys.sorted().joined(separator: ", ")). (default: chatbot)")
    var givenWorkload: String?
    @Option(help: "Trace instead: JSONL of Mooncake or AIPerf, CSV of Azure or BurstGPT.")
    var trace: String?
    @Option(help: "Trace times are multiplied by it; below 1 is faster.")
    var timeScale = 1.0
    @Option(help: "Trace lengths are multiplied by it.")
    var lengthScale = 1.0
    @Option(help: "Trace rows to leave out from its start; later rows share more.")
    var traceSkip = 0
    @Option(name: .customLong("prompt-groups"), help: "Groups of prompts with one beginning.")
    var groups: Int?
    @Option(help: "Prompts per group.")
    var promptsPerGroup: Int?
    @Option(help: "Tokens of the shared beginning.")
    var systemTokens: Int?
    @Option(help: "Tokens of the rest.")
    var inputTokens: Int?
    @Option(help: "Tokens of the answer.")
    var outputTokens: Int?
    @Option(help: "Turns of a session.")
    var turns: Int?
    @Option(help: "Mean pause before a session's next turn, in seconds.")
    var thinkSeconds: Double?

    @Option(
        name: [.customLong("rate"), .customLong("rates")],
        help: ArgumentHelp("Requests per second; several, with commas, are stages; 10-50 is a ramp. (default: 10)", valueName: "rate"))
    var givenRate: String?
    @Option(
        name: .customLong("duration"),
        help: ArgumentHelp("Seconds of a stage; several, with commas, for several stages. (default: 10)", valueName: "duration"))
    var givenDuration: String?
    @Option(help: "Silence between stages, in seconds.")
    var stageGap = 0.0
    @Option(help: "At most so many requests (trace rows, sessions).")
    var limit: Int?
    @Option(
        name: .customLong("arrival"),
        help: ArgumentHelp("constant, poisson, gamma:CV or weibull:SHAPE. (default: poisson)", valueName: "arrival"))
    var givenArrival: String?
    @Option(name: .customLong("seed"), help: ArgumentHelp("Seed of schedule and workload. (default: 1)", valueName: "seed"))
    var givenSeed: UInt64?
    @Option(
        name: .customLong("salt"),
        help: ArgumentHelp("Changes all text, so that nothing is in a cache yet. (default: 0)", valueName: "salt"))
    var givenSalt: UInt64?
    @Option(help: "At most so many requests under way; their wait counts.")
    var maxConcurrency: Int?
    @Option(help: "Closed loop: always so many under way, whatever the schedule says.")
    var closedLoop: Int?
    @Option(help: "Requests due in the first so many seconds are sent and not counted.")
    var warmUp = 0.0
    @Option(help: "Seconds of silence after which an answer is given up.")
    var timeout = 600.0
    @Option(help: "Seconds after the last request until the rest is given up.")
    var drain = 600.0

    @Option(help: "Threads that send.")
    var loops = 1
    @Option(
        help:
            "Whether those threads, and groups that it starts, run ahead of all ordinary ones: on, off, or auto (where permitted; not in a closed loop)."
    )
    var realtime = RealTimeRequest.auto
    @Flag(help: "Have those threads never sleep, so that no wake-up is in any time: a core for each, and --realtime off.")
    var busyPoll = false
    @Option(help: "HTTP/2 connections per thread at the least; more are opened as the server's stream limit requires.")
    var connections = 1
    @Option(help: "What a request must keep to be good: ttft:MS,tpot:MS,e2e:MS, or \(GoodputTarget.presetNames.joined(separator: ", ")).")
    var goodput: String?
    @Option(help: "Method of plain requests.")
    var method = "GET"
    @Option(help: "Bytes of a plain request's body.")
    var bodyBytes = 0
    @Option(name: [.customShort("H"), .long], help: "Field for every request, 'name: value'. Repeatable.")
    var header: [String] = []
    @Option(help: "PEM file of the authorities to trust.")
    var caFile: String?
    @Flag(help: "Take any certificate.")
    var insecure = false

    var workload: String { givenWorkload ?? "chatbot" }
    var goodputTarget: GoodputTarget? { goodput.flatMap { GoodputTarget($0) } }

    func check() throws {
        guard LoadTarget.API(rawValue: api) != nil else {
            throw ValidationError("--api: expected chat, text, plain or infer, found '\(api)'")
        }
        guard api != "infer" || !model.isEmpty else { throw ValidationError("--model: expected a name, for --api infer") }
        guard trace != nil || SyntheticShape.named[workload] != nil else {
            throw ValidationError(
                "--workload: expected one of \(SyntheticShape.named.keys.sorted().joined(separator: ", ")), found '\(workload)'")
        }
        guard goodput == nil || goodputTarget != nil else {
            throw ValidationError("--goodput: expected ttft:MS,tpot:MS,e2e:MS or a preset's name, found '\(goodput ?? "")'")
        }
        _ = try process()
        _ = try stages()
        try checkTraceAlone()
        func range(_ flag: String, _ value: Double, _ bounds: ClosedRange<Double>) throws {
            guard bounds.contains(value) else {
                throw ValidationError("\(flag): expected \(bounds.lowerBound) to \(bounds.upperBound), found \(value)")
            }
        }
        try range("--time-scale", timeScale, 0...1_000)
        try range("--length-scale", lengthScale, 0...100)
        try range("--loops", Double(loops), 1...256)
        try range("--connections", Double(connections), 1...65_536)
        try range("--max-concurrency", Double(maxConcurrency ?? 1), 1...1_000_000)
        try range("--closed-loop", Double(closedLoop ?? 1), 1...1_000_000)
        try range("--timeout", timeout, 0.001...86_400)
        try range("--drain", drain, 0...86_400)
        try range("--warm-up", warmUp, 0...86_400)
        try range("--trace-skip", Double(traceSkip), 0...10_000_000)
        try range("--stage-gap", stageGap, 0...86_400)
        try range("--body-bytes", Double(bodyBytes), 0...Double(64 << 20))
        for (flag, value) in [
            ("--prompt-groups", groups), ("--prompts-per-group", promptsPerGroup), ("--system-tokens", systemTokens),
            ("--input-tokens", inputTokens), ("--output-tokens", outputTokens), ("--turns", turns), ("--limit", limit),
        ] {
            try range(flag, Double(value ?? 1), flag == "--system-tokens" ? 0...10_000_000 : 1...10_000_000)
        }
        try range("--think-seconds", thinkSeconds ?? 0, 0...86_400)
        guard !header.contains(where: { !$0.contains(":") || $0.contains("\n") || $0.contains("\r") }) else {
            throw ValidationError("--header: expected 'name: value'")
        }
    }

    func process() throws -> ArrivalSchedule.Process {
        let parts = arrival.split(separator: ":")
        let value = parts.count == 2 ? Double(parts[1]) : nil
        switch (parts.first, parts.count) {
        case ("constant", 1): return .constant
        case ("poisson", 1): return .poisson
        case ("gamma", 2): if let value, (0.01...100).contains(value) { return .gamma(coefficientOfVariation: value) }
        case ("weibull", 2): if let value, (0.1...100).contains(value) { return .weibull(shape: value) }
        default: break
        }
        throw ValidationError("--arrival: expected constant, poisson, gamma:CV or weibull:SHAPE, found '\(arrival)'")
    }

    /// `RATE`, in any form that a number has (1e-3 is one), or `FROM-TO`; nil for what is neither.
    private static func ramp(_ text: Substring) -> (from: Double, to: Double)? {
        let parts = Double(text).map { [$0] } ?? text.split(separator: "-", omittingEmptySubsequences: false).map { Double($0) ?? .nan }
        guard (1...2).contains(parts.count), parts.allSatisfy({ (0...10_000_000).contains($0) }) else { return nil }
        return (parts[0], parts[parts.count - 1])
    }

    func stages() throws -> [ArrivalSchedule.Stage] {
        let rates = rate.split(separator: ",", omittingEmptySubsequences: false).compactMap { Self.ramp($0) }
        let durations = duration.split(separator: ",", omittingEmptySubsequences: false).map { Double($0) ?? .nan }
        guard rates.count == rate.count(where: { $0 == "," }) + 1 else {
            throw ValidationError("--rate: expected RATE, RATE,RATE… or FROM-TO, each up to 10000000, found '\(rate)'")
        }
        guard durations.count == 1 || durations.count == rates.count, durations.allSatisfy({ (0...86_400).contains($0) }) else {
            throw ValidationError("--duration: expected seconds, one value or one for each rate, found '\(duration)'")
        }
        let stages = rates.enumerated().map { index, rates in
            ArrivalSchedule.Stage(
                startRate: rates.from, endRate: rates.to, seconds: durations[durations.count == 1 ? 0 : index], gapSeconds: stageGap)
        }
        guard stages.reduce(0, { $0 + $1.meanRate * $1.seconds }) <= 20_000_000 else {
            throw ValidationError("--rate, --duration: more than 20 million requests")
        }
        return stages
    }

    func shape() -> SyntheticShape {
        var shape =
            SyntheticShape.named[workload] ?? .init(groups: 1, promptsPerGroup: 1, systemTokens: 0, questionTokens: 1, outputTokens: 1)
        if let groups { shape.groups = groups }
        if let promptsPerGroup { shape.promptsPerGroup = promptsPerGroup }
        if let systemTokens { shape.systemTokens = systemTokens }
        if let inputTokens { shape.questionTokens = inputTokens }
        if let outputTokens { shape.outputTokens = outputTokens }
        if let turns { shape.turns = turns }
        if let thinkSeconds { shape.thinkSeconds = thinkSeconds }
        return shape
    }

    func plan(salt: UInt64? = nil, stages: [ArrivalSchedule.Stage]? = nil) throws -> LoadPlan {
        if let trace {
            var options = TraceOptions()
            options.timeScale = timeScale
            options.lengthScale = lengthScale
            options.skip = traceSkip
            options.limit = limit ?? .max
            guard let text = try? String(contentsOfFile: trace, encoding: .utf8) else {
                throw ValidationError("--trace: cannot read '\(trace)'")
            }
            return try LoadPlan(trace: text, file: trace, options: options)
        }
        let schedule = ArrivalSchedule(try process(), stages: try stages ?? self.stages(), seed: seed, limit: limit ?? .max)
        return LoadPlan(
            name: api == "plain" ? "plain" : workload, shape: api == "plain" ? .plain : shape(), schedule: schedule, process: arrival,
            seed: seed, salt: salt ?? self.salt)
    }

    /// The plan of one rate: a synthetic workload on that stage, or as many of a trace's rows as fit, stretched to the rate.
    func plan(forStage stage: ArrivalSchedule.Stage) throws -> LoadPlan {
        guard trace != nil else { return try plan(stages: [stage]) }
        var part = self
        part.limit = min(limit ?? .max, max(1, Int(stage.startRate * stage.seconds)))
        part.timeScale = 1
        let natural = try part.plan().stages.first?.startRate ?? 0
        guard natural > 0 else { throw ValidationError("--trace: its rows have no times that could be stretched") }
        part.timeScale = natural / stage.startRate
        return try part.plan()
    }

    func settings(for target: LoadTarget) throws -> LoadSettings {
        var settings = LoadSettings()
        settings.api = LoadTarget.API(rawValue: api) ?? .chat
        guard settings.api != .infer || target.speaksHTTP2 else { throw ValidationError("--api infer: expected a grpc:// or grpcs:// URL") }
        settings.model = model
        settings.streams = stream
        settings.ignoresEnd = ignoreEnd
        settings.method = bodyBytes > 0 && method == "GET" ? "POST" : method
        settings.body = [UInt8](repeating: UInt8(ascii: "x"), count: bodyBytes)
        settings.headers = header.map { line in
            let parts = line.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
            return (String(parts[0]).trimmingCharacters(in: .whitespaces), String(parts[1]).trimmingCharacters(in: .whitespaces))
        }
        settings.mode = closedLoop.map { .closed(concurrency: $0) } ?? .open(limit: maxConcurrency)
        settings.loops = loops
        settings.realTime = realtime
        settings.busyPolls = busyPoll
        settings.connections = connections
        settings.timeoutNanoseconds = UInt64(timeout * 1e9)
        settings.drainNanoseconds = UInt64(drain * 1e9)
        settings.warmUpNanoseconds = UInt64(warmUp * 1e9)
        settings.caFile = caFile
        settings.skipsVerification = insecure
        return settings
    }
}

extension SyntheticShape {
    /// Plain requests have a body of their own, or none.
    static let plain = SyntheticShape(groups: 1, promptsPerGroup: 1, systemTokens: 0, questionTokens: 0, outputTokens: 0)
}

extension RealTimeRequest: ExpressibleByArgument {}

/// Where results go.
struct OutputOptions: ParsableArguments {
    @Option(help: "Name of the run in reports.")
    var label: String?
    @Option(help: "Write the report as JSON; 'swiftlet bench compare' reads it.")
    var json: String?
    @Option(help: "Write one JSON line per request.")
    var requests: String?
    @Option(help: "Write percentiles of all metrics as CSV.")
    var csv: String?
    @Option(help: "Write the TTFT's distribution as HdrHistogram's .hgrm.")
    var hgrm: String?
    @Option(help: "Write a page with plots, in one file.")
    var html: String?

    func write(_ report: RunReport, _ measured: RunMeasurements) throws {
        if let json { try report.json().write(to: URL(filePath: json)) }
        if let requests { try Data(measured.jsonLines.utf8).write(to: URL(filePath: requests)) }
        if let csv { try Data(report.csv.utf8).write(to: URL(filePath: csv)) }
        if let hgrm { try Data(report.hgrm("ttft").utf8).write(to: URL(filePath: hgrm)) }
        if let html { try Data(report.html.utf8).write(to: URL(filePath: html)) }
    }
}
