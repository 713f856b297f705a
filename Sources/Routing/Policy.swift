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
