import EngineModel

/// Sends the replies token by token as server-sent events. All of an event but the token's text is written once per reply, as long
/// as nothing else changes: most tokens of most streams cost three copies.
final class StreamedCompletion: CompletionGeneration {
    private var head: [UInt8] = []
    private let beforeText: StaticString
    private var event: [UInt8] = []
    private var hasBegun = false
    /// What comes before the text in each choice's events; empty until it is needed.
    private var prefixes: [[UInt8]]
    /// Whether events differ in their texts alone, until the last.
    private let isPlain: Bool

    private static let endOfChatEvent: StaticString = "\"},\"logprobs\":null,\"finish_reason\":null,\"token_ids\":null}]}\n\n"
    private static let endOfTextEvent: StaticString =
        "\",\"logprobs\":null,\"finish_reason\":null,\"stop_reason\":null,\"prompt_token_ids\":null,\"token_ids\":null}]}\n\n"
    private var textLogprobs: [TextLogprobs]

    override init(request: CompletionRequest, exchange: StubExchange, id: String) {
        beforeText = request.kind == .chat ? ",\"delta\":{\"content\":\"" : ",\"text\":\""
        textLogprobs = Array(repeating: TextLogprobs(), count: request.logprobs == nil ? 0 : request.choices.count)
        prefixes = Array(repeating: [], count: request.choices.count)
        isPlain =
            request.logprobs == nil && !request.includesContinuousUsage && request.promptTokenIDs == nil && !request.echoesOnly
            && request.choices.allSatisfy { $0.toolCall == nil }
        super.init(request: request, exchange: exchange, id: id)
        let object = request.kind == .chat ? "chat.completion.chunk" : "text_completion"
        head.append("data: {\"id\":\(JSONText.string(self.id)),\"object\":\"\(object)\",\"created\":\(created),")
        head.append("\"model\":\(JSONText.string(request.model)),\"choices\":[")
    }

    override func tokenReceived(_ token: ReplyToken, choice: Int) {
        if let call = choices[choice].toolCall { return send(token, of: call, choice: choice) }
        guard isPlain, hasBegun, !choices[choice].isComplete else { return send(request.echoesOnly ? nil : token, choice: choice) }
        if prefixes[choice].isEmpty { prefixes[choice] = prefix(of: choice) }
        event.removeAll(keepingCapacity: true)
        event.append(contentsOf: prefixes[choice])
        appendText(of: token, choice: choice)
        event.append(request.kind == .chat ? Self.endOfChatEvent : Self.endOfTextEvent)
        event.withUnsafeBytes { exchange.emit($0) }
    }

    private func appendText(of token: ReplyToken, choice: Int) {
        let text = visibleText(of: token, choice: choice)
        // Words of the stub's own need no escaping.
        guard choices[choice].request.script != nil else { return event.append(contentsOf: text) }
        event.append(contentsOf: JSONText.string(String(decoding: text, as: UTF8.self)).utf8.dropFirst().dropLast())
    }

    private func prefix(of choice: Int) -> [UInt8] {
        var prefix = head
        prefix.append("{\"index\":\(choice)")
        prefix.append(beforeText)
        return prefix
    }

    override func choiceAborted(_ choice: Int) { send(nil, choice: choice) }

    /// The next event of a choice; without a token it says only that the choice has ended.
    private func send(_ token: ReplyToken?, choice: Int) {
        open()
        begin()
        event.append("{\"index\":")
        event.append(decimal: choice)
        event.append(beforeText)
        if let token { appendText(of: token, choice: choice) }
        event.append(request.kind == .chat ? "\"},\"logprobs\":" : "\",\"logprobs\":")
        appendLogprobs(of: token, choice: choice)
        finishEvent(of: choice, token: token)
    }

    /// What a client that reads calls sees of a token: the function's name once it stands there, then each piece of the arguments. Of
    /// what surrounds them it sees nothing.
    private func send(_ token: ReplyToken, of call: ToolCall, choice: Int) {
        open()
        let place = choices[choice].produced
        let isLast = choices[choice].isComplete
        var delta = ""
        if place == call.nameTokens {
            delta = call.json(arguments: nil, index: 0)
        } else if call.argumentTokens.contains(place - 1) {
            let piece = String(decoding: visibleText(of: token, choice: choice), as: UTF8.self)
            delta = "{\"index\":0,\"function\":{\"arguments\":\(JSONText.string(piece))}}"
        }
        guard isLast || !delta.isEmpty else { return }
        begin()
        let calls = delta.isEmpty ? "" : "\"content\":null,\"tool_calls\":[\(delta)]"
        event.append("{\"index\":\(choice),\"delta\":{\(calls)},\"logprobs\":null")
        finishEvent(of: choice, token: token)
    }

    /// What comes before the first token's event.
    private func open() {
        guard !hasBegun else { return }
        hasBegun = true
        if request.kind == .chat { for index in choices.indices { sendRole(index) } }
        if request.echoes != nil { for index in choices.indices { sendEcho(index) } }
    }

    private func finishEvent(of choice: Int, token: ReplyToken?) {
        event.append(",\"finish_reason\":")
        appendEnd(of: choice, token: token)
        let isLast = choices[choice].isComplete
        if request.includesContinuousUsage { appendRunningUsage() }
        if isLast, !request.includesUsage { appendFingerprint() }
        send()
    }

    private func appendEnd(of choice: Int, token: ReplyToken?) {
        let isLast = choices[choice].isComplete
        if isLast {
            event.append("\"")
            event.append(choices[choice].finishReason)
            event.append("\"")
        } else {
            event.append("null")
        }
        if isLast {
            event.append(",\"stop_reason\":\(choices[choice].stopReasonJSON)")
        } else if request.kind == .text {
            event.append(",\"stop_reason\":null")
        }
        if request.kind == .text {
            event.append(",\"prompt_token_ids\":")
            event.append(choices[choice].produced == 1 ? promptTokenIDs(of: choice) : "null")
        }
        if request.promptTokenIDs == nil {
            event.append(",\"token_ids\":null}]")
        } else {
            event.append(",\"token_ids\":[\(token.map { "\($0.id(of: choices[choice].request.script))" } ?? "")]}]")
        }
    }

    private func appendLogprobs(of token: ReplyToken?, choice: Int) {
        guard let alternatives = request.logprobs, let token, let entry = logprobs(of: token, choice: choice) else {
            return event.append("null")
        }
        if request.kind == .chat { return event.append("{\"content\":[\(entry.chatJSON(alternatives: alternatives))]}") }
        textLogprobs[choice].append(entry)
        event.append(textLogprobs[choice].json(alternatives: alternatives))
        textLogprobs[choice].restart()
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
        exchange.generationEnded()
        exchange.endStream()
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
        event.append(",\"prompt_token_ids\":\(promptTokenIDs(of: index)),\"prompt_text\":null")
        send()
    }

    private func sendEcho(_ index: Int) {
        let text = request.echoes.map { $0[index / request.n] } ?? ""
        begin()
        event.append("{\"index\":\(index),\"text\":\(JSONText.string(text)),\"logprobs\":")
        if let alternatives = request.logprobs {
            textLogprobs[index].append(prompt: text, alternatives: alternatives)
            event.append(textLogprobs[index].json(alternatives: alternatives))
            textLogprobs[index].restart()
        } else {
            event.append("null")
        }
        event.append(",\"finish_reason\":null,")
        event.append("\"stop_reason\":null,\"prompt_token_ids\":null,\"token_ids\":null}]")
        send()
    }

    private func begin() {
        event.removeAll(keepingCapacity: true)
        event.append(contentsOf: head)
    }

    private func appendRunningUsage() { event.append(",\"usage\":{\(usageCounts),\"completion_tokens_details\":null}") }

    private func appendFingerprint() { event.append(",\"system_fingerprint\":\"\(Self.fingerprint)\"") }

    private func send() {
        event.append("}\n\n")
        event.withUnsafeBytes { exchange.emit($0) }
    }
}
