import EngineModel

/// What a stub engine is.
public struct StubConfiguration: Sendable {
    /// Names that the model answers to. The first is the one in answers and metrics, as with vLLM's `--served-model-name`.
    public var models: [String]
    /// Value of `x-served-by`; nil stands for `stub-<port>`.
    public var servedBy: String?
    public var engine: EngineConfiguration
    /// Mixed into every reply. Stubs with equal seeds give equal answers to equal requests.
    public var seed: UInt64
    /// Longest prompt and reply together, in tokens; never more than the KV cache holds.
    public var maximumModelTokens: Int

    public init(
        models: [String] = ["stub-model"], servedBy: String? = nil, engine: EngineConfiguration = EngineConfiguration(),
        seed: UInt64 = 0, maximumModelTokens: Int = 131_072
    ) {
        self.models = models.isEmpty ? ["stub-model"] : models
        self.servedBy = servedBy
        self.engine = engine
        self.seed = seed
        self.maximumModelTokens = min(max(2, maximumModelTokens), engine.maximumSequenceTokens)
    }

    var model: String { models[0] }
}

/// Bounds of the stub's wire.
enum StubLimits {
    /// A request's body, and one gRPC message.
    static let bodyBytes = 64 << 20
    /// `n` times prompts of one request.
    static let choices = 128
    /// Requests of one streaming call that wait for those before them.
    static let queuedMessages = 256
    /// Steps that a late host makes up for before others have their turn.
    static let stepsPerWake = 64
}

/// Totals of one stub since it began.
public struct StubCounters: Sendable, Equatable {
    /// Requests for generation that were taken, by HTTP and gRPC.
    public var requests: UInt64 = 0
    /// Requests whose client went away, or whose deadline passed, before their end.
    public var abortedRequests: UInt64 = 0
    /// Prompt tokens of scheduled sequences, and how many of them the prefix cache held.
    public var promptTokens: UInt64 = 0
    public var cachedTokens: UInt64 = 0
    public var generatedTokens: UInt64 = 0
    public var running = 0
    public var waiting = 0

    public init() {}
}
