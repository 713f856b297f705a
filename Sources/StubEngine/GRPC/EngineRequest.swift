import EngineModel
import Protos

/// What the stub reads of vLLM's `GenerateRequest`.
struct EngineRequest {
    private(set) var requestID: String
    /// Of the prompt, given as such or as text. A request with neither is answered, as by vLLM: from a beginning alone.
    private(set) var tokens: [UInt32]
    /// The prompt's, when it came as one.
    private(set) var text: String?
    let isStream: Bool
    /// Data-parallel rank asked for.
    private(set) var rank: Int?
    private(set) var n = 1
    private(set) var isGreedy = false
    private(set) var logprobs: Int?
    /// nil: as many as the model's context takes.
    private(set) var maximumTokens: Int?
    private(set) var wishes = ReplyWishes()

    /// Reads one message; nil when it is not one.
    init?(_ bytes: UnsafeRawBufferPointer) {
        let start = bytes.baseAddress?.assumingMemoryBound(to: UInt8.self)
        guard let message = vllm__grpc__engine__generate_request__unpack(nil, bytes.count, start) else { return nil }
        defer { vllm__grpc__engine__generate_request__free_unpacked(message, nil) }
        requestID = String(cString: message.pointee.request_id)
        isStream = message.pointee.stream != 0
        switch message.pointee.input_case {
        case VLLM__GRPC__ENGINE__GENERATE_REQUEST__INPUT_TOKENIZED: tokens = Self.tokens(of: message.pointee.tokenized)
        case VLLM__GRPC__ENGINE__GENERATE_REQUEST__INPUT_TEXT:
            text = message.pointee.text.map { String(cString: $0) }
            tokens = text.map(PromptTokens.tokens) ?? []
        default: tokens = [Tokeniser.startOfTurn(role: "beginning")]
        }
        if message.pointee.maybe_data_parallel_rank_case
            == VLLM__GRPC__ENGINE__GENERATE_REQUEST__MAYBE_DATA_PARALLEL_RANK_DATA_PARALLEL_RANK
        {
            rank = Int(message.pointee.data_parallel_rank)
        }
        wishes.continuesText = true
        if let sampling = message.pointee.sampling_params { read(sampling.pointee) }
    }

    private mutating func read(_ sampling: Vllm__Grpc__Engine__SamplingParams) {
        n = max(1, Int(sampling.n))
        wishes.minimumTokens = Int(sampling.min_tokens)
        wishes.ignoresEnd = sampling.ignore_eos != 0
        if sampling.maybe_max_tokens_case == VLLM__GRPC__ENGINE__SAMPLING_PARAMS__MAYBE_MAX_TOKENS_MAX_TOKENS {
            maximumTokens = Int(sampling.max_tokens)
        }
        if sampling.maybe_temperature_case == VLLM__GRPC__ENGINE__SAMPLING_PARAMS__MAYBE_TEMPERATURE_TEMPERATURE {
            isGreedy = sampling.temperature == 0
        }
        if sampling.maybe_logprobs_case == VLLM__GRPC__ENGINE__SAMPLING_PARAMS__MAYBE_LOGPROBS_LOGPROBS {
            logprobs = max(0, Int(sampling.logprobs))
        }
        if sampling.maybe_seed_case == VLLM__GRPC__ENGINE__SAMPLING_PARAMS__MAYBE_SEED_SEED {
            wishes.requestSeed = UInt64(truncatingIfNeeded: sampling.seed)
        }
        wishes.stop = StopMatch.Conditions(
            texts: (0..<sampling.n_stop).compactMap { sampling.stop[$0].map { String(cString: $0) } },
            tokens: Set((0..<sampling.n_stop_token_ids).map { sampling.stop_token_ids[$0] }),
            includesText: sampling.include_stop_str_in_output != 0, minimumTokens: Int(sampling.min_tokens))
    }

    static func tokens(of input: UnsafeMutablePointer<Vllm__Grpc__Engine__TokenizedInput>?) -> [UInt32] {
        guard let input = input?.pointee else { return [] }
        return Array(UnsafeBufferPointer(start: input.input_ids, count: input.n_input_ids))
    }
}

/// What the stub reads of vLLM's `EmbedRequest`.
struct EmbedRequest {
    let requestID: String
    let tokens: [UInt32]

    init?(_ bytes: UnsafeRawBufferPointer) {
        let start = bytes.baseAddress?.assumingMemoryBound(to: UInt8.self)
        guard let message = vllm__grpc__engine__embed_request__unpack(nil, bytes.count, start) else { return nil }
        defer { vllm__grpc__engine__embed_request__free_unpacked(message, nil) }
        requestID = String(cString: message.pointee.request_id)
        tokens = EngineRequest.tokens(of: message.pointee.tokenized)
    }
}
