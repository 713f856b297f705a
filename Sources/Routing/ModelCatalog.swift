import CXXHash
import Glibc

/// Which groups may serve which model: one list of slots per known name, and one for all others.
///
/// Names are found by XXH3 and compared exactly. Two known names with the same hash would hide the second; at 64 bits that
/// does not happen by accident, and clients do not choose the names.
struct ModelCatalog {
    struct Pool {
        var name: [UInt8]
        var slots: ContiguousArray<UInt32>
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
