/// What a decision reads of one group: plain numbers, one after the other for all groups, so that scoring walks through
/// memory in order and touches no reference count.
struct GroupLoad: BitwiseCopyable {
    // Three cache lines that scoring reads; see `decisiveBytes`.
    var generation: UInt32
    var isUsed: Bool
    var isReady: Bool
    var speaksHTTP2: Bool
    /// The one request that a group may get after its ejection is under way.
    var isProbing: Bool
    var holder: UInt16
    /// Failures in a row; above 0 the group is out until `ejectedUntil` and then gets a single probe.
    var failures: UInt8
    /// Answers with errors of its own since it last answered a prompt.
    var errorsInRow: UInt8 = 0
    /// Of the request being decided: the group's rank in its order, and the share beyond our own match that others are expected to have
    /// brought, see `OthersHits`; as last worked out.
    var orderRank: UInt8 = 0
    var othersShare: Float = 0
    /// Actual over predicted cached tokens, at most 1: 0 for an engine without prefix caching.
    var hitYield: Float
    /// Sequences of the requests booked here and not ended: an engine counts each of the answers that one request asks for.
    var inFlight: Int32
    /// Those of them that have no first token yet.
    var awaitingFirstToken: Int32
    /// What it takes to prefill those, see `CostInputs.prefillWork`.
    var queuedWork = 0.0
    /// KV tokens of all requests in flight: their expected outputs, and prompts of which the index knows nothing.
    var activeTokens: Double
    /// Tokens of the indexed prompts in flight: those that several share counted once, and never less than what they have brought, for the
    /// shadow of a cache has no room for those who wait for room.
    var promptTokensInUse = 0.0
    /// Output tokens of our decoding sequences there, as last counted, and the sum of the times when they were, in microseconds, modulo 2⁶⁴.
    var generatedTokens = 0.0
    var decodesSince: UInt64 = 0
    /// The output part of `activeTokens`.
    var activeOutputTokens: Double

    /// What others have here, as the engine's reports tell it, aged until `othersDueAt`: sequences that wait and those that run,
    /// what it takes to prefill the former's prompts, KV tokens of the latter, and those that answers of replicas there are yet to take. All 0
    /// until something is reported or told.
    var othersWaiting: Double
    var othersRunning: Double
    var othersQueuedWork = 0.0
    var othersActiveTokens: Float
    var othersExpectedTokens: Float = 0

    /// Seconds per prefill token by what was learned of this group, before the fleet's factor.
    var secondsPerToken: Double
    var decodeStepSeconds: Double
    var describedStepSeconds = 0.02
    var kvCapacityTokens: Double { didSet { tokenShare = 1 / kvCapacityTokens } }
    /// The share of the capacity that one token takes.
    private(set) var tokenShare = 0.0
    /// How much longer prefill takes there while it is cold, as a share.
    var warmUpSlowness = 0.0
    /// What a request pays for the way there and back, see `Locality`.
    var distanceSeconds = 0.0
    var arrivals = ArrivalRate()
    /// Of the request being decided, where memory may be short: tokens of its match that no request in flight there uses. They can be evicted
    /// until it joins, and not after.
    var idleMatchTokens = 0.0
    /// Of the request being decided: tokens behind its match that the answer to its former turn left there.
    var continuationTokens = 0.0

    // What is read of few groups.
    /// Uncached prompt tokens of those that have no first token yet, and of others' who wait.
    var queuedTokens: Double
    var othersQueuedTokens = 0.0
    /// Hash of the name, the same in every replica of the router.
    var identity: UInt64
    /// The decision counter when the group was last chosen; orders ties.
    var lastChosen: UInt64
    var decisions: UInt64
    /// What loading the adapter `adapterOf` would take there, as last worked out.
    var adapterSeconds = 0.0
    var adapterOf: UInt64 = 0
    /// When the others' load is to be aged again; `.max` while no group ever reported.
    var othersDueAt: UInt64
    var saturatedUntil: UInt64
    var ejectedUntil: UInt64
    /// When the warm-up ends, 0 once it has.
    var warmUpEndsAt: UInt64 = 0
    /// Requests booked here and not ended.
    var requests: Int32 = 0
    /// Unstreamed requests without a known first token, oldest first, as lease indices plus one; 0 is none.
    var firstUnstreamed: UInt32
    var lastUnstreamed: UInt32
    /// When the oldest of them is presumed to be prefilled.
    var presumedPrefilledAt: UInt64
    /// Prompt tokens in the shadow of the engine's cache, and those of them that are in use.
    var heldTokens: Double
    var pinnedTokens = 0.0
    /// Uncached tokens of the indexed prompts in flight, as predicted when each was placed.
    var broughtTokens = 0.0
    /// Share of the engine's capacity that the shadow may fill; shrinks when predictions prove too high.
    var shadowScale: Double
    /// Seconds per prefill token by the description.
    var describedSecondsPerToken: Double
    /// Natural logarithm of what was learned over that, and when it was last drawn towards the mean.
    var prefillDeviation: Double
    var deviationFadedAt: UInt64
    /// Natural logarithm of how much longer decode steps take here than on the fleet.
    var stepDeviation = 0.0
    // Whole cache lines, so that each group begins with one.
    private let padding = (UInt64(0), UInt64(0))

    /// Bytes that scoring reads, from the start.
    static var decisiveBytes: Int { 192 }
}

extension GroupLoad {
    /// A new group's load; its priors and readiness are set from its description.
    init(generation: UInt32, holder: UInt16, identity: UInt64) {
        self.init(
            generation: generation, isUsed: true, isReady: false, speaksHTTP2: false, isProbing: false, holder: holder, failures: 0,
            hitYield: 1,
            inFlight: 0, awaitingFirstToken: 0, activeTokens: 0, activeOutputTokens: 0, othersWaiting: 0,
            othersRunning: 0, othersActiveTokens: 0, secondsPerToken: 0, decodeStepSeconds: 0,
            kvCapacityTokens: 0, queuedTokens: 0, identity: identity, lastChosen: 0, decisions: 0, othersDueAt: .max, saturatedUntil: 0,
            ejectedUntil: 0, firstUnstreamed: 0, lastUnstreamed: 0, presumedPrefilledAt: .max, heldTokens: 0,
            shadowScale: 1, describedSecondsPerToken: 0, prefillDeviation: 0, deviationFadedAt: 0)
    }

    /// Whether failures keep it from taking a request at `now`.
    @inline(__always)
    func isEjected(now: UInt64) -> Bool { failures > 0 && (now < ejectedUntil || isProbing) }

    /// Sequences of ours and of others: all, and those that have their first token.
    @inline(__always)
    var sequences: Double { Double(inFlight) + othersWaiting + othersRunning }
    @inline(__always)
    var decodingSequences: Double { Double(inFlight - awaitingFirstToken) + othersRunning }
    /// Prompt tokens that are prefilled before those of a new request, and what that takes.
    @inline(__always)
    var tokensAhead: Double { queuedTokens + othersQueuedTokens }
    @inline(__always)
    var workAhead: Double { queuedWork + othersQueuedWork }
    /// KV tokens in use.
    @inline(__always)
    var tokensInUse: Double { ownTokensInUse + Double(othersActiveTokens + othersExpectedTokens) }
    @inline(__always)
    var ownTokensInUse: Double { activeTokens + promptTokensInUse }
    /// Those that an engine's report counts, too: what waits has no room yet.
    var ownTokensInBatch: Double { activeTokens + max(pinnedTokens, broughtTokens - queuedTokens) }

    /// KV tokens that are there, as last counted: what an answer is taken to become, by its claim or by the others' lengths, is not.
    var tokensPresent: Double { tokensInUse - Double(othersExpectedTokens) - activeOutputTokens + generatedTokens }

    /// KV tokens in use at this moment, of answers of ours only what has been generated, since they were counted one token in `tokenSeconds`; and
    /// `youngGrowth` of what they are to grow by before as many end as grow: all that is to come where nothing has been generated, and none
    /// from half of it on.
    @inline(__always)
    func tokensInUse(atMicroseconds now: UInt64, tokenSeconds: Double, youngGrowth: Double) -> Double {
        let decoding = UInt64(max(inFlight - awaitingFirstToken, 0))
        // Signed: another loop's clock may be a little ahead of this one's.
        let elapsed = max(Double(Int64(bitPattern: decoding &* now &- decodesSince)), 0) * 1e-6
        let toCome = max(activeOutputTokens - generatedTokens - elapsed / tokenSeconds, 0)
        let present = tokensInUse - Double(othersExpectedTokens) - toCome
        return 2 * toCome > activeOutputTokens ? present + youngGrowth * toCome * (2 * toCome / activeOutputTokens - 1) : present
    }

    /// Blocks that its shadow LRU may hold: what others bring takes the engine's room alike, by their share of the load.
    func shadowBlocks(tokensPerChunk: Double, ownShare: Double) -> UInt32 {
        let blocks = kvCapacityTokens * shadowScale * ownShare / max(tokensPerChunk, 1e-3)
        return UInt32(min(max(blocks, 1), Double(UInt32.max >> 1)))
    }
}
