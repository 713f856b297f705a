public import EngineModel

/// What happens to a group at a moment of the run.
public enum FleetChange: Sendable, Equatable {
    /// The engine dies: what runs there is lost, its cache too. It serves again after `downSeconds`.
    case restart(group: Int, downSeconds: Double)
    /// Its steps take `factor` times as long from now on.
    case slowdown(group: Int, factor: Double)
    /// It appears; until then it was not there.
    case join(group: Int)
    /// It gets nothing new and finishes what it has.
    case leave(group: Int)
}

/// Groups, the routers before them, and what these hear of the engines.
public struct SimulatedFleet: Sendable {
    public struct Event: Sendable {
        public var seconds: Double
        public var change: FleetChange
    }

    public var groups: [EngineConfiguration]
    /// Tokens per second that an engine of the preset prefills: published rules take it as their calibrated constant.
    public var prefillTokensPerSecond: Double
    /// Seconds of a decode step of one sequence.
    public var decodeStepSeconds: Double
    public var routers = 1
    /// Age in milliseconds of the engines' reports when they reach the routers; nil: nothing is reported.
    public var reportAgeMilliseconds: Double?
    /// How often routers tell one another what they place and have under way; nil: never.
    public var replicaSyncMilliseconds: Double?
    public var events: [Event] = []

    /// - Parameters:
    ///   - preset: what every group is.
    ///   - cacheTokens: KV capacity of a group; the preset's own when nil.
    public init(preset: EnginePreset, groups count: Int, cacheTokens: Int? = nil) {
        var configuration = preset.configuration(blockSize: simulatedBlockTokens)
        if let cacheTokens { configuration.blockCount = cacheTokens / simulatedBlockTokens + 1 }
        configuration.reportsTokens = false
        configuration.reportsProgress = true
        groups = Array(repeating: configuration, count: count)
        var prefill = StepLoad()
        prefill.addPrefill(tokens: configuration.maximumBatchedTokens, context: 0)
        prefillTokensPerSecond = Double(prefill.prefillTokens) * 1e9 / Double(configuration.stepTime.nanoseconds(of: prefill))
        var decode = StepLoad()
        decode.decodeSequences = 1
        decodeStepSeconds = Double(configuration.stepTime.nanoseconds(of: decode)) / 1e9
    }

    /// The published setup of the b2b ladder: Qwen3-32B on 8 × 2 H100, 307,328 tokens of KV cache each.
    public static func published(groups: Int = 8) -> SimulatedFleet {
        let preset = EnginePreset(model: .qwen3With32B, accelerator: .h100, tensorParallel: 2)
        return SimulatedFleet(preset: preset, groups: groups, cacheTokens: 307_328)
    }

    /// Makes `group` take `factor` times as long for every step, for the whole run.
    public mutating func slow(group: Int, factor: Double) { groups[group].stepTime = groups[group].stepTime.slowed(by: factor) }
}

extension StepTimeModel {
    func slowed(by factor: Double) -> StepTimeModel {
        var slow = self
        let fields: [WritableKeyPath<StepTimeModel, Double>] = [
            \.prefillCompute, \.decodeCompute, \.weights, \.token, \.pair, \.context, \.prefillSequence, \.decodeSequence, \.fixed,
        ]
        for field in fields { slow[keyPath: field] *= factor }
        return slow
    }
}
