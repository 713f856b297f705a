extension PrefixIndex {
    /// Notes that the holder holds the whole path, which must be the one last given to `match`: refreshes what matched and
    /// adds the rest, evicting the holder's oldest blocks above `quota`.
    ///
    /// A path longer than the quota is held as far as the quota goes.
    mutating func insert(_ hashes: UnsafeBufferPointer<UInt64>, holder: UInt16, quota: UInt32) -> Insertion {
        let matched = matchedBlock(of: holder, hashes: hashes)
        let depth = matched == 0 ? 0 : Int(holders[Int(holder)].matchDepth)
        holders[Int(holder)].clock &+= UInt32(truncatingIfNeeded: max(hashes.count, 1))
        let stamp = holders[Int(holder)].clock
        var result = Insertion(stamp: stamp, holder: holder)
        // What is below the match is not touched, and may be used by others.
        if matched != 0 && !endRun(at: matched, depth: depth) { return result }
        if matched != 0 {
            result.matchStamp = runs[blocks[matched].run].stamp
            result.answerTokens = runs[blocks[matched].run].answerTokens
            result.rootStamp = refresh(matched, stamp: stamp)
        }
        let end = min(hashes.count, Self.longestPath)
        if depth < end {
            let limit = max(min(quota, fairShare), 1)
            add(UnsafeBufferPointer(rebasing: hashes[..<end]), from: depth, below: matched, limit: limit, &result)
        } else {
            result.deepest = matched
        }
        if result.deepest != 0 { result.deepestBornAt = runs[blocks[result.deepest].run].bornAt }
        return result
    }

    /// Adds the chunks from `depth` on below `matched`, as far as `limit` goes.
    private mutating func add(
        _ hashes: UnsafeBufferPointer<UInt64>, from depth: Int, below matched: UInt32, limit: UInt32, _ result: inout Insertion
    ) {
        let (holder, stamp) = (result.holder, result.stamp)
        var parent = matched
        var run: UInt32 = 0
        // A path that goes on where another has ended for good is one with it.
        if matched != 0, runs[blocks[matched].run].users == 0, runs[blocks[matched].run].children == 0 {
            run = blocks[matched].run
            runs[run].bornAt = stamp
            runs[run].answerTokens = 0
        }
        let mostRuns = max(fairShareOfRuns, 1)
        while run == 0 && holders[Int(holder)].runs >= mostRuns && oldestBlock(of: holder) != parent {
            evictOldest(of: holder, keeping: parent)
        }
        for position in depth..<hashes.count {
            if position & (Self.prefetchSpan - 1) == depth & (Self.prefetchSpan - 1) {
                prefetch(hashes, from: position, evictingFrom: holders[Int(holder)].count >= limit ? holder : nil)
            }
            while holders[Int(holder)].count >= limit && oldestBlock(of: holder) != parent {
                evictOldest(of: holder, keeping: parent)
            }
            if holders[Int(holder)].count >= limit { break }
            let block = allocateBlock(keeping: parent)
            guard block != 0 else { break }
            if run == 0 { run = addRun(below: parent, depth: position, holder: holder, stamp: stamp) }
            guard run != 0 else {
                recycle(block: block)
                break
            }
            blocks[block] = Block(
                hash: hashes[position], nextInBucket: 0, holderCount: 0, holder: holder, nextHolder: 0, previousHolder: 0, parent: parent,
                run: run)
            linkToHash(block)
            runs[run].bottom = block
            runs[run].depth &+= 1
            runs[run].length &+= 1
            holders[Int(holder)].count += 1
            result.newBlocks += 1
            parent = block
        }
        result.deepest = parent
    }

    /// Of a long new path every block's place in the hash table is a cache miss, and so is that of each block that falls out for it: those
    /// of the next few are fetched together rather than one after the other.
    private func prefetch(_ hashes: UnsafeBufferPointer<UInt64>, from position: Int, evictingFrom holder: UInt16?) {
        let end = min(position &+ Self.prefetchSpan, hashes.count)
        let oldest = holder.map { holders[Int($0)].oldest } ?? 0
        for index in position..<end { buckets.prefetch(bucket(of: hashes[index])) }
        forEachLeaving(oldest, end - position) { block in buckets.prefetch(bucket(of: blocks[block].hash)) }
        for index in position..<end { blocks.prefetch(Int(buckets[bucket(of: hashes[index])])) }
        forEachLeaving(oldest, end - position) { block in blocks.prefetch(Int(buckets[bucket(of: blocks[block].hash)])) }
    }

    /// The next `count` blocks to give way, from that run on.
    @inline(__always)
    private func forEachLeaving(_ oldest: UInt32, _ count: Int, _ body: (UInt32) -> Void) {
        guard oldest != 0 else { return }
        var run = oldest
        var block = runs[run].bottom
        for _ in 0..<count {
            body(block)
            block = blocks[block].parent
            if block == runs[run].above {
                run = runs[run].newer
                if run == 0 { return }
                block = runs[run].bottom
            }
        }
    }

    /// Fetches under way at once; a core has some sixteen.
    static var prefetchSpan: Int { 16 }

    /// Takes back what `insert` added, as far as nobody has touched it since: the engine never computed it.
    mutating func undo(_ insertion: Insertion, holder: UInt16) {
        var index = insertion.deepest
        for _ in 0..<insertion.newBlocks {
            guard index != 0, blocks[index].holder == holder else { return }
            let run = blocks[index].run
            guard runs[run].stamp == insertion.stamp, runs[run].bottom == index, runs[run].children == 0 else { return }
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
            guard oldest != 0, Int32(bitPattern: stamp &- runs[oldest].stamp) >= 0 else { return }
            evictOldest(of: holder)
        }
    }
}
