/// What a holder holds, path by path, for a replica that begins late.
extension PrefixIndex {
    /// How far a holder's paths have been gone through, from the one touched longest ago. It stays good while the list changes: what is touched
    /// meanwhile moves behind the end, and is gone through after it, but for what is touched during that.
    struct Recall: BitwiseCopyable {
        /// The holder's clock behind which nothing is gone through any more.
        fileprivate var end: UInt32
        fileprivate var isExtended = false
        /// The run to look at next, and its stamp, by which it is known again.
        fileprivate var run: UInt32 = 0
        fileprivate var stamp: UInt32 = 0
        /// Where to go on when that run has moved: all that was touched before is done.
        fileprivate var done: UInt32
        fileprivate(set) var isOver = false
    }

    func beginRecall(of holder: UInt16) -> Recall {
        let clock = holders[Int(holder)].clock
        // Stamps are compared within half of their range.
        return Recall(end: clock, done: clock &- (1 << 30))
    }

    /// The last block of the next path that no other goes through; 0 when there is none within `steps` runs.
    mutating func nextPath(of holder: UInt16, _ recall: inout Recall, steps: inout Int) -> UInt32 {
        let isThere = isThere(recall, holder)
        var run = isThere ? recall.run : holders[Int(holder)].oldest
        while !recall.isOver, steps > 0 {
            guard run != 0, isBeforeEnd(run, &recall, clock: holders[Int(holder)].clock) else {
                recall.isOver = true
                return 0
            }
            steps -= 1
            let (stamp, next) = (runs[run].stamp, runs[run].newer)
            let isDone = Int32(bitPattern: stamp &- recall.done) < 0
            recall.run = next
            recall.stamp = runs[next].stamp
            recall.isOver = next == 0
            if !isDone { recall.done = stamp }
            if !isDone, runs[run].children == 0 { return runs[run].bottom }
            run = next
        }
        return 0
    }

    private mutating func isBeforeEnd(_ run: UInt32, _ recall: inout Recall, clock: UInt32) -> Bool {
        let isBefore = Int32(bitPattern: recall.end &- runs[run].stamp) >= 0
        if isBefore || recall.isExtended { return isBefore }
        recall.isExtended = true
        recall.end = clock
        return true
    }

    private mutating func isThere(_ recall: Recall, _ holder: UInt16) -> Bool {
        guard recall.run != 0, runs[recall.run].stamp == recall.stamp else { return false }
        let bottom = runs[recall.run].bottom
        return blocks[bottom].run == recall.run && blocks[bottom].holder == holder
    }

    /// Writes the chained hashes from the root to that block, the last of its run, and no more than there is room for.
    /// - Returns: how many; 0 for a path that is not as long as it says, which only a prompt can have that was made to repeat its own hash.
    mutating func copyPath(to bottom: UInt32, into hashes: UnsafeMutableBufferPointer<UInt64>) -> Int {
        let depth = Int(runs[blocks[bottom].run].depth)
        let count = min(depth, hashes.count)
        var block = bottom
        func goUp() {
            blocks.prefetch(Int(blocks[block].ancestor))
            block = blocks[block].parent
        }
        for _ in count..<max(depth, count) { goUp() }
        for place in stride(from: count - 1, through: 0, by: -1) {
            guard block != 0 else { return 0 }
            hashes[place] = blocks[block].hash
            goUp()
        }
        return block == 0 ? count : 0
    }
}
