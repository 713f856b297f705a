import ArgumentParser
import Foundation
import LatencyBench
import LoadSignals
import Workload

/// One calibration: what it is told, what it sends, and what of the answers counts.
struct CalibrationSession {
    let target: LoadTarget
    var settings: LoadSettings
    var wishes: CalibrationPlan.Wishes
    let seconds: Double
    private let startedAt = Date()
    private let interruption = Interruption()
    private var capacityTokens: Int?
    private var notes: [String] = []

    init(target: LoadTarget, settings: LoadSettings, wishes: CalibrationPlan.Wishes, seconds: Double) {
        self.target = target
        self.settings = settings
        self.wishes = wishes
        self.seconds = seconds
    }

    private var secondsLeft: Double { seconds - Date().timeIntervalSince(startedAt) }

    mutating func play() throws -> CalibrationReport {
        tell("Calibrating \(target.url): at most \(Int(seconds.rounded(.up))) s")
        try askForModels()
        let impression = try scout()
        // Not before: an engine whose clients have left may count them until it is asked for something.
        if let work = try workAfterWaiting() {
            throw CalibrationFailure("the engine is busy: \(work). A calibration needs an idle one")
        }
        // A tenth for what goes slower than at first sight, and for questions.
        let plan = try CalibrationPlan(wishes, impression, seconds: 0.9 * secondsLeft)
        if plan.lengths.count < wishes.lengths.count || plan.rounds < wishes.rounds {
            notes.append("a longer --seconds than \(Int(seconds)) would have allowed for all lengths and repetitions.")
        }
        tell(
            "\(plan.rounds) times prompts of \(plan.lengths.map(String.init).joined(separator: ", ")) tokens and an answer of \(plan.answerTokens): "
                + String(format: "about %.0f s", plan.expectedSeconds(impression).rounded(.up)))
        settings.drainNanoseconds = UInt64(max(secondsLeft, 0.1) * 1e9)
        let run = LoadRun(plan: plan.load, target: target, settings: settings)
        let (_, measured) = try swiftlet.play(run, label: "calibration", goodput: nil, interruption: interruption)
        try endIfInterrupted()
        let failures = judge(measured, plan)
        let figures: Calibration
        do { figures = try Calibration(Calibration.Samples(measured.records, of: plan)) } catch {
            throw CalibrationFailure(([error.description] + failures + notes).joined(separator: "; "))
        }
        if let reason = figures.curvature { notes.append(reason) }
        let work = try workAfterWaiting()
        return CalibrationReport(
            tool: "swiftlet \(Swiftlet.release)", startedAt: startedAt, command: CommandLine.arguments, target: target,
            model: settings.model, measured: measured, figures: figures, kvCapacityTokens: capacityTokens, notes: notes,
            invalidReasons: failures + (work.map { ["others use the engine: \($0) after the last answer"] } ?? []))
    }

    private func tell(_ text: String) { FileHandle.standardError.write(Data("\(text)\n".utf8)) }

    private func endIfInterrupted() throws {
        guard interruption.hasCome else { return }
        tell("Interrupted: no figures")
        throw ExitCode(130)
    }

    // MARK: Questions

    private static let inquirySeconds = 10.0

    private func ask(_ path: String) throws -> EngineInquiry.Answer {
        let inquiry = EngineInquiry(path, of: target, settings, seconds: max(min(Self.inquirySeconds, secondsLeft), 0.1))
        interruption.whenItComes { inquiry.stop() }
        defer { interruption.whenItComes(nil) }
        let answer = try inquiry.answer()
        try endIfInterrupted()
        return answer
    }

    /// OpenAI's list; vLLM and SGLang say beside each model how long its prompts may be.
    private struct ModelList: Decodable {
        struct Model: Decodable {
            var id: String
            var lengthLimit: Int?

            enum CodingKeys: String, CodingKey {
                case id
                case lengthLimit = "max_model_len"
            }
        }
        var data: [Model]
    }

    private mutating func askForModels() throws {
        let answer = try ask("/v1/models")
        switch answer.outcome {
        // Not all engines list models; what else is amiss, the first prompts tell.
        case .good, .errorEvent, .status(404), .status(405), .status(501): break
        case .status(401), .status(403):
            throw CalibrationFailure("the engine wants a key (\(answer.outcome.name)): -H 'authorization: Bearer KEY'")
        case .status: throw CalibrationFailure("the engine answers \(answer.outcome.name) to /v1/models\(Self.message(answer.body))")
        default: throw CalibrationFailure("the engine cannot be reached at \(target.url): \(answer.outcome.name)")
        }
        guard let models = try? JSONDecoder().decode(ModelList.self, from: Data(answer.body)).data, let first = models.first else { return }
        let model = settings.model.isEmpty ? first : models.first { $0.id == settings.model }
        guard let model else {
            throw CalibrationFailure("the engine has no model '\(settings.model)', but \(models.map(\.id).joined(separator: ", "))")
        }
        settings.model = model.id
        // Adapters have no length of their own.
        let limit = model.lengthLimit ?? models.compactMap(\.lengthLimit).first
        let fitting = CalibrationPlan.lengths(wishes.lengths, limit: limit, answerTokens: wishes.answerTokens)
        guard fitting.count >= 2 else {
            throw CalibrationFailure(
                "the engine takes \(limit ?? 0) tokens, which leaves no two lengths of --prompt-tokens beside --answer-tokens \(wishes.answerTokens)"
            )
        }
        if fitting != wishes.lengths { notes.append("the engine takes \(limit ?? 0) tokens, so longer prompts were left out.") }
        wishes.lengths = fitting
    }

    /// Gauges of an engine trail by seconds: so long it may still count what has ended.
    private static let gaugeSeconds = 2.0

    /// What the engine has under way, in words, once its gauges had time to forget what has ended; nil: nothing, or it does not tell.
    private mutating func workAfterWaiting() throws -> String? {
        let end = Date().addingTimeInterval(Self.gaugeSeconds)
        while true {
            let answer = try ask("/metrics")
            guard answer.outcome == .good, let load = reading(answer.body) else {
                if notes.last != Self.isSilent { notes.append(Self.isSilent) }
                return nil
            }
            capacityTokens = load.capacityTokens ?? capacityTokens
            let (running, waiting) = (Int(load.running ?? 0), Int(load.waiting ?? 0))
            guard running + waiting > 0 else { return nil }
            if Date() >= end || secondsLeft <= 0 { return "\(running) sequences running and \(waiting) waiting by its /metrics" }
        }
    }

    private static let isSilent = "the engine's /metrics do not tell whether it was idle."

    private func reading(_ text: [UInt8]) -> EngineReading? {
        var reading = EngineReading()
        var scanner = MetricsTextScanner()
        text.withUnsafeBytes { scanner.consume($0, into: &reading) }
        scanner.finish()
        return reading.engine == nil ? nil : reading
    }

    // MARK: Runs

    private func scout() throws -> EngineImpression {
        let plan = CalibrationPlan(scoutFor: wishes)
        var settings = settings
        settings.drainNanoseconds = UInt64(max(secondsLeft, 0.1) * 1e9)
        let run = LoadRun(plan: plan.load, target: target, settings: settings)
        interruption.whenItComes { run.stop() }
        defer { interruption.whenItComes(nil) }
        let measured = try run.run()
        try endIfInterrupted()
        let failed = measured.records.filter { $0.outcome != .good }
        if failed.contains(where: { $0.outcome == .unfinished }) {
            throw CalibrationFailure(
                "\(measured.good) short prompts were answered in --seconds \(Int(seconds)): the engine is too slow, or busy")
        }
        if let first = failed.first {
            throw CalibrationFailure("the engine answers a prompt with \(first.outcome.name)\(Self.message(measured.lastDocument))")
        }
        guard measured.records.allSatisfy({ $0.promptTokens > 0 }) else {
            throw CalibrationFailure(
                "the engine does not count the tokens of prompts ('usage' in the last event, for stream_options.include_usage)")
        }
        return try EngineImpression(measured.records, of: plan)
    }

    /// What is wrong beside the samples: notes where it does no harm, and reasons not to believe them, which are returned.
    private mutating func judge(_ measured: RunMeasurements, _ plan: CalibrationPlan) -> [String] {
        let refused = plan.lengths.indices.filter { length in
            let records = measured.records.filter { plan.purposes[$0.index] == .firstToken(length: length) }
            return !records.isEmpty && records.allSatisfy { $0.outcome == .status(400) || $0.outcome == .status(413) }
        }
        if let shortest = refused.first {
            notes.append("the engine refuses prompts of \(plan.lengths[shortest]) tokens\(Self.message(measured.lastDocument)).")
        }
        let isCutShort = measured.records.count < plan.purposes.count || measured.outcomes[.unfinished] != nil
        if isCutShort { notes.append("--seconds \(Int(seconds)) were over after \(measured.good) of \(plan.purposes.count) requests.") }
        let failed = measured.records.filter { record in
            if record.outcome == .good || record.outcome == .unfinished { return false }
            if case .firstToken(let length) = plan.purposes[record.index] { return !refused.contains(length) }
            return true
        }
        guard !failed.isEmpty else { return [] }
        let kinds = Dictionary(grouping: failed, by: \.outcome.name).mapValues(\.count).sorted { $0.key < $1.key }
        return [
            "\(failed.count) of \(measured.records.count) requests failed: "
                + kinds.map { "\($0.key): \($0.value)" }.joined(separator: ", ") + Self.message(measured.lastDocument)
        ]
    }

    /// What an error's body says, in OpenAI's form or vLLM's old one.
    private static func message(_ body: [UInt8]) -> String {
        struct Body: Decodable {
            struct Problem: Decodable { var message: String? }
            var error: Problem?
            var message: String?
        }
        guard let said = try? JSONDecoder().decode(Body.self, from: Data(body)), let text = said.error?.message ?? said.message else {
            return ""
        }
        return " (\(text.prefix(300)))"
    }
}
