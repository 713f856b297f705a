import ArgumentParser
import EventLoop
import Foundation
import LatencyBench
import Workload

extension LoadOptions {
    var workload: String { content.givenWorkload ?? "chatbot" }
    var goodputTarget: GoodputTarget? { goals.goodput.flatMap { GoodputTarget($0) } }

    func check() throws {
        guard LoadTarget.API(rawValue: request.api) != nil else {
            throw ValidationError("--api: expected chat, text, plain or infer, found '\(request.api)'")
        }
        guard request.api != "infer" || !request.target.model.isEmpty else {
            throw ValidationError("--model: expected a name, for --api infer")
        }
        guard content.trace != nil || LoadPlan.names.contains(workload) else {
            throw ValidationError(
                "--workload: expected one of \(LoadPlan.names.joined(separator: ", ")), found '\(workload)'")
        }
        let sizes: [Any?] = [
            content.groups, content.promptsPerGroup, content.systemTokens, content.inputTokens, content.outputTokens, content.turns,
            content.thinkSeconds,
        ]
        guard content.trace != nil || !LoadPlan.standardNames.contains(workload) || sizes.allSatisfy({ $0 == nil }) else {
            throw ValidationError("--workload \(workload): its sizes are distributions of its own, and flags of sizes do not change them")
        }
        guard goals.goodput == nil || goodputTarget != nil else {
            throw ValidationError("--goodput: expected ttft:MS,tpot:MS,e2e:MS or a preset's name, found '\(goals.goodput ?? "")'")
        }
        try checkPublished()
        guard request.stream || goodputTarget?.tpotMilliseconds == nil else {
            throw ValidationError("--goodput: a time per token needs an answer that is streamed, and --no-stream asks for none")
        }
        _ = try process()
        _ = try stages()
        try checkTraceAlone()
        try checkClosedLoop()
        try checkRanges()
        try checkWarmUp()
        try request.target.check()
    }

    private func checkRanges() throws {
        func range<Value: Comparable>(_ flag: String, _ value: Value?, _ bounds: ClosedRange<Value>) throws {
            guard let value, !bounds.contains(value) else { return }
            throw ValidationError(
                "\(flag): expected \(Self.text(bounds.lowerBound)) to \(Self.text(bounds.upperBound)), found \(Self.text(value))")
        }
        try range("--time-scale", content.timeScale, 0...1_000)
        try range("--length-scale", content.lengthScale, 0...100)
        try range("--loops", generator.loops, 1...256)
        try range("--connections", request.connections, 1...65_536)
        try range("--max-concurrency", traffic.maxConcurrency, 1...1_000_000)
        try range("--closed-loop", traffic.closedLoop, 1...1_000_000)
        try range("--timeout", request.timeout, 0.001...86_400)
        try range("--drain", traffic.drain, 0...86_400)
        try range("--warm-up", traffic.warmUp, 0...86_400)
        try range("--trace-block-tokens", content.traceBlockTokens, 1...1_000_000)
        try range("--trace-skip", content.traceSkip, 0...10_000_000)
        try range("--stage-gap", traffic.stageGap, 0...86_400)
        try range("--body-bytes", request.bodyBytes, 0...(64 << 20))
        for (flag, value) in [
            ("--prompt-groups", content.groups), ("--prompts-per-group", content.promptsPerGroup),
            ("--system-tokens", content.systemTokens),
            ("--input-tokens", content.inputTokens), ("--output-tokens", content.outputTokens), ("--turns", content.turns),
            ("--limit", content.limit),
        ] {
            try range(flag, value, flag == "--system-tokens" ? 0...10_000_000 : 1...10_000_000)
        }
        try range("--think-seconds", content.thinkSeconds, 0...86_400)
    }

    /// As it would be given.
    private static func text(_ value: some Any) -> String { (value as? Double).map { String(format: "%.15g", $0) } ?? "\(value)" }

    /// A warm-up as long as the run would leave nothing to tell. A closed loop is as long as it takes; a trace is not known yet.
    private func checkWarmUp() throws {
        guard traffic.warmUp > 0, traffic.closedLoop == nil, content.trace == nil else { return }
        let length = try stages().reduce(0) { $0 + $1.seconds + $1.gapSeconds } - stageGap
        guard traffic.warmUp < length else {
            throw ValidationError(
                "--warm-up: expected less than the schedule's \(Self.text(length)) seconds, found \(Self.text(traffic.warmUp)): nothing would be left"
            )
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
                startRate: rates.from, endRate: rates.to, seconds: durations[durations.count == 1 ? 0 : index], gapSeconds: stageGap
            )
        }
        guard stages.reduce(0, { $0 + $1.meanRate * $1.seconds }) <= 20_000_000 else {
            throw ValidationError("--rate, --duration: more than 20 million requests")
        }
        return stages
    }

    func shape() -> SyntheticShape {
        var shape =
            SyntheticShape.named[workload] ?? .init(groups: 1, promptsPerGroup: 1, systemTokens: 0, questionTokens: 1, outputTokens: 1)
        if let groups = content.groups { shape.groups = groups }
        if let promptsPerGroup = content.promptsPerGroup { shape.promptsPerGroup = promptsPerGroup }
        if let systemTokens = content.systemTokens { shape.systemTokens = systemTokens }
        if let inputTokens = content.inputTokens { shape.questionTokens = inputTokens }
        if let outputTokens = content.outputTokens { shape.outputTokens = outputTokens }
        if let turns = content.turns { shape.turns = turns }
        if let thinkSeconds = content.thinkSeconds { shape.thinkSeconds = thinkSeconds }
        return shape
    }

    func plan(salt: UInt64? = nil, stages: [ArrivalSchedule.Stage]? = nil) throws -> LoadPlan {
        let plan = try scheduled(salt: salt, stages: stages)
        guard !plan.requests.isEmpty else { throw ValidationError("the schedule has no request: expected a higher rate, or more time") }
        return plan
    }

    /// Empty where nothing is due.
    func scheduled(salt: UInt64?, stages: [ArrivalSchedule.Stage]?) throws -> LoadPlan {
        if content.trace != nil {
            var plan = try trace()
            plan.salt(salt ?? self.salt)
            guard plan.requests.contains(where: { Double($0.offsetNanoseconds) >= traffic.warmUp * 1e9 }) else {
                throw ValidationError(
                    "--warm-up: expected less than the trace's length, found \(Self.text(traffic.warmUp)): nothing would be left")
            }
            return plan
        }
        let schedule = ArrivalSchedule(try process(), stages: try stages ?? self.stages(), seed: seed, limit: content.limit ?? .max)
        if request.api != "plain", var plan = LoadPlan(standard: workload, schedule: schedule, process: arrival, seed: seed) {
            plan.salt(salt ?? self.salt)
            return plan
        }
        return LoadPlan(
            name: request.api == "plain" ? "plain" : workload, shape: request.api == "plain" ? .plain : shape(), schedule: schedule,
            process: arrival,
            seed: seed, salt: salt ?? self.salt)
    }

    private func trace() throws -> LoadPlan {
        let file = content.trace ?? ""
        var options = TraceOptions()
        options.timeScale = content.timeScale
        options.lengthScale = content.lengthScale
        options.skip = content.traceSkip
        options.limit = content.limit ?? .max
        options.blockTokens = content.traceBlockTokens
        guard let text = try? String(contentsOfFile: file, encoding: .utf8) else {
            throw ValidationError("--trace: cannot read '\(file)'")
        }
        return try LoadPlan(trace: text, file: file, options: options)
    }

    /// The plan of one rate: a synthetic workload on that stage, or as many of a trace's rows as fit, stretched to the rate.
    func plan(forStage stage: ArrivalSchedule.Stage) throws -> LoadPlan {
        guard content.trace != nil else { return try plan(stages: [stage]) }
        var part = self
        part.content.limit = min(content.limit ?? .max, max(1, Int(stage.startRate * stage.seconds)))
        part.content.timeScale = 1
        let natural = try part.trace().stages.first?.startRate ?? 0
        guard natural > 0 else { throw ValidationError("--trace: its rows have no times that could be stretched") }
        part.content.timeScale = natural / stage.startRate
        return try part.plan()
    }

    func settings(for target: LoadTarget) throws -> LoadSettings {
        var settings = LoadSettings()
        settings.api = LoadTarget.API(rawValue: request.api) ?? .chat
        guard settings.api != .infer || target.speaksHTTP2 else { throw ValidationError("--api infer: expected a grpc:// or grpcs:// URL") }
        request.target.write(to: &settings)
        settings.streams = request.stream
        settings.ignoresEnd = request.ignoreEnd
        settings.method = request.bodyBytes > 0 && request.method == "GET" ? "POST" : request.method
        settings.body = [UInt8](repeating: UInt8(ascii: "x"), count: request.bodyBytes)
        settings.mode = traffic.closedLoop.map { .closed(concurrency: $0) } ?? .open(limit: maxConcurrency)
        settings.loops = generator.loops
        settings.realTime = generator.realtime
        settings.busyPolls = generator.busyPoll
        settings.connections = request.connections
        settings.timeoutNanoseconds = UInt64(request.timeout * 1e9)
        settings.drainNanoseconds = UInt64(traffic.drain * 1e9)
        settings.warmUpNanoseconds = UInt64(traffic.warmUp * 1e9)
        return settings
    }
}

extension SyntheticShape {
    /// Plain requests have a body of their own, or none.
    static let plain = SyntheticShape(groups: 1, promptsPerGroup: 1, systemTokens: 0, questionTokens: 0, outputTokens: 0)
}
