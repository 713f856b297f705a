/// The JSON of a completion request, as far as the stub reads it. Unknown fields pass unread.
struct CompletionBody: Decodable {
    struct StreamOptions: Decodable {
        var includeUsage: Bool?
        var continuousUsageStats: Bool?

        enum CodingKeys: String, CodingKey {
            case includeUsage = "include_usage"
            case continuousUsageStats = "continuous_usage_stats"
        }
    }

    struct Message: Decodable {
        var role: String
        var content: Content?
        var toolCalls: JSONValue?
        var toolCallID: String?

        enum CodingKeys: String, CodingKey {
            case role, content
            case toolCalls = "tool_calls"
            case toolCallID = "tool_call_id"
        }
    }

    /// A message's content: text, or parts of which some are text.
    enum Content: Decodable {
        case text(String)
        case parts([Part])

        init(from decoder: any Decoder) throws {
            let container = try decoder.singleValueContainer()
            if let text = try? container.decode(String.self) {
                self = .text(text)
            } else {
                self = .parts(try container.decode([Part].self))
            }
        }
    }

    struct Part: Decodable {
        var type: String
        var text: String?
        var imageURL: JSONValue?

        enum CodingKeys: String, CodingKey {
            case type, text
            case imageURL = "image_url"
        }
    }

    /// One prompt or several, as text or as token ids.
    enum PromptInput: Decodable {
        case texts([String])
        case tokens([[UInt32]])

        init(from decoder: any Decoder) throws {
            let container = try decoder.singleValueContainer()
            if let text = try? container.decode(String.self) {
                self = .texts([text])
            } else if let tokens = try? container.decode([UInt32].self) {
                self = .tokens(tokens.isEmpty ? [] : [tokens])
            } else if let texts = try? container.decode([String].self) {
                self = .texts(texts)
            } else {
                self = .tokens(try container.decode([[UInt32]].self))
            }
        }
    }

    var model: String?
    var messages: [Message]?
    var prompt: PromptInput?
    var maxTokens: Int?
    var maxCompletionTokens: Int?
    var minTokens: Int?
    var ignoreEOS: Bool?
    var n: Int?
    var seed: Int?
    var temperature: Double?
    var stream: Bool?
    var streamOptions: StreamOptions?
    var cacheSalt: String?
    var requestID: String?
    var tools: JSONValue?

    enum CodingKeys: String, CodingKey {
        case model, messages, prompt, n, seed, temperature, stream, tools
        case maxTokens = "max_tokens"
        case maxCompletionTokens = "max_completion_tokens"
        case minTokens = "min_tokens"
        case ignoreEOS = "ignore_eos"
        case streamOptions = "stream_options"
        case cacheSalt = "cache_salt"
        case requestID = "request_id"
    }
}

/// Any JSON value, to be written again in one canonical form: keys sorted, no blanks.
enum JSONValue: Decodable {
    case null
    case bool(Bool)
    case number(Double)
    case string(String)
    case array([JSONValue])
    case object([String: JSONValue])

    init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if container.decodeNil() {
            self = .null
        } else if let value = try? container.decode(Bool.self) {
            self = .bool(value)
        } else if let value = try? container.decode(Double.self) {
            self = .number(value)
        } else if let value = try? container.decode(String.self) {
            self = .string(value)
        } else if let value = try? container.decode([JSONValue].self) {
            self = .array(value)
        } else {
            self = .object(try container.decode([String: JSONValue].self))
        }
    }

    var text: String {
        switch self {
        case .null: "null"
        case .bool(let value): value ? "true" : "false"
        case .number(let value): "\(value)"
        case .string(let value): JSONText.string(value)
        case .array(let values): "[" + values.map(\.text).joined(separator: ",") + "]"
        case .object(let fields):
            "{" + fields.sorted { $0.key < $1.key }.map { JSONText.string($0.key) + ":" + $0.value.text }.joined(separator: ",") + "}"
        }
    }
}
