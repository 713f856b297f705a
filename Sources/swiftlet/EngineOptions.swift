import ArgumentParser
import EngineModel
import Foundation
import Reporting

/// A simulated engine as flags.
struct EngineOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Step times, KV blocks and limits of a model on some devices, as in llama-3-8b-h100-tp1. See --list-presets.",
            valueName: "model-device-tpN"))
    var preset: String?

    @Option(help: "Time to compute one prompt token, in microseconds; 100 without --preset.")
    var prefillUsPerToken: Double?

    @Option(
        help: "Time of a step that decodes one sequence, in milliseconds; 20 without --preset. Each sequence adds a hundredth.")
    var decodeMsPerToken: Double?

    @Option(help: "Time that each sequence adds to a step, in microseconds, instead of a hundredth of --decode-ms-per-token.")
    var decodeUsPerSequence: Double?

    @Option(help: "KV blocks of an engine; 16384 without --preset.")
    var kvBlocks: Int?

    @Option(help: "Tokens per KV block; 16, in a replay 512 as in the trace.")
    var blockSize: Int?

    @Option(help: "Sequences that an engine runs at once; 256 without --preset.")
    var maxNumSeqs: Int?

    @Option(help: "Tokens that one step computes at most; 2048 without --preset.")
    var maxNumBatchedTokens: Int?

    @Option(help: "Factor on every time of the engine: with 0.1 it is ten times as fast.")
    var timeScale = 1.0

    @Option(help: "LoRA adapters that one batch may use; 0 disables them.")
    var maxLoras = 0

    @Option(help: "LoRA adapters kept in the host's memory; as many as --max-loras by default.")
    var maxCpuLoras: Int?

    @Option(help: "Time to load a LoRA adapter from storage, in milliseconds; 50 without --preset, and 5 more to the device.")
    var loraLoadMs: Double?

    func validate() throws {
        if let preset {
            guard let known = EnginePreset(name: preset) else {
                throw ValidationError("--preset: expected one that --list-presets names, got '\(preset)'")
            }
            guard known.fits else { throw ValidationError("--preset: \(preset) leaves no memory for a KV cache") }
            guard prefillUsPerToken == nil, decodeMsPerToken == nil, decodeUsPerSequence == nil else {
                throw ValidationError("--preset already says what --prefill-us-per-token, --decode-ms-per-token and such would")
            }
        }
        // An hour per token is beyond any use, and far within the range of the clock.
        try FlagRange.check("--prefill-us-per-token", prefillUsPerToken ?? 0, 0...3.6e9)
        try FlagRange.check("--decode-ms-per-token", decodeMsPerToken ?? 0, 0...3.6e6)
        try FlagRange.check("--decode-us-per-sequence", decodeUsPerSequence ?? 0, 0...3.6e9)
        try FlagRange.check("--kv-blocks", kvBlocks ?? 2, 2...100_000_000)
        try FlagRange.check("--block-size", blockSize ?? 16, 1...65_536)
        try FlagRange.check("--max-num-seqs", maxNumSeqs ?? 1, 1...1_000_000)
        try FlagRange.check("--max-num-batched-tokens", maxNumBatchedTokens ?? 1, 1...10_000_000)
        try FlagRange.check("--time-scale", timeScale, 0.0001...10_000)
        try FlagRange.check("--max-loras", maxLoras, 0...1_024)
        try FlagRange.check("--max-cpu-loras", maxCpuLoras ?? maxLoras, maxLoras...65_536)
        try FlagRange.check("--lora-load-ms", loraLoadMs ?? 0, 0...3.6e6)
    }

    var knownPreset: EnginePreset? { preset.flatMap { EnginePreset(name: $0) } }

    /// The engine that the flags describe; each flag overrides its part of the preset.
    var configuration: EngineConfiguration { configuration(blockSize: blockSize ?? 16) }

    func configuration(blockSize: Int) -> EngineConfiguration {
        var engine = knownPreset?.configuration(blockSize: blockSize) ?? EngineConfiguration(blockSize: blockSize, stepTime: plainStepTime)
        engine.stepTime = engine.stepTime.scaled(by: timeScale)
        if let kvBlocks { engine.blockCount = kvBlocks }
        if let maxNumSeqs { engine.maximumSequences = maxNumSeqs }
        if let maxNumBatchedTokens { engine.maximumBatchedTokens = maxNumBatchedTokens }
        if maxLoras > 0 {
            var lora = knownPreset?.lora(slots: maxLoras, hostSlots: maxCpuLoras) ?? LoRASettings(slots: maxLoras, hostSlots: maxCpuLoras)
            if let loraLoadMs { lora.loadNanoseconds = UInt64(loraLoadMs * 1e6) }
            engine.lora = lora.scaled(by: timeScale)
        }
        return engine
    }

    private var plainStepTime: StepTimeModel {
        let decodeNanoseconds = (decodeMsPerToken ?? 20) * 1e6
        return StepTimeModel(
            prefillNanosecondsPerToken: UInt64((prefillUsPerToken ?? 100) * 1e3), decodeNanosecondsPerStep: UInt64(decodeNanoseconds),
            decodeNanosecondsPerSequence: UInt64(decodeUsPerSequence.map { $0 * 1e3 } ?? decodeNanoseconds / 100))
    }

    /// Nothing says how fast the engine is.
    var saysNoSpeed: Bool { preset == nil && prefillUsPerToken == nil && decodeMsPerToken == nil && decodeUsPerSequence == nil }

    /// What `--list-presets` prints.
    static var presetTable: String {
        var table = TextTable(header: ["preset", "KV tokens", "1 sequence", "64 sequences", "prefill 2048", "start-up"])
        for preset in EnginePreset.all {
            func decode(_ sequences: Int) -> String {
                var load = StepLoad()
                load.decodeSequences = sequences
                load.decodeContextTokens = sequences * 1_024
                return String(format: "%.2f ms", Double(preset.stepTime.nanoseconds(of: load)) / 1e6)
            }
            var prefill = StepLoad()
            prefill.addPrefill(tokens: 2_048, context: 0)
            table.rows.append([
                preset.name, "\(preset.cacheTokens)", decode(1), decode(64),
                String(format: "%.1f ms", Double(preset.stepTime.nanoseconds(of: prefill)) / 1e6),
                String(format: "%.0f s", Double(preset.startupNanoseconds) / 1e9),
            ])
        }
        return table.text
    }
}

enum FlagRange {
    static func check<Value: Comparable>(_ flag: String, _ value: Value, _ range: ClosedRange<Value>) throws {
        guard range.contains(value) else {
            throw ValidationError("\(flag): expected a value from \(range.lowerBound) to \(range.upperBound), got \(value)")
        }
    }
}
