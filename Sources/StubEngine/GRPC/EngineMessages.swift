import EngineModel
import EventLoop
import Glibc
import Protos

/// Writes the answers of vLLM's own service.
enum EngineMessages {
    // MARK: Generate

    static func chunk(_ reply: EngineReply) -> [UInt8] {
        guard let chunk = ProtobufMemory.allocate(Vllm__Grpc__Engine__GenerateStreamChunk.self) else { return [] }
        vllm__grpc__engine__generate_stream_chunk__init(chunk)
        chunk.pointee.token_ids = ProtobufMemory.array(reply.tokens)
        chunk.pointee.n_token_ids = reply.tokens.count
        chunk.pointee.prompt_tokens = UInt32(clamping: reply.promptTokens)
        chunk.pointee.completion_tokens = UInt32(clamping: reply.tokens.count)
        chunk.pointee.cached_tokens = UInt32(clamping: reply.cachedTokens)
        chunk.pointee.output_logprobs = logprobs(reply.logprobs)
        chunk.pointee.index = UInt32(clamping: reply.index)
        return wrapped { response in
            response.response_case = VLLM__GRPC__ENGINE__GENERATE_RESPONSE__RESPONSE_CHUNK
            response.chunk = chunk
        }
    }

    static func complete(_ reply: EngineReply, reason: String, stop: StopMatch.Reason?) -> [UInt8] {
        guard let complete = ProtobufMemory.allocate(Vllm__Grpc__Engine__GenerateComplete.self) else { return [] }
        vllm__grpc__engine__generate_complete__init(complete)
        complete.pointee.output_ids = ProtobufMemory.array(reply.tokens)
        complete.pointee.n_output_ids = reply.tokens.count
        complete.pointee.finish_reason = strdup(reason)
        complete.pointee.prompt_tokens = UInt32(clamping: reply.promptTokens)
        complete.pointee.completion_tokens = UInt32(clamping: reply.tokens.count)
        complete.pointee.cached_tokens = UInt32(clamping: reply.cachedTokens)
        complete.pointee.output_logprobs = logprobs(reply.logprobs)
        complete.pointee.index = UInt32(clamping: reply.index)
        switch stop {
        case .token(let id):
            complete.pointee.matched_stop_case = VLLM__GRPC__ENGINE__GENERATE_COMPLETE__MATCHED_STOP_MATCHED_TOKEN_ID
            complete.pointee.matched_token_id = id
        case .text(let text):
            complete.pointee.matched_stop_case = VLLM__GRPC__ENGINE__GENERATE_COMPLETE__MATCHED_STOP_MATCHED_STOP_STR
            complete.pointee.matched_stop_str = strdup(text)
        case nil: break
        }
        return wrapped { response in
            response.response_case = VLLM__GRPC__ENGINE__GENERATE_RESPONSE__RESPONSE_COMPLETE
            response.complete = complete
        }
    }

    private static func wrapped(_ fill: (inout Vllm__Grpc__Engine__GenerateResponse) -> Void) -> [UInt8] {
        guard let response = ProtobufMemory.allocate(Vllm__Grpc__Engine__GenerateResponse.self) else { return [] }
        vllm__grpc__engine__generate_response__init(response)
        fill(&response.pointee)
        defer { vllm__grpc__engine__generate_response__free_unpacked(response, nil) }
        return ProtobufMemory.pack(response)
    }

    private static func logprobs(_ tokens: [TokenLogprobs]) -> UnsafeMutablePointer<Vllm__Grpc__Engine__OutputLogProbs>? {
        typealias Top = UnsafeMutablePointer<Vllm__Grpc__Engine__TopLogProbs>
        guard !tokens.isEmpty, let output = ProtobufMemory.allocate(Vllm__Grpc__Engine__OutputLogProbs.self),
            let tops = ProtobufMemory.allocate(Top?.self, count: tokens.count)
        else { return nil }
        vllm__grpc__engine__output_log_probs__init(output)
        output.pointee.token_logprobs = ProtobufMemory.array(tokens.map { Float($0.entries[0].logprob) })
        output.pointee.n_token_logprobs = tokens.count
        output.pointee.token_ids = ProtobufMemory.array(tokens.map { $0.entries[0].id })
        output.pointee.n_token_ids = tokens.count
        for (index, token) in tokens.enumerated() {
            guard let top = ProtobufMemory.allocate(Vllm__Grpc__Engine__TopLogProbs.self) else { break }
            vllm__grpc__engine__top_log_probs__init(top)
            top.pointee.values = ProtobufMemory.array(token.entries.map { Float($0.logprob) })
            top.pointee.n_values = token.entries.count
            top.pointee.token_ids = ProtobufMemory.array(token.entries.map(\.id))
            top.pointee.n_token_ids = token.entries.count
            tops[index] = top
            output.pointee.n_top_logprobs = index + 1
        }
        output.pointee.top_logprobs = tops
        return output
    }

    // MARK: The engine

    static func embedding(of prompt: Prompt) -> [UInt8] {
        guard let response = ProtobufMemory.allocate(Vllm__Grpc__Engine__EmbedResponse.self) else { return [] }
        vllm__grpc__engine__embed_response__init(response)
        let vector = EmbeddingRequest.vector(of: prompt, dimensions: EmbeddingRequest.dimensions)
        response.pointee.embedding = ProtobufMemory.array(vector)
        response.pointee.n_embedding = vector.count
        response.pointee.prompt_tokens = UInt32(clamping: prompt.tokenCount)
        response.pointee.embedding_dim = UInt32(clamping: vector.count)
        defer { vllm__grpc__engine__embed_response__free_unpacked(response, nil) }
        return ProtobufMemory.pack(response)
    }

    static func health(_ isHealthy: Bool, message: String) -> [UInt8] {
        guard let response = ProtobufMemory.allocate(Vllm__Grpc__Engine__HealthCheckResponse.self) else { return [] }
        vllm__grpc__engine__health_check_response__init(response)
        response.pointee.healthy = isHealthy ? 1 : 0
        response.pointee.message = strdup(message)
        defer { vllm__grpc__engine__health_check_response__free_unpacked(response, nil) }
        return ProtobufMemory.pack(response)
    }

    static func flushed(_ isDone: Bool, message: String) -> [UInt8] {
        guard let response = ProtobufMemory.allocate(Vllm__Grpc__Engine__FlushCacheResponse.self) else { return [] }
        vllm__grpc__engine__flush_cache_response__init(response)
        response.pointee.success = isDone ? 1 : 0
        response.pointee.message = strdup(message)
        defer { vllm__grpc__engine__flush_cache_response__free_unpacked(response, nil) }
        return ProtobufMemory.pack(response)
    }

    /// The ids in an `AbortRequest`; nil when it is not one.
    static func requestIDs(_ bytes: UnsafeRawBufferPointer) -> [String]? {
        let start = bytes.baseAddress?.assumingMemoryBound(to: UInt8.self)
        guard let message = vllm__grpc__engine__abort_request__unpack(nil, bytes.count, start) else { return nil }
        defer { vllm__grpc__engine__abort_request__free_unpacked(message, nil) }
        return (0..<message.pointee.n_request_ids).compactMap { message.pointee.request_ids[$0].map { String(cString: $0) } }
    }

    static func modelInfo(_ configuration: StubConfiguration) -> [UInt8] {
        guard let response = ProtobufMemory.allocate(Vllm__Grpc__Engine__GetModelInfoResponse.self),
            let architecture = ProtobufMemory.allocate(UnsafeMutablePointer<CChar>?.self)
        else { return [] }
        vllm__grpc__engine__get_model_info_response__init(response)
        response.pointee.model_path = strdup(configuration.model)
        response.pointee.is_generation = 1
        response.pointee.max_context_length = UInt32(clamping: configuration.maximumModelTokens)
        // Token ids are hashes.
        response.pointee.vocab_size = .max
        response.pointee.served_model_name = strdup(configuration.model)
        response.pointee.tokenizer_path = strdup(configuration.model)
        response.pointee.model_type = strdup("llama")
        architecture.pointee = strdup("LlamaForCausalLM")
        response.pointee.architectures = architecture
        response.pointee.n_architectures = 1
        response.pointee.eos_token_ids = ProtobufMemory.array([Int32(bitPattern: Tokeniser.endOfTurn)])
        response.pointee.n_eos_token_ids = 1
        response.pointee.max_req_input_len = Int32(clamping: configuration.maximumModelTokens)
        defer { vllm__grpc__engine__get_model_info_response__free_unpacked(response, nil) }
        return ProtobufMemory.pack(response)
    }

    static func serverInfo(_ host: EngineHost) -> [UInt8] {
        guard let response = ProtobufMemory.allocate(Vllm__Grpc__Engine__GetServerInfoResponse.self) else { return [] }
        vllm__grpc__engine__get_server_info_response__init(response)
        response.pointee.active_requests = UInt32(clamping: host.load)
        response.pointee.is_paused = host.isPaused ? 1 : 0
        response.pointee.uptime_seconds = host.uptimeSeconds
        response.pointee.server_type = strdup("vllm-grpc")
        response.pointee.data_parallel_size = Int32(clamping: host.configuration.dataParallelSize)
        response.pointee.kv_cache_dtype = strdup("auto")
        response.pointee.block_size = Int32(clamping: host.configuration.engine.blockSize)
        response.pointee.model_dtype = strdup("torch.bfloat16")
        response.pointee.max_num_seqs = Int32(clamping: host.configuration.engine.maximumSequences)
        defer { vllm__grpc__engine__get_server_info_response__free_unpacked(response, nil) }
        return ProtobufMemory.pack(response)
    }

    /// One rank: the engine behind this port. A rank that is asked for and is another's changes nothing, as with vLLM.
    static func loads(_ host: EngineHost) -> [UInt8] {
        guard let response = ProtobufMemory.allocate(Vllm__Grpc__Engine__GetLoadsResponse.self),
            let loads = ProtobufMemory.allocate(UnsafeMutablePointer<Vllm__Grpc__Engine__SchedulerLoad>?.self),
            let load = ProtobufMemory.allocate(Vllm__Grpc__Engine__SchedulerLoad.self)
        else { return [] }
        vllm__grpc__engine__scheduler_load__init(load)
        let engine = host.engine
        let configuration = engine.configuration
        let queries = engine.counters.prefixQueryTokens
        load.pointee.dp_rank = Int32(clamping: host.rank)
        load.pointee.num_running_reqs = Int32(clamping: engine.runningCount)
        load.pointee.num_waiting_reqs = Int32(clamping: engine.waitingCount)
        load.pointee.num_total_reqs = Int32(clamping: engine.runningCount + engine.waitingCount)
        load.pointee.num_used_tokens = Int32(clamping: engine.usedBlockCount * configuration.blockSize)
        load.pointee.max_total_num_tokens = Int32(clamping: configuration.blockCount * configuration.blockSize)
        load.pointee.token_usage = engine.cacheUsage
        load.pointee.gen_throughput = host.throughput
        load.pointee.cache_hit_rate = queries == 0 ? 0 : Double(engine.counters.prefixHitTokens) / Double(queries)
        load.pointee.utilization = engine.cacheUsage
        load.pointee.max_running_requests = Int32(clamping: configuration.maximumSequences)
        load.pointee.num_waiting_uncached_tokens = Int32(clamping: engine.unprefilledTokens)
        vllm__grpc__engine__get_loads_response__init(response)
        response.pointee.timestamp = strdup(timestamp(nanoseconds: host.loop.wallClock()))
        response.pointee.version = strdup(EngineHost.version)
        response.pointee.dp_rank_count = 1
        loads.pointee = load
        response.pointee.loads = loads
        response.pointee.n_loads = 1
        defer { vllm__grpc__engine__get_loads_response__free_unpacked(response, nil) }
        return ProtobufMemory.pack(response)
    }

    /// ISO 8601 in UTC, of ns since 1970.
    static func timestamp(nanoseconds: UInt64) -> String {
        var seconds = time_t(nanoseconds / 1_000_000_000)
        var parts = tm()
        gmtime_r(&seconds, &parts)
        func padded(_ value: Int, _ width: Int = 2) -> String {
            let digits = "\(value)"
            return String(repeating: "0", count: max(0, width - digits.count)) + digits
        }
        let date = "\(padded(Int(parts.tm_year) + 1_900, 4))-\(padded(Int(parts.tm_mon) + 1))-\(padded(Int(parts.tm_mday)))"
        let time = "\(padded(Int(parts.tm_hour))):\(padded(Int(parts.tm_min))):\(padded(Int(parts.tm_sec)))"
        return "\(date)T\(time).\(padded(Int(nanoseconds / 1_000 % 1_000_000), 6))+00:00"
    }
}
