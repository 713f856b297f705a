/// The LoRA adapters that an engine has used most recently: as many as it has GPU slots are taken to be in them, since engines evict the
/// least recently used. Fixed size; the oldest goes.
struct AdapterSlots: BitwiseCopyable {
    /// More adapters than any engine is run with at once; the memory of one takes as much as a large batch's KV cache.
    static let most = 16
    /// Slots of an engine that does not say (vLLM's `--max-loras` is 1 by default, and whoever serves several raises it).
    static let presumedCapacity = 4

    private var hashes = SIMD16<UInt64>(repeating: 0)
    private var usedAt = SIMD16<UInt64>(repeating: 0)
    private var capacity: UInt8 = 0

    /// - Parameter capacity: the engine's GPU slots; 0: unknown.
    mutating func setCapacity(_ capacity: Int) { self.capacity = UInt8(min(max(capacity, 0), Self.most)) }

    mutating func touch(_ adapter: UInt64, now: UInt64) {
        guard adapter != 0 else { return }
        var place = 0
        for index in 0..<Self.most {
            if hashes[index] == adapter {
                place = index
                break
            }
            if usedAt[index] < usedAt[place] { place = index }
        }
        hashes[place] = adapter
        usedAt[place] = max(now, 1)
    }

    /// Whether fewer other adapters than there are slots have been used since this one was.
    func holds(_ adapter: UInt64) -> Bool {
        guard let place = (0..<Self.most).first(where: { hashes[$0] == adapter && usedAt[$0] != 0 }) else { return false }
        let newer = (0..<Self.most).reduce(0) { $0 + (usedAt[$1] > usedAt[place] ? 1 : 0) }
        return newer < (capacity == 0 ? Self.presumedCapacity : Int(capacity))
    }
}

extension RoutingState {
    /// What the engine says of its adapters: those of running and waiting requests, and how many fit at once (0: unknown).
    mutating func reportAdapters(_ names: [String], capacity: Int, of slot: UInt32, now: UInt64) {
        adapters[slot].setCapacity(capacity)
        for var name in names.prefix(AdapterSlots.most) {
            adapters[slot].touch(name.withUTF8 { ModelCatalog.hash(UnsafeRawBufferPointer($0)) }, now: now)
        }
    }

    mutating func priceAdapter(_ adapter: UInt64, candidateCount: Int) {
        for position in 0..<candidateCount { priceAdapter(adapter, slot: candidates[position]) }
    }

    /// Works out how long a group needs to have the adapter ready.
    func priceAdapter(_ adapter: UInt64, slot: UInt32) {
        loads[slot].adapterOf = adapter
        loads[slot].adapterSeconds =
            adapters[slot].holds(adapter)
            ? 0 : catalog.lists(adapter, slot: slot) ? placement.adapterSwapSeconds : placement.adapterLoadSeconds
    }
}
