import EngineModel

/// Where replies come from, unless a request has the model call a function.
public enum ReplySource: Sendable {
    /// Made up from the seed.
    case words
    /// What was asked: the last message of the user, or the prompt.
    case echo
    /// One of these, by the seed.
    case texts([String])

    /// A file with a reply per line, as text or as a JSON string; empty lines are passed over. Nil when there is none.
    public init?(lines: String) {
        let texts = lines.split(whereSeparator: \.isNewline).map { line in
            JSONValue(text: line).flatMap { if case .string(let text) = $0 { text } else { nil } } ?? String(line)
        }
        guard !texts.isEmpty else { return nil }
        self = .texts(texts)
    }

    /// What a request is answered with.
    /// - Parameter question: nil when it came as tokens, of which nobody knows the text.
    func content(echoing question: String?, maximumTokens: Int) -> ReplyContent {
        switch self {
        case .words: .words
        case .echo: question.map { .script(ReplyScript([$0], maximumTokens: maximumTokens)) } ?? .words
        case .texts(let texts): .oneOf(texts, maximumTokens: maximumTokens)
        }
    }
}

/// What the replies to a request say.
enum ReplyContent {
    case words
    case script(ReplyScript)
    case oneOf([String], maximumTokens: Int)
    /// One of these functions is called, by the seed.
    case call([ToolCall.Function], isNamed: Bool)

    /// - Parameter seed: of the reply.
    func script(seed: UInt64) -> (script: ReplyScript?, call: ToolCall?) {
        switch self {
        case .words: return (nil, nil)
        case .script(let script): return (script, nil)
        case .oneOf(let texts, let maximum):
            return (ReplyScript([texts[Int(seed % UInt64(texts.count))]], maximumTokens: maximum), nil)
        case .call(let functions, let isNamed):
            let call = ToolCall(of: functions[Int(seed % UInt64(functions.count))], isNamed: isNamed, seed: seed)
            return (call.script, call)
        }
    }
}
