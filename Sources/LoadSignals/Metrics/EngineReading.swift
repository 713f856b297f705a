import Wire

/// What one `/metrics`, or one `GetLoads`, said of an engine, added up over its data-parallel ranks.
public struct EngineReading {
    /// LoRA adapters as vLLM names them.
    public struct Adapters: Equatable {
        public var running: [String]
        public var waiting: [String]
        /// How many fit into the GPU's slots at once; 0: it does not say.
        public var limit: Int
    }

    private struct Series: Hashable {
        var signal: EngineFamily.Signal
        var labels: [UInt8]

        /// An array would hash its bytes one by one: 1,300 of the cache's labels alone.
        func hash(into hasher: inout Hasher) {
            hasher.combine(signal)
            labels.withUnsafeBytes { hasher.combine(bytes: $0) }
        }
    }

    /// Series of all families together; an engine of 64 ranks has a thousand. What is beyond is passed over.
    static let mostSeries = 4_096
    /// Names of adapters in one sample, and bytes of one.
    static let mostAdapters = 64
    static let longestAdapterName = 256
    /// Tokens that a KV cache may hold, for what is more than any machine has is a mistake.
    static let mostCapacity = 1e12

    public private(set) var engine: EngineKind?
    public private(set) var isAsleep = false
    /// It has no figure of load but zeros, and says as much when it knows none: see `init(loads:engine:)`.
    public internal(set) var isBlank = false
    /// See `queuedTokens`.
    var takesOffHits = false
    public private(set) var adapters: Adapters?
    private var adaptersSeenAt = -Double.infinity
    /// A series that comes again counts once, as it was last: gauges of several ranks add up, and repetitions do not.
    private var series: [Series: Double] = [:]
    private var totals: [EngineFamily.Signal: (sum: Double, count: Double)] = [:]

    public init(engine: EngineKind? = nil) { self.engine = engine }

    mutating func take(_ family: EngineFamily, _ labels: SampleLabels, _ value: Double) {
        guard !Self.isPart(labels) else { return }
        engine = engine ?? family.engine
        switch family.signal {
        case .adapters: takeAdapters(labels, seenAt: value)
        case .sleepState: if labels.value("sleep_state")?.equals("awake") ?? false, value == 0 { isAsleep = true }
        case .cacheLabels: takeCache(labels)
        case .promptTokensBySource:
            if labels.value("source")?.equals("local_cache_hit") ?? false { add(.foundPromptTokens, labels, value) }
        case .tritonRequests: takeTritonRequests(labels, value)
        case .tritonBlocks: takeTritonBlocks(labels, value)
        default: add(family.signal, labels, value)
        }
    }

    /// A sample that others sum up, or that repeats what another rank of the same engine says: SGLang's by priority, and those
    /// of tensor- and pipeline-parallel ranks but the first.
    private static func isPart(_ labels: SampleLabels) -> Bool {
        if let priority = labels.value("priority"), priority.count > 0 { return true }
        if let rank = labels.value("tp_rank"), !rank.equals("0") { return true }
        if let rank = labels.value("pp_rank"), !rank.equals("0") { return true }
        return false
    }

    private mutating func add(_ signal: EngineFamily.Signal, _ labels: SampleLabels, _ value: Double) {
        add(signal, of: Array(labels.text), value)
    }

    /// - Parameter labels: tell the series of one signal apart.
    mutating func add(_ signal: EngineFamily.Signal, of labels: [UInt8], _ value: Double) {
        guard value.isFinite, value >= 0 else { return }
        let key = Series(signal: signal, labels: labels)
        let old = series[key]
        guard old != nil || series.count < Self.mostSeries else { return }
        series[key] = value
        let total = totals[signal] ?? (0, 0)
        // What comes again may have been so much before that the others are lost in it.
        totals[signal] = (max(total.sum + value - (old ?? 0), 0), total.count + (old == nil ? 1 : 0))
    }

    /// vLLM: `kv_cache_size_tokens` of each rank, or else `block_size` × `num_gpu_blocks`, which is the sum over the ranks already.
    private mutating func takeCache(_ labels: SampleLabels) {
        func number(_ name: StaticString) -> Double? { labels.value(name)?.decimalValue.map(Double.init) }
        if let tokens = number("kv_cache_size_tokens") { add(.capacityTokens, labels, tokens) }
        if let count = labels.value("kv_cache_max_concurrency")?.decimalNumber { add(.longestSequences, labels, count) }
        if let size = number("block_size") ?? number("page_size"), let count = number("num_gpu_blocks") ?? number("num_pages") {
            add(.blockTokens, labels, size)
            add(.blockCount, labels, count)
        }
    }

    private mutating func takeTritonRequests(_ labels: SampleLabels, _ value: Double) {
        guard let kind = labels.value("request_type") else { return }
        if kind.equals("waiting") { add(.waiting, labels, value) }
        if kind.equals("scheduled") { add(.running, labels, value) }
    }

    private mutating func takeTritonBlocks(_ labels: SampleLabels, _ value: Double) {
        guard let kind = labels.value("kv_cache_block_type") else { return }
        if kind.equals("fraction") { add(.kvUsage, labels, value) }
        if kind.equals("tokens_per") { add(.blockTokens, labels, value) }
        if kind.equals("max") { add(.blockCount, labels, value) }
    }

    /// vLLM keeps a sample for every combination that there ever was; the one seen last is true.
    private mutating func takeAdapters(_ labels: SampleLabels, seenAt time: Double) {
        guard time.isFinite, time > adaptersSeenAt else { return }
        adaptersSeenAt = time
        adapters = Adapters(
            running: Self.names(labels.string("running_lora_adapters")), waiting: Self.names(labels.string("waiting_lora_adapters")),
            limit: min(labels.value("max_lora")?.decimalValue ?? 0, 1 << 20))
    }

    private static func names(_ list: String?) -> [String] {
        (list ?? "").split(separator: ",").prefix(mostAdapters).map { String($0.trimmingBlanks) }
            .filter { !$0.isEmpty && $0.utf8.count <= longestAdapterName }
    }

    // MARK: What it comes to

    private func sum(_ signal: EngineFamily.Signal) -> Double? { totals[signal]?.sum }
    private func mean(_ signal: EngineFamily.Signal) -> Double? { totals[signal].map { $0.sum / $0.count } }

    public var running: Double? { sum(.running) }
    public var waiting: Double? { sum(.waiting) }
    /// Ranks have caches of one size, so the mean is the share of all.
    public var kvUsage: Double? { mean(.kvUsage) }
    var hasLoad: Bool { running != nil || waiting != nil || kvUsage != nil }
    /// SGLang has told them since #27174, of 3 June 2026, and counted cached tokens in as well where its scheduler does not look for them, by
    /// default. Since #35248, of 18 August, it takes off there what it has found in the cache of late; an answer that tells of `num_prealloc_ready_tokens`
    /// (#38065, of 4 September) is of a later one, and one over gRPC, which has no such figure, says its version.
    public var queuedTokens: Double? { takesOffHits || sum(.readyTokens) != nil ? sum(.queuedTokens) : nil }
    var isBusy: Bool { (running ?? 0) + (waiting ?? 0) > 0 }

    /// Tokens that the KV caches of all ranks hold.
    public var capacityTokens: Int? {
        let blocks = mean(.blockTokens).flatMap { size in mean(.blockCount).map { size * $0 } }
        guard let tokens = sum(.capacityTokens) ?? blocks, tokens >= 1, tokens <= Self.mostCapacity else { return nil }
        return Int(tokens)
    }

    public var prefixHits: Double? { sum(.prefixHits) }
    /// Engines that count no lookups look up every prompt token; llama.cpp counts as prompt tokens only those that it had to compute.
    public var prefixQueries: Double? {
        if let queries = sum(.prefixQueries) { return queries }
        guard let hits = prefixHits, let prompt = sum(.promptTokens) else { return nil }
        return engine == .llamaCpp ? prompt + hits : prompt
    }
    public var preemptions: Double? { sum(.preemptions) }

    /// Nil: this engine does not tell what is being prefilled.
    package var backlogCounts: FirstTokenBacklog.Counts? {
        guard let running, let waiting, let firstTokens = sum(.firstTokens), let ended = sum(.ended) else { return nil }
        // Ranks have caches of one size, and the longest sequence fits into one of them.
        let rankCapacity = mean(.capacityTokens) ?? capacityTokens.map(Double.init)
        let longestPrompt = rankCapacity.map { $0 / max(mean(.longestSequences) ?? 1, 1) }
        var tokens: FirstTokenBacklog.Tokens?
        // An engine that looked nothing up of what it prefilled has no prefix cache.
        if let lookedUp = sum(.prefixQueries), let prefilled = sum(.promptTokens), lookedUp > 0 || prefilled == 0 {
            tokens = FirstTokenBacklog.Tokens(
                lookedUp: lookedUp, found: sum(.prefixHits) ?? 0, prefilled: prefilled, prefilledFound: sum(.foundPromptTokens))
        }
        return FirstTokenBacklog.Counts(
            running: running, waiting: waiting, firstTokens: firstTokens, ended: ended, preemptions: sum(.preemptions) ?? 0, tokens: tokens,
            kvUsage: kvUsage, longestPrompt: longestPrompt, ranks: totals[.running]?.count ?? 1)
    }

    /// Tokens that it has worked on since it began: a count that moves whenever a busy engine does anything.
    public var progress: Double? {
        guard let generation = sum(.generationTokens) else { return nil }
        return generation + (sum(.promptTokens) ?? 0)
    }
}

extension Substring {
    fileprivate var trimmingBlanks: Substring {
        var text = self
        while text.first == " " { text.removeFirst() }
        while text.last == " " { text.removeLast() }
        return text
    }
}
