/// The limits of one engine. Names follow vLLM's.
public struct EngineConfiguration: Sendable, Equatable {
    /// Tokens per KV block.
    public var blockSize: Int
    /// KV blocks, as `vllm:cache_config_info` reports them. One is never used: vLLM reserves it as the null block.
    public var blockCount: Int
    /// Sequences that may run at once (`--max-num-seqs`).
    public var maximumSequences: Int
    /// Tokens that one step may compute, prefill and decode together (`--max-num-batched-tokens`).
    public var maximumBatchedTokens: Int
    /// Sequences that may wait. vLLM has no such bound by default; ours is wide.
    public var maximumWaiting: Int
    /// Whether ``EngineEvent/blockStored(hash:parent:)`` and ``EngineEvent/blockRemoved(hash:)`` are reported.
    public var reportsBlocks: Bool
    public var stepTime: StepTimeModel

    public init(
        blockSize: Int = 16, blockCount: Int = 16_384, maximumSequences: Int = 256, maximumBatchedTokens: Int = 2_048,
        maximumWaiting: Int = 65_536, reportsBlocks: Bool = false, stepTime: StepTimeModel = StepTimeModel()
    ) {
        self.blockSize = max(1, blockSize)
        self.blockCount = min(max(2, blockCount), Int(Int32.max))
        self.maximumSequences = max(1, maximumSequences)
        self.maximumBatchedTokens = max(1, maximumBatchedTokens)
        self.maximumWaiting = max(1, maximumWaiting)
        self.reportsBlocks = reportsBlocks
        self.stepTime = stepTime
    }

    /// Blocks that sequences can use.
    public var usableBlockCount: Int { blockCount - 1 }
    /// Tokens of prompt and reply that a sequence alone in the engine can hold.
    public var maximumSequenceTokens: Int { usableBlockCount * blockSize }
}
