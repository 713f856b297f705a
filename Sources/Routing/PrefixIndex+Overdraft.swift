/// What a holder holds beyond its limit for a while, so that a decision need not wait until others have given way.
extension PrefixIndex {
    /// Blocks that an insertion of so many chunks may leave the holder with beyond its limit, so that it need not wait for others to give way.
    @inline(__always)
    func overdraft(of holder: UInt16, limit: UInt32, chunks: Int) -> UInt32 {
        guard holders[Int(holder)].isOverdrawn || overdrawnCount < overdrawn.count, chunks <= Int(limit) else { return 0 }
        return min(overdraft, limit / 16)
    }

    /// Notes what the holder may hold, and whether it holds more.
    @inline(__always)
    mutating func noteLimit(_ limit: UInt32, of holder: UInt16) {
        holders[Int(holder)].limit = limit
        guard holders[Int(holder)].count > limit, !holders[Int(holder)].isOverdrawn, overdrawnCount < overdrawn.count else { return }
        holders[Int(holder)].isOverdrawn = true
        let place = firstOverdrawn + overdrawnCount
        overdrawn[place < overdrawn.count ? place : place - overdrawn.count] = holder
        overdrawnCount += 1
    }

    /// Evicts what holders hold beyond their limits, a few dozen blocks at a time. To be called between insertions: a decision is waited for, and
    /// engines, too, evict when they compute a prompt and not when it is sent.
    mutating func repay() {
        var left = Self.insertionSpan
        while left > 0 && overdrawnCount > 0 {
            let holder = overdrawn[firstOverdrawn]
            let limit = min(holders[Int(holder)].limit, fairShare)
            let excess = holders[Int(holder)].isLive ? Int(holders[Int(holder)].count) - Int(limit) : 0
            if excess > 0 {
                foresee(evicting: min(excess, left), of: holder)
                let evicted = evict(min(excess, left), of: holder)
                left -= evicted
                if evicted > 0 { continue }
            }
            holders[Int(holder)].isOverdrawn = false
            firstOverdrawn = firstOverdrawn + 1 < overdrawn.count ? firstOverdrawn + 1 : 0
            overdrawnCount -= 1
        }
    }
}
