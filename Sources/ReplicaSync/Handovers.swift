import EventLoop
import Routing

/// The replicas that have asked for what they do not know, and how far each has been told. Pure: time is an argument.
struct Handovers {
    struct Entry {
        var id: UInt64
        var address: SocketAddress
        var handover = ReplicaHandover()
        /// How often it remains to be told that this was all; nil: there is more.
        var endsLeft: Int?
    }

    var entries: [Entry] = []
    private(set) var counts = HandoverCounts()
    /// When those who asked of late did.
    private var askedAt: [UInt64: UInt64] = [:]

    /// - Returns: whether it is told from now on: not when it was a minute ago, nor when as many as there is room for are. Whoever was told
    ///   at that address before is not there any more.
    mutating func begin(_ id: UInt64, at address: SocketAddress, now: UInt64) -> Bool {
        askedAt = askedAt.filter { now < $0.value &+ ReplicaBounds.handoverPauseNanoseconds }
        guard askedAt[id] == nil, askedAt.count < ReplicaBounds.replicas else { return false }
        remove { $0.address.description == address.description }
        guard entries.count < ReplicaBounds.handovers else { return false }
        askedAt[id] = now
        entries.append(Entry(id: id, address: address))
        counts.begun &+= 1
        return true
    }

    /// All has been sent there but that it was all.
    mutating func complete(at place: Int) {
        entries[place].endsLeft = ReplicaBounds.handoverEnds
        counts.whole &+= 1
    }

    /// That replica is gone.
    mutating func end(_ id: UInt64) { remove { $0.id == id } }

    private mutating func remove(where isGone: (Entry) -> Bool) {
        for entry in entries where isGone(entry) && entry.endsLeft == nil { counts.broken &+= 1 }
        entries.removeAll(where: isGone)
    }
}

/// Whom a router that has just begun asks for what it does not know, until one has told all of it: who begins to tell and falls silent is replaced.
///
/// A handover is datagrams of that purpose. The first is empty, that the question was heard, and so are the last, that this was all; one of an
/// earlier release has no end, and is taken for broken.
struct HandoverQuestion {
    private(set) var state = HandoverState.asking
    /// When the next is to be asked, or has been silent for too long who tells; nil: nobody is there yet, or it is over.
    private(set) var dueAt: UInt64?
    private(set) var counts = HandoverCounts()
    private var asked: Set<UInt64> = []
    /// Those who began to tell: none does so twice in a minute.
    private var tellers: Set<UInt64> = []
    private var left = ReplicaBounds.handoverQuestions
    private var groups = 0

    var isOver: Bool { state == .whole || state == .givenUp }

    /// Of several that begin at once none knows what was before: they are not to take one another's answers for it.
    func isBeginning(since begunAt: UInt64, now: UInt64) -> Bool {
        switch state {
        case .asking: now < begunAt &+ ReplicaBounds.beginningNanoseconds
        case .told: now < begunAt &+ ReplicaBounds.longestBeginningNanoseconds
        case .whole, .givenUp: false
        }
    }

    /// Somebody was heard; others may be soon, who know more.
    mutating func heard(now: UInt64, groups: Int) {
        if state == .asking, dueAt == nil { wait(now: now, groups: groups) }
    }

    /// Of groups that are not found yet nothing would be kept: nobody is asked before as many are there as were a moment ago.
    mutating func mayBeAsked(now: UInt64, groups: Int) -> Bool {
        if groups > 0, groups == self.groups { return true }
        wait(now: now, groups: groups)
        return false
    }

    private mutating func wait(now: UInt64, groups: Int) {
        self.groups = groups
        dueAt = now &+ ReplicaBounds.handoverQuestionNanoseconds / 4
    }

    /// Takes the one to be asked now: who has told most, and has not been asked before. Nil: nobody, or no more if `isOver`.
    mutating func next(of known: KnownReplicas, now: UInt64) -> KnownReplica? {
        guard left > 0 else {
            end(as: .givenUp)
            return nil
        }
        left -= 1
        dueAt = now &+ ReplicaBounds.handoverQuestionNanoseconds
        if known.replicas.keys.allSatisfy({ asked.contains($0) || tellers.contains($0) }) { asked = [] }
        let replica = known.eldest { !asked.contains($0.id) && !tellers.contains($0.id) }
        if let replica { asked.insert(replica.id) }
        return replica
    }

    /// A piece of a handover came; from anybody, for an answer may come when the next has been asked.
    mutating func told(by id: UInt64, isEmpty: Bool, now: UInt64) {
        switch state {
        case .asking:
            state = .told(by: id)
            tellers.insert(id)
            counts.begun &+= 1
        case .told(by: id) where isEmpty:
            counts.whole &+= 1
            return end(as: .whole)
        case .told(by: id): break
        case .told, .whole, .givenUp: return
        }
        dueAt = now &+ ReplicaBounds.handoverSilenceNanoseconds
    }

    mutating func isGone(_ id: UInt64, now: UInt64) { if state == .told(by: id) { breakOff(now: now) } }

    /// - Returns: whether who told was silent for too long.
    mutating func breakOffSilent(now: UInt64) -> Bool {
        guard case .told = state, let dueAt, now >= dueAt else { return false }
        breakOff(now: now)
        return true
    }

    private mutating func breakOff(now: UInt64) {
        counts.broken &+= 1
        guard tellers.count < ReplicaBounds.handoverTellers else { return end(as: .givenUp) }
        state = .asking
        dueAt = now
    }

    private mutating func end(as state: HandoverState) {
        self.state = state
        dueAt = nil
    }
}
