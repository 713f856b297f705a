import EngineModel
import Foundation

/// A request for completions that can be served: read, checked, tokenised.
struct CompletionRequest {
    enum Kind { case chat, text, responses, messages }

    let kind: Kind
    /// The name in the answer: the first served one, whatever alias was asked for, or the adapter's.
    let model: String
    let choices: [Generation.Choice]
    let requestID: String?
    let isStream: Bool
    let includesUsage: Bool
    let includesContinuousUsage: Bool
    let n: Int
    let maximumTokens: Int
    /// Over all choices, as the usage counts them: a prompt once, however many replies it gets.
    let promptTokens: Int
    /// How many alternatives each token's `logprobs` list; nil for none at all.
    let logprobs: Int?
    /// The prompts' texts, which `echo` puts before each reply.
    let echoes: [String]?
    /// The answer is the prompts alone (`echo` with no tokens to generate); the engine computes one token for it all the same, as vLLM's.
    let echoesOnly: Bool
    /// `kv_transfer_params` of the answer, as JSON.
    let transferParameters: String
    /// The prompts' tokens, when the answer is to hold tokens.
    let promptTokenIDs: [[UInt32]]?

    init(kind: Kind, json: Data, catalog: ModelCatalogue, configuration: StubConfiguration) throws(WireError) {
        let body = try JSONBody.decode(CompletionBody.self, from: json)
        try Self.requireFields(of: body, kind: kind, in: json)
        let served = try catalog.resolve(body.model)
        try Self.check(body, kind: kind)
        let lists = try PromptTokens.lists(of: body, kind: kind)
        let root = BlockHash.root(cacheSalt: body.cacheSalt, adapter: served.adapter)
        let prompts = lists.map { Prompt(tokens: $0, blockSize: configuration.engine.blockSize, root: root) }
        let n = body.n ?? 1
        guard prompts.count <= StubLimits.choices else {
            throw .invalid("at most \(StubLimits.choices) prompts, got \(prompts.count).", param: "prompt")
        }
        guard n <= StubLimits.choices / prompts.count else {
            throw .invalid("n must be at most \(StubLimits.choices / prompts.count), got \(n).", param: "n")
        }
        let longest = prompts.lazy.map(\.tokenCount).max() ?? 0
        let maximum = try Self.maximumTokens(of: body, kind: kind, promptTokens: longest, limit: configuration.maximumModelTokens)
        var wishes = Self.wishes(of: body, kind: kind, maximum: max(1, maximum))
        wishes.content =
            kind == .chat
            ? try ToolChoice(choice: body.toolChoice, tools: body.tools).content(seed: prompts[0].contentHash ^ wishes.requestSeed)
                ?? configuration.replies.content(echoing: PromptTokens.question(in: body, kind: kind), maximumTokens: maximum)
            : configuration.replies.content(echoing: PromptTokens.question(in: body, kind: kind), maximumTokens: max(1, maximum))
        wishes.adapter = served.adapter.map { BlockHash.adapter(named: $0) }
        guard !wishes.stop.exceedsLimits else { throw .invalid(StopMatch.Conditions.limitsMessage, param: "stop") }
        self.kind = kind
        model = served.name
        choices = prompts.flatMap { prompt in
            (0..<n).map { wishes.choice(of: prompt, index: $0, stubSeed: configuration.seed) }
        }
        requestID = body.requestID
        isStream = body.stream ?? false
        includesUsage = isStream && body.streamOptions?.includeUsage == true
        includesContinuousUsage = includesUsage && body.streamOptions?.continuousUsageStats == true
        self.n = n
        maximumTokens = max(1, maximum)
        echoesOnly = maximum == 0
        transferParameters = KVTransfer.answer(
            to: body.transferParameters, promptBlocks: prompts[0].blockHashes.count, configuration: configuration)
        promptTokens = prompts.reduce(0) { $0 + $1.tokenCount }
        logprobs = try Self.logprobs(of: body)
        echoes = body.echo == true && kind == .text ? Self.echoes(of: body) : nil
        promptTokenIDs = body.returnsTokenIDs == true ? lists : nil
    }

    private static func wishes(of body: CompletionBody, kind: Kind, maximum: Int) -> ReplyWishes {
        var wishes = ReplyWishes()
        wishes.requestSeed = UInt64(truncatingIfNeeded: body.seed ?? 0)
        wishes.maximumTokens = maximum
        wishes.minimumTokens = body.minTokens ?? 0
        wishes.ignoresEnd = body.ignoreEOS ?? false
        wishes.continuesText = kind == .text
        wishes.stop = StopMatch.Conditions(
            texts: body.stop?.list ?? body.stopSequences ?? [], tokens: Set(body.stopTokenIDs ?? []),
            includesText: body.includesStopText ?? false, minimumTokens: body.minTokens ?? 0)
        return wishes
    }

    // MARK: Checks

    private static func requireFields(of body: CompletionBody, kind: Kind, in json: Data) throws(WireError) {
        switch kind {
        case .chat where body.messages == nil, .messages where body.messages == nil: throw .missing("messages", in: json)
        case .messages where body.maxTokens == nil: throw .missing("max_tokens", in: json)
        case .responses where body.input == nil: throw .missing("input", in: json)
        case .responses: if let id = body.previousResponseID { throw .unknownResponse(id) }
        default: break
        }
    }

    private static func check(_ body: CompletionBody, kind: Kind) throws(WireError) {
        if let salt = body.cacheSalt, salt.isEmpty {
            throw .invalid("Parameter 'cache_salt' must be a non-empty string if provided.", param: "cache_salt")
        }
        if let n = body.n, n < 1 {
            throw WireError(status: 400, message: "n must be at least 1, got \(n).", type: "BadRequestError", param: nil)
        }
        if let heat = body.temperature, !(0...2).contains(heat) {
            throw .invalid("temperature must be in [0, 2], got \(heat).", param: "temperature", value: "\(heat)")
        }
        if let tokens = body.maxCompletionTokens ?? body.maxOutputTokens ?? body.maxTokens,
            tokens < (kind == .text && body.echo == true ? 0 : 1)
        {
            throw .invalid("max_tokens must be at least 1, got \(tokens).", param: "max_tokens", value: "\(tokens)")
        }
        try checkSampling(body)
        if body.streamOptions != nil, body.stream != true {
            throw .invalid("Stream options can only be defined when `stream=True`.", param: "stream_options")
        }
    }

    private static func checkSampling(_ body: CompletionBody) throws(WireError) {
        if let share = body.topP, !(share > 0 && share <= 1) {
            throw .invalid("top_p must be in (0, 1], got \(share).", param: "top_p", value: "\(share)")
        }
        if let least = body.minTokens, least < 0 {
            throw .invalid("min_tokens must be greater than or equal to 0, got \(least).", param: "min_tokens", value: "\(least)")
        }
        if let least = body.minTokens, let most = body.maxCompletionTokens ?? body.maxOutputTokens ?? body.maxTokens, least > most {
            throw .invalid(
                "min_tokens must be less than or equal to max_tokens=\(most), got \(least).", param: "min_tokens", value: "\(least)")
        }
        if (body.stop?.list ?? body.stopSequences ?? []).contains("") {
            throw .invalid("stop cannot contain an empty string.", param: "stop")
        }
        if case .alternatives(let count) = body.logprobs, count < 0 {
            throw .invalid("`logprobs` must be a positive value.", param: "logprobs", value: "\(count)")
        }
        if let count = body.topLogprobs, count < 0 {
            throw .invalid("`top_logprobs` must be a positive value.", param: "top_logprobs", value: "\(count)")
        }
    }

    private static func logprobs(of body: CompletionBody) throws(WireError) -> Int? {
        let wanted: Int? =
            switch body.logprobs {
            case .wanted(true): body.topLogprobs ?? 0
            case .alternatives(let count): count
            case .wanted(false), nil: nil
            }
        guard let wanted, wanted > StubLimits.logprobs else { return wanted.map { max(0, $0) } }
        throw .invalid(
            "Requested sample logprobs of \(wanted), which is greater than max allowed: \(StubLimits.logprobs)", param: "logprobs",
            value: "\(wanted)")
    }

    private static func maximumTokens(
        of body: CompletionBody, kind: Kind, promptTokens: Int, limit: Int
    ) throws(WireError) -> Int {
        guard promptTokens < limit else {
            // vLLM counts no further than one token too many.
            let counted = min(promptTokens, limit + 1)
            let excess = promptTokens > limit ? ", which exceeds this limit even without any output tokens" : ""
            throw .invalid(
                "This model's maximum context length is \(limit) tokens. However, your prompt contains at least \(counted) input "
                    + "tokens\(excess). Please reduce the length of the input prompt.",
                param: "input_tokens", value: "\(counted)")
        }
        guard let asked = body.maxCompletionTokens ?? body.maxOutputTokens ?? body.maxTokens else {
            return kind == .text ? min(16, limit - promptTokens) : limit - promptTokens
        }
        guard asked <= limit else {
            throw .invalid(
                "max_tokens=\(asked) cannot be greater than max_model_len=\(limit). Please request fewer output tokens.",
                param: "max_tokens", value: "\(asked)")
        }
        return min(asked, limit - promptTokens)
    }

    private static func echoes(of body: CompletionBody) -> [String]? {
        switch body.prompt {
        case .texts(let texts): texts
        case .tokens(let lists): lists.map { _ in "" }
        case nil: nil
        }
    }
}
