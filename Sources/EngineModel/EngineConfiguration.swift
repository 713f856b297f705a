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
    /// Sequences that may be alive at once, waiting and running; nil for no limit (`--max-num-queued-reqs`).
    public var maximumQueuedRequests: Int?
    /// Prompt tokens of sequences whose prefill is not complete; nil for no limit (`--max-num-queued-tokens`).
    public var maximumQueuedTokens: Int?
    /// Whether every token is reported, as a server needs it. Without, replies have no text, only ``EngineEvent/firstToken`` and
    /// ``EngineEvent/finished`` are reported of them, and ``Engine/advance(to:events:)`` takes many steps at once.
    public var reportsTokens: Bool
    /// Whether, without tokens, ``EngineEvent/progressed`` is reported; it ends runs of equal steps.
    public var reportsProgress = false
    /// Whether ``EngineEvent/blockStored``, ``EngineEvent/blockRemoved`` and ``EngineEvent/cacheCleared`` are reported.
    public var reportsBlocks: Bool
    /// nil when the engine serves no LoRA adapters.
    public var lora: LoRASettings?
    public var stepTime: StepTimeModel

    public init(
        blockSize: Int = 16, blockCount: Int = 16_384, maximumSequences: Int = 256, maximumBatchedTokens: Int = 2_048,
        maximumWaiting: Int = 65_536, maximumQueuedRequests: Int? = nil, maximumQueuedTokens: Int? = nil, reportsTokens: Bool = true,
        reportsBlocks: Bool = false, lora: LoRASettings? = nil, stepTime: StepTimeModel = StepTimeModel()
    ) {
        self.blockSize = max(1, blockSize)
        self.blockCount = min(max(2, blockCount), Int(Int32.max))
        self.maximumSequences = max(1, maximumSequences)
        self.maximumBatchedTokens = max(1, maximumBatchedTokens)
        self.maximumWaiting = max(1, maximumWaiting)
        self.maximumQueuedRequests = maximumQueuedRequests
        self.maximumQueuedTokens = maximumQueuedTokens
        self.reportsTokens = reportsTokens
        self.reportsBlocks = reportsBlocks
        self.lora = lora
        self.stepTime = stepTime
    }

    /// Blocks that sequences can use.
    public var usableBlockCount: Int { blockCount - 1 }
    /// Tokens of prompt and reply that a sequence alone in the engine can hold.
    public var maximumSequenceTokens: Int { usableBlockCount * blockSize }
}
