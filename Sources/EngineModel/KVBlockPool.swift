/// The KV cache of one engine: a fixed number of blocks, each free, in use, or free and still holding reusable content.
///
/// Follows vLLM's block pool: a free block keeps its content until the block is needed, and the block unused for longest goes
/// first. Two sequences that compute the same text at the same time each keep their copy, so a hash can have several blocks.
struct KVBlockPool {
    typealias Block = Int32
    private static let none: Block = -1

    let count: Int
    private(set) var freeCount: Int
    private var references: [Int32]
    private var hashes: [UInt64]
    /// Neighbours in the list of free blocks, least recently used first.
    private var previous: [Block]
    private var next: [Block]
    private var oldest: Block
    private var newest: Block
    /// The first block that holds a hash, and for each block the next copy of the same hash.
    private var firstCopy: [UInt64: Block] = [:]
    private var nextCopy: [Block]

    init(count: Int) {
        self.count = count
        freeCount = count
        references = Array(repeating: 0, count: count)
        hashes = Array(repeating: 0, count: count)
        previous = (0..<count).map { Block(truncatingIfNeeded: $0 - 1) }
        next = (0..<count).map { $0 + 1 < count ? Block(truncatingIfNeeded: $0 + 1) : Self.none }
        oldest = count > 0 ? 0 : Self.none
        newest = Block(truncatingIfNeeded: count - 1)
        nextCopy = Array(repeating: Self.none, count: count)
    }

    var usedCount: Int { count - freeCount }
    /// Distinct hashes that can be hit.
    var cachedHashCount: Int { firstCopy.count }

    /// A block that holds `hash`, in use or free.
    func block(holding hash: UInt64) -> Block? { firstCopy[hash] }

    func isFree(_ block: Block) -> Bool { references[Int(block)] == 0 }

    /// Takes a share in a block found by its hash.
    mutating func retain(_ block: Block) {
        if references[Int(block)] == 0 { unlink(block) }
        references[Int(block)] += 1
    }

    /// Takes the least recently used free block, whose content is forgotten. Returns the hash that this evicts, or 0.
    mutating func allocate() -> (block: Block, evicted: UInt64)? {
        guard oldest != Self.none else { return nil }
        let block = oldest
        unlink(block)
        references[Int(block)] = 1
        return (block, forget(block))
    }

    /// Gives up a share. The last one makes the block free, and the most recently used.
    mutating func release(_ block: Block) {
        references[Int(block)] -= 1
        guard references[Int(block)] == 0 else { return }
        previous[Int(block)] = newest
        next[Int(block)] = Self.none
        if newest == Self.none { oldest = block } else { next[Int(newest)] = block }
        newest = block
        freeCount += 1
    }

    /// Makes a block in use, whose last token has been computed, findable.
    mutating func store(_ block: Block, hash: UInt64) {
        guard hashes[Int(block)] == 0 else { return }
        hashes[Int(block)] = hash
        if let first = firstCopy[hash] {
            nextCopy[Int(block)] = nextCopy[Int(first)]
            nextCopy[Int(first)] = block
        } else {
            firstCopy[hash] = block
        }
    }

    /// Drops the content of every free block; those in use stay findable. Returns how many hashes went.
    mutating func clearFree() -> Int {
        var dropped = 0
        var block = oldest
        while block != Self.none {
            if forget(block) != 0 { dropped += 1 }
            block = next[Int(block)]
        }
        return dropped
    }

    private mutating func unlink(_ block: Block) {
        let before = previous[Int(block)]
        let after = next[Int(block)]
        if before == Self.none { oldest = after } else { next[Int(before)] = after }
        if after == Self.none { newest = before } else { previous[Int(after)] = before }
        freeCount -= 1
    }

    private mutating func forget(_ block: Block) -> UInt64 {
        let hash = hashes[Int(block)]
        guard hash != 0, let first = firstCopy[hash] else { return 0 }
        if first == block {
            let other = nextCopy[Int(block)]
            firstCopy[hash] = other == Self.none ? nil : other
        } else {
            var copy = first
            while nextCopy[Int(copy)] != block { copy = nextCopy[Int(copy)] }
            nextCopy[Int(copy)] = nextCopy[Int(block)]
        }
        hashes[Int(block)] = 0
        nextCopy[Int(block)] = Self.none
        return hash
    }
}

extension KVBlockPool {
    /// The free blocks, the next to be evicted first: for tests.
    var evictionOrder: [Block] {
        var order: [Block] = []
        var block = oldest
        while block != Self.none {
            order.append(block)
            block = next[Int(block)]
        }
        return order
    }

    func shares(of block: Block) -> Int { Int(references[Int(block)]) }
}
