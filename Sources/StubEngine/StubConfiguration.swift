import EngineModel
import EventLoop

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
    /// Requests that may be under way, and prompt tokens that may wait, before others are refused; nil refuses none.
    public var maximumQueuedRequests: Int?
    public var maximumQueuedTokens: Int?
    /// What refused requests get: 503 as from vLLM, or 429 or 529 as from others.
    public var overloadStatus = 503
    /// Engines of one data-parallel deployment, each behind a port of its own; the rank is the place in the fleet.
    public var dataParallelSize = 1
    /// LoRA adapters, as names and paths, that are there from the start.
    public var adapters: [(name: String, path: String)] = []
    /// LoRA adapters that one batch may use; 0 means that the engine knows none, and `vllm:lora_requests_info` is absent.
    public var maximumAdapters: Int { engine.lora?.slots ?? 0 }
    /// Answers name the request in `x-request-id` (`--enable-request-id-headers`).
    public var echoesRequestID = false
    /// After an answer, how long an idle HTTP/1 connection stays open, ns. uvicorn: 5 s.
    public var keepAliveNanoseconds: UInt64 = 75_000_000_000
    /// From the start until the port opens, ns: the model loads.
    public var startupNanoseconds: UInt64 = 0
    /// From `/wake_up` to serving, ns: weights come back from the host's memory (after sleep level 1), or from storage (level 2).
    public var wakeNanoseconds: (fromHost: UInt64, fromStorage: UInt64) = (0, 0)
    /// Answers carry the headers of vLLM's web server: `date`, `server: uvicorn`, `vary`.
    public var resemblesUvicorn = false
    public var group = TensorParallelGroup()
    /// What replies say.
    public var replies = ReplySource.words
    /// One of these must come as `authorization: Bearer KEY` with requests below `/v1`, `/v2`, `/inference` and `/cohere`; none: nothing
    /// is asked for.
    public var apiKeys: [String] = []
    /// Prompts' KV blocks can be fetched by other engines: answers tell where.
    public var hasKVConnector = false

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

/// The processes that make up one engine: a leader, which serves, and the members without which it cannot compute.
public struct TensorParallelGroup: Sendable {
    public enum Loss: Sendable {
        /// The leader waits in a collective operation until it times out, then dies, as NCCL does.
        case hang
        /// The leader dies at once.
        case exit
    }

    /// Leader and members; 1 is no group.
    public var worldSize = 1
    /// Where members, processes of their own, join; nil means that all are inside the leader's process.
    public var meeting: SocketAddress?
    public var onLoss = Loss.hang
    /// How long a collective operation waits for a lost member, ns.
    public var collectiveTimeoutNanoseconds: UInt64 = 30_000_000_000

    public init() {}
}

/// Bounds of the stub's wire.
enum StubLimits {
    /// A request's body, and one gRPC message.
    static let bodyBytes = 64 << 20
    /// `n` times prompts of one request.
    static let choices = 128
    /// Inputs of one request for embeddings.
    static let embeddings = 2_048
    /// Alternatives that a token's log probabilities list, as vLLM's `--max-logprobs`.
    static let logprobs = 20
    /// Stop strings of one request, and bytes of each: what bounds the work that a token may cost.
    static let stops = 64
    static let stopBytes = 1_024
    /// Requests of one streaming call that wait for those before them.
    static let queuedMessages = 256
    /// Names of functions that replies call, and schemas of their parameters: what bounds a call's length. Functions with longer names are
    /// not called, those with longer schemas without arguments.
    static let toolNameBytes = 1_024
    static let toolSchemaBytes = 64 << 10
    /// Steps that a late host makes up for before others have their turn.
    static let stepsPerWake = 64
    /// Tokens of a step that are handed to the kernel together, and whose lateness is noted together.
    static let tokensPerWrite = 16
    /// Token texts that `/detokenize` remembers.
    static let vocabulary = 65_536
    static let adapters = 1_024
    /// Combinations of adapters that `vllm:lora_requests_info` remembers.
    static let adapterCombinations = 256
    /// The adapter path that no stub has.
    static let missingAdapterPath = "/nonexistent"
    /// RFC 9113, section 7.
    static let refusedStream: UInt32 = 7
    /// Bytes that a member may say before it has joined.
    static let joinBytes = 256
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

/// What happens to a fleet that its owner may want to tell.
public enum StubEvent: Sendable {
    /// An engine's port has opened.
    case listening(SocketAddress)
    /// The administration port has opened.
    case admin(SocketAddress)
    /// Members may join here.
    case meeting(SocketAddress)
    case memberJoined(rank: Int)
    case memberLost(rank: Int)
    /// An engine is dead and will not serve again.
    case died
}
