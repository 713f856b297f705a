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

/// Requests that wait in the router for a group, in the order of arrival: late binding. What waits in an engine's queue cannot go elsewhere any
/// more, and is served there in the order of arrival, whatever others have room or hold by then.
///
/// A request waits while the group that it would go to has `CostRule.holdFrom` uncached tokens of ours in its queue: more than an engine computes
/// while a first token comes back, so that none is ever idle for it, and nothing can wait for ever. Then the cheapest goes first; but of those
/// that want the same group later ones may overtake one by no more than `CostRule.overtaking` of what it found ahead of it and its own, in tokens
/// of the KV cache: nobody waits much longer than first come, first served would have it.
struct AdmissionQueue: ~Copyable {
    /// What its choice depends on, copied.
    final class Content: Sendable {
        /// Without its pointers: who asks about it gives it those of the two buffers.
        let request: RoutingRequest
        let tried: TriedGroups
        let model: ContiguousArray<UInt8>
        let hashes: ContiguousArray<UInt64>

        init(_ request: borrowing RoutingRequest, hashes: UnsafeBufferPointer<UInt64>, tried: TriedGroups) {
            var kept = copy request
            kept.model = nil
            kept.pinnedGroup = nil
            kept.prefixHashes = UnsafeBufferPointer(start: nil, count: 0)
            self.request = kept
            self.tried = tried
            model = request.model.map { ContiguousArray($0) } ?? []
            self.hashes = ContiguousArray(hashes)
        }
    }

    /// One that waits. They are moved when one before them goes, so what is large is elsewhere.
    struct Entry {
        let ticket: AdmissionTicket
        let since: UInt64
        let content: Content
        /// The group that it would rather go to, as last asked, and the tokens that it takes of a KV cache: a whole number.
        var slot: UInt32
        let tokens: Double
        /// By how many tokens later ones may still overtake it.
        var slack: Double
    }

    /// Beyond as many, or as many hashes of their prompts, those that have waited longest go on to wait in the engines' queues.
    let limit: Int
    let hashLimit: Int
    private(set) var entries: ContiguousArray<Entry> = []
    private(set) var hashCount = 0
    /// Tokens of those that wait for each group, by slot: whole numbers, so that what is added and taken away cancels exactly.
    private(set) var tokens: LazyBuffer<Double>
    /// Called when some of them may go; set while it has been called and they have not been looked at since.
    var wake: (@Sendable (_ loop: UInt32) -> Void)?
    var isWoken = false
    /// Who had to go on for others to wait, and when they all were looked at last.
    var displaced: [ReleasedRequest] = []
    var releasedAt: UInt64 = 0
    /// Where those begin that are asked next although nothing tells that they may go.
    var cursor = 0

    init(limit: Int, groups: Int) {
        self.limit = limit
        hashLimit = limit * 256
        tokens = LazyBuffer(count: groups)
    }

    @inline(__always)
    var isEmpty: Bool { entries.isEmpty }

    func hasRoom(for hashes: Int) -> Bool { entries.count < limit && hashCount + hashes <= hashLimit }

    /// Whether it would have, were it empty.
    func mayHold(_ hashes: Int) -> Bool { limit > 0 && hashes <= hashLimit }

    @inline(__always)
    func isAwaited(_ slot: UInt32) -> Bool { tokens[slot] > 0 }

    mutating func append(_ content: Content, ticket: AdmissionTicket, slot: UInt32, tokens needed: Double, overtaking: Double, now: UInt64)
    {
        tokens[slot] += needed
        hashCount += content.hashes.count
        entries.append(
            Entry(ticket: ticket, since: now, content: content, slot: slot, tokens: needed, slack: overtaking * tokens[slot]))
    }

    mutating func remove(at place: Int) {
        let entry = entries.remove(at: place)
        hashCount -= entry.content.hashes.count
        tokens[entry.slot] -= entry.tokens
        if cursor > place { cursor -= 1 }
    }

    mutating func setSlot(_ slot: UInt32, at place: Int) {
        tokens[entries[place].slot] -= entries[place].tokens
        tokens[slot] += entries[place].tokens
        entries[place].slot = slot
    }

    /// Whether the one at `place` may go before all that came earlier and want the same group.
    func mayOvertake(_ place: Int) -> Bool {
        let (slot, tokens) = (entries[place].slot, entries[place].tokens)
        for earlier in 0..<place where entries[earlier].slot == slot && entries[earlier].slack < tokens { return false }
        return true
    }

    mutating func overtake(_ place: Int) {
        let (slot, tokens) = (entries[place].slot, entries[place].tokens)
        for earlier in 0..<place where entries[earlier].slot == slot { entries[earlier].slack -= tokens }
    }

    /// Tells whoever releases, once.
    mutating func call() {
        guard !isWoken, let wake, let loop = displaced.first?.ticket.loop ?? entries.first?.ticket.loop else { return }
        isWoken = true
        wake(loop)
    }
}
