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

    /// A word or several: stop strings.
    enum Words: Decodable {
        case list([String])

        init(from decoder: any Decoder) throws {
            let container = try decoder.singleValueContainer()
            if let word = try? container.decode(String.self) {
                self = .list([word])
            } else {
                self = .list(try container.decode([String].self))
            }
        }

        var list: [String] {
            switch self {
            case .list(let words): words
            }
        }
    }

    /// `logprobs`: yes or no in a chat, how many alternatives in a text completion.
    enum Logprobs: Decodable {
        case wanted(Bool)
        case alternatives(Int)

        init(from decoder: any Decoder) throws {
            let container = try decoder.singleValueContainer()
            if let flag = try? container.decode(Bool.self) {
                self = .wanted(flag)
            } else {
                self = .alternatives(try container.decode(Int.self))
            }
        }
    }

    /// The input of `/v1/responses`: text, or items of which those with a role are messages.
    enum ResponsesInput: Decodable {
        case text(String)
        case items([Item])

        struct Item: Decodable {
            var role: String?
            var content: Content?
        }

        init(from decoder: any Decoder) throws {
            let container = try decoder.singleValueContainer()
            if let text = try? container.decode(String.self) {
                self = .text(text)
            } else {
                self = .items(try container.decode([Item].self))
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
    var topP: Double?
    var stream: Bool?
    var streamOptions: StreamOptions?
    var cacheSalt: String?
    var requestID: String?
    var tools: JSONValue?
    var toolChoice: JSONValue?
    var transferParameters: JSONValue?
    var stop: Words?
    var stopTokenIDs: [UInt32]?
    var includesStopText: Bool?
    var logprobs: Logprobs?
    var topLogprobs: Int?
    var echo: Bool?
    var returnsTokenIDs: Bool?
    // Of /v1/responses.
    var input: ResponsesInput?
    var instructions: String?
    var maxOutputTokens: Int?
    var previousResponseID: String?
    // Of /v1/messages.
    var system: Content?
    var stopSequences: [String]?

    enum CodingKeys: String, CodingKey {
        case model, messages, prompt, n, seed, temperature, stream, tools, stop, logprobs, echo, input, instructions, system
        case toolChoice = "tool_choice"
        case transferParameters = "kv_transfer_params"
        case stopTokenIDs = "stop_token_ids"
        case includesStopText = "include_stop_str_in_output"
        case topLogprobs = "top_logprobs"
        case topP = "top_p"
        case returnsTokenIDs = "return_token_ids"
        case maxOutputTokens = "max_output_tokens"
        case previousResponseID = "previous_response_id"
        case stopSequences = "stop_sequences"
        case maxTokens = "max_tokens"
        case maxCompletionTokens = "max_completion_tokens"
        case minTokens = "min_tokens"
        case ignoreEOS = "ignore_eos"
        case streamOptions = "stream_options"
        case cacheSalt = "cache_salt"
        case requestID = "request_id"
    }
}
