/// A model on a tensor-parallel group of devices: what follows for the engine from these three.
public struct EnginePreset: Sendable, Equatable {
    public let model: ModelShape
    public let accelerator: Accelerator
    /// Devices in the group; all of them in one machine.
    public let tensorParallel: Int
    /// Share of a device's memory that the engine may use (`--gpu-memory-utilization`).
    public var memoryUtilisation = 0.9

    public init(model: ModelShape, accelerator: Accelerator, tensorParallel: Int) {
        self.model = model
        self.accelerator = accelerator
        self.tensorParallel = max(1, tensorParallel)
    }

    /// Reads `MODEL-DEVICE-tpN`, as in `llama-3-8b-h100-tp1`; nil when there is no such model or device, or N is not 1, 2, 4 or 8.
    public init?(name: String) {
        let parts = name.split(separator: "-")
        guard parts.count > 2, let last = parts.last, last.hasPrefix("tp"), let devices = Int(last.dropFirst(2)) else { return nil }
        guard Self.groupSizes.contains(devices) else { return nil }
        let modelName = parts.dropLast(2).joined(separator: "-")
        guard let model = ModelShape.all.first(where: { $0.name == modelName }) else { return nil }
        guard let accelerator = Accelerator.all.first(where: { $0.name == parts[parts.count - 2] }) else { return nil }
        self.init(model: model, accelerator: accelerator, tensorParallel: devices)
    }

    /// Group sizes that a preset can have.
    public static let groupSizes = [1, 2, 4, 8]

    /// Every preset whose model fits into its devices' memory.
    public static var all: [EnginePreset] {
        ModelShape.all.flatMap { model in
            Accelerator.all.flatMap { accelerator in
                groupSizes.map { EnginePreset(model: model, accelerator: accelerator, tensorParallel: $0) }
            }
        }.filter { $0.fits }
    }

    public var name: String { "\(model.name)-\(accelerator.name)-tp\(tensorParallel)" }

    // MARK: Memory

    /// What activations of a step take on each device, and what the driver and the communication library take, bytes
    /// (llm-d's capacity planner).
    static let activationBytes = 5.5 * Accelerator.gibibyte
    static func runtimeBytes(devices: Int) -> Double { (devices > 1 ? 0.6 : 0.15) * Accelerator.gibibyte }

    /// Tokens that the KV cache holds; 0 when the weights leave no room.
    public var cacheTokens: Int {
        let devices = Double(tensorParallel)
        let free =
            accelerator.memoryBytes * memoryUtilisation - model.weightBytes / devices - Self.activationBytes
            - Self.runtimeBytes(devices: tensorParallel)
        return Int(max(0, min(free * devices / model.keyValueBytesPerToken, 1e9)))
    }

    /// KV blocks of `blockSize` tokens that the engine allocates.
    public func blockCount(blockSize: Int = 16) -> Int { cacheTokens / max(1, blockSize) }

    /// Whether the weights leave room for a cache of at least one prompt of 8,192 tokens.
    public var fits: Bool { cacheTokens >= 8_192 }

    // MARK: Engine

    public var stepTime: StepTimeModel {
        StepTimeModel(model: model, accelerator: accelerator, tensorParallel: tensorParallel)
    }

    /// The engine as `vllm serve` would set it up.
    public func configuration(blockSize: Int = 16) -> EngineConfiguration {
        EngineConfiguration(
            blockSize: blockSize, blockCount: blockCount(blockSize: blockSize), maximumSequences: accelerator.maximumSequences,
            maximumBatchedTokens: accelerator.maximumBatchedTokens, stepTime: stepTime)
    }

    /// LoRA serving with `slots` adapters on the devices and `hostSlots` in the host's memory, all of `rank`.
    public func lora(slots: Int = 1, hostSlots: Int? = nil, rank: Int = 16) -> LoRASettings {
        let bytes = model.adapterBytes(rank: rank)
        return LoRASettings(
            slots: slots, hostSlots: hostSlots,
            activationNanoseconds: Self.nanoseconds(bytes / (accelerator.hostBandwidth * Double(tensorParallel)) + 1e-3),
            loadNanoseconds: Self.nanoseconds(bytes / Self.storageBandwidth + 10e-3))
    }

    // MARK: Start

    /// Where weights come from, bytes per second: a local NVMe disk, or a good network volume.
    static let storageBandwidth = 2e9
    /// Everything in the engine's start that does not depend on the weights: processes, CUDA contexts, profiling run, graph capture.
    static let initialisationSeconds = 20.0

    /// From the start of the process to the first `/health` that says 200, ns.
    public var startupNanoseconds: UInt64 {
        Self.nanoseconds(Self.initialisationSeconds + model.weightBytes / Self.storageBandwidth)
    }

    /// From `/wake_up` to serving, ns: weights come back from the host's memory (sleep level 1), or from storage (level 2).
    public func wakeNanoseconds(level: Int) -> UInt64 {
        let rate = level >= 2 ? Self.storageBandwidth : accelerator.hostBandwidth * Double(tensorParallel)
        return Self.nanoseconds(model.weightBytes / rate)
    }

    private static func nanoseconds(_ seconds: Double) -> UInt64 { UInt64(max(0, min(seconds, 1e9)) * 1e9) }
}
