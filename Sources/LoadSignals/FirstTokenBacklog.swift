/// How many of an engine's requests have no first token yet, those that are being prefilled in the batch among them, and how many
/// prompt tokens these make it compute: what vLLM's `/metrics` tells only between its lines.
///
/// vLLM counts a first token when it comes (`time_to_first_token_seconds_count`, `prompt_tokens_total` and its sources: `IterationStats`),
/// an end when it comes (`request_success_total`), and a look-up in the prefix cache when a sequence is scheduled
/// (`prefix_cache_queries_total`, `_hits_total`: `KVCacheManager`). All these and its gauges are set together, once per step. So
///
///     requests without a first token = running + waiting − (first tokens − ends)                     + drift
///     uncached tokens of those in the batch = looked up and not found − computed up to first tokens + drift
///
/// Drift is what the router did not see begin, and what vLLM does not count: an abort (counted nowhere) lowers the first for good when
/// it comes after the first token, and raises the second when it comes before; so does a sequence for whose blocks there is no room, which
/// is looked up again at every attempt. Drift is known exactly whenever nobody is there, and is at most what is left when everybody awaits who
/// surely does, so it is the lowest of late.
///
/// Pure: no clock, no I/O.
struct FirstTokenBacklog {
    /// What one reading says, over all ranks of the engine.
    struct Counts {
        var running: Double
        var waiting: Double
        var firstTokens: Double
        /// Requests that ended, for whatever reason but an abort.
        var ended: Double
        var preemptions = 0.0
        /// Nil: nothing is looked up, the engine has no prefix cache.
        var tokens: Tokens?
        /// Share of the KV cache in use, 0...1.
        var kvUsage: Double?
        /// The longest sequence, or whatever else bounds the tokens of one.
        var longestPrompt: Double?
    }

    /// Prompt tokens.
    struct Tokens {
        var lookedUp: Double
        var found: Double
        /// Of requests that have their first token.
        var prefilled: Double
        /// Those of them that were found in the cache; nil: not told (vLLM before `prompt_tokens_by_source_total`).
        var prefilledFound: Double?
    }

    struct Estimate: Equatable {
        /// Requests without a first token, at least those that wait: who was preempted is to be prefilled again.
        var awaiting: Double
        /// Uncached prompt tokens of those of them that are in the batch; nil: the engine does not tell.
        var prefillTokens: Double?
    }

    /// A cache so full that a sequence which waits may be one that finds no room: of an engine that is known to look such a one up again at
    /// every attempt, and of one that is not known. vLLM may admit only what fits as a whole.
    static let crowdedUsage = (ofRepeater: 0.5, ofUnknown: 0.9)

    private var last: Counts?
    private var drift = LowestOfLate()
    private var tokenDrift = LowestOfLate()
    /// Of those preempted up to this count nobody waits any more; later ones may, with a first token.
    private var settledPreemptions = 0.0
    /// Since the batch was last without a prefill, there may have been no room for a sequence.
    private var wasCrowded = false
    /// Whether the engine looks a sequence up again when there was no room for it (vLLM before it recorded look-ups at admission); nil: not seen.
    private var repeatsLookups: Bool?
    /// Uncached prompt tokens of requests with a first token, when the batch was last without a prefill.
    private var settledTokens: Double?
    private var uncachedPerRequest = RecentRatio(weight: 256)
    private var foundPerLookup = RecentRatio(weight: 1_000_000)

    init() {}

    mutating func observe(_ counts: Counts, at now: UInt64) -> Estimate {
        if let last, counts.firstTokens < last.firstTokens || counts.ended < last.ended { self = FirstTokenBacklog() }
        settlePreemptions(counts)
        defer { last = counts }

        let excess = counts.running + counts.waiting - (counts.firstTokens - counts.ended)
        let preemptedWaiting = min(counts.preemptions - settledPreemptions, counts.waiting)
        if counts.running + counts.waiting == 0 {
            drift.restart(with: excess, at: now)
        } else {
            drift.take(excess - (counts.waiting - preemptedWaiting), at: now)
        }
        let awaiting = min(max(excess - drift.lowest, counts.waiting), counts.running + counts.waiting)
        let inBatch = awaiting - counts.waiting
        return Estimate(
            awaiting: awaiting,
            prefillTokens: prefillTokens(
                counts, inBatch: inBatch,
                isCertainOfNone: inBatch == 0 && (preemptedWaiting == 0 || counts.preemptions == last?.preemptions), at: now))
    }

    /// Who is preempted goes to the head of the queue: nobody is still there who was when a sequence came from it for the first time.
    private mutating func settlePreemptions(_ counts: Counts) {
        if last == nil || counts.waiting == 0 || counts.preemptions < settledPreemptions { settledPreemptions = counts.preemptions }
        guard let last, let before = last.tokens, let tokens = counts.tokens, tokens.lookedUp > before.lookedUp else { return }
        settledPreemptions = max(settledPreemptions, last.preemptions)
    }

    private mutating func prefillTokens(_ counts: Counts, inBatch: Double, isCertainOfNone: Bool, at now: UInt64) -> Double? {
        guard let tokens = counts.tokens else { return nil }
        let before = last?.tokens
        foundPerLookup.take(tokens.found - (before?.found ?? 0), per: tokens.lookedUp - (before?.lookedUp ?? 0))
        let uncachedShare = tokens.prefilledFound == nil ? 1 - min(foundPerLookup.value ?? 0, 1) : 1
        let computed = { (tokens: Tokens) in (tokens.prefilled - (tokens.prefilledFound ?? 0)) * uncachedShare }
        uncachedPerRequest.take(computed(tokens) - (before.map(computed) ?? 0), per: counts.firstTokens - (last?.firstTokens ?? 0))

        let missing =
            tokens.prefilledFound.map { (tokens.lookedUp - tokens.found) - (tokens.prefilled - $0) } ?? tokens.lookedUp - tokens.prefilled
        let crowdedUsage = repeatsLookups == nil ? Self.crowdedUsage.ofUnknown : Self.crowdedUsage.ofRepeater
        let isCrowded = counts.waiting > 0 && (counts.kvUsage ?? 0) >= crowdedUsage
        if isCertainOfNone {
            learnWhetherLookupsRepeat(drifted: missing - tokenDrift.lowest, computed: computed(tokens))
            tokenDrift.restart(with: missing, at: now)
            wasCrowded = isCrowded
        } else {
            tokenDrift.take(missing, at: now)
            wasCrowded = wasCrowded || isCrowded
        }
        var most = counts.longestPrompt ?? .infinity
        if wasCrowded, repeatsLookups != false, let usual = uncachedPerRequest.value { most = min(most, usual) }
        // The last token of a prompt is always computed.
        return max(min((missing - tokenDrift.lowest) * uncachedShare, inBatch * max(most, 1)), inBatch)
    }

    /// Aborts leave a small part of what was computed meanwhile, look-ups at every step many times of it.
    private mutating func learnWhetherLookupsRepeat(drifted: Double, computed: Double) {
        if let settledTokens, wasCrowded, computed > settledTokens { repeatsLookups = drifted > (computed - settledTokens) / 2 }
        settledTokens = computed
    }
}

/// The lowest value of the last five to ten minutes.
///
/// Longer than a queue lasts in which somebody is always being prefilled: what is forgotten meanwhile makes a backlog look smaller than it
/// is. What a long memory costs, only an engine pays that ends requests without a first token, and each of them until then.
struct LowestOfLate {
    static let spanNanoseconds: UInt64 = 300_000_000_000
    /// Readings that a span has at least, of an engine that is seldom asked.
    static let spanReadings = 8

    private var current = Double.infinity
    private var previous = Double.infinity
    private var beganAt: UInt64 = 0
    private var readings = 0

    var lowest: Double { min(current, previous) }

    /// What was before no longer counts.
    mutating func restart(with value: Double, at now: UInt64) {
        self = LowestOfLate()
        take(value, at: now)
    }

    mutating func take(_ value: Double, at now: UInt64) {
        if readings == 0 { beganAt = now }
        if readings >= Self.spanReadings, now &- beganAt >= Self.spanNanoseconds {
            (previous, current, beganAt, readings) = (current, .infinity, now, 0)
        }
        current = min(current, value)
        readings += 1
    }
}

/// One sum over another, of which the past counts as `weight` of the latter at most.
private struct RecentRatio {
    let weight: Double
    private var part = 0.0
    private var whole = 0.0

    init(weight: Double) { self.weight = weight }

    var value: Double? { whole > 0 ? part / whole : nil }

    mutating func take(_ part: Double, per whole: Double) {
        guard part >= 0, whole > 0 else { return }
        let kept = min(1, weight / max(self.whole, weight))
        self.part = self.part * kept + part
        self.whole = self.whole * kept + whole
    }
}
