extension PrefixIndex {
    /// Bounds of one search: blocks looked at while collecting holders. Up to this many groups that hold part of a prompt
    /// are credited exactly; beyond, the deepest ones and what all hold alike. Each visit may wait for memory, so where all
    /// holders could not be visited anyway fewer are.
    private var visitLimit: Int { liveHolders <= Self.mostVisits ? Self.mostVisits : Self.mostVisits / 3 }
    static var mostVisits: Int { 96 }

    private static var mostForeseen: Int { 2 }

    /// Finds for each holder how many leading chunks it holds; ask with `depth(of:)` until the next call.
    ///
    /// Since holdings are closed under prefixes, existence and the number of holders never grow with depth: the deepest held
    /// chunk and each shallower level where holders join are found by search, some log2(depth) probes each.
    /// - Returns: the depth of the deepest match, in chunks.
    @discardableResult
    mutating func match(_ hashes: UnsafeBufferPointer<UInt64>) -> Int {
        epoch &+= 1
        matchFloor = 0
        matchIsPartial = false
        visitedCount = 0
        let deepest = deepestHeld(hashes)
        matchDeepest = deepest
        var depth = deepest
        var visits = 0
        let limit = visitLimit
        while depth > 0 {
            let head = head(of: hashes[depth - 1])
            let holderCount = blocks[head].holderCount
            if liveHolders > 0 && Int(holderCount) >= liveHolders && retiredHolder == 0 { matchFloor = max(matchFloor, UInt32(depth)) }
            // What all hold, all are credited with; to visit them would only say so again.
            if matchFloor > 0 && liveHolders > Self.mostVisits { break }
            record(head, depth: depth, visits: &visits, limit: limit)
            if matchIsPartial || matchFloor > 0 { break }
            depth = deepestLevel(hashes, below: depth, withMoreHoldersThan: holderCount)
        }
        return deepest
    }

    /// How many leading chunks of the last matched prompt the holder holds.
    @inline(__always)
    func depth(of holder: UInt16) -> Int {
        let record = holders[Int(holder)]
        return Int(record.matchEpoch == epoch ? record.matchDepth : matchFloor)
    }

    /// Paths in flight that lead on from the deepest chunk that anybody holds, on each of those who hold it.
    func sharers() -> Double {
        var sum: UInt32 = 0
        var count = 0
        while count < min(visitedCount, Self.mostSharing) {
            let holder = holders[Int(visited[count])]
            if Int(holder.matchDepth) < matchDeepest { break }
            sum &+= blocks[holder.matchBlock].users
            count += 1
        }
        return count > 0 ? Double(sum) / Double(count) : 0
    }

    /// So many holders tell of all.
    private static var mostSharing: Int { 16 }

    /// The holder's block at the end of its match; 0 when it has none.
    mutating func matchedBlock(of holder: UInt16, hashes: UnsafeBufferPointer<UInt64>) -> UInt32 {
        if holders[Int(holder)].matchEpoch == epoch { return holders[Int(holder)].matchBlock }
        guard matchIsPartial || matchFloor > 0 else { return 0 }
        // Not visited: bisect over this holder's own blocks, so that nothing is ever inserted twice.
        var low = Int(matchFloor)
        var high = matchDeepest
        var found = low > 0 ? block(of: hashes[low - 1], holder: holder) : 0
        while low < high {
            let middle = low + (high - low + 1) / 2
            let block = block(of: hashes[middle - 1], holder: holder)
            if block != 0 {
                low = middle
                found = block
            } else {
                high = middle - 1
            }
        }
        holders[Int(holder)].matchEpoch = epoch
        holders[Int(holder)].matchDepth = UInt32(low)
        holders[Int(holder)].matchBlock = found
        return found
    }

    /// How many leading chunks of the holder's match are in use by paths in flight there: all above one that is are.
    mutating func depthInUse(of holder: UInt16, _ hashes: UnsafeBufferPointer<UInt64>) -> Int {
        if holders[Int(holder)].inUse == 0 { return 0 }
        var low = 0
        var high = depth(of: holder)
        while low < high {
            let middle = low + (high - low + 1) / 2
            if blocks[block(of: hashes[middle - 1], holder: holder)].users > 0 { low = middle } else { high = middle - 1 }
        }
        return low
    }

    /// How many leading chunks of the last matched prompt more than half of the holders have, and at least two.
    func commonDepth(_ hashes: UnsafeBufferPointer<UInt64>) -> Int {
        let most = UInt16(max(liveHolders / 2, 1))
        guard matchDeepest > 0, isHeld(hashes[0], byMoreThan: most) else { return 0 }
        return deepest(hashes, from: 1, to: matchDeepest, withMoreHoldersThan: most)
    }

    /// Depth of the deepest chunk that anybody holds. Mostly that is nearly all of a prompt, a conversation's last turn, or nothing; so the
    /// first cuts lie the closer the nearer the end is, and what they touch is what an insertion of the rest will touch again.
    private func deepestHeld(_ hashes: UnsafeBufferPointer<UInt64>) -> Int {
        let count = hashes.count
        if count == 0 { return 0 }
        var cuts = 0
        buckets.prefetch(bucket(of: hashes[0]))
        while Self.cut(cuts) < count {
            buckets.prefetch(bucket(of: hashes[count - 1 - Self.cut(cuts)]))
            cuts += 1
        }
        blocks.prefetch(Int(buckets[bucket(of: hashes[0])]))
        for place in 0..<cuts { blocks.prefetch(Int(buckets[bucket(of: hashes[count - 1 - Self.cut(place)])])) }
        if head(of: hashes[0]) == 0 { return 0 }
        // The nearest to the end that is held.
        var beyond = -1
        var held = cuts
        while held - beyond > 1 {
            let middle = (held + beyond + 1) / 2
            if head(of: hashes[count - 1 - Self.cut(middle)]) != 0 { held = middle } else { beyond = middle }
        }
        let low = held < cuts ? count - Self.cut(held) : 1
        let high = beyond >= 0 ? count - 1 - Self.cut(beyond) : count
        return deepest(hashes, from: low, to: max(low, high), withMoreHoldersThan: 0)
    }

    /// Chunks between the end of a prompt and a place to look at first: 0, 1, 2, 3, 4, 6, 8, 12, 16, 24 and so on.
    @inline(__always)
    private static func cut(_ place: Int) -> Int { place < 4 ? place : (4 + 2 * (place & 1)) << ((place - 4) >> 1) }

    /// The deepest level above `depth` that more holders reach; 0 when there is none.
    private mutating func deepestLevel(_ hashes: UnsafeBufferPointer<UInt64>, below depth: Int, withMoreHoldersThan count: UInt16) -> Int {
        if depth <= 1 || blocks[head(of: hashes[0])].holderCount <= count { return 0 }
        return deepest(hashes, from: 1, to: depth - 1, withMoreHoldersThan: count)
    }

    /// The deepest level from `known`, which more than `count` holders reach, up to `end`. Every probe of a large table waits for memory,
    /// first for the bucket and then for the block; so instead of bisecting one probe at a time the range is cut at several places whose
    /// memory is fetched together.
    private func deepest(
        _ hashes: UnsafeBufferPointer<UInt64>, from known: Int, to end: Int, withMoreHoldersThan count: UInt16
    ) -> Int {
        var low = known
        var high = end
        while low < high {
            let step = (high - low + Self.prefetchSpan - 1) / Self.prefetchSpan
            for depth in stride(from: low + step, through: high, by: step) { buckets.prefetch(bucket(of: hashes[depth - 1])) }
            for depth in stride(from: low + step, through: high, by: step) {
                blocks.prefetch(Int(buckets[bucket(of: hashes[depth - 1])]))
            }
            // Bisects over the cuts.
            let start = low
            var reached = 0
            var beyond = (high - low) / step + 1
            while beyond - reached > 1 {
                let middle = (reached + beyond) / 2
                if isHeld(hashes[start + middle * step - 1], byMoreThan: count) { reached = middle } else { beyond = middle }
            }
            low = start + reached * step
            high = min(start + beyond * step - 1, high)
        }
        return low
    }

    @inline(__always)
    private func isHeld(_ hash: UInt64, byMoreThan count: UInt16) -> Bool {
        let head = head(of: hash)
        return head != 0 && blocks[head].holderCount > count
    }

    private mutating func record(_ head: UInt32, depth: Int, visits: inout Int, limit: Int) {
        var index = head
        while index != 0 {
            guard visits < limit else {
                matchIsPartial = true
                return
            }
            visits += 1
            let holder = Int(blocks[index].holder)
            if holders[holder].isLive && holders[holder].matchEpoch != epoch {
                holders[holder].matchEpoch = epoch
                holders[holder].matchDepth = UInt32(depth)
                holders[holder].matchBlock = index
                visited[visitedCount] = blocks[index].holder
                visitedCount += 1
                // What gives way there if this one is chosen; with many to choose from it would mostly be in vain.
                if visitedCount <= Self.mostForeseen { blocks.prefetch(Int(holders[holder].oldest)) }
            }
            index = blocks[index].nextHolder
        }
    }
}

extension PrefixIndex {
    /// Notes that the holder holds the whole path, which must be the one last given to `match`: refreshes what matched and
    /// adds the rest, evicting the holder's oldest blocks above `quota`.
    ///
    /// A path longer than the quota is held as far as the quota goes.
    mutating func insert(_ hashes: UnsafeBufferPointer<UInt64>, holder: UInt16, quota: UInt32) -> Insertion {
        var result = Insertion()
        let matched = matchedBlock(of: holder, hashes: hashes)
        let depth = matched == 0 ? 0 : Int(holders[Int(holder)].matchDepth)
        let limit = max(min(quota, fairShare), 1)
        result.holder = holder
        holders[Int(holder)].clock &+= UInt32(truncatingIfNeeded: max(hashes.count, 1))
        result.stamp = holders[Int(holder)].clock
        result.deepest = matched
        if matched != 0 {
            result.matchStamp = blocks[matched].stamp
            result.rootStamp = refresh(matched, stamp: result.stamp)
        }
        var parent = matched
        for position in depth..<max(hashes.count, depth) {
            if position & (Self.prefetchSpan - 1) == depth & (Self.prefetchSpan - 1) {
                prefetch(hashes, from: position, evictingFrom: holders[Int(holder)].count >= limit ? holder : nil)
            }
            while holders[Int(holder)].count >= limit && holders[Int(holder)].oldest != parent {
                evictOldest(of: holder, keeping: parent)
            }
            if holders[Int(holder)].count >= limit { break }
            let block = allocateBlock(keeping: parent)
            guard block != 0 else { break }
            blocks[block] = Block(
                hash: hashes[position], nextInBucket: 0, holderCount: 0, holder: holder, nextHolder: 0, previousHolder: 0, newer: 0,
                older: 0, parent: parent, stamp: result.stamp, bornAt: result.stamp)
            linkToHash(block)
            linkToAge(block, behind: parent)
            holders[Int(holder)].count += 1
            result.newBlocks += 1
            parent = block
        }
        result.deepest = parent
        if parent != 0 { result.deepestBornAt = blocks[parent].bornAt }
        return result
    }

    /// Of a long new path every block's place in the hash table is a cache miss, and so is that of each block that falls out for it: those
    /// of the next few are fetched together rather than one after the other.
    private mutating func prefetch(_ hashes: UnsafeBufferPointer<UInt64>, from position: Int, evictingFrom holder: UInt16?) {
        let end = min(position &+ Self.prefetchSpan, hashes.count)
        let oldest = holder.map { holders[Int($0)].oldest } ?? 0
        for index in position..<end { buckets.prefetch(bucket(of: hashes[index])) }
        var leaving = oldest
        for _ in position..<end where leaving != 0 {
            buckets.prefetch(bucket(of: blocks[leaving].hash))
            leaving = blocks[leaving].newer
        }
        for index in position..<end { blocks.prefetch(Int(buckets[bucket(of: hashes[index])])) }
        leaving = oldest
        for _ in position..<end where leaving != 0 {
            blocks.prefetch(Int(buckets[bucket(of: blocks[leaving].hash)]))
            leaving = blocks[leaving].newer
        }
    }

    /// Fetches under way at once; a core has some sixteen.
    private static var prefetchSpan: Int { 16 }

    /// Makes the path that ends in `deepest` the newest, root first in age, and returns the root's former stamp.
    mutating func refresh(_ deepest: UInt32, stamp: UInt32) -> UInt32 {
        var index = deepest
        // A path mostly lies in one piece, as it was touched last: what is in order already moves as a whole.
        var last = deepest
        var rootStamp: UInt32 = 0
        while index != 0 {
            rootStamp = blocks[index].stamp
            blocks[index].stamp = stamp
            let parent = blocks[index].parent
            if parent == 0 || blocks[index].newer != parent {
                moveToFront(index, through: last)
                last = parent
            }
            index = parent
        }
        return rootStamp
    }

    /// Takes back what `insert` added, as far as nobody has touched it since: the engine never computed it.
    mutating func undo(_ insertion: Insertion, holder: UInt16) {
        var index = insertion.deepest
        for _ in 0..<insertion.newBlocks {
            guard index != 0, blocks[index].holder == holder, blocks[index].stamp == insertion.stamp else { return }
            let parent = blocks[index].parent
            free(index)
            index = parent
        }
    }

    /// Forgets the holder's blocks that were last touched at or before `stamp`: an engine that lost one of that age lost the
    /// older ones before it.
    mutating func forget(of holder: UInt16, upTo stamp: UInt32) {
        while true {
            let oldest = holders[Int(holder)].oldest
            guard oldest != 0, Int32(bitPattern: stamp &- blocks[oldest].stamp) >= 0 else { return }
            evictOldest(of: holder)
        }
    }
}
