/// What the choice needs to know of a request: views into buffers that the caller keeps alive during the call.
// @unchecked: the pointers are read only during a call of `RoutingTable`, on the caller's thread; what is kept of one that waits is a copy.
public struct RoutingRequest: @unchecked Sendable {
    /// The model's name as the client wrote it, in UTF-8; nil or empty asks for any model.
    public var model: UnsafeRawBufferPointer?
    /// Chained hashes, one per full chunk of the canonical prompt: element `i` covers chunks `0...i`. Whatever makes two
    /// prompts incompatible in a KV cache (model, LoRA, cache salt, tenant) must seed the chain.
    public var prefixHashes: UnsafeBufferPointer<UInt64>
    /// Bytes that each chunk covers.
    public var chunkBytes: Int
    /// Bytes of the canonical prompt, its last partial chunk included; 0 means that there is no prompt.
    public var promptBytes: Int
    /// How many tokens the prompt has, where the client sent tokens: taken for granted, and no lesson in how many tokens a byte of text makes.
    public var promptTokens: Int?
    /// Of the whole canonical prompt with all that seeds its chain, and of the prompt that the conversation's former turn was: all before its last
    /// answer. 0: not known, or there was none.
    public var promptDigest: UInt64 = 0
    public var formerTurnDigest: UInt64 = 0
    /// The client's claim of how much it wants at most, in tokens; nil when it made none.
    public var maxOutputTokens: Int?
    /// Answers that it asks for (`n`), each a sequence of its own in the engine's batch; at most `mostSequences` count, since what an engine
    /// that knows no `n` makes of it, one, must not look like a fleet's load.
    public var sequences = 1
    /// Whether only a group whose leader speaks HTTP/1.1 will do (WebSocket).
    public var needsHTTP1: Bool
    /// Whether only a group whose leader speaks HTTP/2 will do (gRPC).
    public var needsHTTP2: Bool
    /// Whether the answer is a stream, so that its first token can be seen. When it is not, the prompt is presumed to be
    /// prefilled after twice the predicted time, or once a request that was booked later on the group has its first token.
    public var isStreamed: Bool
    /// Hash of the key that `session` and `consistent-hash` keep together; 0: none.
    public var session: UInt64 = 0
    /// What the client wants its time to first token and its time per output token to stay below, in seconds; 0: nothing.
    public var wantedTTFTSeconds = 0.0
    public var wantedTPOTSeconds = 0.0
    /// The name of the only group that will do, which may be drained, saturated or ejected, but must be ready; nil: any.
    public var pinnedGroup: UnsafeRawBufferPointer?

    /// What OpenAI's API takes.
    public static let mostSequences = 128

    public init(
        model: UnsafeRawBufferPointer? = nil, prefixHashes: UnsafeBufferPointer<UInt64> = .init(start: nil, count: 0),
        chunkBytes: Int = 256, promptBytes: Int = 0, maxOutputTokens: Int? = nil, needsHTTP1: Bool = false, needsHTTP2: Bool = false,
        isStreamed: Bool = true
    ) {
        self.model = model
        self.prefixHashes = prefixHashes
        self.chunkBytes = chunkBytes
        self.promptBytes = promptBytes
        self.maxOutputTokens = maxOutputTokens
        self.needsHTTP1 = needsHTTP1
        self.needsHTTP2 = needsHTTP2
        self.isStreamed = isStreamed
    }
}
