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
