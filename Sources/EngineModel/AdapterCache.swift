/// Which LoRA adapters are on the devices, which only in the host's memory, and which the batch uses.
///
/// Both places are least-recently-used caches, as in vLLM; an adapter that the batch uses keeps its place on the devices. There
/// are few adapters, so all of it is linear scans.
struct AdapterCache {
    private let settings: LoRASettings
    /// Adapters in the batch, and the sequences that use each.
    private var users: [(adapter: AdapterID, count: Int)] = []
    /// Least recently used first.
    private(set) var resident: [AdapterID] = []
    private var host: [AdapterID] = []

    init(settings: LoRASettings) { self.settings = settings }

    /// Adapters that the batch uses.
    var active: [AdapterID] { users.map(\.adapter) }

    /// Whether a sequence of `adapter` can join the batch.
    func admits(_ adapter: AdapterID) -> Bool {
        users.count < settings.slots || users.contains { $0.adapter == adapter }
    }

    /// A sequence of `adapter`, which must be admitted, joins the batch. Returns how long its step waits for the adapter, ns.
    mutating func join(_ adapter: AdapterID) -> UInt64 {
        if let index = users.firstIndex(where: { $0.adapter == adapter }) {
            users[index].count += 1
            return 0
        }
        users.append((adapter, 1))
        let wasResident = Self.touch(adapter, in: &resident)
        let wasInHost = Self.touch(adapter, in: &host)
        if host.count > settings.hostSlots { host.removeFirst() }
        guard !wasResident else { return 0 }
        if resident.count > settings.slots, let idle = resident.firstIndex(where: { id in !users.contains { $0.adapter == id } }) {
            resident.remove(at: idle)
        }
        return settings.activationNanoseconds &+ (wasInHost ? 0 : settings.loadNanoseconds)
    }

    /// A sequence of `adapter` leaves the batch.
    mutating func leave(_ adapter: AdapterID) {
        guard let index = users.firstIndex(where: { $0.adapter == adapter }) else { return }
        users[index].count -= 1
        if users[index].count == 0 { users.remove(at: index) }
    }

    /// Drops an adapter that was unloaded; sequences that use it end with it.
    mutating func forget(_ adapter: AdapterID) {
        host.removeAll { $0 == adapter }
        if !users.contains(where: { $0.adapter == adapter }) { resident.removeAll { $0 == adapter } }
    }

    /// Makes `adapter` the most recently used of a list. Returns whether it was there.
    private static func touch(_ adapter: AdapterID, in list: inout [AdapterID]) -> Bool {
        let place = list.firstIndex(of: adapter)
        if let place { list.remove(at: place) }
        list.append(adapter)
        return place != nil
    }
}
