import CXXHash
import Glibc

/// Which groups may serve which model: one list of slots per known name, and one for all others.
///
/// Names are found by XXH3 and compared exactly. Two known names with the same hash would hide the second; at 64 bits that
/// does not happen by accident, and clients do not choose the names.
struct ModelCatalog {
    /// What one group serves.
    struct Listing {
        var slot: UInt32
        /// Groups are listed in the order of their ranks.
        var rank: UInt64
        var models: [String]
        /// Of the LoRA adapters among `models`, the base model.
        var parents: [String: String] = [:]
    }

    /// A class, so that a look-up counts one reference rather than one for each part.
    final class Pool {
        let name: [UInt8]
        /// Those that list the name, then those that do not say what they serve, then those that would have to load the adapter.
        var slots: ContiguousArray<UInt32> = []
        /// The groups among `slots` that list the name.
        var listing: Set<UInt32> = []
        /// Of those, the ones that name a base model.
        var parents: [UInt32: String] = [:]
        /// The base model, by the first group that names one.
        var parent: String?

        init(name: [UInt8]) { self.name = name }

        func isNamed(_ model: UnsafeRawBufferPointer) -> Bool {
            guard name.count == model.count, let bytes = model.baseAddress else { return false }
            return name.withUnsafeBytes { name in name.baseAddress.map { memcmp($0, bytes, model.count) == 0 } ?? false }
        }

        func findParent() {
            parent = parents.isEmpty ? nil : slots[..<listing.count].lazy.compactMap { self.parents[$0] }.first
        }
    }

    /// Who may serve a request.
    struct Match {
        var slots: ContiguousArray<UInt32>
        /// The adapter's hash when the name is that of one, else 0.
        var adapter: UInt64 = 0
    }

    /// Groups for a request that names no model.
    private(set) var everyGroup = ContiguousArray<UInt32>()
    /// Groups that do not say what they serve.
    private(set) var openGroups = ContiguousArray<UInt32>()
    private var pools: [UInt64: Pool] = [:]
    /// Known names in order.
    private(set) var names: [String] = []
    /// By slot.
    private var listings: ContiguousArray<Listing?> = []
    private var ranks: ContiguousArray<UInt64> = []
    /// Whether groups with an adapter's base model may serve it, too.
    private let loadsAdaptersOnDemand: Bool
    /// How many pools are those of adapters.
    private var adapterPools = 0

    init(loadsAdaptersOnDemand: Bool = false) { self.loadsAdaptersOnDemand = loadsAdaptersOnDemand }

    /// Replaces everything.
    mutating func rebuild(_ groups: [Listing]) {
        self = ModelCatalog(loadsAdaptersOnDemand: loadsAdaptersOnDemand)
        // Those for all names come last, so that each pool is only appended to.
        for group in groups where !group.models.isEmpty { insert(group) }
        for group in groups where group.models.isEmpty { insert(group) }
        admitBaseModels()
    }

    /// Takes groups away and adds or changes others: what `rebuild` would come to, without a walk through the groups that stay. Decisions
    /// wait meanwhile, and of ten thousand groups some come or go all the time.
    mutating func update(_ groups: [Listing], removing slots: [UInt32]) {
        forgetBaseModels()
        for slot in slots { withdraw(slot) }
        for group in groups {
            withdraw(group.slot)
            insert(group)
        }
        admitBaseModels()
    }

    private mutating func insert(_ group: Listing) {
        while listings.count <= Int(group.slot) {
            listings.append(nil)
            ranks.append(0)
        }
        listings[Int(group.slot)] = group
        ranks[Int(group.slot)] = group.rank
        Self.insert(group, into: &everyGroup, within: 0..<everyGroup.count, ranks)
        if group.models.isEmpty {
            Self.insert(group, into: &openGroups, within: 0..<openGroups.count, ranks)
            for pool in pools.values { Self.insert(group, into: &pool.slots, within: pool.listing.count..<pool.slots.count, ranks) }
        }
        for model in group.models {
            let name = Array(model.utf8)
            let hash = name.withUnsafeBytes(Self.hash)
            let pool = pools[hash] ?? found(model, hash)
            guard !pool.listing.contains(group.slot) else { continue }
            Self.insert(group, into: &pool.slots, within: 0..<pool.listing.count, ranks)
            pool.listing.insert(group.slot)
            guard let parent = group.parents[model] else { continue }
            pool.parents[group.slot] = parent
            reconsiderParent(of: pool)
        }
    }

    private mutating func withdraw(_ slot: UInt32) {
        guard Int(slot) < listings.count, let group = listings[Int(slot)] else { return }
        Self.remove(group, from: &everyGroup, within: 0..<everyGroup.count, ranks)
        if group.models.isEmpty {
            Self.remove(group, from: &openGroups, within: 0..<openGroups.count, ranks)
            for pool in pools.values { Self.remove(group, from: &pool.slots, within: pool.listing.count..<pool.slots.count, ranks) }
        }
        for model in group.models {
            let name = Array(model.utf8)
            let hash = name.withUnsafeBytes(Self.hash)
            guard let pool = pools[hash], pool.listing.contains(slot) else { continue }
            Self.remove(group, from: &pool.slots, within: 0..<pool.listing.count, ranks)
            pool.listing.remove(slot)
            if pool.parents.removeValue(forKey: slot) != nil { reconsiderParent(of: pool) }
            guard pool.listing.isEmpty else { continue }
            pools[hash] = nil
            let known = String(decoding: pool.name, as: UTF8.self)
            names.remove(at: names.countBefore { $0 < known })
        }
        listings[Int(slot)] = nil
    }

    /// A new pool for the name.
    private mutating func found(_ model: String, _ hash: UInt64) -> Pool {
        let pool = Pool(name: Array(model.utf8))
        pool.slots = openGroups
        pools[hash] = pool
        names.insert(model, at: names.countBefore { $0 < model })
        return pool
    }

    private mutating func reconsiderParent(of pool: Pool) {
        if pool.parent != nil { adapterPools -= 1 }
        pool.findParent()
        if pool.parent != nil { adapterPools += 1 }
    }

    /// Inserts into a part of `slots`, which is in the order of ranks.
    private static func insert(
        _ group: Listing, into slots: inout ContiguousArray<UInt32>, within part: Range<Int>, _ ranks: ContiguousArray<UInt64>
    ) {
        let place = part.lowerBound + slots[part].countBefore { ranks[Int($0)] <= group.rank }
        slots.insert(group.slot, at: place)
    }

    private static func remove(
        _ group: Listing, from slots: inout ContiguousArray<UInt32>, within part: Range<Int>, _ ranks: ContiguousArray<UInt64>
    ) {
        let first = part.lowerBound + slots[part].countBefore { ranks[Int($0)] < group.rank }
        if let place = slots[first..<part.upperBound].firstIndex(of: group.slot) { slots.remove(at: place) }
    }

    private func forgetBaseModels() {
        guard loadsAdaptersOnDemand, adapterPools > 0 else { return }
        for pool in pools.values where pool.parent != nil {
            pool.slots.removeSubrange((pool.listing.count + openGroups.count)...)
        }
    }

    private func admitBaseModels() {
        guard loadsAdaptersOnDemand, adapterPools > 0 else { return }
        for pool in pools.values {
            // An adapter's parent is a base model: it has no parent itself, and its pool does not change here.
            guard var parent = pool.parent, let base = pools[parent.withUTF8 { Self.hash(UnsafeRawBufferPointer($0)) }] else { continue }
            guard base.parent == nil else { continue }
            pool.slots.append(contentsOf: base.slots[..<base.listing.count].lazy.filter { !pool.listing.contains($0) })
        }
    }

    /// Slots of the groups that may serve the model; empty when every group is known not to.
    func match(_ model: UnsafeRawBufferPointer?) -> Match {
        guard let model, model.count > 0 else { return Match(slots: everyGroup) }
        let hash = Self.hash(model)
        guard let pool = pools[hash], pool.isNamed(model) else { return Match(slots: openGroups) }
        return Match(slots: pool.slots, adapter: pool.parent == nil ? 0 : hash)
    }

    /// As `match`; nil for a name that no group lists.
    func slots(listing model: UnsafeRawBufferPointer) -> ContiguousArray<UInt32>? {
        guard let pool = pools[Self.hash(model)], pool.isNamed(model) else { return nil }
        return pool.slots
    }

    /// Whether the group itself says that it serves the name.
    func lists(_ name: UInt64, slot: UInt32) -> Bool { pools[name]?.listing.contains(slot) ?? false }

    /// XXH3 of a name; the same in every replica of the router.
    static func hash(_ name: UnsafeRawBufferPointer) -> UInt64 { swl_xxh3(name.baseAddress, name.count, 0) }
}

extension RandomAccessCollection {
    /// How many elements `isBefore` holds for, all of which come first.
    fileprivate func countBefore(_ isBefore: (Element) -> Bool) -> Int {
        var (low, high) = (0, count)
        while low < high {
            let middle = (low + high) / 2
            if isBefore(self[index(startIndex, offsetBy: middle)]) { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
