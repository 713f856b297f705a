import EngineModel

extension CompletionGeneration {
    /// Anthropic's words for why a reply ends.
    fileprivate var anthropicStop: String {
        if choices[0].stop != nil { return "stop_sequence" }
        return choices[0].endsByStop ? "end_turn" : "max_tokens"
    }

    /// Cached tokens are counted apart from the input, unlike in OpenAI's usage.
    fileprivate var anthropicUsage: String {
        let cached = cachedPromptTokens
        return "{\"input_tokens\":\(request.promptTokens - cached),\"output_tokens\":\(producedTokens),"
            + "\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":\(cached)}"
    }
}

/// `/v1/messages` in one piece.
final class WholeMessage: CollectedCompletion {
    override func completed() {
        exchange.generationEnded()
        exchange.answer(
            status: 200,
            json: "{\"id\":\(JSONText.string(id)),\"type\":\"message\",\"role\":\"assistant\","
                + "\"content\":[{\"type\":\"text\",\"text\":\(JSONText.string(text(0)))}],\"model\":\(JSONText.string(request.model)),"
                + "\"stop_reason\":\"\(anthropicStop)\",\"usage\":\(anthropicUsage)}")
    }
}

/// `/v1/messages` as named events; there is no `[DONE]`.
final class StreamedMessage: CompletionGeneration {
    private var hasBegun = false

    private func send(_ type: String, _ fields: String, isLast: Bool = false) {
        let event = "event: \(type)\ndata: {\"type\":\"\(type)\"\(fields)}\n\n"
        if isLast { exchange.endStream(with: event) } else { exchange.emit(event) }
    }

    private func begin() {
        guard !hasBegun else { return }
        hasBegun = true
        send(
            "message_start",
            ",\"message\":{\"id\":\(JSONText.string(id)),\"type\":\"message\",\"role\":\"assistant\",\"content\":[],"
                + "\"model\":\(JSONText.string(request.model)),\"stop_reason\":null,\"stop_sequence\":null,"
                + "\"usage\":{\"input_tokens\":\(request.promptTokens),\"output_tokens\":0}}")
        send("content_block_start", ",\"content_block\":{\"type\":\"text\",\"text\":\"\"},\"index\":0")
    }

    override func choiceAborted(_ choice: Int) { begin() }

    override func tokenReceived(_ token: ReplyToken, choice: Int) {
        begin()
        let piece = visibleText(of: token, choice: choice)
        guard !piece.isEmpty else { return }
        let text = JSONText.string(String(decoding: piece, as: UTF8.self))
        send("content_block_delta", ",\"delta\":{\"type\":\"text_delta\",\"text\":\(text)},\"index\":0")
    }

    override func completed() {
        exchange.generationEnded()
        let sequence =
            switch choices[0].stop?.reason {
            case .text(let text): JSONText.string(text)
            case .token, nil: "null"
            }
        send("content_block_stop", ",\"index\":0")
        send(
            "message_delta",
            ",\"delta\":{\"stop_reason\":\"\(anthropicStop)\",\"stop_sequence\":\(sequence)},\"usage\":\(anthropicUsage)")
        send("message_stop", "", isLast: true)
    }
}
