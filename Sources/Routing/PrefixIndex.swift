/// Which group holds how much of which prompt: for every holder (a group's cache) a shadow of the engine's LRU, all in arenas of
/// fixed size.
///
/// A *block* is one chunk held by one holder. The blocks of one hash form a list whose head stands in the hash table under that
/// hash, and all others stand there under hash and holder, so that neither who holds a hash nor whether somebody does needs a
/// walk through the holders. Each block knows its holder's block of the preceding chunk.
///
/// A *run* is a piece of a path whose blocks were all last touched together and are in use by the same paths in flight; a prompt
/// is mostly one run or two, however long it is. To touch a path, and to begin and end its use, takes a step for each run and none for
/// each block: a walk through the blocks of a long prompt would wait for memory at every other one. The runs of one holder form its LRU list.
///
/// Invariant: a holder's run is never more recent than the one above it, because a path is always touched deepest first. Eviction
/// takes the last block of the oldest run, so what a holder keeps is closed under prefixes, and a hash found at depth `d` proves depths
/// below `d`. Searches may therefore gallop, and can never count beyond a gap.
///
/// Memory: 32 bytes a block, 40 for every other one that may be a run of its own, and 8 to 16 for the table. Insertion and eviction are O(1)
/// per block, a refresh O(1) per run; removing a holder is O(1), its blocks are reclaimed as others need room.
///
/// A decision is waited for, so what gives way for its prompt mostly does so later: see `repay`.
///
/// Aspects: `+Table` who holds a hash, `+Runs` age and use, `+Matching` the search, `+Insertion` what is added, refreshed
/// and taken back, `+Overdraft` what gives way later.
struct PrefixIndex: ~Copyable {
    struct Block: BitwiseCopyable {
        var hash: UInt64
        /// How many blocks the hash has, if this one is their head; else 0. Of each holder it is one, and there are 32,768 numbers of
        /// holders. Only a prompt that was made to repeat its own hash can have a holder more than once; then the count stops at 65,535
        /// and falls short from there on, but a head keeps at least 1.
        var holderCount: UInt16
        var holder: UInt16
        /// The list of blocks with the same hash; a head has no previous one.
        var nextHolder: UInt32
        var previousHolder: UInt32
        /// The same holder's block of the preceding chunk, 0 at the root; also links free blocks.
        var parent: UInt32
        var run: UInt32
        /// The same holder's block `stride` chunks above, if both were added together; else 0. Where to look ahead, not what is there.
        var ancestor: UInt32

        static var stride: Int { 8 }
    }

    struct Run: BitwiseCopyable {
        /// Neighbours in the holder's LRU list; `older` also links free runs.
        var newer: UInt32 = 0
        var older: UInt32 = 0
        /// Its deepest block.
        var bottom: UInt32 = 0
        /// The parent of its first block.
        var above: UInt32
        /// The holder's clock when it was last touched.
        var stamp: UInt32
        /// The holder's clock when its bottom became the end of the paths that end there.
        var bornAt: UInt32
        /// Paths in flight that end with it, and runs right below it that such paths lead through; see `countInUse`.
        var users: UInt32 = 0
        /// Runs right below it.
        var children: UInt32 = 0
        /// Chunks from the root to its bottom, and its own.
        var depth: UInt16
        var length: UInt16 = 0
        var continuation = Continuation.none
    }

    /// What an engine holds behind the end of a prompt: the tokens of its last chunk that is not whole, and its answer.
    struct Continuation: BitwiseCopyable, Equatable {
        /// No prompt ended there.
        static let none = Continuation(bits: 0)
        /// Several prompts ended there and go on differently, as short questions behind one long system prompt do.
        static let ambiguous = Continuation(bits: .max)

        private let bits: UInt32

        private init(bits: UInt32) { self.bits = bits }

        init(tokens: UInt32) { bits = min(tokens, .max - 2) + 1 }

        /// How many, as far as that is known.
        @inline(__always)
        var tokens: UInt32 { self == .ambiguous ? 0 : max(bits, 1) - 1 }
    }

    struct Holder: BitwiseCopyable {
        /// Runs, and how many there are.
        var newest: UInt32 = 0
        var oldest: UInt32 = 0
        var runs: UInt32 = 0
        /// Blocks.
        var count: UInt32 = 0
        /// Counts insertions; orders this holder's runs by age.
        var clock: UInt32
        /// The newest stamp whose path is known to be prefilled; what was inserted later may still be computed.
        var prefilledStamp: UInt32
        /// What the last `match` found; valid while `matchEpoch` is the index's epoch.
        var matchEpoch: UInt64
        var matchDepth: UInt32 = 0
        var matchBlock: UInt32 = 0
        var nextRetired: UInt16 = 0
        var isLive: Bool
        /// The clock when this life of the number began, and no more than 2³⁰ ago.
        var bornAt: UInt32
        /// The clock behind the latest touch of anything that was evicted in this life.
        var evictedBefore: UInt32
        /// Blocks that paths in flight lead through.
        var inUse: UInt32 = 0
        /// What it may hold, by its last insertion; and whether it may hold more, see `repay`.
        var limit: UInt32 = 0
        var isOverdrawn = false
    }

    /// Some of a holder's blocks, each the parent of the one before it.
    struct Piece: BitwiseCopyable {
        var bottom: UInt32
        var count: UInt32
    }

    /// What `insert` did, kept to undo it or to learn from it.
    struct Insertion: BitwiseCopyable {
        /// The deepest block of the path; 0 when nothing is held.
        var deepest: UInt32 = 0
        /// Blocks that were not held before.
        var newBlocks: UInt32 = 0
        /// The stamp that all of the path carries now.
        var stamp: UInt32 = 0
        /// When the deepest block became the end of a run, to know it again.
        var deepestBornAt: UInt32 = 0
        var holder: UInt16 = 0
        /// The stamps of the path's root and of its deepest matched block before; meaningful when something matched.
        var rootStamp: UInt32 = 0
        var matchStamp: UInt32 = 0
    }

    // Index 0 is no block, no run and no holder.
    var blocks: LazyBuffer<Block>
    var runs: LazyBuffer<Run>
    var holders: LazyBuffer<Holder>
    /// All blocks: heads by hash, and the others by hash and holder.
    var table: BlockTable

    /// Free blocks: some at hand, whose memory can be fetched together, and the others in a list.
    let stock: LazyBuffer<UInt32>
    var stockCount = 0
    var freeBlock: UInt32 = 0
    var firstUnusedBlock: UInt32 = 1
    var blocksInUse: Int = 0
    var freeRun: UInt32 = 0
    var firstUnusedRun: UInt32 = 1
    var freeHolder: UInt16 = 0
    var firstUnusedHolder: UInt16 = 1
    var liveHolders: Int = 0
    /// Removed holders whose blocks are not yet reclaimed.
    var retiredHolder: UInt16 = 0
    /// Where the search for a holder above its quota goes on.
    var quotaCursor: UInt16 = 1

    /// Blocks that a holder may hold beyond its limit until `repay`.
    let overdraft: UInt32
    /// A ring of those who do.
    let overdrawn: LazyBuffer<UInt16>
    var firstOverdrawn = 0
    var overdrawnCount = 0

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
    /// Scratch of one insertion: the blocks added last, and what is about to be evicted.
    let recent: LazyBuffer<UInt32>
    let leaving: LazyBuffer<Piece>

    /// - Parameters:
    ///   - blockLimit: blocks in the arena.
    ///   - holderLimit: live holders at a time, at most 16,384; as many again may be retired.
    ///   - seed: where hashes fall in the table; no influence on results.
    init(blockLimit: Int, holderLimit: Int, seed: UInt64) {
        let isLarge = blockLimit >= Self.fewestBlocksForHugePages
        blocks = LazyBuffer(count: blockLimit + 1, inHugePages: isLarge)
        // Prompts are longer than a chunk or two, or begin alike; were they not, half as many of them would be held.
        runs = LazyBuffer(count: max(blockLimit / 2, min(blockLimit, Self.fewestRuns)) + 1, inHugePages: isLarge)
        holders = LazyBuffer(count: 2 * holderLimit + 2)
        visited = LazyBuffer(count: Self.mostVisits)
        recent = LazyBuffer(count: Block.stride)
        leaving = LazyBuffer(count: Self.insertionSpan)
        stock = LazyBuffer(count: min(blockLimit, Self.mostStock))
        overdrawn = LazyBuffer(count: Self.mostOverdrawn)
        overdraft = blockLimit >= Self.fewestBlocksToOverdraw ? UInt32(min(blockLimit / 64 / Self.mostOverdrawn, Self.mostOverdraft)) : 0
        table = BlockTable(blockLimit: blockLimit, seed: seed, inHugePages: isLarge)
    }

    private static var fewestRuns: Int { 4_096 }
    /// Who configures so many expects to fill them; of the default's memory a router with little traffic shall touch little.
    private static var fewestBlocksForHugePages: Int { 1 << 20 }
    private static var mostStock: Int { 1_024 }
    /// What may be overdrawn is a 64th of the index at most, and nothing of a small one.
    private static var mostOverdrawn: Int { 32 }
    private static var mostOverdraft: Int { 128 }
    private static var fewestBlocksToOverdraw: Int { 1 << 16 }

    /// Chunks of a path that can be held.
    static var longestPath: Int { Int(UInt16.max) }

    var blockLimit: Int { blocks.count - 1 }

    /// Bytes that the index can ever touch.
    var reservedBytes: Int {
        blocks.byteCount + runs.byteCount + holders.byteCount + table.byteCount + visited.byteCount + stock.byteCount
    }

    /// The blocks and the runs that each live holder may keep when all want more: quotas that add up to no more than there are.
    var fairShare: UInt32 { UInt32((blockLimit - Int(overdraft) * overdrawn.count) / max(liveHolders, 1)) }
    var fairShareOfRuns: UInt32 { UInt32((runs.count - 1) / max(liveHolders, 1)) }

    // MARK: Holders

    /// Asks for what a decision reads of the holder ahead of its use.
    @inline(__always)
    func prefetch(holder: UInt16) { holders.prefetch(Int(holder)) }

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
            clock: clock, prefilledStamp: clock, matchEpoch: epoch &- 1, isLive: true, bornAt: clock, evictedBefore: clock)
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

    /// Whether the holder, in its present life, has evicted nothing that it touched then or later: what is older goes first.
    @inline(__always)
    func holds(stamp: UInt32, _ holder: UInt16) -> Bool { Int32(bitPattern: stamp &- holders[Int(holder)].evictedBefore) >= 0 }

    /// Blocks that the holder holds.
    func count(of holder: UInt16) -> Int { Int(holders[Int(holder)].count) }

    /// Blocks of the holder that paths in flight lead through, each once, as far as it still holds them.
    func countInUse(of holder: UInt16) -> Int { Int(holders[Int(holder)].inUse) }

    private mutating func drainOneRetiredHolder() {
        let holder = retiredHolder
        while holder != 0 && holder == retiredHolder { reclaimFromRetired() }
    }

    /// Frees one block of a removed holder, or the holder's number when it has no block left.
    private mutating func reclaimFromRetired() {
        let holder = retiredHolder
        let oldest = holders[Int(holder)].oldest
        if oldest != 0 {
            shorten(oldest, by: 1, keeping: 0)
            return
        }
        retiredHolder = holders[Int(holder)].nextRetired
        holders[Int(holder)].nextRetired = freeHolder
        freeHolder = holder
    }

    // MARK: Room

    /// A block to fill: a free one, then one of a removed holder, then untouched memory, then the oldest of whoever exceeds
    /// the fair share.
    /// - Parameter kept: a block that may not give way.
    @inline(__always)
    mutating func allocateBlock(keeping kept: UInt32) -> UInt32 {
        if stockCount == 0 { findBlock(keeping: kept) }
        guard stockCount > 0 else { return 0 }
        stockCount &-= 1
        blocksInUse &+= 1
        return stock[stockCount]
    }

    /// Asks for the next `count` blocks that will be filled, as far as they are at hand.
    @inline(__always)
    func prefetchStock(_ count: Int) {
        for place in max(stockCount &- count, 0)..<stockCount { blocks.prefetch(Int(stock[place])) }
    }

    @inline(never)
    private mutating func findBlock(keeping kept: UInt32) {
        while freeBlock != 0 && stockCount < min(Self.insertionSpan, stock.count) {
            stock[stockCount] = freeBlock
            stockCount += 1
            freeBlock = blocks[freeBlock].parent
        }
        while stockCount == 0 && retiredHolder != 0 { reclaimFromRetired() }
        if stockCount > 0 { return }
        if Int(firstUnusedBlock) < blocks.count {
            stock[0] = firstUnusedBlock
            stockCount = 1
            firstUnusedBlock += 1
            return
        }
        let share = fairShare
        if let holder = nextHolder(where: { $0.count > share }) { evict(1, of: holder, keeping: kept) }
    }

    /// Gives back a block that is in no list.
    mutating func recycle(block index: UInt32) {
        blocks[index].holder = 0
        blocksInUse -= 1
        if stockCount < stock.count {
            stock[stockCount] = index
            stockCount += 1
        } else {
            blocks[index].parent = freeBlock
            freeBlock = index
        }
    }

    /// A run to fill, found like a block.
    mutating func allocateRun(keeping kept: UInt32) -> UInt32 {
        while freeRun == 0 && retiredHolder != 0 { reclaimFromRetired() }
        if freeRun == 0 && Int(firstUnusedRun) < runs.count {
            firstUnusedRun += 1
            return firstUnusedRun - 1
        }
        let share = fairShareOfRuns
        while freeRun == 0, let holder = nextHolder(where: { $0.runs > share }) {
            if evict(1, of: holder, keeping: kept) == 0 { break }
        }
        let run = freeRun
        if run != 0 { freeRun = runs[run].older }
        return run
    }

    mutating func recycle(run: UInt32) {
        runs[run].older = freeRun
        freeRun = run
    }

    /// A full arena means that somebody is above the fair share, or everybody is exactly at it. The cursor stays where it
    /// found one, so the search is paid for once per crowd of evictions.
    private mutating func nextHolder(where exceedsShare: (Holder) -> Bool) -> UInt16? {
        for _ in 0..<holders.count {
            let holder = holders[Int(quotaCursor)]
            if holder.isLive && holder.oldest != 0 && exceedsShare(holder) { return quotaCursor }
            quotaCursor = Int(quotaCursor) + 1 < Int(firstUnusedHolder) ? quotaCursor + 1 : 1
        }
        return nil
    }

    /// Evicts up to `count` of the holder's oldest blocks.
    ///
    /// What is in use an engine cannot evict either: it becomes the newest instead, while there is anything else. Not more than a few such
    /// paths in a row, so that an insertion into a cache that is nearly all in use stays cheap.
    /// - Returns: how many: fewer where `kept` would be next, nothing is left, or the next is in use, which is moved only when its room is needed.
    @discardableResult
    mutating func evict(_ count: Int, of holder: UInt16, keeping kept: UInt32 = 0) -> Int {
        var evicted = 0
        while evicted < count {
            if evicted > 0 && runs[holders[Int(holder)].oldest].users > 0 { break }
            if holders[Int(holder)].inUse < holders[Int(holder)].count {
                for _ in 0..<Self.mostRescues {
                    let oldest = holders[Int(holder)].oldest
                    if oldest == 0 || runs[oldest].users == 0 { break }
                    _ = refresh(runs[oldest].bottom, stamp: holders[Int(holder)].clock)
                }
            }
            let oldest = holders[Int(holder)].oldest
            if oldest == 0 { break }
            let stamp = runs[oldest].stamp
            let freed = shorten(oldest, by: count - evicted, keeping: kept)
            if freed == 0 { break }
            if holds(stamp: stamp, holder) { holders[Int(holder)].evictedBefore = stamp &+ 1 }
            evicted += freed
        }
        return evicted
    }

    private static var mostRescues: Int { 16 }
}
