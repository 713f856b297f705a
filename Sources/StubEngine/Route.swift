/// The HTTP paths that a stub knows.
enum Route: String {
    case chat = "/v1/chat/completions"
    case text = "/v1/completions"
    case responses = "/v1/responses"
    case messages = "/v1/messages"
    case countTokens = "/v1/messages/count_tokens"
    case embeddings = "/v1/embeddings"
    case models = "/v1/models"
    case tokenize = "/tokenize"
    case detokenize = "/detokenize"
    case health = "/health"
    case ping = "/ping"
    case version = "/version"
    case load = "/load"
    case metrics = "/metrics"
    case loadAdapter = "/v1/load_lora_adapter"
    case unloadAdapter = "/v1/unload_lora_adapter"
    case sleep = "/sleep"
    case wakeUp = "/wake_up"
    case isSleeping = "/is_sleeping"
    case pause = "/pause"
    case resume = "/resume"
    case isPaused = "/is_paused"
    case resetPrefixCache = "/reset_prefix_cache"
    case abortRequests = "/abort_requests"
    case adminConfiguration = "/admin/config"

    /// Whether it asks for work of the engine: what faults without a path strike.
    var generates: Bool {
        switch self {
        case .chat, .text, .responses, .messages, .embeddings: true
        default: false
        }
    }

    /// The methods it takes, as `Allow` lists them.
    var allow: StaticString {
        switch self {
        case .models, .health, .version, .load, .metrics, .isSleeping, .isPaused: "GET"
        case .ping, .adminConfiguration: "GET, POST"
        default: "POST"
        }
    }
}
