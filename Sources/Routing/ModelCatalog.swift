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
        var models: [String]
        /// Of the LoRA adapters among `models`, the base model.
        var parents: [String: String] = [:]
    }

    /// A class, so that a look-up counts one reference rather than one for each part.
    final class Pool {
        let name: [UInt8]
        var slots: ContiguousArray<UInt32> = []
        /// The groups among `slots` that list the name; the others would have to load the adapter.
        var listing: Set<UInt32> = []
        var parent: String?

        init(name: [UInt8]) { self.name = name }
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

    /// Replaces everything; in the order of the groups' descriptions.
    /// - Parameter loadsAdaptersOnDemand: whether groups with an adapter's base model may serve it, too.
    mutating func rebuild(_ groups: [Listing], loadsAdaptersOnDemand: Bool) {
        everyGroup = ContiguousArray(groups.map(\.slot))
        openGroups = ContiguousArray(groups.filter(\.models.isEmpty).map(\.slot))
        pools = [:]
        for group in groups {
            for model in group.models {
                let name = Array(model.utf8)
                let hash = name.withUnsafeBytes(Self.hash)
                let pool = pools[hash] ?? Pool(name: name)
                pools[hash] = pool
                if pool.listing.insert(group.slot).inserted { pool.slots.append(group.slot) }
                pool.parent = pool.parent ?? group.parents[model]
            }
        }
        for pool in pools.values { pool.slots.append(contentsOf: openGroups) }
        if loadsAdaptersOnDemand { admitBaseModels() }
        names = pools.values.map { String(decoding: $0.name, as: UTF8.self) }.sorted()
    }

    private mutating func admitBaseModels() {
        for pool in pools.values {
            // An adapter's parent is a base model: it has no parent itself, and its pool does not change here.
            guard var parent = pool.parent, let base = pools[parent.withUTF8 { Self.hash(UnsafeRawBufferPointer($0)) }] else { continue }
            guard base.parent == nil else { continue }
            let present = Set(pool.slots)
            pool.slots.append(contentsOf: base.slots.filter { !present.contains($0) })
        }
    }

    /// Slots of the groups that may serve the model; empty when every group is known not to.
    func match(_ model: UnsafeRawBufferPointer?) -> Match {
        guard let model, let bytes = model.baseAddress, model.count > 0 else { return Match(slots: everyGroup) }
        let hash = Self.hash(model)
        guard let pool = pools[hash], pool.name.count == model.count else { return Match(slots: openGroups) }
        let isSame = pool.name.withUnsafeBytes { name in
            name.baseAddress.map { memcmp($0, bytes, model.count) == 0 } ?? false
        }
        return isSame ? Match(slots: pool.slots, adapter: pool.parent == nil ? 0 : hash) : Match(slots: openGroups)
    }

    /// Whether the group itself says that it serves the name.
    func lists(_ name: UInt64, slot: UInt32) -> Bool { pools[name]?.listing.contains(slot) ?? false }

    /// XXH3 of a name; the same in every replica of the router.
    static func hash(_ name: UnsafeRawBufferPointer) -> UInt64 { swl_xxh3(name.baseAddress, name.count, 0) }
}
