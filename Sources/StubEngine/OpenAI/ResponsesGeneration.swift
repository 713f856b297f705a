import EngineModel

/// The pieces of `/v1/responses` answers that both ways to give them share.
private struct ResponseObject {
    let generation: CompletionGeneration

    private var request: CompletionRequest { generation.request }
    var responseID: String { "resp_" + generation.bareID }
    var messageID: String { "msg_" + generation.bareID }

    private var isCut: Bool { !generation.choices[0].endsByStop }

    static func part(_ text: String, logprobs: String) -> String {
        "{\"annotations\":[],\"text\":\(JSONText.string(text)),\"type\":\"output_text\",\"logprobs\":\(logprobs)}"
    }

    func item(text: String?, status: String) -> String {
        "{\"id\":\(JSONText.string(messageID)),\"content\":[\(text.map { Self.part($0, logprobs: "null") } ?? "")],"
            + "\"role\":\"assistant\",\"status\":\"\(status)\",\"type\":\"message\",\"phase\":null}"
    }

    /// The whole response; without a text it is still under way.
    func json(text: String?) -> String {
        let status = text == nil ? "in_progress" : isCut ? "incomplete" : "completed"
        let details = text != nil && isCut ? "{\"reason\":\"max_output_tokens\"}" : "null"
        return "{\"id\":\(JSONText.string(responseID)),\"created_at\":\(generation.created),\"incomplete_details\":\(details),"
            + "\"instructions\":null,\"metadata\":null,\"model\":\(JSONText.string(request.model)),\"object\":\"response\","
            + "\"output\":[\(text.map { item(text: $0, status: "completed") } ?? "")],\"parallel_tool_calls\":true,"
            + "\"temperature\":1.0,\"tool_choice\":\"none\",\"tools\":[],\"top_p\":1.0,\"background\":false,"
            + "\"max_output_tokens\":\(request.maximumTokens),\"max_tool_calls\":null,\"previous_response_id\":null,"
            + "\"prompt\":null,\"reasoning\":null,\"service_tier\":\"auto\",\"status\":\"\(status)\",\"text\":null,"
            + "\"top_logprobs\":null,\"truncation\":\"disabled\",\"usage\":\(text == nil ? "null" : usage),\"user\":null,"
            + "\"presence_penalty\":0.0,\"frequency_penalty\":0.0,\"kv_transfer_params\":null,\"ec_transfer_params\":null,"
            + "\"input_messages\":null,\"output_messages\":null}"
    }

    private var usage: String {
        "{\"input_tokens\":\(request.promptTokens),\"input_tokens_details\":{\"cached_tokens\":\(generation.cachedPromptTokens),"
            + "\"cache_write_tokens\":0,\"input_tokens_per_turn\":[],\"cached_tokens_per_turn\":[]},"
            + "\"output_tokens\":\(generation.producedTokens),\"output_tokens_details\":{\"reasoning_tokens\":0,"
            + "\"tool_output_tokens\":0,\"output_tokens_per_turn\":[],\"tool_output_tokens_per_turn\":[]},"
            + "\"total_tokens\":\(request.promptTokens + generation.producedTokens)}"
    }
}

final class WholeResponse: CollectedCompletion {
    override func completed() {
        exchange.generationEnded()
        exchange.answer(status: 200, json: ResponseObject(generation: self).json(text: text(0)))
    }
}

/// Named events with running numbers; the last one is the whole response, and there is no `[DONE]`.
final class StreamedResponse: CompletionGeneration {
    private var text: [UInt8] = []
    private var number = 0

    private var place: String { "\"item_id\":\"msg_\(bareID)\",\"output_index\":0" }

    /// `fields` begins with its first field and ends with a comma, or is empty.
    private func send(_ type: String, before fields: String, after rest: String = "", isLast: Bool = false) {
        let event =
            "event: \(type)\ndata: {\(fields)\"sequence_number\":\(number),\(rest)\"type\":\"\(type)\"}\n\n"
        number += 1
        if isLast { exchange.endStream(with: event) } else { exchange.emit(event) }
    }

    private func begin() {
        guard number == 0 else { return }
        let object = ResponseObject(generation: self)
        send("response.created", before: "\"response\":\(object.json(text: nil)),")
        send("response.in_progress", before: "\"response\":\(object.json(text: nil)),")
        send(
            "response.output_item.added",
            before: "\"item\":\(object.item(text: nil, status: "in_progress")),\"output_index\":0,")
        send(
            "response.content_part.added",
            before: "\"content_index\":0,\(place),\"part\":\(ResponseObject.part("", logprobs: "[]")),")
    }

    override func choiceAborted(_ choice: Int) { begin() }

    override func tokenReceived(_ token: ReplyToken, choice: Int) {
        begin()
        let piece = visibleText(of: token, choice: choice)
        guard !piece.isEmpty else { return }
        text.append(contentsOf: piece)
        let delta = JSONText.string(String(decoding: piece, as: UTF8.self))
        send(
            "response.output_text.delta",
            before: "\"content_index\":0,\"delta\":\(delta),\"item_id\":\"msg_\(bareID)\",\"logprobs\":[],\"output_index\":0,")
    }

    override func completed() {
        exchange.generationEnded()
        let object = ResponseObject(generation: self)
        let text = String(decoding: text, as: UTF8.self)
        send(
            "response.output_text.done", before: "\"content_index\":0,\"item_id\":\"msg_\(bareID)\",\"logprobs\":[],\"output_index\":0,",
            after: "\"text\":\(JSONText.string(text)),")
        send(
            "response.content_part.done",
            before: "\"content_index\":0,\(place),\"part\":\(ResponseObject.part(text, logprobs: "null")),")
        send(
            "response.output_item.done",
            before: "\"item\":\(object.item(text: text, status: "completed")),\"output_index\":0,")
        send("response.completed", before: "\"response\":\(object.json(text: text)),", isLast: true)
    }
}
