import Wire

/// The engines whose metrics are understood.
public enum EngineKind: String, Sendable {
    case vllm, sglang
    case tensorRT = "tensorrt-llm"
    case triton
    case llamaCpp = "llama.cpp"
}

/// A family of metrics that tells something of an engine's load.
struct EngineFamily {
    enum Signal: UInt8 {
        case running, waiting, kvUsage, promptTokens, generationTokens, prefixQueries, prefixHits, preemptions
        /// vLLM: see `FirstTokenBacklog`. Of prompt tokens by source those that were found in the engine's own cache count.
        case firstTokens, ended, promptTokensBySource, foundPromptTokens
        /// SGLang's `/v1/loads`: uncached tokens of prompts that wait, or whose prefill goes on in chunks; and what shows that it discounts hits.
        case queuedTokens, readyTokens
        /// The KV cache in its labels: vLLM's and SGLang's `cache_config_info`.
        case cacheLabels
        /// The KV cache in gauges.
        case capacityTokens, blockTokens, blockCount
        /// Longest sequences that the KV cache holds at once.
        case longestSequences
        /// vLLM: adapters as labels, and as value the time when they were last seen.
        case adapters
        case sleepState
        /// Triton: what it is stands in a label.
        case tritonRequests, tritonBlocks
    }

    var engine: EngineKind
    var signal: Signal

    /// Nil for all that is of no use here, which is most of what an engine says.
    init?(_ name: UnsafeRawBufferPointer) {
        guard name.count > 7 else { return nil }
        let found: (EngineKind, Signal?)
        switch name[0] {
        case UInt8(ascii: "v") where name.starts(with: "vllm:"): found = (.vllm, Self.vllm(name.dropping(5)))
        case UInt8(ascii: "s") where name.starts(with: "sglang:") || name.starts(with: "sglang_"):
            // Exporters that may not use colons say `sglang_`.
            found = (.sglang, Self.sglang(name.dropping(7)))
        case UInt8(ascii: "t") where name.starts(with: "trtllm_"): found = (.tensorRT, Self.tensorRT(name.dropping(7)))
        case UInt8(ascii: "n") where name.starts(with: "nv_trt_llm_"): found = (.triton, Self.triton(name.dropping(11)))
        case UInt8(ascii: "l") where name.starts(with: "llamacpp:"): found = (.llamaCpp, Self.llamaCpp(name.dropping(9)))
        default: return nil
        }
        guard let signal = found.1 else { return nil }
        (engine, self.signal) = (found.0, signal)
    }

    private static func vllm(_ name: UnsafeRawBufferPointer) -> Signal? {
        // Nine of ten lines are `_bucket` or `_count` of a histogram, and no other family of use ends like them.
        if name[name.count - 1] == UInt8(ascii: "t") { return name.equals("time_to_first_token_seconds_count") ? .firstTokens : nil }
        if name.equals("num_requests_running") { return .running }
        if name.equals("num_requests_waiting") { return .waiting }
        if name.equals("kv_cache_usage_perc") || name.equals("gpu_cache_usage_perc") { return .kvUsage }
        if name.equals("cache_config_info") { return .cacheLabels }
        if name.equals("prompt_tokens_total") { return .promptTokens }
        if name.equals("generation_tokens_total") { return .generationTokens }
        if name.equals("prefix_cache_queries_total") || name.equals("gpu_prefix_cache_queries_total") { return .prefixQueries }
        if name.equals("prefix_cache_hits_total") || name.equals("gpu_prefix_cache_hits_total") { return .prefixHits }
        if name.equals("num_preemptions_total") { return .preemptions }
        if name.equals("request_success_total") { return .ended }
        if name.equals("prompt_tokens_by_source_total") { return .promptTokensBySource }
        if name.equals("lora_requests_info") { return .adapters }
        if name.equals("engine_sleep_state") { return .sleepState }
        return nil
    }

    private static func sglang(_ name: UnsafeRawBufferPointer) -> Signal? {
        if name.equals("num_running_reqs") { return .running }
        // The latter in `/v1/loads`.
        if name.equals("num_queue_reqs") || name.equals("num_waiting_reqs") { return .waiting }
        if name.equals("num_waiting_uncached_tokens") { return .queuedTokens }
        if name.equals("num_prealloc_ready_tokens") { return .readyTokens }
        if name.equals("token_usage") { return .kvUsage }
        if name.equals("cache_config_info") { return .cacheLabels }
        if name.equals("max_total_num_tokens") { return .capacityTokens }
        if name.equals("page_size") { return .blockTokens }
        if name.equals("num_pages") { return .blockCount }
        if name.equals("prompt_tokens_total") { return .promptTokens }
        if name.equals("generation_tokens_total") { return .generationTokens }
        if name.equals("cached_tokens_total") { return .prefixHits }
        return nil
    }

    private static func tensorRT(_ name: UnsafeRawBufferPointer) -> Signal? {
        if name.equals("num_requests_running") { return .running }
        if name.equals("num_requests_waiting") { return .waiting }
        if name.equals("kv_cache_utilization") { return .kvUsage }
        if name.equals("kv_cache_tokens_per_block") { return .blockTokens }
        if name.equals("kv_cache_max_blocks") { return .blockCount }
        return nil
    }

    private static func triton(_ name: UnsafeRawBufferPointer) -> Signal? {
        if name.equals("request_metrics") { return .tritonRequests }
        if name.equals("kv_cache_block_metrics") { return .tritonBlocks }
        return nil
    }

    private static func llamaCpp(_ name: UnsafeRawBufferPointer) -> Signal? {
        if name.equals("requests_processing") { return .running }
        if name.equals("requests_deferred") { return .waiting }
        if name.equals("kv_cache_usage_ratio") { return .kvUsage }
        if name.equals("prompt_tokens_total") { return .promptTokens }
        if name.equals("tokens_predicted_total") { return .generationTokens }
        if name.equals("prompt_tokens_cached_total") { return .prefixHits }
        return nil
    }
}

extension UnsafeRawBufferPointer {
    fileprivate func dropping(_ count: Int) -> UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: self[count...]) }
}
