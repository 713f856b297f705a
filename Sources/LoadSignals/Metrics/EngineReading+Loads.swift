import Protos
import Wire

extension EngineReading {
    /// Reads the body of an answer to `GetLoads`: a `GetLoadsResponse` in its frame, of vLLM or SGLang (smg-project/smg, vllm_engine.proto and
    /// sglang_scheduler.proto). They agree in the fields that are read, but for the queued tokens, and both are read as SGLang's. Nil: it is
    /// none, or tells of no rank.
    ///
    /// Proto3 has no absent numbers, and servicers fill in what they know: vLLM's of 2026-03 the sequences and the share of the cache, and
    /// nothing but zeros where the engine keeps no statistics (`--disable-log-stats`) or has made no step yet. So a capacity of zero is none, a
    /// busy rank whose cache is empty does not tell of it, and an answer without any figure of load is `isBlank`.
    public init?(loads body: UnsafeRawBufferPointer, engine: EngineKind) {
        var input = body
        var splitter = GRPCMessageSplitter(maximumMessageBytes: body.count)
        guard case .message(let length, isCompressed: false) = splitter.next(&input), length == input.count else { return nil }
        let bytes = input.baseAddress?.assumingMemoryBound(to: UInt8.self)
        guard let message = sglang__grpc__scheduler__get_loads_response__unpack(nil, length, bytes) else { return nil }
        defer { sglang__grpc__scheduler__get_loads_response__free_unpacked(message, nil) }
        let response = message.pointee
        let ranks = (0..<response.n_loads).compactMap { response.loads[$0]?.pointee }
        guard !ranks.isEmpty else { return nil }
        self.init(engine: engine)
        // What only some ranks tell is neither the size of the cache nor its use.
        let tellsUsage = ranks.allSatisfy { $0.cacheUsage != nil }
        let tellsCapacity = ranks.allSatisfy { $0.max_total_num_tokens > 0 } && response.dp_rank_count <= ranks.count
        for rank in ranks {
            let label = rank.label
            add(.running, of: label, Double(rank.num_running_reqs))
            add(.waiting, of: label, Double(rank.num_waiting_reqs))
            if tellsUsage, let usage = rank.cacheUsage { add(.kvUsage, of: label, usage) }
            if tellsCapacity { add(.capacityTokens, of: label, Double(rank.max_total_num_tokens)) }
        }
        isBlank = !ranks.contains(where: \.tellsOfLoad)
        // vLLM's has a field of that name elsewhere, which its servicer leaves empty or fills with an estimate.
        guard engine == .sglang, Self.takesOffHits(sglang: String(cString: response.version)) else { return }
        takesOffHits = true
        for rank in ranks { add(.queuedTokens, of: rank.label, Double(rank.num_waiting_uncached_tokens)) }
    }

    /// Whether SGLang of that version takes what is cached off its queued tokens (see `queuedTokens`). The first release that is
    /// sure to is 0.5.19, of 7 September 2026; a version of it before its release may not.
    static func takesOffHits(sglang version: String) -> Bool {
        let first = [0, 5, 19]
        let parts = version.prefix { $0 != "+" }.split(separator: ".", omittingEmptySubsequences: false)
        let numbers = parts.prefix(3).map { Int($0) ?? -1 }
        return first.lexicographicallyPrecedes(numbers) || numbers == first && !(parts.count > 3 && parts[3].hasPrefix("dev"))
    }
}

extension Sglang__Grpc__Scheduler__SchedulerLoad {
    fileprivate var label: [UInt8] { withUnsafeBytes(of: dp_rank) { Array($0) } }

    /// Share of the rank's cache that its sequences hold, 0...1; nil: not said.
    fileprivate var cacheUsage: Double? {
        if token_usage > 0 { return token_usage <= 1 ? token_usage : nil }
        if num_used_tokens > 0 {
            return num_used_tokens <= max_total_num_tokens ? Double(num_used_tokens) / Double(max_total_num_tokens) : nil
        }
        return token_usage == 0 && num_used_tokens == 0 && num_running_reqs == 0 ? 0 : nil
    }

    /// Whether any figure is there that only an engine's scheduler can have given; limits come from its configuration.
    fileprivate var tellsOfLoad: Bool {
        num_running_reqs > 0 || num_waiting_reqs > 0 || num_total_reqs > 0 || num_used_tokens > 0 || token_usage > 0 || gen_throughput > 0
            || cache_hit_rate > 0
    }
}
