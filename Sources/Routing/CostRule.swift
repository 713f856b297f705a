/// The constants of the cost. 0 is always one of the values that they may have: a factor of a term then takes the term away, and no other.
/// Simulation ablates and tunes them; the product runs those that `init` makes.
public struct CostRule: Sendable, Equatable {
    /// How much longer a token takes to prefill behind a million tokens of context than behind none, as a share: attention is computed with all of
    /// them. By the shapes of the models, floating-point operations for each pair of tokens over those for each token: Llama-70B 19, Llama-8B
    /// and Qwen3-32B 33, DeepSeek-V3 67. Without it agents, whose contexts are long, wait 2 to 12 % longer; with half of it 1 to 5 %.
    public var attention = 30.0
    /// A second of decode counts as so much of a second until the first token: decode is a matter of the whole answer, first token one of
    /// its start, and routers are judged by the start. With half of this slow groups take too much, with twice as much one that is slow for
    /// a while is avoided for too long.
    public var decode = 0.2
    /// How many of those that come while an answer goes on feel what room in the KV cache it takes. Found by simulation, and between 5 and 9
    /// there is little difference: with less, copies of prefixes fill a busy fleet.
    public var memory = 7.0
    /// How much the turns count that will follow a conversation's first one to its group. Without them groups fill unequally, and prompts of
    /// agents wait 2 to 5 % longer; with twice as much nothing changes.
    public var laterTurns = 1.0
    /// Mean answers' times that the whole of a KV cache costs from `memoryWaitFrom` on, and none beyond, where `queueWait` and `roomWait` tell who
    /// waits longer. Who joins a full group waits himself, and makes all wait that come after him. With two thirds of it little changes; with
    /// half as much again caches that are just about to fill up are spared better, and prompts of agents above saturation wait an eighth longer.
    public var memoryWait = 3.0
    /// Share of the KV cache from which on `memoryWait` counts: above the share that the account may be wrong by.
    public var memoryWaitFrom = 0.9
    /// What share of what answers are yet to grow by counts as in use for `memoryWait` while their batch is young: all of it where nothing has been
    /// generated, none from half of it on, for then as many end as grow. Without it a group to which many come at once looks empty, and is
    /// full before the first of them ends; with half as much again prefixes are copied sooner than they need to be.
    public var youngGrowth = 0.2
    /// How much a second of waiting for room counts: it is one like any other until the first token. With twice as much nothing changes.
    public var roomWait = 1.0
    /// How much a second counts in which a prefill holds up a decode, and of how many decodes, see `decodesHeldUp`. With half as much of either
    /// groups of unequal speed are told apart less well; more of both keeps requests out of large batches where a queue is what makes them wait.
    public var stall = 0.3
    public var stallSequences = 10.0
    /// How much it counts of each decode when the KV cache is full, by which it keeps its memory so much longer. With half of it overloaded fleets
    /// wait a fifth to a third longer, and the worst of a hundred less; with twice as much the worst waits a fifth longer.
    public var stallWhenFull = 0.6
    /// How much a second counts that those lose who come to the group while this one waits. They come because it looks cheap, as a group does
    /// that has just joined. With a quarter of this p99 rises a little, with twice as much prompts of agents above saturation wait a
    /// quarter longer.
    public var queueBehind = 4.0
    /// Relative growth of a decode step with the KV cache full of contexts. Between Llama-70B on H100 (1.5) and 8B (4): attention reads every
    /// active token once a step. Up to twice as much makes no difference over all, and agents that share tools wait a fifth longer above saturation.
    public var growthAtFullCache = 1.5
    /// Bursts make the arrival rate an overestimate of who will really wait; without a bound the price of memory would multiply it, and a busy
    /// fleet would follow its prefixes into full groups.
    public var mostBehind = 8.0
    /// What share of a copy each request in flight with the same prefix takes over: it will not be the last, and they divide among more groups.
    /// With none, prefixes that rotate wait 6 to 7 % longer, and p99 of long conversations rises by two thirds; with half as much again p99 rises.
    public var copySharing = 0.5
    /// Weight of a second by which others' decodes take longer for one more context with a shared prefix among them, and how many in flight with the
    /// prefix, on each group that holds it, make it a quarter of that, see `crowding(sharers:)`. Without it batches at hot prefixes are twice those
    /// elsewhere; with it for all prompts alike the worst of a hundred wait up to half as long again, for prefixes are copied that few come with.
    public var crowding = 0.1
    public var crowdingSharers = 6.0
    /// Uncached tokens of ours in a group's queue from which on requests wait in the router, see `AdmissionQueue`: two steps of 8,192, which is
    /// what vLLM computes at a time, so that while one is computed the next is full before the router knows of its first tokens. 0: nothing ever waits.
    public var holdFrom = 16_384.0
    /// By how much of what waits in the router for the same group, up to and with a request, later ones may overtake it when they are cheaper. With
    /// three times as much p99 above saturation is up to an eighth higher and the mean up to a tenth lower. 0: by nothing.
    public var overtaking = 0.1
    /// How much more than to go on waiting it may cost to go to a group with room, as a share of what a request has waited; and how many times as
    /// much again what its prompt takes longer there counts. With twice as much prompts without prefixes wait a quarter longer above saturation, and the
    /// worst of a hundred of them a sixth less; agents that share tools wait a fifth to twice as long. With no patience the former wait a quarter
    /// less in the mean, and the worst longer than if nobody waited in the router. With a third more, and all counted alike, prefixes are copied
    /// all over a busy fleet, and all wait several times as long.
    public var patience = 1.5
    public var recomputing = 30.0
    /// Share of the prefill within which costs count as equal.
    public var band = 0.05
    /// Share of a copy's prefill by which it must be cheaper than to wait where its prefix is being prefilled at this moment: who comes at once with
    /// others mostly comes with more of them. Without it bursts of siblings wait 1 to 4 % longer; with more than twice as much others do.
    public var awaitedBand = 0.1

    /// Share of the prefill within which the first groups in the order that replicas share are taken for equal to a cheaper one: so much for each
    /// request that others are expected to have placed since the cheaper one's engine reported, and at most `orderBand`; both times the
    /// share of the load that is others'. So fresh reports are followed, and old ones, which would send all replicas to one group, spread them
    /// by the order: at random, but for each prompt alike. Prompts without prefixes behind 16 routers wait a quarter longer when the
    /// whole band counts with fresh reports, and two thirds longer without any with reports half a second old.
    public var orderBandPerPlaced = 0.5
    public var orderBand = 4.0
    /// What the first group in the order that replicas share is presumed to hold of a prompt, times the share of the load that is others'. With
    /// nothing presumed the order never forms, and each prefix is computed wherever a replica first saw a gap; with less than half it
    /// forms slowly.
    public var othersFirst = 0.8
    /// What the expected answer to a conversation's former turn counts as a hit, and whether its own digest tells where that is (from more
    /// than 0 on) or chunks alone.
    public var continuation = 1.0
    public var formerTurns = 1.0
    /// Steepness of `CostTerms.lateness`.
    public var lateness = 4.0

    public init() {}

    private struct Constant: Sendable {
        var name: String
        var path: any WritableKeyPath<CostRule, Double> & Sendable
        /// Beyond, sums lose their meaning: shares are no shares, or one term drowns all others.
        var range: ClosedRange<Double>
    }

    private static let constants: [Constant] = [
        Constant(name: "attention", path: \.attention, range: weights),
        Constant(name: "decode", path: \.decode, range: weights),
        Constant(name: "memory", path: \.memory, range: weights),
        Constant(name: "laterTurns", path: \.laterTurns, range: weights),
        Constant(name: "memoryWait", path: \.memoryWait, range: weights),
        Constant(name: "memoryWaitFrom", path: \.memoryWaitFrom, range: 0...1),
        Constant(name: "youngGrowth", path: \.youngGrowth, range: 0...1),
        Constant(name: "roomWait", path: \.roomWait, range: weights),
        Constant(name: "copySharing", path: \.copySharing, range: weights),
        Constant(name: "stall", path: \.stall, range: weights),
        Constant(name: "stallSequences", path: \.stallSequences, range: 0...1e6),
        Constant(name: "stallWhenFull", path: \.stallWhenFull, range: weights),
        Constant(name: "queueBehind", path: \.queueBehind, range: weights),
        Constant(name: "growthAtFullCache", path: \.growthAtFullCache, range: weights),
        Constant(name: "mostBehind", path: \.mostBehind, range: weights),
        Constant(name: "crowding", path: \.crowding, range: weights),
        Constant(name: "crowdingSharers", path: \.crowdingSharers, range: 0...1e6),
        Constant(name: "holdFrom", path: \.holdFrom, range: 0...1e9),
        Constant(name: "overtaking", path: \.overtaking, range: weights),
        Constant(name: "recomputing", path: \.recomputing, range: weights),
        Constant(name: "patience", path: \.patience, range: weights),
        Constant(name: "band", path: \.band, range: 0...10),
        Constant(name: "awaitedBand", path: \.awaitedBand, range: 0...10),
        Constant(name: "orderBand", path: \.orderBand, range: weights),
        Constant(name: "orderBandPerPlaced", path: \.orderBandPerPlaced, range: weights),
        Constant(name: "othersFirst", path: \.othersFirst, range: 0...1),
        Constant(name: "continuation", path: \.continuation, range: 0...1),
        Constant(name: "formerTurns", path: \.formerTurns, range: 0...1),
        Constant(name: "lateness", path: \.lateness, range: weights),
    ]
    private static let weights = 0.0...100.0

    public static var names: [String] { constants.map(\.name) }

    /// What a constant may be; nil when there is none of that name.
    public static func range(of name: String) -> ClosedRange<Double>? { constants.first { $0.name == name }?.range }

    /// - Returns: whether there is a constant of that name, and the value is in its range; if not, nothing has changed.
    public mutating func set(_ name: String, to value: Double) -> Bool {
        guard let constant = Self.constants.first(where: { $0.name == name }), constant.range.contains(value) else { return false }
        self[keyPath: constant.path] = value
        return true
    }

    /// What it takes to prefill the last `uncached` of so many tokens of a prompt, as so many tokens behind no context: each is computed with half of
    /// those in the mean, and with all that are cached.
    @inline(__always)
    public func prefillWork(uncached: Double, promptTokens: Double) -> Double {
        uncached * (1 + attention * 1e-6 * (promptTokens - 0.5 * uncached))
    }

    /// How much longer a decode step takes where so much of the cache is in use, as a share: what waits for room is read by no step.
    @inline(__always)
    func growth(fullness: Double) -> Double { growthAtFullCache * min(fullness, 1) }

    /// Seconds that others lose by a request that adds `share` of a KV cache to one that is so full when half of it is there, where a mean
    /// answer takes `answerSeconds`: the price rises with fullness, and each token pays what it is when it comes.
    @inline(__always)
    func memoryPrice(fullness: Double, share: Double, answerSeconds: Double) -> Double { memory * fullness * share * answerSeconds }

    /// Seconds until so many tokens have been freed of those that `sequences` hold: memory is freed by answers that end, one of them after
    /// `answerSeconds / sequences`.
    @inline(__always)
    func secondsUntilRoom(missingTokens: Double, tokensInUse: Double, sequences: Double, answerSeconds: Double) -> Double {
        guard missingTokens > 0, sequences >= 1 else { return 0 }
        let ends = Self.roundedUp(missingTokens * sequences / max(tokensInUse, 1))
        return answerSeconds * min(ends, sequences) / sequences
    }

    /// As `rounded(.up)`, of what is not negative: without a call, which would have the whole scoring of a group keep its sums in memory.
    /// Beyond 2⁵² all numbers are whole; to add and take away so much rounds to one that is.
    @inline(__always)
    static func roundedUp(_ value: Double) -> Double {
        let nearest = (value + 0x1p52) - 0x1p52
        return nearest < value ? nearest + 1 : nearest
    }

    /// What the decodes count for that one prefill holds up: with room in the cache of many not much more than of `stallSequences`, for a batch that is
    /// twice as large matters less than one request more in the queue; as the cache fills up, in proportion to the fourth power of how full it is, each.
    @inline(__always)
    func decodesHeldUp(_ sequences: Double, fullness: Double) -> Double {
        let full = min(fullness, 1)
        let squared = full * full
        return (stall * stallSequences / max(stallSequences + sequences, 1) + stallWhenFull * squared * squared) * sequences
    }

    /// Where few share almost nothing, where many do all of `crowding`: who moves away from a prefix computes it anew, and only others to come make that good.
    @inline(__always)
    func crowding(sharers: Double) -> Double {
        let share = sharers / (crowdingSharers + sharers)
        return crowding * share * share
    }

    @inline(__always)
    func memoryWaitPrice(fullness: Double, answerSeconds: Double) -> Double {
        memoryWait * max(min(fullness, 1) - memoryWaitFrom, 0) * answerSeconds
    }
}
