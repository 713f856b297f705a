extension PrefixIndex {
    /// Notes that the holder holds the whole path, which must be the one last given to `match`: refreshes what matched and
    /// adds the rest, evicting the holder's oldest blocks above `quota`: those that `overdraft` allows at the next `repay`, the others now.
    ///
    /// A path longer than the quota is held as far as the quota goes.
    mutating func insert(_ hashes: UnsafeBufferPointer<UInt64>, holder: UInt16, quota: UInt32) -> Insertion {
        let matched = matchedBlock(of: holder, hashes: hashes)
        let depth = matched == 0 ? 0 : Int(holders[Int(holder)].matchDepth)
        tick(holder)
        let stamp = holders[Int(holder)].clock
        var result = Insertion(stamp: stamp, holder: holder)
        // What is below the match is not touched, and may be used by others.
        if matched != 0 && !endRun(at: matched, depth: depth) { return result }
        if matched != 0 {
            result.matchStamp = runs[blocks[matched].run].stamp
            result.rootStamp = refresh(matched, stamp: stamp)
        }
        let end = min(hashes.count, Self.longestPath)
        if depth < end {
            let limit = max(min(quota, fairShare), 1)
            let overdraft = overdraft(of: holder, limit: limit, chunks: end)
            add(UnsafeBufferPointer(rebasing: hashes[..<end]), from: depth, below: matched, limit: limit + overdraft, &result)
            noteLimit(limit, of: holder)
        } else {
            result.deepest = matched
        }
        if result.deepest != 0 { result.deepestBornAt = runs[blocks[result.deepest].run].bornAt }
        return result
    }

    /// Stamps are compared by their difference, which must stay below 2³¹: what is so old that this life of the number began later is nobody's.
    private mutating func tick(_ holder: UInt16) {
        let clock = holders[Int(holder)].clock &+ 1
        holders[Int(holder)].clock = clock
        let longest: UInt32 = 1 << 30
        if clock &- holders[Int(holder)].bornAt > longest { holders[Int(holder)].bornAt = clock &- longest }
    }

    /// Adds the chunks from `depth` on below `matched`, as far as `limit` goes.
    private mutating func add(
        _ hashes: UnsafeBufferPointer<UInt64>, from depth: Int, below matched: UInt32, limit: UInt32, _ result: inout Insertion
    ) {
        let holder = result.holder
        var run: UInt32 = 0
        // A path that goes on where another has ended for good is one with it.
        if matched != 0, runs[blocks[matched].run].users == 0, runs[blocks[matched].run].children == 0 {
            run = blocks[matched].run
            runs[run].bornAt = result.stamp
            runs[run].continuation = .none
        }
        let mostRuns = max(fairShareOfRuns, 1)
        while run == 0 && holders[Int(holder)].runs >= mostRuns && evict(1, of: holder, keeping: matched) > 0 {}
        result.deepest = matched
        var position = depth
        while position < hashes.count {
            let held = Int(holders[Int(holder)].count)
            // Nothing gives way before there is no room.
            let count = min(hashes.count - position, held < limit ? Int(limit) - held : Self.insertionSpan, Self.insertionSpan)
            let excess = held + count - Int(limit)
            if excess > 0 { foresee(evicting: excess, of: holder) }
            // The first of what nobody held has been asked for by the search.
            if position < matchDeepest || position + count > matchDeepest + Self.insertionSpan {
                for hash in hashes[position..<(position + count)] {
                    table.prefetch(hash)
                    table.prefetch(key(hash, holder))
                }
                prefetchStock(count)
                // Where others hold it, its list is added to; one after the other these would be waited for, too.
                if position < matchDeepest {
                    for hash in hashes[position..<(position + count)] { blocks.prefetch(Int(blocks[head(of: hash)].nextHolder)) }
                }
            }
            let evicted = excess > 0 ? evict(excess, of: holder, keeping: result.deepest) : 0
            let room = min(count, Int(limit) - Int(holders[Int(holder)].count))
            if room <= 0 && evicted > 0 { continue }
            if room <= 0 || fill(hashes[position..<(position + room)], depth: position, run: &run, &result) < room { return }
            position += room
        }
    }

    /// Adds chunks at the end of `run`, or of a new one.
    /// - Returns: how many: fewer where there is no room.
    private mutating func fill(_ hashes: Slice<UnsafeBufferPointer<UInt64>>, depth: Int, run: inout UInt32, _ result: inout Insertion)
        -> Int
    {
        var parent = result.deepest
        var added = 0
        for hash in hashes {
            let block = allocateBlock(keeping: parent)
            guard block != 0 else { break }
            let number = Int(result.newBlocks) &+ added
            blocks[block] = Block(
                hash: hash, holderCount: 0, holder: result.holder, nextHolder: 0, previousHolder: 0, parent: parent, run: run,
                ancestor: number >= Block.stride ? recent[number & (Block.stride - 1)] : 0)
            recent[number & (Block.stride - 1)] = block
            guard linkToHash(block) else {
                recycle(block: block)
                break
            }
            if run == 0 { run = addRun(below: parent, depth: depth, holder: result.holder, stamp: result.stamp) }
            guard run != 0 else {
                unlinkFromHash(block)
                recycle(block: block)
                break
            }
            blocks[block].run = run
            parent = block
            added += 1
            runs[run].bottom = block
            runs[run].depth &+= 1
            runs[run].length &+= 1
            holders[Int(result.holder)].count &+= 1
        }
        result.newBlocks &+= UInt32(truncatingIfNeeded: added)
        result.deepest = parent
        return added
    }

    /// Of each block that gives way the place in the hash table is a cache miss, and so is mostly the block: those of the next `count` are
    /// fetched together rather than one after the other. What is far up a long run is found by its blocks' ancestors.
    mutating func foresee(evicting count: Int, of holder: UInt16) {
        var pieces = 0
        var left = UInt32(count)
        var run = holders[Int(holder)].oldest
        while left > 0 && run != 0 && pieces < leaving.count {
            let piece = Piece(bottom: runs[run].bottom, count: min(left, UInt32(runs[run].length)))
            blocks.prefetch(Int(piece.bottom))
            leaving[pieces] = piece
            pieces += 1
            left &-= piece.count
            run = runs[run].newer
        }
        var place = 0
        while place < pieces && pieces < leaving.count {
            let piece = leaving[place]
            if piece.count > Block.stride {
                let ancestor = blocks[piece.bottom].ancestor
                if ancestor != 0 {
                    blocks.prefetch(Int(ancestor))
                    leaving[place].count = UInt32(Block.stride)
                    leaving[pieces] = Piece(bottom: ancestor, count: piece.count - UInt32(Block.stride))
                    pieces += 1
                }
            }
            place += 1
        }
        // From all pieces one block at a time, so that none waits for another.
        while pieces > 0 {
            var longer = 0
            for place in 0..<pieces {
                let piece = leaving[place]
                table.prefetch(key(of: piece.bottom))
                guard piece.count > 1 else { continue }
                let parent = blocks[piece.bottom].parent
                blocks.prefetch(Int(parent))
                leaving[longer] = Piece(bottom: parent, count: piece.count - 1)
                longer += 1
            }
            pieces = longer
        }
    }

    /// Fetches of a search under way at once; a core has some sixteen.
    static var prefetchSpan: Int { 16 }

    /// Blocks added, and evicted for them, at once.
    static var insertionSpan: Int { 64 }

    /// Takes back what `insert` added, as far as nobody has touched it since: the engine never computed it.
    mutating func undo(_ insertion: Insertion, holder: UInt16) {
        var index = insertion.deepest
        for _ in 0..<insertion.newBlocks {
            guard index != 0, blocks[index].holder == holder else { return }
            let run = blocks[index].run
            guard runs[run].stamp == insertion.stamp, runs[run].bottom == index, runs[run].children == 0 else { return }
            let parent = blocks[index].parent
            shorten(run, by: 1, keeping: 0)
            index = parent
        }
    }

    /// Forgets the holder's blocks that were last touched at or before `stamp`: an engine that lost one of that age lost the
    /// older ones before it.
    mutating func forget(of holder: UInt16, upTo stamp: UInt32) {
        while true {
            let oldest = holders[Int(holder)].oldest
            guard oldest != 0, Int32(bitPattern: stamp &- runs[oldest].stamp) >= 0 else { return }
            evict(1, of: holder)
        }
    }
}
