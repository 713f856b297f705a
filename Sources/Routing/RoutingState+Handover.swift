/// How far a router has told a replica what it knew when that one began: opaque, see `RoutingTable.handOver`.
public struct ReplicaHandover: Sendable {
    fileprivate var slot: UInt32 = 0
    fileprivate var generation: UInt32 = 0
    fileprivate var recall: PrefixIndex.Recall?
    fileprivate var turn = 0

    public init() {}
}

/// A replica that begins late has an empty index: one that has been there for longer tells it what engines hold, from the oldest on, so that both
/// forget in the same order, and then where conversations were answered.
extension RoutingState {
    /// Groups, runs or turns that are looked at, and words that are told, with the lock held once: decisions wait for some 50 us, and for one
    /// prompt of thousands of chunks some 200.
    private static var handoverSteps: Int { 512 }
    private static var handoverWords: Int { 1_024 }

    /// - Returns: whether there is more.
    mutating func handOver(_ handover: inout ReplicaHandover, into messages: inout ReplicaMessages) -> Bool {
        messages.removeAll()
        var steps = Self.handoverSteps
        var words = Self.handoverWords
        while Int(handover.slot) < records.count {
            guard steps > 0, handOverCache(&handover, steps: &steps, words: &words, into: &messages) else { return true }
            steps -= 1
            handover.slot += 1
            handover.recall = nil
        }
        while handover.turn < FormerTurns.places {
            guard steps > 0, words > 0 else { return true }
            steps -= 1
            handOverTurn(at: handover.turn, words: &words, into: &messages)
            handover.turn += 1
        }
        return false
    }

    /// - Returns: whether all of the slot's group is told.
    private mutating func handOverCache(
        _ handover: inout ReplicaHandover, steps: inout Int, words: inout Int, into messages: inout ReplicaMessages
    ) -> Bool {
        let slot = handover.slot
        guard loads[slot].isUsed, sharing.heldChunkBytes > 0 else { return true }
        let holder = loads[slot].holder
        if handover.recall == nil || handover.generation != loads[slot].generation {
            handover.generation = loads[slot].generation
            handover.recall = index.beginRecall(of: holder)
        }
        guard var recall = handover.recall else { return true }
        defer { handover.recall = recall }
        let record = sharing.record.withBase { $0 }
        while steps > 0, words > 0 {
            let bottom = index.nextPath(of: holder, &recall, steps: &steps)
            if bottom == 0 { break }
            let path = UnsafeMutableBufferPointer(start: record + ReplicaRecord.placementWords, count: ReplicaRecord.mostChunks)
            let count = index.copyPath(to: bottom, into: path)
            if count == 0 { continue }
            record[0] = ReplicaRecord.header(ReplicaRecord.formerPlacement, count: count, argument: UInt32(sharing.heldChunkBytes))
            record[1] = loads[slot].identity
            words -= ReplicaRecord.placementWords + count
            messages.append(record: UnsafeBufferPointer(start: record, count: ReplicaRecord.placementWords + count))
        }
        return recall.isOver
    }

    private mutating func handOverTurn(at place: Int, words: inout Int, into messages: inout ReplicaMessages) {
        let turn = formerTurns[place]
        guard turn.digest != 0, turn.tokens != FormerTurns.Turn.ambiguous, index.holds(stamp: turn.stamp, turn.holder) else { return }
        let slot = slotOfHolder[Int(turn.holder)]
        guard loads[slot].isUsed, loads[slot].holder == turn.holder else { return }
        let record = sharing.record.withBase { $0 }
        ReplicaRecord.write(turn, group: loads[slot].identity, to: record)
        words -= ReplicaRecord.turnWords
        messages.append(record: UnsafeBufferPointer(start: record, count: ReplicaRecord.turnWords))
    }
}
