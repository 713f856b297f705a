import EventLoop
import Routing

/// The replicas that have asked for what they do not know, and how far each has been told. Pure: time is an argument.
struct Handovers {
    struct Entry {
        var id: UInt64
        var address: SocketAddress
        var handover = ReplicaHandover()
    }

    var entries: [Entry] = []
    /// When those who asked of late did.
    private var askedAt: [UInt64: UInt64] = [:]

    /// - Returns: whether it is told from now on: not when it was a minute ago, nor when as many as there is room for are. Whoever was told
    ///   at that address before is not there any more.
    mutating func begin(_ id: UInt64, at address: SocketAddress, now: UInt64) -> Bool {
        askedAt = askedAt.filter { now < $0.value &+ ReplicaBounds.handoverPauseNanoseconds }
        guard askedAt[id] == nil, askedAt.count < ReplicaBounds.replicas else { return false }
        entries.removeAll { $0.address.description == address.description }
        guard entries.count < ReplicaBounds.handovers else { return false }
        askedAt[id] = now
        entries.append(Entry(id: id, address: address))
        return true
    }

    /// That replica is gone.
    mutating func end(_ id: UInt64) { entries.removeAll { $0.id == id } }
}

/// Whom a router that has just begun asks for what it does not know, until somebody answers.
struct HandoverQuestion {
    /// Nil: nobody is there yet.
    private(set) var dueAt: UInt64?
    private var asked: Set<UInt64> = []
    private var left = ReplicaBounds.handoverQuestions
    private var groups = 0

    /// Somebody was heard; others may be soon, who know more.
    mutating func heard(now: UInt64, groups: Int) {
        if dueAt == nil { wait(now: now, groups: groups) }
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

    /// Takes the one to be asked now: who has told most, and has not been asked before. Nil: nobody; `isOver`, it was the last time.
    mutating func next(of known: KnownReplicas, now: UInt64) -> KnownReplica? {
        left -= 1
        dueAt = now &+ ReplicaBounds.handoverQuestionNanoseconds
        if known.replicas.keys.allSatisfy(asked.contains) { asked = [] }
        let replica = known.eldest { !asked.contains($0.id) }
        if let replica { asked.insert(replica.id) }
        return replica
    }

    var isOver: Bool { left <= 0 }
}
