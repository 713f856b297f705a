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
/// surely does, so it is the lowest of late. That of tokens is at least what leaves of them those looked up since a reading all of whose
/// requests have come and gone, since a scheduler takes them in turn: see ``Mark``. That is as close as readings are frequent.
///
/// Pure: no clock, no I/O.
package struct FirstTokenBacklog {
    /// What one reading says, over all ranks of the engine.
    package struct Counts {
        package var running: Double
        package var waiting: Double
        package var firstTokens: Double
        /// Requests that ended, for whatever reason the engine counts: vLLM 0.32 counts no aborts. Of an engine that does, one after the first
        /// token costs nothing, and one before it, as any end before it, makes one too many await.
        package var ended: Double
        package var preemptions: Double
        /// Nil: nothing is looked up, the engine has no prefix cache.
        package var tokens: Tokens?
        /// Share of the KV cache in use, 0...1.
        package var kvUsage: Double?
        /// The longest sequence, or whatever else bounds the tokens of one.
        package var longestPrompt: Double?
        /// Schedulers, each with a queue of its own: what one has done tells nothing of the next.
        package var ranks: Double

        package init(
            running: Double, waiting: Double, firstTokens: Double, ended: Double, preemptions: Double = 0, tokens: Tokens? = nil,
            kvUsage: Double? = nil, longestPrompt: Double? = nil, ranks: Double = 1
        ) {
            (self.running, self.waiting, self.firstTokens, self.ended) = (running, waiting, firstTokens, ended)
            (self.preemptions, self.tokens, self.kvUsage) = (preemptions, tokens, kvUsage)
            (self.longestPrompt, self.ranks) = (longestPrompt, ranks)
        }
    }

    /// Prompt tokens.
    package struct Tokens {
        package var lookedUp: Double
        package var found: Double
        /// Of requests that have their first token.
        package var prefilled: Double
        /// Those of them that were found in the cache; nil: not told (vLLM before `prompt_tokens_by_source_total`).
        package var prefilledFound: Double?

        package init(lookedUp: Double, found: Double, prefilled: Double, prefilledFound: Double? = nil) {
            (self.lookedUp, self.found, self.prefilled, self.prefilledFound) = (lookedUp, found, prefilled, prefilledFound)
        }

        fileprivate var all: [Double] { [lookedUp, found, prefilled] + (prefilledFound.map { [$0] } ?? []) }
        /// Those not found, if it is told which of the prefilled were.
        fileprivate var comparableLookups: Double { prefilledFound == nil ? lookedUp : lookedUp - found }
    }

    package struct Estimate: Equatable {
        /// Requests without a first token, at least those that wait: who was preempted is to be prefilled again.
        package var awaiting: Double
        /// Uncached prompt tokens of those of them that are in the batch; nil: the engine does not tell.
        package var prefillTokens: Double?
    }

    /// A cache so full that a sequence which waits may be one that finds no room: of an engine that is known to look such a one up again at
    /// every attempt, and of one that is not known. vLLM may admit only what fits as a whole.
    static let crowdedUsage = (ofRepeater: 0.5, ofUnknown: 0.9)

    /// Counts beyond are none: a double no longer tells one from the next.
    package static let counts = 0.0...0x1p53

    /// A reading: everybody who had been admitted by then has a first token, or is gone, as soon as so many first tokens are counted. Of one that is
    /// aborted none comes, and that of somebody who came later is taken for it: the mark is passed later, and never too early.
    ///
    /// Holds of a scheduler that takes requests in turn, as vLLM's does but with priorities (`--scheduling-policy`), or with several partial
    /// prefills at once: there a long prompt that is overtaken may be forgotten before it is done.
    private struct Mark {
        var passedAtFirstTokens: Double
        var lookedUp: Double
    }

    /// Marks that lie closer than a sixteenth of who is awaited are one.
    private static let mostMarks = 32

    private var last: Counts?
    /// Of the last reading that told of tokens.
    private var lastTokens: (tokens: Tokens, firstTokens: Double)?
    /// Both of their counts grow from one to the next.
    private var marks: [Mark] = []
    private var drift = LowestOfLate()
    private var tokenDrift = LowestOfLate()
    /// Of those preempted up to this count nobody waits any more; later ones may, with a first token.
    private var settledPreemptions = 0.0
    /// Since the batch was last without a prefill, there may have been no room for a sequence.
    private var wasCrowded = false
    /// Whether the engine looks a sequence up again when there was no room for it (vLLM before it recorded look-ups at admission); nil: not seen.
    private var repeatsLookups: Bool?
    /// When the batch was last without a prefill: uncached prompt tokens of requests with a first token, and the drift.
    private var settled: (computed: Double, drift: Double)?
    private var uncachedPerRequest = RecentRatio(weight: 256)
    private var foundPerLookup = RecentRatio(weight: 1_000_000)

    package init() {}

    /// Of counts that cannot be, nothing is learned, nor anything told but the queue.
    package mutating func observe(_ told: Counts, at now: UInt64) -> Estimate {
        let required = [told.running, told.waiting, told.firstTokens, told.ended, told.preemptions]
        guard required.allSatisfy(Self.counts.contains) else {
            return Estimate(awaiting: Self.counts.contains(told.waiting) ? told.waiting : 0, prefillTokens: nil)
        }
        var counts = told
        if let tokens = told.tokens, !tokens.all.allSatisfy(Self.counts.contains) { counts.tokens = nil }
        if let longest = told.longestPrompt, !Self.counts.contains(longest) { counts.longestPrompt = nil }
        if hasBegunAnew(counts) { self = FirstTokenBacklog() }
        settlePreemptions(counts)
        defer {
            last = counts
            if let tokens = counts.tokens { lastTokens = (tokens, counts.firstTokens) }
        }

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
                counts, inBatch: inBatch, preemptedWaiting: preemptedWaiting,
                isCertainOfNone: inBatch == 0 && (preemptedWaiting == 0 || counts.preemptions == last?.preemptions), at: now))
    }

    private func hasBegunAnew(_ counts: Counts) -> Bool {
        if let last {
            let hasFallen = counts.firstTokens < last.firstTokens || counts.ended < last.ended || counts.preemptions < last.preemptions
            if hasFallen { return true }
        }
        guard let before = lastTokens?.tokens.all, let tokens = counts.tokens?.all else { return false }
        return before.count != tokens.count || zip(before, tokens).contains { $0 > $1 }
    }

    /// Who is preempted goes to the head of the queue: nobody is still there who was when a sequence came from it for the first time.
    private mutating func settlePreemptions(_ counts: Counts) {
        if last == nil || counts.waiting == 0 || counts.preemptions < settledPreemptions { settledPreemptions = counts.preemptions }
        guard let last, let before = last.tokens, let tokens = counts.tokens, tokens.lookedUp > before.lookedUp else { return }
        settledPreemptions = max(settledPreemptions, last.preemptions)
    }

    private mutating func prefillTokens(_ counts: Counts, inBatch: Double, preemptedWaiting: Double, isCertainOfNone: Bool, at now: UInt64)
        -> Double?
    {
        guard let tokens = counts.tokens else { return nil }
        // Of all that came before the first reading, too.
        let before = lastTokens?.tokens
        let (lookedUp, found) = (tokens.lookedUp - (before?.lookedUp ?? 0), tokens.found - (before?.found ?? 0))
        if found <= lookedUp { foundPerLookup.take(found, per: lookedUp) }
        let uncachedShare = tokens.prefilledFound == nil ? 1 - min(foundPerLookup.value ?? 0, 1) : 1
        let computed = { (tokens: Tokens) in (tokens.prefilled - (tokens.prefilledFound ?? 0)) * uncachedShare }
        uncachedPerRequest.take(computed(tokens) - (before.map(computed) ?? 0), per: counts.firstTokens - (lastTokens?.firstTokens ?? 0))

        let missing = tokens.comparableLookups - (tokens.prefilled - (tokens.prefilledFound ?? 0))
        let crowdedUsage = repeatsLookups == nil ? Self.crowdedUsage.ofUnknown : Self.crowdedUsage.ofRepeater
        let isCrowded = counts.waiting > 0 && (counts.kvUsage ?? 0) >= crowdedUsage
        if isCertainOfNone {
            learnWhetherLookupsRepeat(drift: missing, computed: computed(tokens))
            tokenDrift.restart(with: missing, at: now)
            wasCrowded = isCrowded
        } else {
            tokenDrift.take(missing, at: now)
            wasCrowded = wasCrowded || isCrowded
        }
        if let passed = passMarks(counts, tokens, admitted: inBatch + preemptedWaiting) {
            tokenDrift.raise(to: missing - (tokens.comparableLookups - passed))
        }
        var most = counts.longestPrompt ?? .infinity
        if wasCrowded, repeatsLookups != false, let usual = uncachedPerRequest.value { most = min(most, usual) }
        // The last token of a prompt is always computed.
        let bound = inBatch == 0 ? 0 : inBatch * max(most, 1)
        return max(min((missing - tokenDrift.lowest) * uncachedShare, bound), inBatch)
    }

    /// What had been looked up at the latest reading whose mark is passed since the last time.
    ///
    /// - Parameter admitted: who was in the batch at some time, and has no first token.
    private mutating func passMarks(_ counts: Counts, _ tokens: Tokens, admitted: Double) -> Double? {
        guard counts.ranks == 1 else {
            marks.removeAll()
            return nil
        }
        let passed = marks.prefix { $0.passedAtFirstTokens <= counts.firstTokens }
        let lookedUp = passed.last?.lookedUp
        marks.removeFirst(passed.count)
        let mark = Mark(passedAtFirstTokens: counts.firstTokens + admitted, lookedUp: tokens.comparableLookups)
        while let latest = marks.last, latest.passedAtFirstTokens >= mark.passedAtFirstTokens { marks.removeLast() }
        let latest = marks.last?.passedAtFirstTokens ?? -.infinity
        if mark.passedAtFirstTokens - latest >= admitted / Double(Self.mostMarks / 2), marks.count < Self.mostMarks { marks.append(mark) }
        return lookedUp
    }

    /// Aborts leave a small part of what was computed meanwhile, look-ups at every step many times of it.
    private mutating func learnWhetherLookupsRepeat(drift: Double, computed: Double) {
        if let settled, wasCrowded, computed > settled.computed {
            repeatsLookups = drift - settled.drift > (computed - settled.computed) / 2
        }
        settled = (computed, drift)
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

    /// It is at least `value`, and was so before.
    mutating func raise(to value: Double) { (current, previous) = (max(current, value), max(previous, value)) }

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
