/// What Dynamo's router takes groups to hold when engines tell it nothing (`--no-kv-events`): every block of what it sent there, for so long
/// after it last sent it, and never mind what the engine had to evict.
struct RoutedBlocks {
    /// `max_tree_size`: blocks of all groups together, and the share of them to which it is pruned, those first that run out first.
    static let limit = 1 << 20
    static let keptShare = 0.8

    private let limit: Int
    /// By slot and hash: when it runs out.
    private var ends: [UInt32: [UInt64: UInt64]] = [:]
    private(set) var count = 0

    init(limit: Int = Self.limit) { self.limit = limit }

    /// Blocks from the beginning on without a gap.
    func depth(of hashes: UnsafeBufferPointer<UInt64>, slot: UInt32, now: UInt64) -> Int {
        guard let held = ends[slot] else { return 0 }
        return hashes.firstIndex { held[$0].map { $0 <= now } ?? true } ?? hashes.count
    }

    mutating func add(_ hashes: UnsafeBufferPointer<UInt64>, slot: UInt32, until end: UInt64, now: UInt64) {
        for hash in hashes where ends[slot, default: [:]].updateValue(end, forKey: hash) == nil { count += 1 }
        if count > limit { prune(now: now) }
    }

    /// Groups that are gone hold nothing when they come again.
    mutating func keep(slots: Set<UInt32>) {
        ends = ends.filter { slots.contains($0.key) }
        count = ends.values.reduce(0) { $0 + $1.count }
    }

    private mutating func prune(now: UInt64) {
        let inOrder = ends.values.flatMap(\.values).sorted()
        let surplus = inOrder.count - Int(Self.keptShare * Double(limit))
        // What runs out together goes together: blocks of one prompt are of no use without its first.
        let last = max(now, inOrder[min(surplus, inOrder.count) - 1])
        for slot in ends.keys { ends[slot] = ends[slot]?.filter { $0.value > last } }
        count = ends.values.reduce(0) { $0 + $1.count }
    }
}
