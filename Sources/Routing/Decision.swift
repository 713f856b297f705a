/// Identifies a group for as long as it lives; never reused for another.
public struct GroupID: Hashable, Sendable {
    public let slot: UInt32
    public let generation: UInt32

    @inline(__always)
    var bits: UInt64 { UInt64(generation) << 32 | UInt64(slot) }
}

/// The right and duty of one request to end its booking: exactly one of `settle` and `cancel`. Later calls do nothing.
public struct Lease: Sendable, Hashable {
    public let index: UInt32
    public let generation: UInt32
}

/// Why a group was chosen.
public enum DecisionReason: String, CaseIterable, Sendable {
    /// No other group could have taken the request.
    case onlyGroup = "only_group"
    /// The load decided: nothing reusable anywhere, or the holder of a longer prefix was too busy.
    case cost
    /// The chosen group holds as much of the prompt as any other, and more than nothing.
    case prefix
    case roundRobin = "round_robin"
    case random
    case leastRequest = "least_request"
    /// The less busy of two that were drawn.
    case powerOfTwo = "power_of_two"
    /// The group that its prompt's beginning or its session hashes to.
    case consistentHash = "consistent_hash"
    /// The group that its session hashes to.
    case session
    /// The group that an operator named.
    case pinned
    /// No group holds any of the prompt.
    case cold
    /// Every group had pushed back; this was the best of them.
    case saturated
}

/// Where a request goes, already booked there.
public struct Decision: Sendable {
    public let group: GroupID
    /// The group's leader.
    public let endpoint: Endpoint
    /// Must be ended by `RoutingTable.settle` or `cancel`.
    public let lease: Lease
    public let reason: DecisionReason
    /// Prompt tokens that the group is expected to find in its KV cache.
    public let predictedCachedTokens: Int
    /// Expected time to first token in seconds.
    public let estimatedTTFTSeconds: Double
    /// Of the chosen group, as the decision saw them.
    public let terms: CostTerms
}

/// Why no group was chosen.
public enum RoutingFailure: Error, Sendable {
    /// Groups that serve the model exist or may exist, but none is ready, untried and of the right protocol.
    case noReadyGroup
    /// Every group says which models it serves, and none serves this one.
    case modelNotFound
    /// As many requests are booked as `RoutingLimits.leases` allows.
    case leasesExhausted
}

/// How a group is chosen.
public enum Policy: String, CaseIterable, Sendable {
    /// The group where the request adds the fewest seconds of latency, see `CostTerms`.
    case leastCost = "least-cost"
    case roundRobin = "round-robin"
    case random
    /// The group with the fewest requests in flight.
    case leastRequest = "least-request"
    /// The group that holds most of the prompt, unless it is saturated; ties by load.
    case prefixAffinity = "prefix-affinity"
    /// The one with fewer requests in flight of two groups drawn at random (Mitzenmacher, 1996).
    case powerOfTwo = "power-of-two"
    /// By rendezvous hashing of the session's key, or else of the prompt's first KiB, passing over groups that have 1.25 times the
    /// mean number of requests (consistent hashing with bounded loads: Mirrokni, Thorup and Zadimoghaddam, 2018).
    case consistentHash = "consistent-hash"
    /// By rendezvous hashing of the session's key; without one as `least-cost`.
    case session

    /// Whether decisions look into the prefix index; the other policies do not pay for its upkeep.
    var usesPrefixIndex: Bool { self == .leastCost || self == .prefixAffinity || self == .session }
}

/// Every bound of the routing state. Memory is reserved at once and touched only as it is used.
public struct RoutingLimits: Sendable {
    /// Groups at a time, at most 16,384; descriptions beyond are ignored.
    public var groups: Int
    /// Blocks (one chunk held by one group) in the prefix index, shared by all groups; 40 bytes each and 4 to 8 for the hash table.
    public var indexBlocks: Int
    /// Requests booked at a time.
    public var leases: Int
    /// Models that one group may list; names beyond are ignored.
    public var modelsPerGroup: Int

    public init(groups: Int = 1_024, indexBlocks: Int = 1 << 18, leases: Int = 1 << 16, modelsPerGroup: Int = 1_024) {
        self.groups = min(max(groups, 1), 16_384)
        self.indexBlocks = min(max(indexBlocks, 16), 1 << 28)
        self.leases = min(max(leases, 1), 1 << 24)
        self.modelsPerGroup = max(modelsPerGroup, 1)
    }
}
