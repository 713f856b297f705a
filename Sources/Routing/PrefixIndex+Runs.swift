/// Runs of blocks: their age, and their use by paths in flight.
extension PrefixIndex {
    /// A new run of nothing yet, right below a block that is the last of its run; 0 when there is no room for one.
    /// - Parameters:
    ///   - above: 0: the run begins at the root.
    ///   - depth: of `above`.
    mutating func addRun(below above: UInt32, depth: Int, holder: UInt16, stamp: UInt32) -> UInt32 {
        let run = allocateRun(keeping: above)
        guard run != 0 else { return 0 }
        runs[run] = Run(above: above, stamp: stamp, bornAt: stamp, depth: UInt16(truncatingIfNeeded: depth))
        let upper = above != 0 ? blocks[above].run : 0
        if upper != 0 { runs[upper].children &+= 1 }
        linkToAge(run, behind: upper, holder: holder)
        return run
    }

    /// Makes the block the last of its run, so that what is above may be touched and used without what is below.
    /// - Parameter depth: of the block, as the search took it to be.
    /// - Returns: false when that takes one more run and there is no room for it, or when the block is at another depth: who knows the seed
    ///   can make a prompt whose hash at one depth is another's at a second.
    mutating func endRun(at block: UInt32, depth: Int) -> Bool {
        let run = blocks[block].run
        if runs[run].bottom == block { return Int(runs[run].depth) == depth }
        let other = allocateRun(keeping: block)
        guard other != 0 else { return false }
        // What gave way for it may have been what is below.
        guard runs[run].bottom != block, Int(runs[run].depth) > depth, let below = blocksBelow(block, depth: depth, run: run) else {
            recycle(run: other)
            return runs[run].bottom == block && Int(runs[run].depth) == depth
        }
        let length = runs[run].length
        let holder = blocks[block].holder
        runs[other] = runs[run]
        // As many blocks as the shorter piece has change their run.
        let (upper, lower) = below &+ below <= length ? (run, other) : (other, run)
        let newer = runs[run].newer
        var index = upper == run ? runs[run].bottom : block
        let end = upper == run ? block : runs[run].above
        while index != end {
            blocks[index].run = other
            index = blocks[index].parent
        }
        runs[lower].above = block
        runs[lower].length = below
        runs[upper].bottom = block
        runs[upper].depth &-= below
        runs[upper].length = length &- below
        runs[upper].users = runs[lower].users > 0 ? 1 : 0
        runs[upper].children = 1
        runs[upper].continuation = .none
        linkToAge(other, behind: upper == run ? run : newer, holder: holder)
        return true
    }

    /// How many blocks of the run are below that one, if they are as many as `depth` says; found out from the nearer end.
    private func blocksBelow(_ block: UInt32, depth: Int, run: UInt32) -> UInt16? {
        let below = Int(runs[run].depth) - depth
        let length = Int(runs[run].length)
        guard below < length else { return nil }
        let isNearBottom = 2 * below <= length
        var index = isNearBottom ? runs[run].bottom : block
        let end = isNearBottom ? block : runs[run].above
        for _ in 0..<(isNearBottom ? below : length - below) {
            if index == end { return nil }
            index = blocks[index].parent
        }
        return index == end ? UInt16(below) : nil
    }

    /// Frees up to `count` blocks from the end of a run that nothing hangs below, but not `kept`, and with its first block the run.
    /// - Returns: how many.
    @discardableResult
    mutating func shorten(_ run: UInt32, by count: Int, keeping kept: UInt32) -> Int {
        var block = runs[run].bottom
        if block == kept { return 0 }
        let holder = blocks[block].holder
        if runs[run].users > 0 {
            runs[run].users = 1
            endUse(of: run, holder: holder)
        }
        let above = runs[run].above
        var freed = 0
        while freed < count && block != above && block != kept {
            unlinkFromHash(block)
            let parent = blocks[block].parent
            recycle(block: block)
            block = parent
            freed += 1
        }
        holders[Int(holder)].count &-= UInt32(truncatingIfNeeded: freed)
        runs[run].bottom = block
        if freed > 0 { runs[run].continuation = .none }
        runs[run].depth &-= UInt16(truncatingIfNeeded: freed)
        runs[run].length &-= UInt16(truncatingIfNeeded: freed)
        if block == above { remove(run, holder: holder) }
        return freed
    }

    /// Takes an empty run out of all lists.
    mutating func remove(_ run: UInt32, holder: UInt16) {
        let above = runs[run].above
        if above != 0 { runs[blocks[above].run].children &-= 1 }
        unlinkFromAge(run, holder: holder)
        recycle(run: run)
    }

    // MARK: Use

    /// A path that `insert` made is in flight. Costs as many steps as it has runs that no other such path leads through.
    mutating func retain(_ insertion: Insertion) {
        var block = insertion.deepest
        while block != 0 {
            let run = blocks[block].run
            runs[run].users &+= 1
            if runs[run].users > 1 { return }
            holders[Int(insertion.holder)].inUse &+= UInt32(runs[run].length)
            block = runs[run].above
        }
    }

    /// A path that was retained is not in flight any more.
    mutating func release(_ insertion: Insertion) {
        if let run = endingRun(insertion) { endUse(of: run, holder: insertion.holder) }
    }

    /// The engine has prefilled the path, and so all that were inserted before: engines prefill in the order of arrival.
    mutating func notePrefilled(_ insertion: Insertion) {
        guard insertion.deepest != 0, Int32(bitPattern: insertion.stamp &- holders[Int(insertion.holder)].bornAt) > 0,
            !isPrefilled(insertion.stamp, on: insertion.holder)
        else { return }
        holders[Int(insertion.holder)].prefilledStamp = insertion.stamp
    }

    func isPrefilled(_ stamp: UInt32, on holder: UInt16) -> Bool {
        Int32(bitPattern: holders[Int(holder)].prefilledStamp &- stamp) >= 0
    }

    /// The hash of the last chunk of a path in flight, or of the one at that depth; nil when its end is not there any more.
    func hash(of insertion: Insertion, noDeeperThan most: Int) -> UInt64? {
        guard let run = endingRun(insertion), runs[run].bottom == insertion.deepest else { return nil }
        var block = insertion.deepest
        for _ in 0..<max(Int(runs[run].depth) - most, 0) { block = blocks[block].parent }
        return block == 0 ? nil : blocks[block].hash
    }

    /// The run that the path ends with. Its end may have been evicted meanwhile, and with it its use; the number may belong to another by now.
    private func endingRun(_ insertion: Insertion) -> UInt32? {
        let block = insertion.deepest
        guard block != 0, blocks[block].holder == insertion.holder, runs[blocks[block].run].bornAt == insertion.deepestBornAt,
            Int32(bitPattern: insertion.stamp &- holders[Int(insertion.holder)].bornAt) > 0
        else { return nil }
        return blocks[block].run
    }

    /// The engine has answered the path, which is still in flight, and holds so many tokens behind it.
    mutating func noteContinuation(of insertion: Insertion, tokens: UInt32) {
        guard let run = endingRun(insertion) else { return }
        runs[run].continuation = runs[run].continuation == .none ? Continuation(tokens: tokens) : .ambiguous
    }

    /// One of those who use a run does not any more.
    private mutating func endUse(of run: UInt32, holder: UInt16) {
        var run = run
        while runs[run].users > 0 {
            runs[run].users &-= 1
            if runs[run].users > 0 { return }
            holders[Int(holder)].inUse &-= UInt32(runs[run].length)
            let above = runs[run].above
            if above == 0 { return }
            run = blocks[above].run
        }
    }

    /// How many leading chunks of the holder's match are in use by paths in flight there: all above one that is are.
    mutating func depthInUse(of holder: UInt16, _ hashes: UnsafeBufferPointer<UInt64>) -> Int {
        let depth = depth(of: holder)
        if depth == 0 || holders[Int(holder)].inUse == 0 { return 0 }
        let isVisited = holders[Int(holder)].matchEpoch == epoch
        var run = blocks[isVisited ? holders[Int(holder)].matchBlock : block(of: hashes[depth - 1], holder: holder)].run
        if runs[run].users > 0 { return depth }
        while runs[run].above != 0 {
            run = blocks[runs[run].above].run
            if runs[run].users > 0 { return min(Int(runs[run].depth), depth) }
        }
        return 0
    }

    // MARK: Age

    /// Makes the path that ends in `deepest`, the last block of its run, the newest, root first in age, and returns the root's former stamp.
    mutating func refresh(_ deepest: UInt32, stamp: UInt32) -> UInt32 {
        let holder = blocks[deepest].holder
        var block = deepest
        var rootStamp: UInt32 = 0
        while block != 0 {
            let run = blocks[block].run
            rootStamp = runs[run].stamp
            runs[run].stamp = stamp
            if runs[run].newer != 0 {
                unlinkFromAge(run, holder: holder)
                linkToAge(run, behind: 0, holder: holder)
            }
            block = runs[run].above
        }
        return rootStamp
    }

    @inline(__always)
    private mutating func unlinkFromAge(_ run: UInt32, holder: UInt16) {
        let (newer, older) = (runs[run].newer, runs[run].older)
        if newer != 0 { runs[newer].older = older } else { holders[Int(holder)].newest = older }
        if older != 0 { runs[older].newer = newer } else { holders[Int(holder)].oldest = newer }
        holders[Int(holder)].runs &-= 1
    }

    /// Puts a run right behind `newer` in age, or first when `newer` is 0.
    @inline(__always)
    private mutating func linkToAge(_ run: UInt32, behind newer: UInt32, holder: UInt16) {
        let older = newer != 0 ? runs[newer].older : holders[Int(holder)].newest
        runs[run].newer = newer
        runs[run].older = older
        if newer != 0 { runs[newer].older = run } else { holders[Int(holder)].newest = run }
        if older != 0 { runs[older].newer = run } else { holders[Int(holder)].oldest = run }
        holders[Int(holder)].runs &+= 1
    }
}
