/// What one request on one group costs all requests together, in seconds of latency. Every term is in the same unit, so they
/// add without weights; `least-cost` takes the smallest sum.
///
/// The terms are marginal costs: own time to first token, own decode, what the others there lose, and what the KV cache loses.
public struct CostTerms: Sendable, Equatable {
    /// The engine's fixed time to a first token: learned intercept of TTFT over prefill work.
    public var overhead = 0.0
    /// Prefill work ahead in the group's queue × seconds per token, see `CostRule.prefillWork`.
    public var queueWait = 0.0
    /// This request's prefill work × seconds per token.
    public var prefill = 0.0
    /// The price of KV memory, which those pay who come later: the share of the cache that this request's uncached and output tokens take, times
    /// the share in use when all answers there are complete, times the seconds in which a mean answer ends and frees its own. So a prefix
    /// that is found in place saves room, a copy of it pays for its own, and among groups with room the price is little. A conversation's first turn
    /// pays for those that are expected to follow it there, too, see `LaterTurns`.
    public var memory = 0.0
    /// The price of memory that is about to be short: a mean answer's seconds times what is in use at this moment of the last tenth. There
    /// requests wait for answers to end, or lose their place to others and are computed anew.
    public var memoryWait = 0.0
    /// Until so many answers there have ended that the request fits, see `CostRule.secondsUntilRoom`. Where few sequences fill the cache, as
    /// contexts of agents do, the next one ends a long time from now. `memoryWait` is no such time: who fits does not wait.
    public var roomWait = 0.0
    /// This request's decode steps: what a group differs by whose steps take longer. How much longer its batch makes them now does not count, for
    /// batches change long before an answer ends.
    public var decode = 0.0
    /// The stall that this prefill imposes on the sequences now decoding there, see `CostRule.decodesHeldUp`.
    public var stall = 0.0
    /// Requests expected to arrive at the group while this one waits, each waiting for its uncached tokens, too: as many as have come there of
    /// late, for who has joined or has just become the cheapest gets more than a fair share. Those that arrive while it prefills do
    /// not count: they can go elsewhere, and where nobody waits they would keep long prompts off empty groups.
    public var queueBehind = 0.0
    /// Less than nothing: what of `prefill`, `stall` and `queueBehind` goes into a copy of a prefix that another group holds, and serves those
    /// that will come with it. As many as are in flight with it tell how many.
    public var copy = 0.0
    /// What one more context with a prefix that many share adds to the steps of all that decode there, see `CostRule.crowding`: more of them will
    /// come, the batch at a hot prefix stays large with them, and where fewer decode a copy of it costs less. Several answers to one prompt count once.
    public var crowding = 0.0
    /// What a group that has just started takes longer for what is queued and for this prompt, see `PlacementSettings`.
    public var warmUp = 0.0
    /// Until the request's LoRA adapter is in a GPU slot there.
    public var adapter = 0.0
    /// The way there and back, see `Locality`.
    public var distance = 0.0
    /// How far the wishes of the request's SLO headers would be missed: `CostRule.lateness` · (t − slo)² / slo beyond each, so that what is
    /// hopeless counts more the more hopeless it is.
    public var lateness = 0.0

    public init() {}

    /// Expected time to first token.
    @inline(__always)
    public var timeToFirstToken: Double { overhead + queueWait + prefill + roomWait + warmUp + adapter + distance }

    @inline(__always)
    public var total: Double { timeToFirstToken + memory + memoryWait + decode + stall + queueBehind + copy + crowding + lateness }
}

extension CostTerms {
    /// Every term under its name, in seconds, and their sum.
    public var named: [(name: String, seconds: Double)] {
        [
            ("overhead", overhead), ("queue_wait", queueWait), ("prefill", prefill), ("memory", memory),
            ("memory_wait", memoryWait), ("room_wait", roomWait), ("decode", decode), ("stall", stall),
            ("queue_behind", queueBehind), ("copy", copy), ("crowding", crowding),
            ("warm_up", warmUp), ("adapter", adapter), ("distance", distance), ("lateness", lateness), ("total", total),
        ]
    }
}

/// What the cost depends on besides the group: the request and the fleet.
struct CostInputs {
    /// Expected tokens of the prompt, at least one block.
    var promptTokens: Double
    /// Expected tokens that one matched chunk stands for.
    var tokensPerChunk: Double
    /// Expected output tokens, already capped by the client's claim.
    var outputTokens: Double
    /// Answers that the request asks for, each so long.
    var sequences = 1.0
    /// What the fleet's answers taught of prefill: the factor on every group's seconds per token, and the fixed part of TTFT.
    var prefillScale: Double
    var overheadSeconds: Double
    /// The hash of the LoRA adapter that the request names; 0: none.
    var adapter: UInt64 = 0
    /// What the client wants its time to first token and its time per output token to stay below, in seconds; 0: nothing.
    var wantedTTFTSeconds = 0.0
    var wantedTPOTSeconds = 0.0

    var rule = CostRule()
    /// What the fleet's answers taught of decode steps: the factor on every group's.
    var stepScale = 1.0
    /// The time of the decision, as in `GroupLoad.decodesSince`.
    var nowMicroseconds: UInt64 = 0
    /// Output tokens of a mean answer.
    var meanOutputTokens = 256.0
    /// Leading chunks of the prompt that some group holds, and the requests in flight that lead on from there on each such group, see
    /// `PrefixIndex.sharers`; where replicas tell what they place, as many times as the fleet has requests.
    var deepest = 0
    var sharers = 0.0
    /// Whether the groups that hold those are still prefilling them.
    var isAwaited = false
    /// Whether `GroupLoad.othersShare` counts, see `OthersHits`.
    var followsOrder = false
    /// Turns of the same conversation that will follow this one to its group, times `CostRule.laterTurns`.
    var laterTurns = 0.0

    /// Prompt tokens that `depth` matched chunks save on this group; the last block is always computed anew.
    @inline(__always)
    func cachedTokens(on group: borrowing GroupLoad, depth: Int) -> Double {
        let own = ownCachedTokens(on: group, depth: depth)
        return followsOrder ? own + Double(group.othersShare) * (promptTokens - leastRequestTokens - own) : own
    }

    /// See `CostRule.prefillWork`.
    @inline(__always)
    func prefillWork(uncached: Double) -> Double { rule.prefillWork(uncached: uncached, promptTokens: promptTokens) }

    /// The part of it that we know of.
    @inline(__always)
    func ownCachedTokens(on group: borrowing GroupLoad, depth: Int) -> Double {
        min(Double(depth) * tokensPerChunk + group.continuationTokens, promptTokens - leastRequestTokens) * Double(group.hitYield)
    }

    /// Whether the whole prompt may bring the group to where `memoryWait` counts.
    @inline(__always)
    func mayFill(_ group: borrowing GroupLoad) -> Bool { group.tokensInUse + promptTokens > rule.memoryWaitFrom * group.kvCapacityTokens }

    @inline(__always)
    func terms(on group: borrowing GroupLoad, depth: Int) -> CostTerms {
        let uncached = promptTokens - cachedTokens(on: group, depth: depth)
        let perToken = group.secondsPerToken * prefillScale
        let step = group.decodeStepSeconds * stepScale

        var terms = CostTerms()
        terms.overhead = overheadSeconds
        terms.queueWait = group.workAhead * perToken
        terms.prefill = prefillWork(uncached: uncached) * perToken
        terms.warmUp = group.warmUpSlowness * (terms.queueWait + terms.prefill)
        if adapter != 0 { terms.adapter = adapter == group.adapterOf ? group.adapterSeconds : 0 }
        terms.distance = group.distanceSeconds
        let growth = rule.growth(fullness: group.tokenShare * (group.tokensInUse + promptTokens))
        let demand = uncached + outputTokens * sequences
        let present =
            group.tokensInUse(atMicroseconds: nowMicroseconds, tokenSeconds: step * (1 + growth), youngGrowth: rule.youngGrowth)
            + uncached + group.idleMatchTokens
        // By the fleet's step: by each group's own, the slower would be left emptier, and the others be full first.
        let answer = meanOutputTokens * group.describedStepSeconds * stepScale * (1 + growth)
        let price = rule.memoryPrice(
            fullness: (group.tokensInUse + 0.5 * demand) * group.tokenShare, share: demand * group.tokenShare, answerSeconds: answer)
        terms.memory = price * (1 + laterTurns)
        terms.memoryWait = rule.memoryWaitPrice(fullness: present * group.tokenShare, answerSeconds: answer)
        terms.roomWait =
            rule.roomWait
            * rule.secondsUntilRoom(
                missingTokens: present - group.kvCapacityTokens, tokensInUse: group.tokensInUse, sequences: group.sequences,
                answerSeconds: answer)
        terms.decode = rule.decode * step * outputTokens
        terms.stall = rule.decodesHeldUp(group.decodingSequences, fullness: group.tokensInUse * group.tokenShare) * terms.prefill
        let waiting = terms.queueWait + terms.warmUp + terms.adapter + terms.memoryWait + terms.roomWait
        let behind = min(group.arrivals.perSecond(nowMicroseconds: nowMicroseconds) * waiting, rule.mostBehind)
        terms.queueBehind = rule.queueBehind * behind * terms.prefill
        if depth < deepest && sharers > 0 {
            let copied = min(Double(deepest - depth) * tokensPerChunk / uncached, 1)
            let taken = rule.copySharing * sharers
            terms.copy = -copied * taken / (1 + taken) * (terms.prefill + terms.stall + terms.queueBehind)
        }
        if sharers > 0 {
            let addedToStep = step * rule.growthAtFullCache * min(Double(deepest) * tokensPerChunk, promptTokens) * group.tokenShare
            terms.crowding = rule.crowding(sharers: sharers) * group.decodingSequences * addedToStep * outputTokens
        }
        if wantedTTFTSeconds > 0 { terms.lateness = lateness(terms.timeToFirstToken, beyond: wantedTTFTSeconds) }
        if wantedTPOTSeconds > 0 {
            // Steps with this batch, and the share of time that they stand still for the prompts that are queued there.
            let stepTime = step * (1 + growth) + terms.queueWait / max(outputTokens, 1)
            terms.lateness += outputTokens * lateness(stepTime, beyond: wantedTPOTSeconds)
        }
        return terms
    }

    @inline(__always)
    private func lateness(_ seconds: Double, beyond wanted: Double) -> Double {
        let excess = max(seconds - wanted, 0)
        return rule.lateness * excess * excess / wanted
    }
}
