import EngineModel
import Foundation

/// A request for completions that can be served: read, checked, tokenised.
struct CompletionRequest {
    enum Kind { case chat, text }

    let kind: Kind
    let choices: [Generation.Choice]
    let requestID: String?
    let isStream: Bool
    let includesUsage: Bool
    let includesContinuousUsage: Bool
    let n: Int
    let maximumTokens: Int
    /// Over all choices, as the usage counts them: a prompt once, however many replies it gets.
    let promptTokens: Int

    init(kind: Kind, json: Data, configuration: StubConfiguration) throws(WireError) {
        let body = try Self.decode(json)
        if kind == .chat, body.messages == nil {
            throw .validation(kind: "missing", location: "body.messages", reason: "Field required")
        }
        if let model = body.model, !model.isEmpty, !configuration.models.contains(model) {
            throw .unknownModel(model, known: configuration.models)
        }
        try Self.check(body)
        let prompts = try Self.prompts(of: body, kind: kind, configuration: configuration)
        let n = body.n ?? 1
        guard n <= StubLimits.choices, prompts.count * n <= StubLimits.choices else {
            throw .invalid("n must be at most \(StubLimits.choices / max(1, prompts.count)), got \(n).", param: "n")
        }
        let longest = prompts.lazy.map(\.tokenCount).max() ?? 0
        let maximum = try Self.maximumTokens(of: body, kind: kind, promptTokens: longest, limit: configuration.maximumModelTokens)
        self.kind = kind
        choices = prompts.flatMap { prompt in
            (0..<n).map { Self.choice(prompt: prompt, index: $0, body: body, kind: kind, maximum: maximum, stubSeed: configuration.seed) }
        }
        requestID = body.requestID
        isStream = body.stream ?? false
        includesUsage = isStream && body.streamOptions?.includeUsage == true
        includesContinuousUsage = includesUsage && body.streamOptions?.continuousUsageStats == true
        self.n = n
        maximumTokens = maximum
        promptTokens = prompts.reduce(0) { $0 + $1.tokenCount }
    }

    private static func decode(_ json: Data) throws(WireError) -> CompletionBody {
        guard !json.isEmpty else { throw .validation(kind: "missing", location: "body", reason: "Field required") }
        do {
            return try JSONDecoder().decode(CompletionBody.self, from: json)
        } catch let error as DecodingError {
            throw explain(error)
        } catch {
            throw .validation(kind: "json_invalid", location: "body", reason: "JSON decode error")
        }
    }

    private static func explain(_ error: DecodingError) -> WireError {
        func location(_ path: [any CodingKey]) -> String {
            (["body"] + path.map { $0.intValue.map { "\($0)" } ?? $0.stringValue }).joined(separator: ".")
        }
        switch error {
        case .typeMismatch(_, let context), .valueNotFound(_, let context):
            return .validation(kind: "type_error", location: location(context.codingPath), reason: "Input should be of another type")
        case .keyNotFound(let key, let context):
            return .validation(kind: "missing", location: location(context.codingPath + [key]), reason: "Field required")
        case .dataCorrupted(let context) where !context.codingPath.isEmpty:
            return .validation(kind: "value_error", location: location(context.codingPath), reason: "Input should be of another type")
        default:
            return .validation(kind: "json_invalid", location: "body", reason: "JSON decode error")
        }
    }

    private static func check(_ body: CompletionBody) throws(WireError) {
        if let salt = body.cacheSalt, salt.isEmpty {
            throw .invalid("Parameter 'cache_salt' must be a non-empty string if provided.", param: "cache_salt")
        }
        if let n = body.n, n < 1 {
            throw WireError(status: 400, message: "n must be at least 1, got \(n).", type: "BadRequestError", param: nil)
        }
        if let heat = body.temperature, !(0...2).contains(heat) {
            throw .invalid("temperature must be in [0, 2], got \(heat).", param: "temperature", value: "\(heat)")
        }
        if let tokens = body.maxCompletionTokens ?? body.maxTokens, tokens < 1 {
            throw .invalid("max_tokens must be at least 1, got \(tokens).", param: "max_tokens", value: "\(tokens)")
        }
        if body.streamOptions != nil, body.stream != true {
            throw .invalid("Stream options can only be defined when `stream=True`.", param: "stream_options")
        }
    }

    private static func maximumTokens(
        of body: CompletionBody, kind: Kind, promptTokens: Int, limit: Int
    ) throws(WireError) -> Int {
        guard promptTokens < limit else {
            throw .invalid(
                "This model's maximum context length is \(limit) tokens. However, your prompt contains at least \(promptTokens) input "
                    + "tokens. Please reduce the length of the input prompt.",
                param: "input_tokens", value: "\(promptTokens)")
        }
        guard let asked = body.maxCompletionTokens ?? body.maxTokens else {
            return kind == .chat ? limit - promptTokens : min(16, limit - promptTokens)
        }
        guard asked <= limit else {
            throw .invalid(
                "max_tokens=\(asked) cannot be greater than max_model_len=\(limit). Please request fewer output tokens.",
                param: "max_tokens", value: "\(asked)")
        }
        return min(asked, limit - promptTokens)
    }

    private static func choice(
        prompt: Prompt, index: Int, body: CompletionBody, kind: Kind, maximum: Int, stubSeed: UInt64
    ) -> Generation.Choice {
        let seed = ReplyLength.seed(
            of: prompt, requestSeed: UInt64(truncatingIfNeeded: body.seed ?? 0), stubSeed: stubSeed, choice: index)
        let length = ReplyLength.decide(
            seed: seed, maximum: maximum, minimum: body.minTokens ?? 0, ignoresEnd: body.ignoreEOS ?? false)
        return Generation.Choice(
            request: SequenceRequest(
                id: 0, prompt: prompt, replySeed: seed, continuesText: kind == .text, outputTokens: length.tokens,
                endsTurn: length.endsTurn))
    }

    // MARK: Prompts

    private static func prompts(
        of body: CompletionBody, kind: Kind, configuration: StubConfiguration
    ) throws(WireError) -> [Prompt] {
        let lists: [[UInt32]]
        switch kind {
        case .chat:
            lists = [tokens(of: body.messages ?? [], tools: body.tools)]
        case .text:
            switch body.prompt {
            case .texts(let texts):
                guard !texts.isEmpty else { throw noPrompt }
                guard texts.allSatisfy({ !$0.isEmpty }) else { throw emptyPrompt }
                lists = texts.map { text in
                    var tokens: [UInt32] = []
                    Tokeniser.append(text, to: &tokens)
                    return tokens
                }
            case .tokens(let tokens):
                guard !tokens.isEmpty else { throw noPrompt }
                guard tokens.allSatisfy({ !$0.isEmpty }) else { throw emptyPrompt }
                lists = tokens
            case nil:
                throw emptyPrompt
            }
        }
        let root = BlockHash.root(cacheSalt: body.cacheSalt)
        return lists.map { Prompt(tokens: $0, blockSize: configuration.engine.blockSize, root: root) }
    }

    private static let noPrompt = WireError(
        status: 400, message: "You must pass at least one prompt", type: "BadRequestError", param: nil)
    private static let emptyPrompt = WireError.invalid(
        "Either prompt or prompt_embeds must be provided and non-empty.", param: "prompt")

    /// The stub's chat template: each turn between two tokens of its own, the tools before all turns, and at last the beginning of
    /// the assistant's turn. A reply that comes back as a message has the tokens that it was generated with.
    private static func tokens(of messages: [CompletionBody.Message], tools: JSONValue?) -> [UInt32] {
        var tokens: [UInt32] = []
        if let tools {
            tokens.append(Tokeniser.startOfTurn(role: "tools"))
            Tokeniser.append(tools.text, to: &tokens)
            tokens.append(Tokeniser.endOfTurn)
        }
        for message in messages {
            tokens.append(Tokeniser.startOfTurn(role: message.role))
            switch message.content {
            case .text(let text): Tokeniser.append(text, to: &tokens)
            case .parts(let parts):
                for part in parts { Tokeniser.append(part.text ?? part.imageURL?.text ?? part.type, to: &tokens) }
            case nil: break
            }
            if let calls = message.toolCalls { Tokeniser.append(calls.text, to: &tokens) }
            if let id = message.toolCallID { Tokeniser.append(id, to: &tokens) }
            tokens.append(Tokeniser.endOfTurn)
        }
        tokens.append(Tokeniser.startOfTurn(role: "assistant"))
        return tokens
    }
}
