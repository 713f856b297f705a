/// One GPU and its links to the others of its tensor-parallel group: peak rates from the data sheet, and how much of them real
/// kernels reach.
///
/// The achieved shares and the overheads are one set per device for every model, batch and group size, read off the published
/// microbenchmarks named beside them.
public struct Accelerator: Sendable, Equatable {
    /// As in ``EnginePreset/name``.
    public var name: String
    /// Dense 16-bit peak, operations per second.
    public var peakFLOPS: Double
    /// Memory bandwidth, bytes per second.
    public var memoryBandwidth: Double
    public var memoryBytes: Double
    /// Share of the peak that large matrix products reach (Vidur's operator profiles, 2,048 tokens and more).
    public var matrixEfficiency: Double
    /// Launches and small kernels of one layer, seconds (what Vidur's profiles of a single token leave beside the weights' read).
    public var layerOverheadSeconds: Double
    /// Start of one all-reduce, seconds, and its bus bandwidth, bytes per second (Vidur's all-reduce profiles of DGX machines).
    public var allReduceStartSeconds: Double
    public var allReduceBandwidth: Double
    /// From the host's memory to the device, bytes per second.
    public var hostBandwidth: Double
    /// What `vllm serve` takes for `--max-num-seqs` and `--max-num-batched-tokens` on this device.
    public var maximumSequences: Int
    public var maximumBatchedTokens: Int

    public static let a100 = Accelerator(
        name: "a100", peakFLOPS: 312e12, memoryBandwidth: 2.039e12, memoryBytes: 80 * gibibyte, matrixEfficiency: 0.70,
        layerOverheadSeconds: 45e-6, allReduceStartSeconds: 38e-6, allReduceBandwidth: 160e9, hostBandwidth: 25e9,
        maximumSequences: 256, maximumBatchedTokens: 2_048)
    public static let h100 = Accelerator(
        name: "h100", peakFLOPS: 989.5e12, memoryBandwidth: 3.35e12, memoryBytes: 80 * gibibyte, matrixEfficiency: 0.67,
        layerOverheadSeconds: 30e-6, allReduceStartSeconds: 20e-6, allReduceBandwidth: 300e9, hostBandwidth: 50e9,
        maximumSequences: 1_024, maximumBatchedTokens: 8_192)

    /// Devices that a preset can have.
    public static let all = [a100, h100]

    static let gibibyte = 1_073_741_824.0
}
