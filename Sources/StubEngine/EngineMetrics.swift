import EngineModel

/// What `/metrics` tells beyond the engine's own counters.
struct EngineMetrics {
    private let createdNanoseconds: UInt64
    private var timeToFirstToken = Histogram(bounds: Histogram.firstToken)
    private var interTokenLatency = Histogram(bounds: Histogram.tokenGaps)
    private var timePerOutputToken = Histogram(bounds: Histogram.tokenGaps)
    private var endToEnd = Histogram(bounds: Histogram.phases)
    private var queueTime = Histogram(bounds: Histogram.phases)
    private var inferenceTime = Histogram(bounds: Histogram.phases)
    private var prefillTime = Histogram(bounds: Histogram.phases)
    private var decodeTime = Histogram(bounds: Histogram.phases)
    private var promptTokens = Histogram(bounds: Histogram.lengths)
    private var generationTokens = Histogram(bounds: Histogram.lengths)
    private var computedPromptTokens = Histogram(bounds: Histogram.lengths)
    private var stepTokens = Histogram(bounds: Histogram.stepTokens)
    private var preemptions = Histogram(bounds: Histogram.preemptions)
    private var parameterN = Histogram(bounds: Histogram.replies)
    private var parameterMaximumTokens = Histogram(bounds: Histogram.lengths)

    init(createdNanoseconds: UInt64) { self.createdNanoseconds = createdNanoseconds }

    mutating func stepBegan(tokens: Int) { stepTokens.observe(Double(tokens)) }

    mutating func tokenFollowed(afterNanoseconds gap: UInt64) { interTokenLatency.observe(nanoseconds: gap) }

    mutating func requestAccepted(n: Int, maximumTokens: Int) {
        parameterN.observe(Double(n))
        parameterMaximumTokens.observe(Double(maximumTokens))
    }

    mutating func sequenceFinished(_ summary: SequenceSummary) {
        let decode = summary.endNanoseconds &- summary.firstTokenNanoseconds
        timeToFirstToken.observe(
            nanoseconds: summary.firstTokenNanoseconds &- min(summary.arrivalNanoseconds, summary.firstTokenNanoseconds))
        endToEnd.observe(nanoseconds: summary.endNanoseconds &- min(summary.arrivalNanoseconds, summary.endNanoseconds))
        queueTime.observe(nanoseconds: summary.scheduledNanoseconds &- min(summary.arrivalNanoseconds, summary.scheduledNanoseconds))
        inferenceTime.observe(nanoseconds: summary.endNanoseconds &- summary.scheduledNanoseconds)
        prefillTime.observe(nanoseconds: summary.firstTokenNanoseconds &- summary.scheduledNanoseconds)
        decodeTime.observe(nanoseconds: decode)
        if summary.outputTokens > 1 { timePerOutputToken.observe(Double(decode) / 1e9 / Double(summary.outputTokens - 1)) }
        promptTokens.observe(Double(summary.promptTokens))
        generationTokens.observe(Double(summary.outputTokens))
        computedPromptTokens.observe(Double(summary.promptTokens - summary.cachedTokens))
        preemptions.observe(Double(summary.preemptions))
    }

    /// The whole of `/metrics`.
    func text(of engine: Engine, model: String) -> String {
        var text = MetricsText(model: model, createdNanoseconds: createdNanoseconds)
        writeGauges(of: engine, to: &text)
        writeCounters(of: engine.counters, to: &text)
        writeHistograms(to: &text)
        return text.text
    }

    private func writeGauges(of engine: Engine, to text: inout MetricsText) {
        let waiting = Double(engine.waitingCount)
        text.gauge("vllm:num_requests_running", "Requests in the batch.", Double(engine.runningCount))
        text.gauge("vllm:num_requests_waiting", "Requests that wait for a place in the batch.", waiting)
        text.gauge(
            "vllm:num_requests_waiting_by_reason", "Waiting requests by what they wait for.",
            [([("reason", "capacity")], waiting), ([("reason", "deferred")], 0)])
        text.gauge(
            "vllm:engine_sleep_state", "Whether the engine is awake or how it sleeps.",
            [
                ([("sleep_state", "awake")], 1), ([("sleep_state", "weights_offloaded")], 0),
                ([("sleep_state", "discard_all")], 0),
            ])
        text.gauge("vllm:kv_cache_usage_perc", "KV blocks in use, 0 to 1.", engine.cacheUsage)
        let configuration = engine.configuration
        text.gauge(
            "vllm:cache_config_info", "The configuration of the KV cache.",
            [
                (
                    [
                        ("block_size", "\(configuration.blockSize)"), ("cache_dtype", "auto"), ("enable_prefix_caching", "True"),
                        ("kv_cache_size_tokens", "\(configuration.blockCount * configuration.blockSize)"),
                        ("num_cpu_blocks", "None"), ("num_gpu_blocks", "\(configuration.blockCount)"),
                        ("num_gpu_blocks_override", "None"), ("prefix_caching_hash_algo", "xxh3"), ("sliding_window", "None"),
                    ], 1
                )
            ])
    }

    private func writeCounters(of counters: EngineCounters, to text: inout MetricsText) {
        let hits = Double(counters.prefixHitTokens)
        text.counter("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", counters.prefixQueryTokens)
        text.counter("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache.", counters.prefixHitTokens)
        text.counter("vllm:num_preemptions", "Sequences that lost their blocks.", counters.preemptions)
        text.counter("vllm:prompt_tokens", "Prompt tokens of requests that were prefilled.", counters.promptTokens)
        text.counter(
            "vllm:prompt_tokens_by_source", "Prompt tokens by where they came from.",
            [
                ([("source", "local_compute")], Double(counters.prefixQueryTokens) - hits),
                ([("source", "local_cache_hit")], hits), ([("source", "external_kv_transfer")], 0),
            ])
        text.counter("vllm:prompt_tokens_cached", "Prompt tokens that came from a cache.", counters.prefixHitTokens)
        text.counter("vllm:generation_tokens", "Tokens generated.", counters.generatedTokens)
        // vLLM counts no aborts here either; the stub has a counter of its own below.
        text.counter(
            "vllm:request_success", "Requests that ended, by reason.",
            [
                ([("finished_reason", "stop")], Double(counters.finishedByStop)),
                ([("finished_reason", "length")], Double(counters.finishedByLength)), ([("finished_reason", "abort")], 0),
                ([("finished_reason", "error")], 0), ([("finished_reason", "repetition")], 0),
            ])
        text.counter(
            "vllm:admission_rejections", "Requests refused because the queue was full, by limit.",
            [([("reason", "max_num_queued_reqs")], 0), ([("reason", "max_num_queued_tokens")], 0)], hasEngineLabel: false)
        text.counter("stub:sequences_aborted", "Sequences whose client went away before their end.", counters.aborted)
        text.counter("stub:steps", "Steps of the engine.", counters.steps)
    }

    private func writeHistograms(to text: inout MetricsText) {
        text.histogram("vllm:time_to_first_token_seconds", "Time from arrival to the first token.", timeToFirstToken)
        text.histogram("vllm:inter_token_latency_seconds", "Time between two tokens of a sequence.", interTokenLatency)
        text.histogram(
            "vllm:request_time_per_output_token_seconds", "Mean time between the tokens of a sequence.", timePerOutputToken)
        text.histogram("vllm:e2e_request_latency_seconds", "Time from arrival to the last token.", endToEnd)
        text.histogram("vllm:request_queue_time_seconds", "Time until the first step that computed a token.", queueTime)
        text.histogram("vllm:request_inference_time_seconds", "Time in the batch.", inferenceTime)
        text.histogram("vllm:request_prefill_time_seconds", "Time from the first step to the first token.", prefillTime)
        text.histogram("vllm:request_decode_time_seconds", "Time from the first token to the last.", decodeTime)
        text.histogram("vllm:iteration_tokens_total", "Tokens that one step computed.", stepTokens)
        text.histogram("vllm:request_prompt_tokens", "Prompt tokens of a request.", promptTokens)
        text.histogram("vllm:request_generation_tokens", "Tokens generated for a request.", generationTokens)
        text.histogram(
            "vllm:request_prefill_kv_computed_tokens", "Prompt tokens of a request that were computed.", computedPromptTokens)
        text.histogram("vllm:request_num_preemptions", "How often a request was preempted.", preemptions)
        text.histogram("vllm:request_params_n", "The parameter n of a request.", parameterN)
        text.histogram("vllm:request_params_max_tokens", "The parameter max_tokens of a request.", parameterMaximumTokens)
    }
}
