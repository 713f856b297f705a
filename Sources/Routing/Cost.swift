/// What one request on one group costs all requests together, in seconds of latency. Every term is in the same unit, so they
/// add without weights; `least-cost` takes the smallest sum.
///
/// The terms follow the marginal-cost derivation of `DESIGN.md` section 3: own time to first token, own decode, what the
/// others there lose, and what the KV cache loses.
public struct CostTerms: Sendable, Equatable {
    /// The engine's fixed time to a first token: learned intercept of TTFT over queued tokens.
    public var overhead = 0.0
    /// Uncached prompt tokens ahead in the group's queue × seconds per token.
    public var queueWait = 0.0
    /// This request's uncached tokens × seconds per token.
    public var prefill = 0.0
    /// This request's decode steps, the share that depends on the batch counted over the relaxation horizon only.
    public var decode = 0.0
    /// The stall that this prefill imposes on the sequences now decoding there.
    public var stall = 0.0
    /// The slower steps that this sequence causes for the others of the batch, over the same horizon.
    public var slowdown = 0.0
    /// Requests expected to arrive while this one prefills, each waiting for its uncached tokens.
    public var queueBehind = 0.0
    /// Tokens that must be evicted for it × the chance that they would have been used again × seconds per token.
    public var eviction = 0.0
    /// A barrier that rises as active sequences fill the KV cache, 0.15 · k / (1 − k): preemption throws work away.
    public var memoryPressure = 0.0

    public init() {}

    /// Expected time to first token.
    @inline(__always)
    public var timeToFirstToken: Double { overhead + queueWait + prefill }

    @inline(__always)
    public var total: Double {
        timeToFirstToken + decode + stall + slowdown + queueBehind + eviction + memoryPressure
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
    /// Arrivals per second that one of the candidate groups may expect.
    var arrivalsPerGroup: Double
    /// How long a difference in batch size lasts, in seconds: later arrivals fill the emptier groups.
    var horizonSeconds: Double
    /// What the fleet's answers taught of prefill: the factor on every group's seconds per token, and the fixed part of TTFT.
    var prefillScale: Double
    var overheadSeconds: Double

    var rule: CostRule

    /// The fullest cache that the barrier can tell apart.
    static let fullestCache = 0.995

    /// Prompt tokens that `depth` matched chunks save on this group; the last block is always computed anew.
    @inline(__always)
    func cachedTokens(on group: borrowing GroupLoad, depth: Int) -> Double {
        min(Double(depth) * tokensPerChunk, promptTokens - leastRequestTokens) * group.hitYield
    }

    @inline(__always)
    func terms(on group: borrowing GroupLoad, depth: Int) -> CostTerms {
        let uncached = promptTokens - cachedTokens(on: group, depth: depth)
        let perToken = group.secondsPerToken * prefillScale
        let capacity = group.kvCapacityTokens
        let step = group.decodeStepSeconds
        let running = group.sequences
        // Output tokens within the horizon, in which a difference between groups is felt.
        let feltTokens = min(outputTokens, horizonSeconds / step)
        let contextGrowth = rule.growthAtFullCache / capacity

        var terms = CostTerms()
        terms.overhead = overheadSeconds
        terms.queueWait = group.tokensAhead * perToken
        terms.prefill = uncached * perToken
        let growth = rule.growthPerSequence * (running + 1) + contextGrowth * (group.tokensInUse + promptTokens)
        terms.decode = rule.decode * step * (outputTokens + feltTokens * growth)
        terms.stall = rule.stall * rule.decode * group.decodingSequences * terms.prefill
        terms.slowdown = rule.slowdown * rule.decode * feltTokens * running * step * (rule.growthPerSequence + contextGrowth * promptTokens)
        let behind = min(arrivalsPerGroup * terms.timeToFirstToken, rule.mostBehind)
        terms.queueBehind = rule.queueBehind * behind * terms.prefill
        let demand = uncached + outputTokens
        let overflow = max(group.heldTokens + group.activeOutputTokens + demand - capacity, 0)
        terms.eviction = rule.eviction * group.reuse * min(overflow, demand) * perToken
        let fullness = min((group.tokensInUse + demand) / capacity, Self.fullestCache)
        terms.memoryPressure = rule.pressure * fullness / (1 - fullness)
        return terms
    }
}
