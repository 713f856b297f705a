/// Who waits in the router: which loop it came by, and its number there.
public struct AdmissionTicket: Sendable, Hashable {
    public let loop: UInt32
    public let number: UInt64

    public init(loop: UInt32, number: UInt64) {
        self.loop = loop
        self.number = number
    }
}

/// What became of a request that may wait.
public enum Admission: Sendable {
    case placed(Decision)
    /// It waits; `RoutingTable.releaseHeld` will tell where it goes, unless it is withdrawn before.
    case held
    case refused(RoutingFailure)
}

/// A request that waits no longer.
public struct ReleasedRequest: Sendable {
    public let ticket: AdmissionTicket
    public let result: Result<Decision, RoutingFailure>

    public init(ticket: AdmissionTicket, result: Result<Decision, RoutingFailure>) {
        self.ticket = ticket
        self.result = result
    }
}

/// Requests that wait in the router for a group, in the order of arrival: late binding. What waits in an engine's queue cannot go elsewhere any more, and is served
/// there in the order of arrival, whatever others have room or hold by then.
///
/// A request waits while the group that it would go to has `CostRule.holdFrom` uncached tokens of ours in its queue: more than an engine computes while
/// a first token comes back, so that none is ever idle for it, and nothing can wait for ever. Then the cheapest goes first; but of those
/// that want the same group later ones may overtake one by no more than `CostRule.overtaking` of what it found ahead of it, in tokens of the KV cache:
/// nobody waits much longer than first come, first served would have it.
struct AdmissionQueue: ~Copyable {
    /// One that waits, with a copy of what its choice depends on.
    struct Entry {
        let ticket: AdmissionTicket
        let since: UInt64
        /// Its pointers are those of the two buffers when it is asked about.
        var request: RoutingRequest
        let model: ContiguousArray<UInt8>
        let hashes: ContiguousArray<UInt64>
        /// The group that it would rather go to, as last asked, and the tokens that it takes of a KV cache.
        var slot: UInt32
        let tokens: Double
        /// By how many tokens later ones may still overtake it.
        var slack: Double
    }

    /// Beyond as many, or as many hashes of their prompts, requests wait in the engines' queues.
    let limit: Int
    let hashLimit: Int
    var entries: ContiguousArray<Entry> = []
    private(set) var hashCount = 0
    /// Tokens of those that wait for each group, by slot.
    private var tokens: LazyBuffer<Double>
    /// Called when some of them may go; set while it has been called and they have not been looked at since.
    var wake: (@Sendable (_ loop: UInt32) -> Void)?
    var isWoken = false

    init(limit: Int, groups: Int) {
        self.limit = limit
        hashLimit = limit * 256
        tokens = LazyBuffer(count: groups)
    }

    @inline(__always)
    var isEmpty: Bool { entries.isEmpty }

    func hasRoom(for hashes: Int) -> Bool { entries.count < limit && hashCount + hashes <= hashLimit }

    @inline(__always)
    func isAwaited(_ slot: UInt32) -> Bool { tokens[slot] > 0 }

    mutating func append(
        _ request: borrowing RoutingRequest, ticket: AdmissionTicket, slot: UInt32, tokens needed: Double, overtaking: Double, now: UInt64
    ) {
        var kept = copy request
        kept.model = nil
        kept.prefixHashes = UnsafeBufferPointer(start: nil, count: 0)
        tokens[slot] += needed
        let entry = Entry(
            ticket: ticket, since: now, request: kept, model: ContiguousArray(request.model.map { Array($0) } ?? []),
            hashes: ContiguousArray(request.prefixHashes), slot: slot, tokens: needed, slack: overtaking * tokens[slot])
        hashCount += entry.hashes.count
        entries.append(entry)
    }

    mutating func remove(at place: Int) {
        let entry = entries.remove(at: place)
        hashCount -= entry.hashes.count
        // Sums of what comes and goes drift; where nobody waits there is nothing.
        tokens[entry.slot] = entries.contains { $0.slot == entry.slot } ? tokens[entry.slot] - entry.tokens : 0
    }

    mutating func setSlot(_ slot: UInt32, at place: Int) {
        let before = entries[place].slot
        guard before != slot else { return }
        entries[place].slot = slot
        tokens[slot] += entries[place].tokens
        tokens[before] = entries.contains { $0.slot == before } ? tokens[before] - entries[place].tokens : 0
    }

    /// Whether the one at `place` may go before all that came earlier and want the same group.
    func mayOvertake(_ place: Int) -> Bool {
        let entry = entries[place]
        for earlier in 0..<place where entries[earlier].slot == entry.slot && entries[earlier].slack < entry.tokens { return false }
        return true
    }

    mutating func overtake(_ place: Int) {
        let (slot, tokens) = (entries[place].slot, entries[place].tokens)
        for earlier in 0..<place where entries[earlier].slot == slot { entries[earlier].slack -= tokens }
    }

    /// Tells whoever releases, once.
    mutating func call() {
        guard !isWoken, let first = entries.first else { return }
        isWoken = true
        wake?(first.ticket.loop)
    }
}
