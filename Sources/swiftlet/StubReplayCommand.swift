import ArgumentParser
import EngineModel
import Foundation
import Reporting
import Simulation
import Workload

/// `swiftlet stub replay`: a trace played on the engine model alone, on a virtual clock.
struct StubReplayCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "replay", abstract: "Play a trace on simulated engines, in turn, on a virtual clock.",
        discussion: """
            Shows the engine model's speed and that it is deterministic: equal traces and engines give equal fingerprints. Engines are \
            llama-3-8b-h100-tp1 unless flags say otherwise. For routing policies see swiftlet simulate.
            """)

    @Option(help: "Trace to play: Mooncake's JSONL, or Azure's or BurstGPT's CSV.")
    var trace: String

    @Option(help: "Engines, which take the requests in turn.")
    var groups = 8

    @Option(help: "Factor on the times between arrivals: with 0.5 the trace is played twice as fast.")
    var arrivalScale = 1.0

    @Option(help: "Play it so often, each time on fresh engines, and report the time of all together.")
    var `repeat` = 1

    @OptionGroup(title: "Engine")
    var engine: EngineOptions

    func validate() throws {
        try FlagRange.check("--groups", groups, 1...100_000)
        try FlagRange.check("--arrival-scale", arrivalScale, 0.0001...10_000)
        try FlagRange.check("--repeat", `repeat`, 1...1_000_000)
    }

    func run() throws {
        var engine = engine
        if engine.saysNoSpeed { engine.preset = "llama-3-8b-h100-tp1" }
        let configuration = engine.configuration(blockSize: engine.blockSize ?? 512)
        var options = TraceOptions()
        options.timeScale = arrivalScale
        let text = try String(contentsOfFile: trace, encoding: .utf8)
        let plan = try LoadPlan(trace: text, file: trace, options: options)
        guard plan.requests.allSatisfy({ $0.nextTurn < 0 }) else {
            throw ValidationError("--trace: \(trace) has sessions, whose turns wait for each other: play it with swiftlet simulate")
        }

        let clock = ContinuousClock()
        var outcomes: [EngineReplay.Outcome] = []
        let elapsed = clock.measure {
            for _ in 0..<`repeat` { outcomes.append(EngineReplay.play(plan, groups: groups, engine: configuration)) }
        }
        guard outcomes.allSatisfy({ $0.fingerprint == outcomes[0].fingerprint }) else {
            FileHandle.standardError.write(Data("the replays differ from each other\n".utf8))
            throw ExitCode.failure
        }
        print(Self.report(outcomes[0], plays: `repeat`, seconds: elapsed / .seconds(1)))
    }

    private static func report(_ outcome: EngineReplay.Outcome, plays: Int, seconds: Double) -> String {
        let first = Distribution(outcome.timeToFirstToken)
        let later = Distribution(outcome.timePerOutputToken)
        func milliseconds(_ distribution: Distribution) -> String {
            [50, 90, 99].map { String(format: "p%.0f %.1f ms", $0, distribution.milliseconds(percentile: $0)) }.joined(separator: ", ")
        }
        let hits = outcome.promptTokens == 0 ? 0 : 100 * Double(outcome.cachedTokens) / Double(outcome.promptTokens)
        let requests = plays * (outcome.completed + outcome.refused)
        return """
            requests             \(outcome.completed) completed, \(outcome.refused) refused
            virtual time         \(String(format: "%.1f s", Double(outcome.nanoseconds) / 1e9))
            tokens               \(outcome.promptTokens) prompt (\(String(format: "%.1f %%", hits)) cached), \(outcome.outputTokens) generated
            time to first token  \(milliseconds(first))
            time per token       \(milliseconds(later))
            steps                \(outcome.steps), \(outcome.preemptions) preemptions
            fingerprint          \(ContentHash.text(outcome.fingerprint))
            real time            \(String(format: "%.3f s for %d requests: %.0f per second on one core", seconds, requests, Double(requests) / seconds))
            """
    }
}
