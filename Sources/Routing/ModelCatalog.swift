import CXXHash
import Glibc

/// Which groups may serve which model: one list of slots per known name, and one for all others.
///
/// Names are found by XXH3 and compared exactly. Two known names with the same hash would hide the second; at 64 bits that
/// does not happen by accident, and clients do not choose the names.
struct ModelCatalog {
    struct Pool {
        var name: [UInt8]
        /// Those that name the model, then those that name none.
        var slots: ContiguousArray<UInt32>

        mutating func remove(_ slot: UInt32) {
            if let index = slots.firstIndex(of: slot) { slots.remove(at: index) }
        }
    }

    /// Groups for a request that names no model.
    private(set) var everyGroup = ContiguousArray<UInt32>()
    /// Groups that do not say what they serve.
    private(set) var openGroups = ContiguousArray<UInt32>()
    private var pools: [UInt64: Pool] = [:]
    /// Known names in order.
    private(set) var names: [String] = []

    /// Replaces everything; `groups` are slots with their models, in the order of their descriptions.
    mutating func rebuild(_ groups: [(slot: UInt32, models: [String])]) {
        everyGroup = ContiguousArray(groups.map(\.slot))
        openGroups = ContiguousArray(groups.filter(\.models.isEmpty).map(\.slot))
        pools = [:]
        for (slot, models) in groups {
            for model in models {
                let name = Array(model.utf8)
                let hash = name.withUnsafeBytes(Self.hash)
                guard pools[hash, default: Pool(name: name, slots: [])].slots.last != slot else { continue }
                pools[hash, default: Pool(name: name, slots: [])].slots.append(slot)
            }
        }
        for hash in pools.keys { pools[hash]?.slots.append(contentsOf: openGroups) }
        names = pools.values.map { String(decoding: $0.name, as: UTF8.self) }.sorted()
    }

    /// A group that comes after all others: what `rebuild` would come to, at the cost of the group alone, since tens of thousands of
    /// groups that come and go must not hold up decisions.
    mutating func add(_ slot: UInt32, models: [String]) {
        everyGroup.append(slot)
        if models.isEmpty {
            openGroups.append(slot)
            for hash in pools.keys { pools[hash]?.slots.append(slot) }
            return
        }
        for model in models {
            let name = Array(model.utf8)
            let hash = name.withUnsafeBytes(Self.hash)
            if let pool = pools[hash] {
                let named = pool.slots.count - openGroups.count
                if named == 0 || pool.slots[named - 1] != slot { pools[hash]?.slots.insert(slot, at: named) }
            } else {
                pools[hash] = Pool(name: name, slots: [slot] + openGroups)
                names.insert(model, at: names.firstIndex { $0 >= model } ?? names.count)
            }
        }
    }

    /// Takes a group away that was added with these models.
    mutating func remove(_ slot: UInt32, models: [String]) {
        if let index = everyGroup.firstIndex(of: slot) { everyGroup.remove(at: index) }
        if models.isEmpty {
            if let index = openGroups.firstIndex(of: slot) { openGroups.remove(at: index) }
            for hash in pools.keys { pools[hash]?.remove(slot) }
            return
        }
        for model in models {
            let name = Array(model.utf8)
            let hash = name.withUnsafeBytes(Self.hash)
            pools[hash]?.remove(slot)
            guard let pool = pools[hash], pool.slots.count == openGroups.count else { continue }
            pools[hash] = nil
            names.removeAll { $0 == String(decoding: pool.name, as: UTF8.self) }
        }
    }

    /// Slots of the groups that may serve the model; empty when every group is known not to.
    func slots(for model: UnsafeRawBufferPointer?) -> ContiguousArray<UInt32> {
        guard let model, let bytes = model.baseAddress, model.count > 0 else { return everyGroup }
        guard let pool = pools[Self.hash(model)], pool.name.count == model.count else { return openGroups }
        let isSame = pool.name.withUnsafeBytes { name in
            name.baseAddress.map { memcmp($0, bytes, model.count) == 0 } ?? false
        }
        return isSame ? pool.slots : openGroups
    }

    /// XXH3 of a name; the same in every replica of the router.
    static func hash(_ name: UnsafeRawBufferPointer) -> UInt64 { swl_xxh3(name.baseAddress, name.count, 0) }
}
