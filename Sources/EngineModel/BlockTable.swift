/// Finds the first block that holds a hash: open addressing with linear probing over block numbers; the keys are in the records.
///
/// At most half full, so a miss ends after one or two looks; removal moves later entries up instead of leaving marks.
struct BlockTable {
    typealias Block = KVBlockPool.Block

    private(set) var count = 0
    private var slots = [Block](repeating: KVBlockPool.none, count: 64)

    /// The block stored for `hash`, or `KVBlockPool.none`.
    @inline(__always)
    func find(_ hash: UInt64, in records: [KVBlockPool.Record]) -> Block {
        var slot = home(of: hash)
        while true {
            let block = slots[slot]
            if block == KVBlockPool.none || records[Int(block)].hash == hash { return block }
            slot = (slot + 1) & (slots.count - 1)
        }
    }

    /// Stores `block` for `hash` unless another is there already, which is then returned.
    @inline(__always)
    mutating func insert(_ block: Block, hash: UInt64, in records: [KVBlockPool.Record]) -> Block {
        if 2 * (count + 1) > slots.count { grow(records) }
        var slot = home(of: hash)
        while slots[slot] != KVBlockPool.none {
            if records[Int(slots[slot])].hash == hash { return slots[slot] }
            slot = (slot + 1) & (slots.count - 1)
        }
        slots[slot] = block
        count += 1
        return KVBlockPool.none
    }

    /// Where the block stored for `hash` is; one must be.
    @inline(__always)
    func place(of hash: UInt64, in records: [KVBlockPool.Record]) -> Int {
        var slot = home(of: hash)
        while records[Int(slots[slot])].hash != hash { slot = (slot + 1) & (slots.count - 1) }
        return slot
    }

    @inline(__always)
    func block(at place: Int) -> Block { slots[place] }

    /// Puts another block of the same hash in the place of the one that is there.
    mutating func replace(at place: Int, with heir: Block) { slots[place] = heir }

    /// Removes the block at `place`.
    @inline(__always)
    mutating func remove(at place: Int, in records: [KVBlockPool.Record]) {
        var hole = place
        let mask = slots.count - 1
        var slot = (hole + 1) & mask
        while slots[slot] != KVBlockPool.none {
            let distance = (slot - home(of: records[Int(slots[slot])].hash)) & mask
            // An entry whose home lies behind the hole may move into it.
            if distance >= (slot - hole) & mask {
                slots[hole] = slots[slot]
                hole = slot
            }
            slot = (slot + 1) & mask
        }
        slots[hole] = KVBlockPool.none
        count -= 1
    }

    @inline(__always)
    private func home(of hash: UInt64) -> Int {
        // Hashes from a trace may be small numbers; the multiplication spreads them.
        Int(truncatingIfNeeded: (hash &* 0x9e37_79b9_7f4a_7c15) >> 32) & (slots.count - 1)
    }

    private mutating func grow(_ records: [KVBlockPool.Record]) {
        let blocks = slots.filter { $0 != KVBlockPool.none }
        slots = Array(repeating: KVBlockPool.none, count: 2 * slots.count)
        for block in blocks {
            var slot = home(of: records[Int(block)].hash)
            while slots[slot] != KVBlockPool.none { slot = (slot + 1) & (slots.count - 1) }
            slots[slot] = block
        }
    }
}
