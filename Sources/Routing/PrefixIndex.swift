/// Which group holds how much of which prompt: for every holder (a group's cache) a shadow of the engine's LRU, all in one
/// arena of fixed size.
///
/// A *block* is one chunk held by one holder. The blocks of one hash form a list whose head stands in the hash table under that
/// hash, and all others stand there under hash and holder, so that neither who holds a hash nor whether somebody does needs a
/// walk through the holders; the blocks of one holder form its LRU list. Each block knows its holder's block of the preceding chunk.
///
/// Invariant: a holder's block is never more recent than its parent, because a path is always touched deepest first. Eviction
/// takes the oldest, so what a holder keeps is closed under prefixes, and a hash found at depth `d` proves depths below `d`.
/// Searches may therefore gallop, and can never count beyond a gap.
///
/// Memory: 48 bytes a block and 8 to 16 for the table. Insertion, refresh and eviction are O(1) per block; removing a holder
/// is O(1), its blocks are reclaimed as others need room.
struct PrefixIndex: ~Copyable {
    struct Block: BitwiseCopyable {
        // What a probe reads comes first and fills 16 bytes, which never lie on two cache lines.
        var hash: UInt64
        /// The next block in the hash table's chain.
        var nextInBucket: UInt32
        /// How many holders the hash has, if this block is its head; else 0.
        var holderCount: UInt16
        var holder: UInt16
        /// The list of blocks with the same hash; a head has no previous one.
        var nextHolder: UInt32
        var previousHolder: UInt32
        /// Neighbours in the holder's LRU list; `older` also links free blocks.
        var newer: UInt32
        var older: UInt32
        /// The same holder's block of the preceding chunk; 0 at the root.
        var parent: UInt32
        /// The holder's clock when the block was last touched.
        var stamp: UInt32
        /// Paths in flight that end here, and blocks one chunk deeper that such paths lead through; see `countInUse`.
        var users: UInt32 = 0
        /// The holder's clock when it became this block.
        var bornAt: UInt32
    }

    struct Holder: BitwiseCopyable {
        var newest: UInt32
        var oldest: UInt32
        var count: UInt32
        /// Counts touched blocks; orders this holder's blocks by age.
        var clock: UInt32
        /// What the last `match` found; valid while `matchEpoch` is the index's epoch.
        var matchEpoch: UInt64
        var matchDepth: UInt32
        var matchBlock: UInt32
        var nextRetired: UInt16
        var isLive: Bool
        /// The clock when this life of the number began.
        var bornAt: UInt32
        /// Blocks that paths in flight lead through.
        var inUse: UInt32 = 0
    }

    /// What `insert` did, kept to undo it or to learn from it.
    struct Insertion: BitwiseCopyable {
        /// The deepest block of the path; 0 when nothing is held.
        var deepest: UInt32 = 0
        /// Blocks that were not held before.
        var newBlocks: UInt32 = 0
        /// The stamp that all blocks of the path carry now.
        var stamp: UInt32 = 0
        /// The clock when the deepest block became one, to know it again.
        var deepestBornAt: UInt32 = 0
        var holder: UInt16 = 0
        /// The stamps of the path's root and of its deepest matched block before; meaningful when something matched.
        var rootStamp: UInt32 = 0
        var matchStamp: UInt32 = 0
    }

    // Index 0 is no block and no holder.
    var blocks: LazyBuffer<Block>
    var holders: LazyBuffer<Holder>
    /// Heads by hash; a power of two long.
    var buckets: LazyBuffer<UInt32>
    let bucketShift: UInt64
    /// Odd; spreads hashes over buckets, so that a bucket cannot be aimed at without knowing it.
    let bucketMultiplier: UInt64

    var freeBlock: UInt32 = 0
    var firstUnusedBlock: UInt32 = 1
    var blocksInUse: Int = 0
    var freeHolder: UInt16 = 0
    var firstUnusedHolder: UInt16 = 1
    var liveHolders: Int = 0
    /// Removed holders whose blocks are not yet reclaimed.
    var retiredHolder: UInt16 = 0
    /// Where the search for a holder above its quota goes on.
    var quotaCursor: UInt16 = 1

    var epoch: UInt64 = 1
    /// Depth that every live holder has reached, whether `match` visited it or not.
    var matchFloor: UInt32 = 0
    /// Whether `match` left holders unvisited, so that an unrecorded holder may hold something.
    var matchIsPartial = false
    /// Depth of the deepest chunk that anybody holds.
    var matchDeepest = 0
    /// The holders that `match` visited, the deepest first.
    let visited: LazyBuffer<UInt16>
    var visitedCount = 0

    /// - Parameters:
    ///   - blockLimit: blocks in the arena.
    ///   - holderLimit: live holders at a time, at most 16,384; as many again may be retired.
    ///   - seed: where hashes fall in the table; no influence on results.
    init(blockLimit: Int, holderLimit: Int, seed: UInt64) {
        blocks = LazyBuffer(count: blockLimit + 1)
        holders = LazyBuffer(count: 2 * holderLimit + 2)
        visited = LazyBuffer(count: Self.mostVisits)
        var bits: UInt64 = 4
        // At most half as many hashes as buckets: a chain's second block is one more cache miss.
        while 1 << bits < 2 * blockLimit { bits += 1 }
        buckets = LazyBuffer(count: 1 << Int(bits))
        bucketShift = 64 - bits
        bucketMultiplier = mix64(seed) | 1
    }

    var blockLimit: Int { blocks.count - 1 }

    /// Bytes that the index can ever touch.
    var reservedBytes: Int { blocks.byteCount + holders.byteCount + buckets.byteCount + visited.byteCount }

    /// The blocks each live holder may keep when all want more: quotas that add up to no more than the arena.
    var fairShare: UInt32 { UInt32(blockLimit / max(liveHolders, 1)) }

    // MARK: Holders

    /// A new holder of nothing.
    mutating func addHolder() -> UInt16 {
        if freeHolder == 0 && Int(firstUnusedHolder) >= holders.count { drainOneRetiredHolder() }
        var holder = freeHolder
        if holder != 0 {
            freeHolder = holders[Int(holder)].nextRetired
        } else {
            holder = firstUnusedHolder
            firstUnusedHolder += 1
        }
        // The clock goes on, so that a stamp taken from an earlier life of this number matches nothing.
        let clock = holders[Int(holder)].clock &+ 1
        holders[Int(holder)] = Holder(
            newest: 0, oldest: 0, count: 0, clock: clock, matchEpoch: epoch &- 1, matchDepth: 0, matchBlock: 0, nextRetired: 0,
            isLive: true, bornAt: clock)
        liveHolders += 1
        return holder
    }

    /// Forgets everything that the holder holds, at once; the number may not be used any more.
    mutating func removeHolder(_ holder: UInt16) {
        holders[Int(holder)].isLive = false
        holders[Int(holder)].nextRetired = retiredHolder
        retiredHolder = holder
        liveHolders -= 1
    }

    /// Blocks that the holder holds.
    func count(of holder: UInt16) -> Int { Int(holders[Int(holder)].count) }

    /// Blocks of the holder that paths in flight lead through, each once, as far as it still holds them.
    func countInUse(of holder: UInt16) -> Int { Int(holders[Int(holder)].inUse) }

    /// A path that `insert` made is in flight. Costs as many steps as it has blocks that no other such path leads through.
    mutating func retain(_ insertion: Insertion) {
        var index = insertion.deepest
        while index != 0 {
            blocks[index].users &+= 1
            if blocks[index].users > 1 { return }
            holders[Int(insertion.holder)].inUse &+= 1
            index = blocks[index].parent
        }
    }

    /// A path that was retained is not in flight any more.
    mutating func release(_ insertion: Insertion) {
        let index = Int(insertion.deepest)
        // Its end may have been evicted meanwhile, and with it its use; the number may belong to another by now.
        guard index != 0, blocks[index].bornAt == insertion.deepestBornAt, blocks[index].holder == insertion.holder,
            Int32(bitPattern: insertion.stamp &- holders[Int(insertion.holder)].bornAt) > 0
        else { return }
        endUse(of: insertion.deepest)
    }

    /// One of those who use a block does not any more.
    private mutating func endUse(of block: UInt32) {
        var index = block
        while index != 0, blocks[index].users > 0 {
            blocks[index].users &-= 1
            if blocks[index].users > 0 { return }
            holders[Int(blocks[index].holder)].inUse &-= 1
            index = blocks[index].parent
        }
    }

    private mutating func drainOneRetiredHolder() {
        let holder = retiredHolder
        while holder != 0 && holder == retiredHolder { reclaimFromRetired() }
    }

    /// Frees one block of a removed holder, or the holder's number when it has no block left.
    private mutating func reclaimFromRetired() {
        let holder = retiredHolder
        let oldest = holders[Int(holder)].oldest
        if oldest != 0 { return free(oldest) }
        retiredHolder = holders[Int(holder)].nextRetired
        holders[Int(holder)].nextRetired = freeHolder
        freeHolder = holder
    }

    // MARK: Blocks

    /// A block to fill: a free one, then one of a removed holder, then untouched memory, then the oldest of whoever exceeds
    /// the fair share.
    /// - Parameter kept: a block that may not give way.
    mutating func allocateBlock(keeping kept: UInt32) -> UInt32 {
        while freeBlock == 0 && retiredHolder != 0 { reclaimFromRetired() }
        if freeBlock == 0 && Int(firstUnusedBlock) < blocks.count {
            let block = firstUnusedBlock
            firstUnusedBlock += 1
            blocksInUse += 1
            return block
        }
        if freeBlock == 0 { evictFromTheFullest(keeping: kept) }
        let block = freeBlock
        if block != 0 {
            freeBlock = blocks[block].older
            blocksInUse += 1
        }
        return block
    }

    /// A full arena means that somebody is above the fair share, or everybody is exactly at it. The cursor stays where it
    /// found one, so the search is paid for once per crowd of evictions.
    private mutating func evictFromTheFullest(keeping kept: UInt32) {
        let share = fairShare
        for _ in 0..<holders.count {
            let holder = holders[Int(quotaCursor)]
            if holder.isLive && holder.count > share && holder.oldest != 0 { return evictOldest(of: quotaCursor, keeping: kept) }
            quotaCursor = Int(quotaCursor) + 1 < Int(firstUnusedHolder) ? quotaCursor + 1 : 1
        }
    }

    /// What is in use an engine cannot evict either: it becomes the newest instead, while there is anything else. Not more than a few such
    /// paths in a row, so that an insertion into a cache that is nearly all in use stays cheap.
    mutating func evictOldest(of holder: UInt16, keeping kept: UInt32 = 0) {
        if holders[Int(holder)].inUse < holders[Int(holder)].count {
            for _ in 0..<Self.mostRescues {
                let oldest = holders[Int(holder)].oldest
                if oldest == 0 || blocks[oldest].users == 0 { break }
                _ = refresh(oldest, stamp: holders[Int(holder)].clock)
            }
        }
        let oldest = holders[Int(holder)].oldest
        guard oldest != 0, oldest != kept else { return }
        free(oldest)
    }

    private static var mostRescues: Int { 16 }

    /// Takes a block out of all lists and frees it.
    mutating func free(_ index: UInt32) {
        let holder = Int(blocks[index].holder)
        if blocks[index].users > 0 {
            blocks[index].users = 1
            endUse(of: index)
        }
        unlinkFromAge(index)
        unlinkFromHash(index)
        holders[holder].count -= 1
        blocks[index].holder = 0
        blocks[index].older = freeBlock
        freeBlock = index
        blocksInUse -= 1
    }

    // MARK: Lists

    @inline(__always)
    func bucket(of hash: UInt64) -> Int { Int(truncatingIfNeeded: (hash &* bucketMultiplier) >> bucketShift) }

    /// The head of the hash's blocks; 0 when nobody holds it.
    @inline(__always)
    func head(of hash: UInt64) -> UInt32 {
        var index = buckets[bucket(of: hash)]
        while index != 0 && (blocks[index].hash != hash || blocks[index].holderCount == 0) { index = blocks[index].nextInBucket }
        return index
    }

    /// Where a block stands that is no head.
    @inline(__always)
    private func bucket(of hash: UInt64, holder: UInt16) -> Int { bucket(of: hash ^ (UInt64(holder) &* 0xd6e8_feb8_6659_fd93)) }

    /// The holder's block of that hash; 0 when it has none.
    mutating func block(of hash: UInt64, holder: UInt16) -> UInt32 {
        let head = head(of: hash)
        if head == 0 || blocks[head].holder == holder { return head }
        if blocks[head].nextHolder == 0 { return 0 }
        var index = buckets[bucket(of: hash, holder: holder)]
        while index != 0, blocks[index].hash != hash || blocks[index].holder != holder || blocks[index].holderCount != 0 {
            index = blocks[index].nextInBucket
        }
        return index
    }

    /// Makes the block one more holder of its hash.
    mutating func linkToHash(_ index: UInt32) {
        let hash = blocks[index].hash
        let head = head(of: hash)
        if head == 0 {
            let bucket = bucket(of: hash)
            blocks[index].nextInBucket = buckets[bucket]
            buckets[bucket] = index
            blocks[index].holderCount = 1
            return
        }
        let place = bucket(of: hash, holder: blocks[index].holder)
        blocks[index].nextInBucket = buckets[place]
        buckets[place] = index
        let next = blocks[head].nextHolder
        blocks[index].previousHolder = head
        blocks[index].nextHolder = next
        if next != 0 { blocks[next].previousHolder = index }
        blocks[head].nextHolder = index
        blocks[head].holderCount &+= 1
    }

    private mutating func unlinkFromHash(_ index: UInt32) {
        let hash = blocks[index].hash
        let successor = blocks[index].nextHolder
        let previous = blocks[index].previousHolder
        if previous != 0 {
            replaceInBucket(bucket(of: hash, holder: blocks[index].holder), index, with: blocks[index].nextInBucket)
            blocks[head(of: hash)].holderCount &-= 1
            blocks[previous].nextHolder = successor
            if successor != 0 { blocks[successor].previousHolder = previous }
            return
        }
        // A head goes: the next holder takes its place in the table, or the hash disappears.
        if successor != 0 {
            replaceInBucket(bucket(of: hash, holder: blocks[successor].holder), successor, with: blocks[successor].nextInBucket)
            blocks[successor].previousHolder = 0
            blocks[successor].holderCount = blocks[index].holderCount &- 1
            // Only now: both may have stood in one chain.
            blocks[successor].nextInBucket = blocks[index].nextInBucket
        }
        replaceInBucket(bucket(of: hash), index, with: successor != 0 ? successor : blocks[index].nextInBucket)
    }

    /// Lets what points to a block in a chain point to another.
    private mutating func replaceInBucket(_ bucket: Int, _ index: UInt32, with replacement: UInt32) {
        if buckets[bucket] == index {
            buckets[bucket] = replacement
            return
        }
        var before = buckets[bucket]
        while blocks[before].nextInBucket != index { before = blocks[before].nextInBucket }
        blocks[before].nextInBucket = replacement
    }

    @inline(__always)
    mutating func unlinkFromAge(_ index: UInt32) {
        let block = blocks[index]
        let holder = Int(block.holder)
        if block.newer != 0 { blocks[block.newer].older = block.older } else { holders[holder].newest = block.older }
        if block.older != 0 { blocks[block.older].newer = block.newer } else { holders[holder].oldest = block.newer }
    }

    /// Makes a run of the age list, from its newest block to its oldest, the newest of all.
    @inline(__always)
    mutating func moveToFront(_ first: UInt32, through last: UInt32) {
        let newer = blocks[first].newer
        if newer == 0 { return }
        let holder = Int(blocks[first].holder)
        let older = blocks[last].older
        blocks[newer].older = older
        if older != 0 { blocks[older].newer = newer } else { holders[holder].oldest = newer }
        let newest = holders[holder].newest
        blocks[newest].newer = last
        blocks[last].older = newest
        blocks[first].newer = 0
        holders[holder].newest = first
    }

    /// Puts a block right behind `newer` in age, or first when `newer` is 0.
    @inline(__always)
    mutating func linkToAge(_ index: UInt32, behind newer: UInt32) {
        let holder = Int(blocks[index].holder)
        let older = newer != 0 ? blocks[newer].older : holders[holder].newest
        blocks[index].newer = newer
        blocks[index].older = older
        if newer != 0 { blocks[newer].older = index } else { holders[holder].newest = index }
        if older != 0 { blocks[older].newer = index } else { holders[holder].oldest = index }
    }
}

/// A bijective mix of 64 bits (the finaliser of SplitMix64, Steele et al., OOPSLA 2014).
@inline(__always)
func mix64(_ value: UInt64) -> UInt64 {
    var z = value &+ 0x9e37_79b9_7f4a_7c15
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
}
