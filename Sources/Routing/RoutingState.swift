/// What is behind the table's lock: groups, bookings, the prefix index and what was learned.
///
/// Aspects: `+Groups` who is there, `+Choice` which one, `+Policies` by which rule, `+Admission` who waits, `+Booking` the life of a lease,
/// `+Reports` what upstreams do and answers teach, `+LoadReports` what engines say of their load, `+Replicas` what other routers have,
/// `+Handover` what one is told that begins late, `+Explanation` why a decision would be what it is.
///
/// What a decision calls is `mutating` even where it changes nothing: the compiler (Swift 6.3) gives a borrowing method that a mutating one
/// calls a copy of these 1.8 KB, unless it is inlined.
struct RoutingState: ~Copyable {
    /// The part of a group that a decision does not read until it has chosen.
    struct GroupRecord {
        var description: GroupDescription
        /// What it serves: described, or told later by the engine itself.
        var models: [String]
        /// Of the LoRA adapters among them, the base model.
        var parents: [String: String] = [:]
        /// Its place among the groups of a pool.
        var rank: UInt64
        /// Whether the engine told its capacity, which then outranks the description.
        var knowsCapacity = false
    }

    let policy: Policy
    let cost: CostRule
    let limits: RoutingLimits

    /// By slot; a slot is reused with the next generation.
    var loads: LazyBuffer<GroupLoad>
    var records: ContiguousArray<GroupRecord?> = []
    /// Slots in the order of the descriptions.
    var order: ContiguousArray<UInt32> = []
    var slotOfName: [String: UInt32] = [:]
    /// By the hash of the name.
    var slotOfIdentity: [UInt64: UInt32] = [:]
    var freeSlots: [UInt32] = []
    var catalog: ModelCatalog
    var lastRank: UInt64 = 0
    let locality: Locality
    let placement: PlacementSettings
    /// Names of groups that an operator has taken out.
    var drained: Set<String> = []
    /// Counts changes of who is ready, and of who serves what.
    var readinessChanges: UInt64 = 0
    /// When the first groups came; nil: none yet.
    var firstGroupsAt: UInt64?
    /// Which adapters are in an engine's GPU slots, by slot of the group.
    var adapters: LazyBuffer<AdapterSlots>

    var leases: LeaseArena
    var admission: AdmissionQueue
    var index: PrefixIndex

    /// What others have, by slot, and on average; and what we had when they were counted. Touched from the first report on.
    var others: LazyBuffer<OthersLoad>
    var fleetOthers = FleetOthers()
    var history: OwnLoadHistory
    var tracksOwnLoad = false
    /// What replicas tell, and are told.
    var sharing: ReplicaSharing
    /// What replicas bring; and whether the request that is being decided has an order of groups that goes with it.
    var othersHits = OthersHits()
    /// Of what engines hold behind a conversation's former turn, the share that its next one finds.
    var continuationYield = 1.0
    let formerTurns = FormerTurns()
    var laterTurns = LaterTurns()
    var followsOrder = false
    /// Of requests that this router places.
    var arrivals = ArrivalRate()
    /// Uncached prompt tokens of a request, on average: what one of others' is taken to have.
    var meanUncachedTokens = 1_024.0

    /// Scratch of one decision: eligible slots from the front, saturated ones from the back; and their costs.
    var candidates: LazyBuffer<UInt32>
    var costs: LazyBuffer<Double>

    /// For many groups; see `FleetSketch`.
    var fleet: FleetSketch
    var slotOfHolder: LazyBuffer<UInt32>

    /// Counts decisions.
    var sequence: UInt64 = 0
    var randomState: UInt64
    /// TTFT in seconds over the seconds that the groups' own rates predict for the uncached tokens ahead and own.
    var prefillFit = LineFit(intercept: 0, slope: 1, priorX: 0.1)
    /// Observed over predicted time of a decode step, over all groups.
    var stepScale = 1.0
    /// Mean of the groups' deviations, weighted by their answers.
    var meanDeviation = 0.0
    /// Whose deviation fades next, as a position in `order`.
    var fadeCursor = 0
    /// One ratio for all: the text decides it more than the tokeniser, and in a comparison of groups it cancels out.
    var tokensPerByteRatio = RatioEstimate(numerator: 4_096, denominator: 16_384)
    /// Output tokens in one event of a stream.
    var tokensPerEvent = RatioEstimate(numerator: 64, denominator: 64)
    var tokensPerByte: Double { min(max(tokensPerByteRatio.value, 0.01), 4) }
    /// Mean of the logarithm of output lengths, in tokens; outputs are heavy-tailed, and one long answer must not count for all.
    var outputLogMean = 5.545
    /// What the next answer counts in it: what was presumed is worth four answers, and about fifty are remembered.
    var outputLearning = 0.2

    init(policy: Policy, seed: UInt64, limits: RoutingLimits, placement: PlacementSettings, cost: CostRule) {
        self.cost = cost
        self.placement = placement
        catalog = ModelCatalog(loadsAdaptersOnDemand: placement.loadsAdaptersOnDemand)
        locality = placement.locality
        adapters = LazyBuffer(count: limits.groups)
        self.policy = policy
        self.limits = limits
        loads = LazyBuffer(count: limits.groups)
        leases = LeaseArena(limit: limits.leases)
        admission = AdmissionQueue(limit: limits.heldRequests, groups: limits.groups)
        index = PrefixIndex(blockLimit: limits.indexBlocks, holderLimit: limits.groups, seed: seed)
        others = LazyBuffer(count: limits.groups)
        history = OwnLoadHistory(groups: limits.groups)
        sharing = ReplicaSharing(groups: limits.groups)
        fleet = FleetSketch(groups: limits.groups)
        slotOfHolder = LazyBuffer(count: 2 * limits.groups + 2)
        candidates = LazyBuffer(count: limits.groups)
        costs = LazyBuffer(count: limits.groups)
        randomState = seed
    }

    /// The slot of a group that still lives.
    @inline(__always)
    func slot(of group: GroupID) -> UInt32? {
        guard Int(group.slot) < records.count, loads[group.slot].isUsed, loads[group.slot].generation == group.generation else {
            return nil
        }
        return group.slot
    }
}
