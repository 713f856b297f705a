/// The hash table: whether somebody holds a hash, who, and which is a holder's block of it.
extension PrefixIndex {
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
        // Only a prompt that was made to repeat its own hash can have a holder twice, or 65,536 times.
        if blocks[head].holderCount < .max { blocks[head].holderCount += 1 }
    }

    mutating func unlinkFromHash(_ index: UInt32) {
        let hash = blocks[index].hash
        let successor = blocks[index].nextHolder
        let previous = blocks[index].previousHolder
        if previous != 0 {
            replaceInBucket(bucket(of: hash, holder: blocks[index].holder), index, with: blocks[index].nextInBucket)
            let head = head(of: hash)
            if blocks[head].holderCount > 1 { blocks[head].holderCount -= 1 }
            blocks[previous].nextHolder = successor
            if successor != 0 { blocks[successor].previousHolder = previous }
            return
        }
        // A head goes: the next holder takes its place in the table, or the hash disappears.
        if successor != 0 {
            replaceInBucket(bucket(of: hash, holder: blocks[successor].holder), successor, with: blocks[successor].nextInBucket)
            blocks[successor].previousHolder = 0
            blocks[successor].holderCount = max(blocks[index].holderCount, 2) - 1
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
}
