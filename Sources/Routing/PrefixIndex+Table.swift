/// Who holds a hash, and which is a holder's block of it.
extension PrefixIndex {
    /// The head of the hash's blocks; 0 when nobody holds it.
    @inline(__always)
    func head(of hash: UInt64) -> UInt32 { table.first(hash) { blocks[$0].hash == hash && blocks[$0].holderCount != 0 } }

    /// Where a block stands that is no head.
    @inline(__always)
    func key(_ hash: UInt64, _ holder: UInt16) -> UInt64 { hash ^ (UInt64(holder) &* 0xd6e8_feb8_6659_fd93) }

    /// Where a block stands.
    @inline(__always)
    func key(of block: UInt32) -> UInt64 {
        blocks[block].holderCount != 0 ? blocks[block].hash : key(blocks[block].hash, blocks[block].holder)
    }

    /// The holder's block of that hash; 0 when it has none.
    func block(of hash: UInt64, holder: UInt16) -> UInt32 {
        let head = head(of: hash)
        if head == 0 || blocks[head].holder == holder { return head }
        if blocks[head].nextHolder == 0 { return 0 }
        return table.first(key(hash, holder)) {
            blocks[$0].hash == hash && blocks[$0].holder == holder && blocks[$0].holderCount == 0
        }
    }

    /// Makes the block one more holder of its hash.
    /// - Returns: false when the table has no place for it, which takes hashes that were made for that.
    mutating func linkToHash(_ index: UInt32) -> Bool {
        let hash = blocks[index].hash
        let head = head(of: hash)
        if head == 0 {
            guard table.insert(index, at: hash) else { return false }
            blocks[index].holderCount = 1
            return true
        }
        guard table.insert(index, at: key(hash, blocks[index].holder)) else { return false }
        let next = blocks[head].nextHolder
        blocks[index].previousHolder = head
        blocks[index].nextHolder = next
        if next != 0 { blocks[next].previousHolder = index }
        blocks[head].nextHolder = index
        if blocks[head].holderCount < .max { blocks[head].holderCount += 1 }
        return true
    }

    mutating func unlinkFromHash(_ index: UInt32) {
        let hash = blocks[index].hash
        let successor = blocks[index].nextHolder
        let previous = blocks[index].previousHolder
        table.remove(index, at: key(of: index))
        if previous != 0 {
            let head = head(of: hash)
            if blocks[head].holderCount > 1 { blocks[head].holderCount -= 1 }
            blocks[previous].nextHolder = successor
            if successor != 0 { blocks[successor].previousHolder = previous }
            return
        }
        // A head goes: the next holder takes its place in the table, or the hash disappears.
        guard successor != 0 else { return }
        table.remove(successor, at: key(of: successor))
        // The head's place at least is free now.
        _ = table.insert(successor, at: hash)
        blocks[successor].previousHolder = 0
        blocks[successor].holderCount = max(blocks[index].holderCount, 2) - 1
    }
}
