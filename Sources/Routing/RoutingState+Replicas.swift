/// What replicas of this router place and have under way, as they tell it: their traffic counts like our own, as far as it is told in time.
///
/// The base remains our own account, and engines' reports: what these tell beyond us and the replicas is others'.
extension RoutingState {
    /// Records that are kept until somebody takes them, in words.
    static var outboxWords: Int { 1 << 16 }
    /// How late a replica's word may come: of what was there when an engine reported, all that is told by then is a replica's.
    static var replicaLagNanoseconds: UInt64 { 50_000_000 }
    /// What we have is told again after so long.
    static var retellNanoseconds: UInt64 { 1_000_000_000 }
    /// How often it is told that we have nothing on a group any more: two of three may be lost.
    static var tellingsOfNothing: UInt8 { 3 }

    /// Lessons that are told at a time: about fifty of each kind are remembered, and a busy router has thousands a second.
    static var mostLessons: Int { 32 }

    // MARK: What we tell

    mutating func startSharing(wake: @escaping @Sendable () -> Void, now: UInt64) {
        sharing.isOn = true
        sharing.wake = wake
        sharing.takenAt = now
    }

    /// Keeps a placement for the replicas.
    mutating func tellPlacement(_ hashes: UnsafeBufferPointer<UInt64>, chunkBytes: Int, slot: UInt32) {
        guard !hashes.isEmpty, ReplicaRecord.chunkBytes.contains(chunkBytes) else { return }
        sharing.chunkBytes = chunkBytes
        sharing.heldChunkBytes = chunkBytes
        let count = min(hashes.count, ReplicaRecord.mostChunks)
        guard let first = sharing.reserve(ReplicaRecord.placementWords + count) else { return }
        sharing.words[first] = ReplicaRecord.header(ReplicaRecord.placement, count: count, argument: UInt32(chunkBytes))
        sharing.words[first + 1] = loads[slot].identity
        for place in 0..<count { sharing.words[first + 2 + place] = hashes[place] }
    }

    /// Of a placement that was told: the engine never computed it.
    mutating func tellTakenBack(_ insertion: PrefixIndex.Insertion, slot: UInt32) {
        guard insertion.newBlocks > 0, let hash = index.hash(of: insertion, noDeeperThan: ReplicaRecord.mostChunks),
            let first = sharing.reserve(ReplicaRecord.takenBackWords)
        else { return }
        sharing.takenBack &+= 1
        sharing.words[first] = ReplicaRecord.header(ReplicaRecord.takenBack)
        sharing.words[first + 1] = loads[slot].identity
        sharing.words[first + 2] = hash
    }

    mutating func tellTurn(_ turn: FormerTurns.Turn, slot: UInt32) {
        guard turn.digest != 0, let first = sharing.reserve(ReplicaRecord.turnWords) else { return }
        sharing.words.withBase { ReplicaRecord.write(turn, group: loads[slot].identity, to: $0 + first) }
    }

    mutating func tell(_ lesson: Lesson, slot: UInt32) {
        guard sharing.lessons < Self.mostLessons else { return }
        sharing.lessons &+= 1
        guard let first = sharing.reserve(ReplicaRecord.lessonWords) else { return }
        let (kind, numbers) = lesson.told
        sharing.words[first] = ReplicaRecord.header(ReplicaRecord.lesson, count: kind)
        sharing.words[first + 1] = loads[slot].identity
        sharing.words[first + 2] = numbers
    }

    /// Notes that our load there is another than was told.
    @inline(__always)
    mutating func tellLoad(_ slot: UInt32) {
        if sharing.isOn { sharing.noteChange(slot) }
    }

    mutating func takeReplicaMessages(into messages: inout ReplicaMessages, now: UInt64) {
        messages.removeAll()
        guard sharing.isOn else { return }
        sharing.isAwaited = false
        retell(now: now)
        for place in 0..<sharing.changedCount {
            let slot = sharing.changed[place]
            sharing.isChanged[slot] = false
            guard loads[slot].isUsed else { continue }
            let load = ReplicaLoad(
                inFlight: loads[slot].inFlight, awaitingFirstToken: loads[slot].awaitingFirstToken, queuedTokens: loads[slot].queuedTokens,
                queuedWork: loads[slot].queuedWork)
            let tellings = sharing.tellings[slot]
            sharing.tellings[slot] = load == .none ? tellings - min(tellings, 1) : Self.tellingsOfNothing
            sharing.record[0] = ReplicaRecord.header(ReplicaRecord.load)
            sharing.record[1] = loads[slot].identity
            sharing.record[2] = load.counts
            sharing.record[3] = load.queuedTokens.bitPattern
            sharing.record[4] = load.queuedWork.bitPattern
            sharing.record.withBase { messages.append(record: UnsafeBufferPointer(start: $0, count: ReplicaRecord.loadWords)) }
        }
        sharing.changedCount = 0
        sharing.copyRecords(thatTakeBack: false, to: &messages)
        // Apart: who does not know such a record takes nothing of its message.
        if sharing.takenBack > 0 { sharing.copyRecords(thatTakeBack: true, to: &messages) }
        sharing.used = 0
        sharing.lessons = 0
        sharing.takenBack = 0
    }

    /// Has what we have told again, a part of the groups with each call, so that what was lost is known within a second.
    private mutating func retell(now: UInt64) {
        let elapsed = min(now > sharing.takenAt ? now - sharing.takenAt : 0, Self.retellNanoseconds)
        sharing.takenAt = now
        guard !order.isEmpty else { return }
        sharing.due += Double(order.count) * Double(elapsed) / Double(Self.retellNanoseconds)
        while sharing.due >= 1 {
            sharing.due -= 1
            sharing.cursor = sharing.cursor + 1 < order.count ? sharing.cursor + 1 : 0
            let slot = order[sharing.cursor]
            if loads[slot].inFlight > 0 || sharing.tellings[slot] > 0 { sharing.listChange(slot) }
        }
    }

    // MARK: What we are told

    /// - Returns: whether there is room for one more replica, if it is new.
    mutating func admitReplica(_ replica: UInt64) -> Bool { sharing.accounts.admit(replica) }

    /// One record; of groups that are not known here, or not yet, nothing is kept.
    mutating func apply(_ record: ReplicaMessageReader.Record, of message: ReplicaMessageReader, from replica: UInt64, now: UInt64) {
        guard let slot = slotOfIdentity[record.group] else { return }
        switch ReplicaRecord.kind(record.header) {
        case ReplicaRecord.load:
            let told = ReplicaLoad(
                counts: message.word(0, of: record), tokens: message.word(1, of: record), work: message.word(2, of: record))
            guard let old = sharing.accounts.set(told, of: replica, slot: slot, generation: loads[slot].generation, now: now) else {
                return
            }
            changeReplicaLoad(slot, from: old, to: told, now: now)
        case ReplicaRecord.turn:
            let holder = loads[slot].holder
            formerTurns.note(
                FormerTurns.Turn(
                    digest: message.word(0, of: record), tokens: min(ReplicaRecord.argument(record.header), 1_000_000_000),
                    stamp: index.holders[Int(holder)].clock, holder: holder,
                    chunks: UInt16(ReplicaRecord.count(record.header))))
        case ReplicaRecord.lesson:
            if let lesson = Lesson(kind: ReplicaRecord.count(record.header), numbers: message.word(0, of: record)) {
                learn(lesson, of: slot)
            }
        case ReplicaRecord.placement where policy.usesPrefixIndex:
            hold(record, of: message, from: replica, on: slot)
            loads[slot].arrivals.observe(nowMicroseconds: now / 1_000)
        case ReplicaRecord.formerPlacement where policy.usesPrefixIndex: hold(record, of: message, from: nil, on: slot)
        case ReplicaRecord.takenBack:
            let holder = loads[slot].holder
            guard let insertion = sharing.placements.take(message.word(0, of: record), on: holder, by: replica) else { return }
            index.undo(insertion, holder: holder)
            refreshShadow(slot, tokensPerChunk: Double(sharing.heldChunkBytes) * tokensPerByte)
        default: break
        }
    }

    /// What is told of as placed there before is told from the oldest on, what is held already included: so all has its place in the order.
    /// - Parameter replica: who may take it back.
    private mutating func hold(
        _ record: ReplicaMessageReader.Record, of message: ReplicaMessageReader, from replica: UInt64?, on slot: UInt32
    ) {
        // By chunks of another size nothing is found again, and the cache's room would be counted in them.
        let chunkBytes = Int(ReplicaRecord.argument(record.header))
        guard sharing.chunkBytes == 0 || chunkBytes == sharing.chunkBytes else { return }
        sharing.heldChunkBytes = chunkBytes
        let count = min(record.count, Self.longestPath)
        for place in 0..<count { sharing.record[place] = message.word(place, of: record) }
        let holder = loads[slot].holder
        let tokensPerChunk = Double(chunkBytes) * tokensPerByte
        sharing.record.withBase { path in
            let hashes = UnsafeBufferPointer(start: path, count: count)
            index.match(hashes)
            let insertion = index.insert(
                hashes, holder: holder,
                quota: loads[slot].shadowBlocks(tokensPerChunk: tokensPerChunk, ownShare: 1 - othersHits.loadShare))
            if let replica { sharing.placements.note(insertion, hash: hashes[count - 1], by: replica) }
        }
        index.repay()
        refreshShadow(slot, tokensPerChunk: tokensPerChunk)
    }

    mutating func forgetReplica(_ replica: UInt64, now: UInt64) {
        for (slot, entry) in sharing.accounts.remove(replica) { forget(entry, slot: slot, now: now) }
    }

    /// - Returns: whether the next replica may be due as well.
    mutating func forgetOutdatedReplicaLoads(now: UInt64) -> Bool {
        guard let outdated = sharing.accounts.removeOutdated(now: now) else { return false }
        for (slot, entry) in outdated { forget(entry, slot: slot, now: now) }
        return true
    }

    private mutating func forget(_ entry: ReplicaAccounts.Entry, slot: UInt32, now: UInt64) {
        guard loads[slot].isUsed, loads[slot].generation == entry.generation else { return }
        changeReplicaLoad(slot, from: entry.load, to: .none, now: now)
    }

    private mutating func changeReplicaLoad(_ slot: UInt32, from old: ReplicaLoad, to new: ReplicaLoad, now: UInt64) {
        guard old != new else { return }
        let before = tracksOwnLoad ? ownLoad(slot) : OwnLoad()
        // A copy: changed in its place, the compiler (6.3.1) fails over it under ThreadSanitizer.
        var sum = sharing.loads[slot]
        sum.subtract(old)
        sum.add(new)
        sharing.loads[slot] = sum
        if tracksOwnLoad { history.changed(slot, from: before, to: ownLoad(slot), now: now) }
        sharing.openSequences += Int(new.inFlight) - Int(old.inFlight)
        ageOthers(slot, now: now)
    }
}

/// What goes to replicas and what has come from them.
struct ReplicaSharing: ~Copyable {
    var isOn = false
    /// Called when there is something to be told, once until it is taken.
    var wake: @Sendable () -> Void = {}
    var isAwaited = false

    /// Records to be told, and how many words of them there are.
    let words: LazyBuffer<UInt64>
    var used = 0
    /// Lessons, and placements that came to nothing, among them.
    var lessons = 0
    var takenBack = 0
    /// Records for which there was no room.
    var dropped: UInt64 = 0
    /// Groups on which our load has changed, each once.
    let changed: LazyBuffer<UInt32>
    var changedCount = 0
    let isChanged: LazyBuffer<Bool>
    /// How often it remains to be told of a group that we have nothing there, once we have.
    let tellings: LazyBuffer<UInt8>
    /// When all of this was taken last, whose turn it is to be told again, and how many are due.
    var takenAt: UInt64 = 0
    var cursor = 0
    var due = 0.0

    var accounts = ReplicaAccounts()
    let placements = ToldPlacements()
    /// The sum of it by slot, and sequences of all groups.
    let loads: LazyBuffer<ReplicaLoad>
    var openSequences = 0
    /// Of our own prompts; 0: there was none yet.
    var chunkBytes = 0
    /// Of the prompts that were placed last, whoever placed them.
    var heldChunkBytes = 0
    /// Scratch for one record.
    let record: LazyBuffer<UInt64>

    init(groups: Int) {
        words = LazyBuffer(count: RoutingState.outboxWords)
        changed = LazyBuffer(count: groups)
        isChanged = LazyBuffer(count: groups)
        tellings = LazyBuffer(count: groups)
        loads = LazyBuffer(count: groups)
        record = LazyBuffer(count: ReplicaRecord.placementWords + ReplicaRecord.mostChunks)
    }

    /// By how much there are more requests under way when those of the replicas are counted, too: of who shares a prefix with whom only our own
    /// are known.
    @inline(__always)
    func scale(ofOwn sequences: Int) -> Double { 1 + Double(openSequences) / Double(max(sequences, 1)) }

    /// Where a record of so many words goes; nil when there is no room, or nobody to be told.
    mutating func reserve(_ count: Int) -> Int? {
        guard isOn else { return nil }
        guard used + count <= words.count else {
            dropped &+= 1
            return nil
        }
        defer { used += count }
        call()
        return used
    }

    /// The records that take something back, or all the others, in the order in which they came.
    func copyRecords(thatTakeBack: Bool, to messages: inout ReplicaMessages) {
        let first = words.withBase { UnsafePointer($0) }
        var place = 0
        var beginsMessage = thatTakeBack
        while place < used, let length = ReplicaRecord.length(first[place]) {
            if (ReplicaRecord.kind(first[place]) == ReplicaRecord.takenBack) == thatTakeBack {
                messages.append(record: UnsafeBufferPointer(start: first + place, count: length), beginsMessage: beginsMessage)
                beginsMessage = false
            }
            place += length
        }
    }

    @inline(__always)
    mutating func noteChange(_ slot: UInt32) {
        listChange(slot)
        call()
    }

    @inline(__always)
    private mutating func call() {
        guard !isAwaited else { return }
        isAwaited = true
        wake()
    }

    @inline(__always)
    mutating func listChange(_ slot: UInt32) {
        guard !isChanged[slot] else { return }
        isChanged[slot] = true
        changed[changedCount] = slot
        changedCount &+= 1
    }
}
