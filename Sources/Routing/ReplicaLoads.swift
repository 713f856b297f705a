/// What one router has on a group.
struct ReplicaLoad: BitwiseCopyable, Equatable {
    /// Sequences without an end, and those of them without a first token.
    var inFlight: Int32 = 0
    var awaitingFirstToken: Int32 = 0
    /// Uncached prompt tokens of the latter, and what it takes to prefill them (`CostRule.prefillWork`): whole numbers.
    var queuedTokens = 0.0
    var queuedWork = 0.0

    static let none = ReplicaLoad()

    mutating func add(_ other: ReplicaLoad) {
        inFlight &+= other.inFlight
        awaitingFirstToken &+= other.awaitingFirstToken
        queuedTokens += other.queuedTokens
        queuedWork += other.queuedWork
    }

    mutating func subtract(_ other: ReplicaLoad) {
        inFlight &-= other.inFlight
        awaitingFirstToken &-= other.awaitingFirstToken
        queuedTokens -= other.queuedTokens
        queuedWork -= other.queuedWork
    }
}

extension ReplicaLoad {
    private static var mostSequences: UInt64 { 1 << 20 }
    private static var mostTokens: Double { 1e12 }

    /// As told; what nobody can have is cut to what may be. No token is less work than one behind no context.
    init(counts: UInt64, tokens: UInt64, work: UInt64) {
        inFlight = Int32(min(counts & 0xffff_ffff, Self.mostSequences))
        awaitingFirstToken = min(Int32(min(counts >> 32, Self.mostSequences)), inFlight)
        queuedTokens = Self.wholeNumber(tokens, atLeast: 0)
        queuedWork = Self.wholeNumber(work, atLeast: queuedTokens)
    }

    private static func wholeNumber(_ bits: UInt64, atLeast least: Double) -> Double {
        let told = Double(bitPattern: bits)
        return told.isFinite ? min(max(told, least), mostTokens).rounded() : least
    }

    var counts: UInt64 { UInt64(UInt32(bitPattern: inFlight)) | UInt64(UInt32(bitPattern: awaitingFirstToken)) << 32 }
}

/// What the replicas of this router said that they have, by replica and slot.
struct ReplicaAccounts {
    struct Entry {
        var load: ReplicaLoad
        /// Of the slot's group.
        var generation: UInt32
        var toldAt: UInt64
    }

    private(set) var entries: [UInt64: [UInt32: Entry]] = [:]
    /// Whose entries are looked through next for what was not told again, and since when.
    private var cursor = 0
    private var lookedAt: UInt64 = 0

    static let mostReplicas = 256
    /// What is there is told again each second; after three it is not there any more, and its end was lost.
    static let lifeNanoseconds: UInt64 = 3_000_000_000

    var isEmpty: Bool { entries.isEmpty }

    /// - Returns: whether there is room for it.
    mutating func admit(_ replica: UInt64) -> Bool {
        if entries[replica] != nil { return true }
        guard entries.count < Self.mostReplicas else { return false }
        entries[replica] = [:]
        return true
    }

    /// - Returns: what was there before; nil when the replica has been forgotten since it was admitted.
    mutating func set(_ load: ReplicaLoad, of replica: UInt64, slot: UInt32, generation: UInt32, now: UInt64) -> ReplicaLoad? {
        guard entries[replica] != nil else { return nil }
        let new = load == .none ? nil : Entry(load: load, generation: generation, toldAt: now)
        let old = entries[replica]?[slot]
        entries[replica]?[slot] = new
        guard let old, old.generation == generation else { return ReplicaLoad.none }
        return old.load
    }

    mutating func remove(_ replica: UInt64) -> [UInt32: Entry] { entries.removeValue(forKey: replica) ?? [:] }

    /// Takes out what one of the replicas has not told again; nil when no look is due. All are looked through about once a second when this is
    /// called until it is nil, however seldom that is.
    mutating func removeOutdated(now: UInt64) -> [(slot: UInt32, entry: Entry)]? {
        guard !entries.isEmpty, now > lookedAt else { return nil }
        let wait = 1_000_000_000 / UInt64(entries.count)
        guard now - lookedAt >= wait else { return nil }
        lookedAt = max(lookedAt, now - min(now, 1_000_000_000)) + wait
        cursor = cursor + 1 < entries.count ? cursor + 1 : 0
        let replica = entries.keys[entries.keys.index(entries.keys.startIndex, offsetBy: cursor)]
        var outdated: [(slot: UInt32, entry: Entry)] = []
        for (slot, entry) in entries[replica] ?? [:] where entry.toldAt &+ Self.lifeNanoseconds < now { outdated.append((slot, entry)) }
        for (slot, _) in outdated { entries[replica]?[slot] = nil }
        return outdated
    }
}
