/// Groups that a request has been sent to in vain; at most eight, without allocation. A ninth replaces the oldest.
public struct TriedGroups: Sendable {
    // All ones is no group: a slot is far below UInt32.max.
    private var groups = SIMD8<UInt64>(repeating: .max)
    private var insertions = 0

    public init() {}

    /// How many groups are remembered, 0...8.
    public var count: Int { min(insertions, 8) }

    public mutating func insert(_ group: GroupID) {
        guard !contains(group) else { return }
        groups[insertions & 7] = group.bits
        insertions &+= 1
    }

    @inline(__always)
    public func contains(_ group: GroupID) -> Bool {
        any(groups .== SIMD8<UInt64>(repeating: group.bits))
    }
}
