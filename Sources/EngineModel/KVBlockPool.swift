/// The KV cache of one engine: a fixed number of blocks, each free, in use, or free and still holding reusable content.
///
/// Follows vLLM's block pool: a free block keeps its content until the block is needed, and the block unused for longest goes
/// first. Two sequences that compute the same text at the same time each keep their copy, so a hash can have several blocks.
///
/// No object per block: 24 bytes each in one array, linked by index. Blocks that were never used exist only as a number, so
/// that an engine of half a million blocks costs memory only for those that it has touched.
struct KVBlockPool {
    typealias Block = Int32
    static let none: Block = -1

    struct Record {
        var hash: UInt64 = 0
        /// Neighbours in the list of free blocks, least recently used first; unused while `references` is not 0.
        var previous: Block = none
        var next: Block = none
        var references: Int32 = 0
        /// The next block that holds the same hash.
        var nextCopy: Block = none
    }

    let count: Int
    private(set) var freeCount: Int
    /// Of the blocks touched so far; all others are free, and come before those in `oldest`...`newest`.
    private(set) var records: [Record] = []
    private var oldest: Block = none
    private var newest: Block = none
    private var table = BlockTable()

    init(count: Int) {
        self.count = count
        freeCount = count
    }

    var usedCount: Int { count - freeCount }
    /// Distinct hashes that can be hit.
    var cachedHashCount: Int { table.count }

    /// A block that holds `hash`, in use or free.
    @inline(__always)
    func block(holding hash: UInt64) -> Block? {
        let block = table.find(hash, in: records)
        return block == Self.none ? nil : block
    }

    @inline(__always)
    func isFree(_ block: Block) -> Bool { Int(block) >= records.count || records[Int(block)].references == 0 }

    /// Takes a share in a block found by its hash.
    @inline(__always)
    mutating func retain(_ block: Block) {
        if records[Int(block)].references == 0 { unlink(block) }
        records[Int(block)].references += 1
    }

    /// Takes the least recently used free block, whose content is forgotten. Returns the hash that this evicts, or 0.
    @inline(__always)
    mutating func allocate() -> (block: Block, evicted: UInt64)? {
        guard freeCount > 0 else { return nil }
        if records.count < count {
            records.append(Record(references: 1))
            freeCount -= 1
            return (Block(truncatingIfNeeded: records.count - 1), 0)
        }
        let block = oldest
        unlink(block)
        records[Int(block)].references = 1
        return (block, forget(block))
    }

    /// Gives up a share. The last one makes the block free, and the most recently used.
    @inline(__always)
    mutating func release(_ block: Block) {
        records[Int(block)].references -= 1
        guard records[Int(block)].references == 0 else { return }
        records[Int(block)].previous = newest
        records[Int(block)].next = Self.none
        if newest == Self.none { oldest = block } else { records[Int(newest)].next = block }
        newest = block
        freeCount += 1
    }

    /// Makes a block in use, whose last token has been computed, findable.
    @inline(__always)
    mutating func store(_ block: Block, hash: UInt64) {
        guard hash != 0, records[Int(block)].hash == 0 else { return }
        records[Int(block)].hash = hash
        let first = table.insert(block, hash: hash, in: records)
        guard first != Self.none else { return }
        records[Int(block)].nextCopy = records[Int(first)].nextCopy
        records[Int(first)].nextCopy = block
    }

    /// Drops the content of every free block; those in use stay findable.
    mutating func clearFree() {
        var block = oldest
        while block != Self.none {
            _ = forget(block)
            block = records[Int(block)].next
        }
    }

    private mutating func unlink(_ block: Block) {
        let before = records[Int(block)].previous
        let after = records[Int(block)].next
        if before == Self.none { oldest = after } else { records[Int(before)].next = after }
        if after == Self.none { newest = before } else { records[Int(after)].previous = before }
        freeCount -= 1
    }

    /// Makes a block's content unfindable. Returns its hash, or 0 when it had none.
    private mutating func forget(_ block: Block) -> UInt64 {
        let hash = records[Int(block)].hash
        guard hash != 0 else { return 0 }
        let place = table.place(of: hash, in: records)
        let first = table.block(at: place)
        let heir = records[Int(block)].nextCopy
        if first == block {
            if heir == Self.none { table.remove(at: place, in: records) } else { table.replace(at: place, with: heir) }
        } else {
            var copy = first
            while records[Int(copy)].nextCopy != block { copy = records[Int(copy)].nextCopy }
            records[Int(copy)].nextCopy = heir
        }
        records[Int(block)].hash = 0
        records[Int(block)].nextCopy = Self.none
        return hash
    }
}

extension KVBlockPool {
    /// The free blocks, the next to be evicted first: for tests.
    var evictionOrder: [Block] {
        var order = (records.count..<count).map { Block(truncatingIfNeeded: $0) }
        var block = oldest
        while block != Self.none {
            order.append(block)
            block = records[Int(block)].next
        }
        return order
    }

    func shares(of block: Block) -> Int { Int(block) < records.count ? Int(records[Int(block)].references) : 0 }
}
