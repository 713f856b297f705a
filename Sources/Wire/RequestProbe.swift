import CSimdJSON

/// Reads from a request body what routing needs: the model, the sampling fields that bear on cost and caching, and the chained
/// hashes of the canonical prompt. One per event loop; not Sendable.
///
/// Budget: one call into C++ per request, one pass over the body and one of XXH3, no allocation once warm. Bodies up to 1 MiB are read in
/// memory that stays (at most 14 MiB, in proportion to what the bodies hold); larger ones, up to 64 MiB, in memory freed before `probe` returns.
///
/// The canonical prompt is a byte string that two requests share as far as an engine's KV cache could share their prefill: tools, then
/// `instructions` / `system`, then messages, then `prompt` and `input`, whatever the order of keys in the body. Every part opens with a byte
/// that UTF-8 never contains, and none has a terminator, so a conversation's next turn begins with all bytes of the last.
/// As in the engines, the last of duplicate keys wins and a byte order mark is accepted.
///
/// Covers the request bodies of `/v1/chat/completions`, `/v1/completions`, `/v1/responses`, `/v1/embeddings` and `/v1/messages`, and the
/// messages of `InferenceCall`.
public final class RequestProbe {
    /// Bytes that must be readable after a body. Their values do not matter.
    public static let padding = swl_request_padding()

    /// Prompt bytes per hash: some 128 tokens. Half as many would find a little more of short prompts in caches (2 ms of prefill at most), and
    /// cost twice as much for each entry that a long one leaves in the index.
    public static let chunkBytes = 512

    let hasher: PromptHasher
    /// Owned; nil when memory was short at `init`, and then no body is read as JSON.
    private let reader: OpaquePointer?
    var facts = swl_request_facts()

    /// - Parameters:
    ///   - maximumChunks: hashes kept per prompt; a longer prompt is matched by this much of its beginning.
    ///   - chunkBytes: prompt bytes per hash.
    ///   - watching: names of body fields whose values are hashed for `watched(_:)`, in UTF-8: members of the body, or with a dot members
    ///     of an object in it. The first `mostWatched` that are 1 to 64 bytes long are taken.
    ///   - libraryOnly: has simdjson read every body, not only those that the faster pass of our own declines: a second opinion.
    public init(maximumChunks: Int = 65_536, chunkBytes: Int = RequestProbe.chunkBytes, watching: [[UInt8]] = [], libraryOnly: Bool = false)
    {
        hasher = PromptHasher(maximumChunks: maximumChunks, chunkBytes: chunkBytes)
        reader = swl_request_reader_create(libraryOnly)
        if let reader { for name in watching { _ = swl_request_reader_watch(reader, name, name.count) } }
        clear()
    }

    deinit {
        swl_request_reader_destroy(reader)
    }

    /// Reads `body` once. `padding` bytes after it must be readable. What is not JSON (or is beyond the bounds: nesting of 512, 64 MiB,
    /// 4 Mi JSON tokens, integers of 64 bits) gives `isJSON == false` and no prompt; the engine will say what is wrong with it.
    ///
    /// - Parameter seed: the start of the hash chain; requests probed with different seeds share no hash.
    public func probe(_ body: UnsafeRawBufferPointer, seed: UInt64) {
        guard let reader, let base = body.baseAddress else { return clear() }
        swl_request_reader_read(
            reader, base.assumingMemoryBound(to: UInt8.self), body.count, seed, &hasher.state, &facts)
    }

    /// Forgets the last request, so that an exchange without a body does not see another's fields.
    public func clear() {
        facts = swl_request_facts()
        facts.n = 1
        facts.prompts = 1
        hasher.begin(seed: 0)
    }

    /// Whether the last body was JSON. Whether it was an object with the fields an API wants is the engine's to judge.
    public var isJSON: Bool { facts.is_json }

    /// The model's name, unescaped; nil when absent, null or no string. Valid until the next probe, as are all buffers below.
    public var model: UnsafeRawBufferPointer? { Self.buffer(facts.model) }

    /// Who the client says its user is.
    public var user: UnsafeRawBufferPointer? { Self.buffer(facts.user) }

    /// vLLM's `cache_salt`: requests with different salts share no cache. Already part of `prefixHashes`.
    public var cacheSalt: UnsafeRawBufferPointer? { Self.buffer(facts.cache_salt) }

    public static let mostWatched = Int(swl_watched_fields)

    /// The hash of a watched field's value, never 0; 0 when the body has none, or one that is neither text nor a whole number.
    public func watched(_ index: Int) -> UInt64 {
        guard index >= 0, index < Self.mostWatched else { return 0 }
        return withUnsafeBytes(of: &facts.watched) { $0.loadUnaligned(fromByteOffset: index * 8, as: UInt64.self) }
    }

    /// One chained hash per full chunk of the canonical prompt; in the chain's start are the model, `cache_salt`, the LoRA fields, and what
    /// chat templates are given besides messages and tools.
    public var prefixHashes: UnsafeBufferPointer<UInt64> { hasher.hashes }

    /// Length of the canonical prompt: UTF-8 bytes of its texts, four per token id, 4,096 per image or other medium; nine for each medium beyond 256.
    public var promptBytes: Int { hasher.byteCount }

    /// How many tokens the prompt has, when all of it came as token ids.
    public var promptTokens: Int? { facts.prompt_tokens > 0 ? Int(facts.prompt_tokens) : nil }

    /// Of a conversation: what tells it from those with other words, however short its last question; and the `promptDigest` that its former
    /// turn had, the request to which its last answer came. 0: no conversation, one longer than what is hashed, or its first turn.
    public var promptDigest: UInt64 { facts.prompt_digest }
    public var formerTurnDigest: UInt64 { facts.former_turn_digest }

    public var stream: Bool { facts.stream }

    /// `stream_options.include_usage`.
    public var includeUsage: Bool { facts.include_usage }

    /// `max_completion_tokens`, else `max_tokens`, else `max_output_tokens`; 0 to 2³¹−1 (values beyond are clamped).
    public var maxTokens: Int? { facts.has_max_tokens ? Int(facts.max_tokens) : nil }

    /// Completions asked for, 1 to 16,384 (values beyond are clamped).
    public var n: Int { Int(facts.n) }

    /// Sequences that the engine makes of the request: of each prompt as many as completions are asked for, up to 16,384.
    public var sequences: Int { min(n * Int(facts.prompts), 16_384) }

    /// Whether the engine computes the prompt anew, whatever it holds of it: for log probabilities of the prompt, or because it is told to.
    public var skipsCache: Bool { facts.skips_cache }

    public var temperature: Double? { facts.has_temperature ? facts.temperature : nil }

    /// The sampling seed.
    public var seed: Int? { facts.has_seed ? Int(facts.seed) : nil }

    private static func buffer(_ text: swl_text) -> UnsafeRawBufferPointer? {
        guard let bytes = text.bytes else { return nil }
        return UnsafeRawBufferPointer(start: bytes, count: text.length)
    }
}
