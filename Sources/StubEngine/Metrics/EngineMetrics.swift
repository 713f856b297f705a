import EngineModel

/// What `/metrics` tells of an engine beyond the engine's own counters.
struct EngineMetrics {
    private var createdNanoseconds: UInt64
    private let maximumModelTokens: Int
    private var timeToFirstToken = Histogram(bounds: Histogram.firstToken)
    private var interTokenLatency = Histogram(bounds: Histogram.tokenGaps)
    private var timePerOutputToken = Histogram(bounds: Histogram.tokenGaps)
    private var endToEnd = Histogram(bounds: Histogram.phases)
    private var queueTime = Histogram(bounds: Histogram.phases)
    private var inferenceTime = Histogram(bounds: Histogram.phases)
    private var prefillTime = Histogram(bounds: Histogram.phases)
    private var decodeTime = Histogram(bounds: Histogram.phases)
    private var promptTokens: Histogram
    private var generationTokens: Histogram
    private var computedPromptTokens: Histogram
    private var maximumGenerationTokens: Histogram
    private var stepTokens = Histogram(bounds: Histogram.stepTokens)
    private var preemptions = Histogram(bounds: Histogram.preemptions)
    private var parameterN = Histogram(bounds: Histogram.replies)
    private var parameterMaximumTokens: Histogram
    private var lateness = Histogram(bounds: Histogram.lateness)
    private var tokenLateness = Histogram(bounds: Histogram.lateness)
    private var finishedByStop: UInt64 = 0
    private var finishedByLength: UInt64 = 0
    private var rejectedByRequests: UInt64 = 0
    private var rejectedByTokens: UInt64 = 0
    private let adapters: AdapterMetrics?
    /// The engine's counters at the last reset.
    private var base = EngineCounters()

    init(createdNanoseconds: UInt64, maximumModelTokens: Int, maximumAdapters: Int) {
        self.createdNanoseconds = createdNanoseconds
        self.maximumModelTokens = maximumModelTokens
        let lengths = Histogram(bounds: Histogram.lengths(upTo: maximumModelTokens))
        promptTokens = lengths
        generationTokens = lengths
        computedPromptTokens = lengths
        maximumGenerationTokens = lengths
        parameterMaximumTokens = lengths
        adapters = maximumAdapters > 0 ? AdapterMetrics(maximum: maximumAdapters) : nil
    }

    mutating func stepBegan(tokens: Int) { stepTokens.observe(Double(tokens)) }

    mutating func tokensFollowed(_ count: UInt64, afterNanoseconds gap: UInt64) {
        interTokenLatency.observe(Double(gap) / 1e9, count: count)
    }

    mutating func hostWasLate(nanoseconds: UInt64) { lateness.observe(nanoseconds: nanoseconds) }

    /// So many tokens of a step had left by then, the last of them just now.
    mutating func tokensWritten(_ count: UInt64, lateByNanoseconds late: UInt64) {
        tokenLateness.observe(Double(late) / 1e9, count: count)
    }

    mutating func requestAccepted(n: Int, maximumTokens: Int) {
        parameterN.observe(Double(n))
        parameterMaximumTokens.observe(Double(maximumTokens))
    }

    mutating func requestRejected(forTokens: Bool) {
        if forTokens { rejectedByTokens &+= 1 } else { rejectedByRequests &+= 1 }
    }

    /// vLLM counts a first token when it comes, not when its request ends: their difference is who decodes.
    mutating func firstTokenCame(afterNanoseconds wait: UInt64) { timeToFirstToken.observe(nanoseconds: wait) }

    mutating func sequenceFinished(_ summary: SequenceSummary, endsByStop: Bool) {
        if endsByStop { finishedByStop &+= 1 } else { finishedByLength &+= 1 }
        let decode = summary.endNanoseconds &- summary.firstTokenNanoseconds
        endToEnd.observe(nanoseconds: summary.endNanoseconds &- min(summary.arrivalNanoseconds, summary.endNanoseconds))
        queueTime.observe(nanoseconds: summary.scheduledNanoseconds &- min(summary.arrivalNanoseconds, summary.scheduledNanoseconds))
        inferenceTime.observe(nanoseconds: summary.endNanoseconds &- summary.scheduledNanoseconds)
        prefillTime.observe(nanoseconds: summary.firstTokenNanoseconds &- summary.scheduledNanoseconds)
        decodeTime.observe(nanoseconds: decode)
        if summary.outputTokens > 1 { timePerOutputToken.observe(Double(decode) / 1e9 / Double(summary.outputTokens - 1)) }
        promptTokens.observe(Double(summary.promptTokens))
        generationTokens.observe(Double(summary.outputTokens))
        maximumGenerationTokens.observe(Double(summary.outputTokens))
        computedPromptTokens.observe(Double(summary.promptTokens - summary.cachedTokens))
        preemptions.observe(Double(summary.preemptions))
    }

    /// Adapters that run or wait, from now on.
    func adaptersChanged(running: [String], waiting: [String], nowNanoseconds: UInt64) {
        adapters?.changed(running: running, waiting: waiting, nowNanoseconds: nowNanoseconds)
    }

    /// Everything begins again at zero, as after a restart of the engine.
    mutating func reset(counters: EngineCounters, nowNanoseconds: UInt64) {
        self = EngineMetrics(
            createdNanoseconds: nowNanoseconds, maximumModelTokens: maximumModelTokens, maximumAdapters: adapters?.maximum ?? 0)
        base = counters
    }

    func write(of host: EngineHost, to text: inout MetricsText) {
        writeGauges(of: host, to: &text)
        writeCounters(of: host.engine.counters, to: &text)
        writeHistograms(to: &text)
        // The one family of an engine that does not name its model.
        let labels = Self.cacheLabels(host.engine.configuration) + [("engine", "\(host.rank)")]
        text.gauge("vllm:cache_config_info", "The configuration of the KV cache.", [(labels, 1)], of: .process)
        if let adapters {
            text.gauge("vllm:lora_requests_info", "When a combination of adapters was last seen.", adapters.samples, of: .process)
        }
    }

    /// When this engine's counters began, Unix ns.
    var beginNanoseconds: UInt64 { createdNanoseconds }

    private func writeGauges(of host: EngineHost, to text: inout MetricsText) {
        let engine = host.engine
        let waiting = Double(engine.waitingCount)
        text.gauge("vllm:num_requests_running", "Requests in the batch.", Double(engine.runningCount))
        text.gauge("vllm:num_requests_waiting", "Requests that wait for a place in the batch.", waiting)
        text.gauge(
            "vllm:num_requests_waiting_by_reason", "Waiting requests by what they wait for.",
            [([("reason", "capacity")], waiting), ([("reason", "deferred")], 0)])
        text.gauge(
            "vllm:engine_sleep_state", "Whether the engine is awake or how it sleeps.",
            ["awake", "weights_offloaded", "discard_all"].map { ([("sleep_state", $0)], $0 == host.sleepState ? 1 : 0) })
        text.gauge("vllm:kv_cache_usage_perc", "KV blocks in use, 0 to 1.", engine.cacheUsage)
        text.gauge(
            "stub:startup_seconds", "Time from the start until the port opened: the model's load.",
            Double(host.configuration.startupNanoseconds) / 1e9)
    }

    private func writeCounters(of counters: EngineCounters, to text: inout MetricsText) {
        let queries = counters.prefixQueryTokens &- base.prefixQueryTokens
        let hits = counters.prefixHitTokens &- base.prefixHitTokens
        let prefilled = counters.promptTokens &- base.promptTokens
        let prefilledHits = counters.promptHitTokens &- base.promptHitTokens
        text.counter("vllm:estimated_flops_per_gpu", "Floating point operations per GPU; not estimated.", 0)
        text.counter("vllm:estimated_read_bytes_per_gpu", "Bytes read per GPU; not estimated.", 0)
        text.counter("vllm:estimated_write_bytes_per_gpu", "Bytes written per GPU; not estimated.", 0)
        text.counter("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", queries)
        text.counter("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache.", hits)
        text.counter("vllm:external_prefix_cache_queries", "Prompt tokens looked up in other engines' caches.", 0)
        text.counter("vllm:external_prefix_cache_hits", "Prompt tokens found in other engines' caches.", 0)
        text.counter("vllm:mm_cache_queries", "Items looked up in the multi-modal cache.", 0)
        text.counter("vllm:mm_cache_hits", "Items found in the multi-modal cache.", 0)
        text.counter("vllm:num_preemptions", "Sequences that lost their blocks.", counters.preemptions &- base.preemptions)
        text.counter("vllm:prompt_tokens", "Prompt tokens of requests that were prefilled.", prefilled)
        text.counter(
            "vllm:prompt_tokens_by_source", "Prompt tokens by where they came from.",
            [
                ([("source", "local_compute")], Double(prefilled &- min(prefilledHits, prefilled))),
                ([("source", "local_cache_hit")], Double(prefilledHits)),
                ([("source", "external_kv_transfer")], 0),
            ])
        text.counter("vllm:prompt_tokens_cached", "Prompt tokens that came from a cache.", prefilledHits)
        text.counter(
            "vllm:prompt_tokens_cached_by_source", "Prompt tokens that came from a cache, by its tier.",
            ["device", "host", "p2p", "disk", "external_unspecified"].map { ([("source", $0)], $0 == "device" ? Double(prefilledHits) : 0) }
        )
        text.counter("vllm:generation_tokens", "Tokens generated.", counters.generatedTokens &- base.generatedTokens)
        // vLLM counts no aborts here either; the stub has a counter of its own below.
        let reasons = [("stop", finishedByStop), ("length", finishedByLength), ("abort", 0), ("error", 0), ("repetition", 0)]
        text.counter(
            "vllm:request_success", "Requests that ended, by reason.", reasons.map { ([("finished_reason", $0.0)], Double($0.1)) })
        text.counter(
            "vllm:admission_rejections", "Requests refused because the queue was full, by limit.",
            [
                ([("reason", "max_num_queued_reqs")], Double(rejectedByRequests)),
                ([("reason", "max_num_queued_tokens")], Double(rejectedByTokens)),
            ], of: .model)
        text.counter("stub:sequences_aborted", "Sequences whose client went away before their end.", counters.aborted &- base.aborted)
        text.counter("stub:steps", "Steps of the engine.", counters.steps &- base.steps)
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
            "vllm:request_max_num_generation_tokens", "Tokens of the longest reply to a request.", maximumGenerationTokens)
        text.histogram(
            "vllm:request_prefill_kv_computed_tokens", "Prompt tokens of a request that were computed.", computedPromptTokens)
        text.histogram("vllm:request_num_preemptions", "How often a request was preempted.", preemptions)
        text.histogram("vllm:request_params_n", "The parameter n of a request.", parameterN)
        text.histogram("vllm:request_params_max_tokens", "The parameter max_tokens of a request.", parameterMaximumTokens)
        text.histogram("stub:step_lateness_seconds", "How late the stub was for the end of a step.", lateness)
        text.histogram(
            "stub:token_lateness_seconds", "Per token, how long after the end of its step it had been written.", tokenLateness)
    }
}

/// The samples of `vllm:lora_requests_info`, whose value is the time when a combination was seen last.
final class AdapterMetrics {
    let maximum: Int
    private var lastSeen: [(running: String, waiting: String, seconds: Double)] = []

    init(maximum: Int) { self.maximum = maximum }

    func changed(running: [String], waiting: [String], nowNanoseconds: UInt64) {
        let running = running.joined(separator: ",")
        let waiting = waiting.joined(separator: ",")
        let seconds = Double(nowNanoseconds) / 1e9
        if let index = lastSeen.firstIndex(where: { $0.running == running && $0.waiting == waiting }) {
            lastSeen[index].seconds = seconds
        } else if lastSeen.count < StubLimits.adapterCombinations {
            lastSeen.append((running, waiting, seconds))
        }
    }

    var samples: [MetricsText.Sample] {
        lastSeen.map { seen in
            (
                [("max_lora", "\(maximum)"), ("running_lora_adapters", seen.running), ("waiting_lora_adapters", seen.waiting)],
                seen.seconds
            )
        }
    }
}
