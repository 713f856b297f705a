import EngineModel
import HTTPTransport

/// What all ways to answer a completion request share.
class CompletionGeneration: Generation {
    let request: CompletionRequest
    let exchange: StubExchange
    /// Hexadecimal digits, or what the client called its request.
    let bareID: String
    let created: UInt64
    /// Where the next token stands in its reply, for its log probabilities.
    private var places: [Int]

    static let fingerprint = "vllm-0.32.0-stub"

    init(request: CompletionRequest, exchange: StubExchange, id: String) {
        self.request = request
        self.exchange = exchange
        bareID = id
        created = exchange.host.wallSeconds
        places = Array(repeating: 0, count: request.choices.count)
        super.init(choices: request.choices, requestID: id)
    }

    /// The answer's id.
    var id: String { (request.kind == .text ? "cmpl-" : "chatcmpl-") + bareID }

    static func make(for request: CompletionRequest, exchange: StubExchange, id: String) -> CompletionGeneration {
        switch (request.kind, request.isStream) {
        case (.chat, false), (.text, false): WholeCompletion(request: request, exchange: exchange, id: id)
        case (.chat, true), (.text, true): StreamedCompletion(request: request, exchange: exchange, id: id)
        case (.responses, false): WholeResponse(request: request, exchange: exchange, id: id)
        case (.responses, true): StreamedResponse(request: request, exchange: exchange, id: id)
        case (.messages, false): WholeMessage(request: request, exchange: exchange, id: id)
        case (.messages, true): StreamedMessage(request: request, exchange: exchange, id: id)
        }
    }

    /// The counts of a usage object, without its braces.
    final var usageCounts: String {
        "\"prompt_tokens\":\(request.promptTokens),\"total_tokens\":\(request.promptTokens + producedTokens),"
            + "\"completion_tokens\":\(producedTokens)"
    }

    /// A prompt that is answered n times is looked up n times; as one prompt it cannot be cached more than whole.
    final var cachedPromptTokens: Int { min(cachedTokens / request.n, request.promptTokens) }

    /// Nil unless the request wants them.
    final func logprobs(of token: ReplyToken, choice: Int) -> TokenLogprobs? {
        guard let wanted = request.logprobs else { return nil }
        defer { places[choice] += 1 }
        return TokenLogprobs(token: token, of: choices[choice].request.script, place: places[choice], alternatives: max(1, wanted))
    }

    /// The tokens of a choice's prompt as JSON, when the request wants tokens.
    final func promptTokenIDs(of choice: Int) -> String {
        guard let lists = request.promptTokenIDs else { return "null" }
        return Self.list(lists[choice / request.n])
    }

    static func list(_ tokens: [UInt32]) -> String { "[" + tokens.map { "\($0)" }.joined(separator: ",") + "]" }

    override func engineDied() {
        exchange.generationEnded()
        exchange.endWithDeadEngine()
    }

    /// The answer ends in good order with what there is.
    override func aborted() {
        for index in choices.indices where !choices[index].isComplete {
            choices[index].isAborted = true
            choiceAborted(index)
        }
        completed()
    }

    /// A choice gets no more tokens.
    func choiceAborted(_ choice: Int) {}
}

/// Collects the replies' texts, for an answer in one piece.
class CollectedCompletion: CompletionGeneration {
    private(set) var texts: [[UInt8]] = []
    private(set) var tokens: [[UInt32]] = []
    private(set) var tokenLogprobs: [[TokenLogprobs]] = []

    override init(request: CompletionRequest, exchange: StubExchange, id: String) {
        super.init(request: request, exchange: exchange, id: id)
        texts = Array(repeating: [], count: choices.count)
        tokens = Array(repeating: [], count: choices.count)
        tokenLogprobs = Array(repeating: [], count: choices.count)
    }

    override func tokenReceived(_ token: ReplyToken, choice: Int) {
        texts[choice].append(contentsOf: visibleText(of: token, choice: choice))
        if request.promptTokenIDs != nil { tokens[choice].append(token.id(of: choices[choice].request.script)) }
        if let entry = logprobs(of: token, choice: choice) { tokenLogprobs[choice].append(entry) }
    }

    final func text(_ choice: Int) -> String { String(decoding: texts[choice], as: UTF8.self) }
}

/// Answers with one JSON body, as a chat or as a text completion.
final class WholeCompletion: CollectedCompletion {
    override func completed() {
        exchange.generationEnded()
        let isChat = request.kind == .chat
        let body =
            "{\"id\":\(JSONText.string(id)),\"object\":\"\(isChat ? "chat.completion" : "text_completion")\",\"created\":\(created),"
            + "\"model\":\(JSONText.string(request.model)),"
            + "\"choices\":[\(choices.indices.map(isChat ? chatChoice : textChoice).joined(separator: ","))],"
            + "\"service_tier\":null,\"system_fingerprint\":\"\(Self.fingerprint)\",\"usage\":{\(usageCounts),"
            + "\"prompt_tokens_details\":{\"cached_tokens\":\(cachedPromptTokens),\"created_cache_tokens\":\(isChat ? "0" : "null"),"
            + "\"multimodal_tokens\":null},\"completion_tokens_details\":null},"
            + (isChat ? "\"prompt_logprobs\":null,\"prompt_token_ids\":\(promptTokenIDs(of: 0)),\"prompt_text\":null," : "")
            + "\"kv_transfer_params\":\(request.transferParameters),\"ec_transfer_params\":null,\"metrics\":null}"
        exchange.answer(status: 200, json: body, reportsLoad: true)
    }

    private func chatChoice(_ index: Int) -> String {
        // A call that was cut is no call: the client sees what the model said.
        let call = choices[index].callsTool ? choices[index].toolCall : nil
        let calls = call.map { ",\"tool_calls\":[\($0.json(arguments: $0.arguments, index: nil))]" } ?? ""
        return "{\"index\":\(index),\"message\":{\"role\":\"assistant\",\"content\":\(JSONText.string(call == nil ? text(index) : nil)),"
            + "\"refusal\":null,\"annotations\":null,\"audio\":null,\"function_call\":null\(calls),\"reasoning\":null},"
            + "\"logprobs\":\(chatLogprobs(index)),"
            + "\"finish_reason\":\"\(choices[index].finishReason)\",\"stop_reason\":\(choices[index].stopReasonJSON),"
            + "\"token_ids\":\(tokenIDs(index)),\"routed_experts\":null}"
    }

    private func textChoice(_ index: Int) -> String {
        let echo = request.echoes.map { $0[index / request.n] } ?? ""
        return
            "{\"index\":\(index),\"text\":\(JSONText.string(request.echoesOnly ? echo : echo + text(index))),\"logprobs\":\(textLogprobs(index)),"
            + "\"finish_reason\":\"\(choices[index].finishReason)\",\"stop_reason\":\(choices[index].stopReasonJSON),"
            + "\"token_ids\":\(tokenIDs(index)),\"prompt_logprobs\":null,\"prompt_token_ids\":\(promptTokenIDs(of: index)),"
            + "\"routed_experts\":null}"
    }

    private func tokenIDs(_ index: Int) -> String { request.promptTokenIDs == nil ? "null" : Self.list(tokens[index]) }

    private func chatLogprobs(_ index: Int) -> String {
        guard let alternatives = request.logprobs else { return "null" }
        return "{\"content\":[\(tokenLogprobs[index].map { $0.chatJSON(alternatives: alternatives) }.joined(separator: ","))]}"
    }

    private func textLogprobs(_ index: Int) -> String {
        guard let alternatives = request.logprobs else { return "null" }
        var lists = TextLogprobs()
        if let echoes = request.echoes { lists.append(prompt: echoes[index / request.n], alternatives: alternatives) }
        if !request.echoesOnly { for token in tokenLogprobs[index] { lists.append(token) } }
        return lists.json(alternatives: alternatives)
    }
}
