import EngineModel

/// The tokens of a request's prompts.
enum PromptTokens {
    static func lists(of body: CompletionBody, kind: CompletionRequest.Kind) throws(WireError) -> [[UInt32]] {
        switch kind {
        case .text: return try lists(of: body.prompt)
        case .chat: return [chat(body.messages ?? [], tools: body.tools)]
        case .messages:
            let system = body.system.map { [CompletionBody.Message(role: "system", content: $0)] } ?? []
            return [chat(system + (body.messages ?? []), tools: body.tools)]
        case .responses:
            let system = body.instructions.map { [CompletionBody.Message(role: "system", content: .text($0))] } ?? []
            return [chat(system + messages(of: body.input), tools: body.tools)]
        }
    }

    static func lists(of input: CompletionBody.PromptInput?) throws(WireError) -> [[UInt32]] {
        switch input {
        case .texts(let texts):
            guard !texts.isEmpty else { throw noPrompt }
            guard texts.allSatisfy({ !$0.isEmpty }) else { throw emptyPrompt }
            return texts.map(tokens)
        case .tokens(let tokens):
            guard !tokens.isEmpty else { throw noPrompt }
            guard tokens.allSatisfy({ !$0.isEmpty }) else { throw emptyPrompt }
            return tokens
        case nil: throw emptyPrompt
        }
    }

    /// What the client asked last, in words: nil when there are none, or several prompts.
    static func question(in body: CompletionBody, kind: CompletionRequest.Kind) -> String? {
        switch kind {
        case .text:
            if case .texts(let texts)? = body.prompt, texts.count == 1 { texts[0] } else { nil }
        case .chat, .messages: text(ofLastUser: body.messages ?? [])
        case .responses: text(ofLastUser: messages(of: body.input))
        }
    }

    private static func text(ofLastUser messages: [CompletionBody.Message]) -> String? {
        switch messages.last(where: { $0.role == "user" })?.content {
        case .text(let text): text
        case .parts(let parts): parts.compactMap(\.text).joined()
        case nil: nil
        }
    }

    static func tokens(of text: String) -> [UInt32] {
        var tokens: [UInt32] = []
        Tokeniser.append(text, to: &tokens)
        return tokens
    }

    private static let noPrompt = WireError(
        status: 400, message: "You must pass at least one prompt", type: "BadRequestError", param: nil)
    private static let emptyPrompt = WireError.invalid(
        "Either prompt or prompt_embeds must be provided and non-empty.", param: "prompt")

    /// The stub's chat template: each turn between two tokens of its own, the tools before all turns, and at last the beginning of
    /// the assistant's turn. A reply that comes back as a message has the tokens that it was generated with.
    static func chat(
        _ messages: [CompletionBody.Message], tools: JSONValue?, opensReply: Bool = true
    ) -> [UInt32] {
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
        if opensReply { tokens.append(Tokeniser.startOfTurn(role: "assistant")) }
        return tokens
    }

    private static func messages(of input: CompletionBody.ResponsesInput?) -> [CompletionBody.Message] {
        switch input {
        case .text(let text): [CompletionBody.Message(role: "user", content: .text(text))]
        case .items(let items): items.map { CompletionBody.Message(role: $0.role ?? "user", content: $0.content) }
        case nil: []
        }
    }
}
