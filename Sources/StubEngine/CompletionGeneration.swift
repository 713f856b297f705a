import EngineModel
import HTTPTransport

/// What both ways to answer a completion request share.
class CompletionGeneration: Generation {
    let request: CompletionRequest
    let exchange: StubExchange
    let id: String
    let created: UInt64

    static let fingerprint = "vllm-0.32.0-stub"

    init(request: CompletionRequest, exchange: StubExchange, id: String) {
        self.request = request
        self.exchange = exchange
        let prefix = request.kind == .chat ? "chatcmpl-" : "cmpl-"
        self.id = prefix + id
        created = exchange.host.wallSeconds
        super.init(choices: request.choices)
    }

    var model: String { exchange.host.configuration.model }

    /// The counts of a usage object, without its braces.
    final var usageCounts: String {
        "\"prompt_tokens\":\(request.promptTokens),\"total_tokens\":\(request.promptTokens + producedTokens),"
            + "\"completion_tokens\":\(producedTokens)"
    }

    /// A prompt that is answered n times is looked up n times; as one prompt it cannot be cached more than whole.
    final var cachedPromptTokens: Int { min(cachedTokens / request.n, request.promptTokens) }
}

/// Collects the replies and answers with one JSON body.
final class WholeCompletion: CompletionGeneration {
    private var texts: [[UInt8]] = []

    override init(request: CompletionRequest, exchange: StubExchange, id: String) {
        super.init(request: request, exchange: exchange, id: id)
        texts = Array(repeating: [], count: choices.count)
    }

    override func tokenReceived(_ token: ReplyToken, choice: Int) { texts[choice].append(contentsOf: token.text) }

    override func completed() {
        exchange.generationEnded()
        let body: String
        switch request.kind {
        case .chat:
            body =
                "{\"id\":\(JSONText.string(id)),\"object\":\"chat.completion\",\"created\":\(created),"
                + "\"model\":\(JSONText.string(model)),\"choices\":[\(choices.indices.map(chatChoice).joined(separator: ","))],"
                + tail(createdCacheTokens: "0") + ",\"prompt_logprobs\":null,\"prompt_token_ids\":null,\"prompt_text\":null,"
                + "\"kv_transfer_params\":null,\"ec_transfer_params\":null,\"metrics\":null}"
        case .text:
            body =
                "{\"id\":\(JSONText.string(id)),\"object\":\"text_completion\",\"created\":\(created),"
                + "\"model\":\(JSONText.string(model)),\"choices\":[\(choices.indices.map(textChoice).joined(separator: ","))],"
                + tail(createdCacheTokens: "null") + ",\"kv_transfer_params\":null,\"ec_transfer_params\":null,\"metrics\":null}"
        }
        exchange.answer(status: 200, json: body, reportsLoad: true)
    }

    private func text(_ choice: Int) -> String { String(decoding: texts[choice], as: UTF8.self) }

    private func chatChoice(_ index: Int) -> String {
        "{\"index\":\(index),\"message\":{\"role\":\"assistant\",\"content\":\(JSONText.string(text(index))),\"refusal\":null,"
            + "\"annotations\":null,\"audio\":null,\"function_call\":null,\"reasoning\":null},\"logprobs\":null,"
            + "\"finish_reason\":\"\(choices[index].finishReason)\",\"stop_reason\":null,\"token_ids\":null,\"routed_experts\":null}"
    }

    private func textChoice(_ index: Int) -> String {
        "{\"index\":\(index),\"text\":\(JSONText.string(text(index))),\"logprobs\":null,"
            + "\"finish_reason\":\"\(choices[index].finishReason)\",\"stop_reason\":null,\"token_ids\":null,"
            + "\"prompt_logprobs\":null,\"prompt_token_ids\":null,\"routed_experts\":null}"
    }

    private func tail(createdCacheTokens: String) -> String {
        "\"service_tier\":null,\"system_fingerprint\":\"\(Self.fingerprint)\",\"usage\":{\(usageCounts),"
            + "\"prompt_tokens_details\":{\"cached_tokens\":\(cachedPromptTokens),\"created_cache_tokens\":\(createdCacheTokens),"
            + "\"multimodal_tokens\":null},\"completion_tokens_details\":null}"
    }
}

/// Sends the replies token by token as server-sent events. All of an event but the index, the token's text and the end of a
/// choice is written once per request.
final class StreamedCompletion: CompletionGeneration {
    private var head: [UInt8] = []
    private let beforeText: StaticString
    private let afterText: StaticString
    private var event: [UInt8] = []
    private var hasBegun = false

    override init(request: CompletionRequest, exchange: StubExchange, id: String) {
        switch request.kind {
        case .chat:
            beforeText = ",\"delta\":{\"content\":\""
            afterText = "\"},\"logprobs\":null,\"finish_reason\":"
        case .text:
            beforeText = ",\"text\":\""
            afterText = "\",\"logprobs\":null,\"finish_reason\":"
        }
        super.init(request: request, exchange: exchange, id: id)
        let object = request.kind == .chat ? "chat.completion.chunk" : "text_completion"
        head.append("data: {\"id\":\(JSONText.string(self.id)),\"object\":\"\(object)\",\"created\":\(created),")
        head.append("\"model\":\(JSONText.string(model)),\"choices\":[")
    }

    override func tokenReceived(_ token: ReplyToken, choice: Int) {
        if !hasBegun {
            hasBegun = true
            if request.kind == .chat { for index in choices.indices { sendRole(index) } }
        }
        begin()
        event.append("{\"index\":")
        event.append(decimal: choice)
        event.append(beforeText)
        event.append(contentsOf: token.text)
        event.append(afterText)
        let isLast = choices[choice].isComplete
        switch request.kind {
        case .chat:
            if isLast { appendReason(choice) } else { event.append("null") }
            if isLast { event.append(",\"stop_reason\":null") }
            event.append(",\"token_ids\":null}]")
        case .text:
            if isLast { appendReason(choice) } else { event.append("null") }
            event.append(",\"stop_reason\":null,\"prompt_token_ids\":null,\"token_ids\":null}]")
        }
        if request.includesContinuousUsage { appendRunningUsage() }
        if isLast, !request.includesUsage { appendFingerprint() }
        send()
    }

    override func completed() {
        if request.includesUsage {
            begin()
            let created = request.kind == .chat ? ",\"created_cache_tokens\":0" : ""
            event.append(
                "],\"usage\":{\(usageCounts),\"prompt_tokens_details\":{\"cached_tokens\":\(cachedPromptTokens)\(created)}}")
            appendFingerprint()
            send()
        }
        event.removeAll(keepingCapacity: true)
        event.append("data: [DONE]\n\n")
        event.withUnsafeBytes { _ = exchange.write($0) }
        exchange.generationEnded()
        exchange.finish()
    }

    /// The first event of a chat's choice names the role and says nothing.
    private func sendRole(_ index: Int) {
        begin()
        event.append("{\"index\":")
        event.append(decimal: index)
        event.append(",\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}]")
        if request.includesContinuousUsage {
            event.append(",\"usage\":{\"prompt_tokens\":\(request.promptTokens),\"total_tokens\":\(request.promptTokens),")
            event.append("\"completion_tokens\":0,\"completion_tokens_details\":null}")
        }
        event.append(",\"prompt_token_ids\":null,\"prompt_text\":null")
        send()
    }

    private func begin() {
        event.removeAll(keepingCapacity: true)
        event.append(contentsOf: head)
    }

    private func appendReason(_ choice: Int) {
        event.append("\"")
        event.append(choices[choice].finishReason)
        event.append("\"")
    }

    private func appendRunningUsage() { event.append(",\"usage\":{\(usageCounts),\"completion_tokens_details\":null}") }

    private func appendFingerprint() { event.append(",\"system_fingerprint\":\"\(Self.fingerprint)\"") }

    private func send() {
        event.append("}\n\n")
        event.withUnsafeBytes { _ = exchange.write($0) }
    }
}
