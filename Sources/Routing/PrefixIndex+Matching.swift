extension PrefixIndex {
    /// Bounds of one search: blocks looked at while collecting holders. Up to this many groups that hold part of a prompt
    /// are credited exactly; beyond, the deepest ones and what all hold alike. Each visit may wait for memory, so where all
    /// holders could not be visited anyway fewer are.
    private var visitLimit: Int { liveHolders <= Self.mostVisits ? Self.mostVisits : Self.mostVisits / 3 }
    static var mostVisits: Int { 96 }

    private static var mostForeseen: Int { 2 }

    // What does not change the index is `mutating` here and there, too: else the compiler hands over a copy of all its fields.

    /// Asks for what a search for the prompt begins with.
    mutating func prefetch(_ hashes: UnsafeBufferPointer<UInt64>) {
        guard hashes.count > 0 else { return }
        table.prefetch(hashes[0])
        for place in 0..<Self.cuts(of: hashes.count) { table.prefetch(hashes[hashes.count - 1 - Self.cut(place)]) }
    }

    /// Finds for each holder how many leading chunks it holds, the sooner the longer ago `prefetch` asked for it; ask with `depth(of:)` until the next call.
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
        // Wherever the rest will be held, this is what its insertion will touch.
        let rest = hashes[deepest..<min(deepest + Self.insertionSpan, hashes.count)]
        for hash in rest { table.prefetch(hash) }
        prefetchStock(rest.count)
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

    /// What the holder's engine is expected to hold behind the match.
    @inline(__always)
    func continuation(of holder: UInt16) -> Continuation {
        let record = holders[Int(holder)]
        guard record.matchEpoch == epoch, record.matchBlock != 0 else { return .none }
        let run = blocks[record.matchBlock].run
        return runs[run].bottom == record.matchBlock ? runs[run].continuation : .none
    }

    /// Paths in flight that lead on from the deepest chunk that anybody holds, on each of those who hold it. Where the end of that
    /// chunk's run is still being prefilled they do not count: they came at once, and what comes at once tells nothing of what will come.
    /// - Returns: nil when it is still being prefilled on each of them.
    mutating func sharers() -> Double? {
        var sum: UInt32 = 0
        var count = 0
        var prefilled = 0
        while count < min(visitedCount, Self.mostSharing) {
            let holder = holders[Int(visited[count])]
            if Int(holder.matchDepth) < matchDeepest { break }
            let run = blocks[holder.matchBlock].run
            count += 1
            guard isPrefilled(runs[run].bornAt, on: visited[count - 1]) else { continue }
            prefilled += 1
            // Amid a run those that use it are one block's paths.
            sum &+= runs[run].bottom == holder.matchBlock ? runs[run].users : min(runs[run].users, 1)
        }
        if count == 0 { return 0 }
        return prefilled > 0 ? Double(sum) / Double(count) : nil
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

    /// How many leading chunks of the last matched prompt more than half of the holders have, and at least two.
    func commonDepth(_ hashes: UnsafeBufferPointer<UInt64>) -> Int {
        let most = UInt16(max(liveHolders / 2, 1))
        guard matchDeepest > 0, isHeld(hashes[0], byMoreThan: most) else { return 0 }
        return deepest(hashes, from: 1, to: matchDeepest, withMoreHoldersThan: most)
    }

    /// Depth of the deepest chunk that anybody holds. Mostly that is nearly all of a prompt, a conversation's last turn, or nothing; so the
    /// first cuts lie the closer the nearer the end is, and what they touch is what an insertion of the rest will touch again.
    private mutating func deepestHeld(_ hashes: UnsafeBufferPointer<UInt64>) -> Int {
        let count = hashes.count
        if count == 0 { return 0 }
        let cuts = Self.cuts(of: count)
        if !mayBeHeld(hashes[0]) { return 0 }
        // The nearest to the end that is held.
        var beyond = -1
        var held = cuts
        while held - beyond > 1 {
            let middle = (held + beyond + 1) / 2
            if mayBeHeld(hashes[count - 1 - Self.cut(middle)]) { held = middle } else { beyond = middle }
        }
        let low = held < cuts ? count - Self.cut(held) : 1
        let high = beyond >= 0 ? count - 1 - Self.cut(beyond) : count
        let found = deepest(hashes, from: low, to: max(low, high)) { mayBeHeld($0) }
        // What the table does not have is not held, so nothing deeper is. Another's tag may have passed for that of this chunk.
        if head(of: hashes[found - 1]) != 0 { return found }
        return head(of: hashes[0]) == 0 ? 0 : deepest(hashes, from: 1, to: found - 1, withMoreHoldersThan: 0)
    }

    /// Whether somebody holds the hash, as far as the table alone tells: no is certain.
    @inline(__always)
    private func mayBeHeld(_ hash: UInt64) -> Bool { table.first(hash) { _ in true } != 0 }

    /// Chunks between the end of a prompt and a place to look at first: 0, 1, 2, 3, 4, 6, 8, 12, 16, 24 and so on.
    @inline(__always)
    static func cut(_ place: Int) -> Int { place < 4 ? place : (4 + 2 * (place & 1)) << ((place - 4) >> 1) }

    /// How many of these places a prompt of `count` chunks has, at least 1.
    @inline(__always)
    static func cuts(of count: Int) -> Int {
        if count <= 4 { return count }
        let doublings = Int.bitWidth - 1 - ((count - 1) >> 2).leadingZeroBitCount
        return 5 + 2 * doublings + (count - 1 >= 6 << doublings ? 1 : 0)
    }

    /// The deepest level above `depth` that more holders reach; 0 when there is none.
    private mutating func deepestLevel(_ hashes: UnsafeBufferPointer<UInt64>, below depth: Int, withMoreHoldersThan count: UInt16) -> Int {
        if depth <= 1 || blocks[head(of: hashes[0])].holderCount <= count { return 0 }
        return deepest(hashes, from: 1, to: depth - 1, withMoreHoldersThan: count)
    }

    /// The deepest level from `known`, which more than `count` holders reach, up to `end`.
    private func deepest(
        _ hashes: UnsafeBufferPointer<UInt64>, from known: Int, to end: Int, withMoreHoldersThan count: UInt16
    ) -> Int {
        deepest(hashes, from: known, to: end) { isHeld($0, byMoreThan: count) }
    }

    /// The deepest level from `known`, which is reached, up to `end`. Every probe of a large table waits for memory; so instead of bisecting
    /// one probe at a time the range is cut at several places whose memory is fetched together.
    @inline(__always)
    private func deepest(
        _ hashes: UnsafeBufferPointer<UInt64>, from known: Int, to end: Int, isReached: (UInt64) -> Bool
    ) -> Int {
        var low = known
        var high = end
        while low < high {
            let step = (high - low + Self.prefetchSpan - 1) / Self.prefetchSpan
            for depth in stride(from: low + step, through: high, by: step) { table.prefetch(hashes[depth - 1]) }
            // Bisects over the cuts.
            let start = low
            var reached = 0
            var beyond = (high - low) / step + 1
            while beyond - reached > 1 {
                let middle = (reached + beyond) / 2
                if isReached(hashes[start + middle * step - 1]) { reached = middle } else { beyond = middle }
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
                // What a booking there will touch; with many to choose from it would mostly be in vain.
                if visitedCount <= Self.mostForeseen {
                    runs.prefetch(Int(blocks[index].run))
                    runs.prefetch(Int(holders[holder].oldest))
                }
            }
            index = blocks[index].nextHolder
        }
    }
}
