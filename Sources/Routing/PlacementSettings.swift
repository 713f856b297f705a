/// What of a group's place and state counts besides its load, in seconds; the same for all requests.
public struct PlacementSettings: Sendable, Equatable {
    public var locality = Locality()
    /// A group that joins after the start is cold: kernels are compiled, graphs captured, buffers grown with its first batches. Its
    /// prefill is taken to be four times as slow at first and as described after this time, in nanoseconds. 0: as described at once.
    public var warmUpNanoseconds: UInt64 = 20_000_000_000
    /// Moving a LoRA adapter from an engine's host memory into a GPU slot: some 100 MB over PCIe, and a wait for the batch.
    public var adapterSwapSeconds = 0.02
    /// Loading one that the group does not list: files, a checkpoint's conversion, then the same.
    public var adapterLoadSeconds = 0.5
    /// Whether a group that serves an adapter's base model loads the adapter when it is asked for it (vLLM's resolvers). Otherwise only
    /// groups that list the adapter serve it.
    public var loadsAdaptersOnDemand = false

    public init() {}

    static let coldSlowness = 3.0
}

/// Where the router runs, and what a request pays for going elsewhere.
///
/// A round trip within a zone takes a tenth of a millisecond, one between zones one; the defaults are larger, because crossing costs
/// money and bandwidth, too, and because a preference below the noise of the other terms would be none. Together they are worth some hundred
/// tokens of prefill, so a cache elsewhere still wins.
public struct Locality: Sendable, Equatable {
    /// Empty: unknown, and then no group is preferred for its node.
    public var node = ""
    public var zone = ""
    public var otherNodeSeconds = 0.001
    public var otherZoneSeconds = 0.005

    public init() {}

    /// Groups whose place is unknown count as far: a known near one is the better bet.
    func seconds(to group: GroupDescription) -> Double {
        let crossesNode = !node.isEmpty && group.node != node
        // On one node is in one zone, whatever labels say.
        let crossesZone = !zone.isEmpty && group.zone != zone && (node.isEmpty || crossesNode)
        return (crossesNode ? otherNodeSeconds : 0) + (crossesZone ? otherZoneSeconds : 0)
    }
}
