/// Every bound of the routing state. Memory is reserved at once and touched only as it is used.
public struct RoutingLimits: Sendable {
    /// Groups at a time, at most 16,384; descriptions beyond are ignored.
    public var groups: Int
    /// Blocks (one chunk held by one group) in the prefix index, shared by all groups; 60 to 68 bytes each, see `PrefixIndex`.
    public var indexBlocks: Int
    /// Requests booked at a time.
    public var leases: Int
    /// Requests that wait in the router for a group, and 256 times as many chunks of their prompts; beyond, the oldest go on.
    public var heldRequests: Int
    /// Models that one group may list; names beyond are ignored.
    public var modelsPerGroup: Int

    public init(
        groups: Int = 1_024, indexBlocks: Int = 1 << 18, leases: Int = 1 << 16, heldRequests: Int = 4_096, modelsPerGroup: Int = 1_024
    ) {
        self.groups = min(max(groups, 1), 16_384)
        self.indexBlocks = min(max(indexBlocks, 16), 1 << 28)
        self.leases = min(max(leases, 1), 1 << 24)
        self.heldRequests = min(max(heldRequests, 0), 1 << 16)
        self.modelsPerGroup = max(modelsPerGroup, 1)
    }
}
