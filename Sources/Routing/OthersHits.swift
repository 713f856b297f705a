/// What replicas of the router, of whose placements nothing is known, may be expected to have brought to a group.
///
/// Replicas order the groups alike for every prompt (`orderCandidates`), and engines say of every answer how much of its prompt they had.
/// What they had beyond what we placed there others did. How large that share is, by the group's rank in the order, is learned; where
/// there are no others it is nothing. It is an expectation only: who places otherwise, or not at all, makes it fade.
struct OthersHits: BitwiseCopyable {
    /// First, second and third in the order, and all further ones.
    static var ranks: Int { 4 }
    /// Of a booking that was made while nothing was expected, so that no order was worked out; and of one for which there was none.
    static var unranked: UInt8 { 4 }
    static var orderless: UInt8 { 5 }

    /// By rank: of the prompt tokens beyond our own match, the share that the group is expected to hold; 0...1.
    private(set) var shares = SIMD4<Double>()
    /// Whether there is any to speak of, or others at all: replicas that share nothing but the order spread by it what they cannot know.
    private(set) var areExpected = false

    /// By rank, with exponential forgetting: prompt tokens beyond our own match, and those of them that were found.
    private var tokens = SIMD4<Double>()
    private var found = SIMD4<Double>()
    /// Share of the requests in flight that are others', as reports tell.
    private(set) var loadShare = 0.0

    private static var forgetting: Double { 0.98 }
    /// What an answer of another rank leaves: a rank that is never chosen would keep what it once was, even when the others are gone.
    private static var fading: Double { 0.99 }
    /// What is presumed counts as so many tokens; about one prompt.
    private static var priorTokens: Double { 4_096 }
    /// Below that it is the rounding of blocks and of tokens per byte.
    private static var leastShare: Double { 0.02 }

    /// - Parameters:
    ///   - rank: of the group in the prompt's order, or `unranked`.
    ///   - found: tokens of `tokens` that the engine had.
    ///   - tokens: of the prompt beyond our own match.
    mutating func observe(rank: UInt8, found: Double, of tokens: Double, prior: Double) {
        guard tokens > 0 else { return }
        self.tokens *= Self.fading
        self.found *= Self.fading
        for place in 0..<Self.ranks where Int(rank) == place || rank == Self.unranked {
            self.tokens[place] = self.tokens[place] * Self.forgetting + tokens
            self.found[place] = self.found[place] * Self.forgetting + min(max(found, 0), tokens)
        }
        update(prior: prior)
    }

    /// The engines' reports tell that so much of what they do is others'. That these are replicas is presumed until answers tell.
    mutating func observe(loadShare: Double, prior: Double) {
        self.loadShare = min(max(loadShare, 0), 1)
        update(prior: prior)
    }

    private mutating func update(prior: Double) {
        let presumed = SIMD4(prior * loadShare * Self.priorTokens, 0, 0, 0)
        shares = ((found + presumed) / (tokens + Self.priorTokens)).clamped(lowerBound: SIMD4(), upperBound: SIMD4(repeating: 1))
        areExpected = loadShare > 0 || shares.max() >= Self.leastShare
    }
}

extension RoutingState {
    /// Ranks the first `count` candidates for the request whose match `index` has just found: by rendezvous hashing, and in a wide fleet by
    /// how far behind the prompt's hash those of their names come.
    ///
    /// The key is the first chunk that at most half of the groups hold: what most have, a system prompt say, tells prompts apart no more.
    mutating func orderCandidates(_ count: Int, isWide: Bool, hashes: UnsafeBufferPointer<UInt64>) {
        guard !hashes.isEmpty, count > 1 else { return }
        followsOrder = true
        let key = hashes[min(index.commonDepth(hashes), hashes.count - 1)]
        let start = mix64(key)
        var best = SIMD4<UInt64>()
        for position in 0..<count {
            let identity = loads[candidates[position]].identity
            let weight = isWide ? start &- identity : mix64(key ^ identity)
            if weight > best[0] {
                best = SIMD4(weight, best[0], best[1], 0)
            } else if weight > best[1] {
                best = SIMD4(best[0], weight, best[1], 0)
            } else if weight > best[2] {
                best[2] = weight
            }
        }
        for position in 0..<count {
            let slot = candidates[position]
            let identity = loads[slot].identity
            let weight = isWide ? start &- identity : mix64(key ^ identity)
            let rank = weight == best[0] ? 0 : weight == best[1] ? 1 : weight == best[2] ? 2 : 3
            loads[slot].orderRank = UInt8(rank)
            loads[slot].othersShare = Float(othersHits.shares[rank])
        }
    }

    /// Which share of the engines' work the last reports say is others'.
    mutating func noteOthers() {
        let others = fleetOthers.running + fleetOthers.waiting
        let own = Double(leases.openSequences + sharing.openSequences) / Double(max(self.order.count, 1))
        othersHits.observe(loadShare: others > Self.leastOthers ? others / (others + own) : 0, prior: cost.othersFirst)
    }

    /// Sequences of others per group from which on there are others: what is ours and what is not cannot be told apart exactly.
    private static var leastOthers: Double { 0.25 }

    /// An answer tells how much of its prompt the engine had.
    mutating func learnOthers(cachedTokens: Double, promptTokens: Double, predicted: Double, slack: Double, rank: UInt8) {
        let beyond = promptTokens - leastRequestTokens - predicted
        let found = cachedTokens > predicted + slack ? cachedTokens - predicted : 0
        othersHits.observe(rank: rank, found: found, of: beyond, prior: cost.othersFirst)
    }

    /// How many prefills' worth a group may look cheaper than the first in the order without being better: by what others have placed since its
    /// engine last reported, for they saw the same report, and each of them would take the group that looks cheapest by it; and by what is
    /// found again where all prefer to place, as far as that was found.
    mutating func uncertainty(of slot: UInt32, now: UInt64) -> Double {
        let share = othersHits.loadShare
        let reportedAt = others[slot].reportedAt / 1_000
        guard share > 0, reportedAt > 0 else { return share * cost.orderBand }
        let age = now > reportedAt ? Double(now &- reportedAt) * 1e-6 : 0
        let placed = arrivals.perSecond(nowMicroseconds: now) * age * share / max(1 - share, 1e-3)
        return share * min(cost.orderBandPerPlaced * placed + cost.orderBand * othersHits.shares[0], cost.orderBand)
    }

    /// Of those that cost at most `limit` the first in the order: what all prefer will be where the others look for it.
    mutating func firstInOrder(_ count: Int, limit: Double) -> UInt32? {
        var best: UInt32?
        var bestRank: UInt8 = 3
        for position in 0..<count where costs[position] <= limit && loads[candidates[position]].orderRank < bestRank {
            best = candidates[position]
            bestRank = loads[candidates[position]].orderRank
        }
        return best
    }
}
