import Glibc
import Routing
import Wire

/// SplitMix64 (Steele et al., OOPSLA 2014), so that every run does the same.
struct SeededGenerator: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}

/// A fleet in the middle of its day, and requests for it: conversations of 32 KiB that go on, some that begin, all groups busy and the
/// index as full as it gets.
struct Scenario {
    enum Traffic: String, CaseIterable {
        /// Requests without a prompt: what remains when nothing is looked up.
        case bare
        /// Nine of ten continue a conversation by 1 KiB, one begins with 32 KiB of its own.
        case turns
        /// Every prompt is new: 32 KiB.
        case cold
    }

    static let chunkBytes = RequestProbe.chunkBytes
    static let chunks = (32 << 10) / chunkBytes
    private static let newChunks = (1 << 10) / chunkBytes
    private static let mostConversations = 2_048
    /// In flight per group: half of a busy engine's batch.
    private static let inFlightPerGroup = 8

    let table: RoutingTable
    let traffic: Traffic
    private var random: SeededGenerator
    private var now: UInt64 = 1_000_000_000
    /// A conversation is its name, below their number, and its turn; its chunks follow from both.
    private var turns: [UInt64]
    private var hashes: UnsafeMutableBufferPointer<UInt64>
    /// A ring of open leases.
    private var open: UnsafeMutableBufferPointer<Lease>
    private var oldest = 0
    private var openCount = 0
    private var nextName: UInt64

    /// What replicas are told every 20 ms of the clock here, when they are.
    private let isShared: Bool
    private var messages = ReplicaMessages()
    private var toldAt: UInt64 = 0

    /// - Parameters:
    ///   - blocks: of the index, filled before the first measured request.
    ///   - isShared: whether replicas are told.
    init(groups: Int, blocks: Int, traffic: Traffic, isShared: Bool = false, seed: UInt64 = 1) {
        self.isShared = isShared
        table = RoutingTable(policy: .leastCost, seed: seed, limits: RoutingLimits(groups: groups, indexBlocks: blocks))
        table.replaceGroups(
            (0..<groups).map { number in
                GroupDescription(
                    name: "group-\(number)", leader: Endpoint(host: "10.0.\(number / 250).\(number % 250)", port: 8_000),
                    // More than a group's share of the index, so that it is the index that is full.
                    kvCapacityTokens: 32_000_000)
            }, now: now)
        self.traffic = traffic
        random = SeededGenerator(state: seed)
        // Half of the index at most, so that they stay in it.
        turns = Array(repeating: 0, count: min(Self.mostConversations, blocks / Self.chunks / 2))
        hashes = .allocate(capacity: Self.chunks)
        open = .allocate(capacity: groups * Self.inFlightPerGroup)
        nextName = UInt64(turns.count)
        if traffic != .bare { fillIndex(blocks: blocks) }
        while openCount < open.count {
            prepare()
            turnOver(pick())
        }
        if isShared { table.startSharing(now: now) }
    }

    /// Prompts that nobody asks for again, until there is no more room, and then the conversations, which stay.
    private mutating func fillIndex(blocks: Int) {
        var filled = 0
        for _ in 0..<16 where filled < blocks - blocks / 50 {
            for _ in 0..<(blocks / Self.chunks / 4) {
                nextName &+= 1
                writeHashes(name: nextName, turn: 0)
                hold(pick())
            }
            filled = heldBlocks
        }
        for name in turns.indices {
            writeHashes(name: UInt64(name), turn: 0)
            hold(pick())
        }
    }

    /// Leaves the prompt in the group's cache, and teaches nothing of its pace: the groups are alike, and stay so.
    private func hold(_ lease: Lease?) {
        if let lease { table.cancel(lease, now: now, prefixHeld: true) }
    }

    /// Blocks in the index.
    var heldBlocks: Int { table.groups(now: now).reduce(0) { $0 + $1.indexBlocks } }

    /// A conversation's turn ends with chunks that no other has.
    private func writeHashes(name: UInt64, turn: UInt64) {
        var chain = SeededGenerator(state: name &* 0x1_0000_0001)
        for index in 0..<(Self.chunks - Self.newChunks) { hashes[index] = chain.next() }
        var tail = SeededGenerator(state: chain.next() ^ turn)
        for index in (Self.chunks - Self.newChunks)..<Self.chunks { hashes[index] = tail.next() }
    }

    /// Writes the next request's hashes.
    mutating func prepare() {
        now &+= 200_000
        guard traffic != .bare else { return }
        if traffic == .cold || random.next() % 10 == 0 {
            nextName &+= 1
            return writeHashes(name: nextName, turn: 0)
        }
        let name = Int(random.next() % UInt64(turns.count))
        turns[name] &+= 1
        writeHashes(name: UInt64(name), turn: turns[name])
    }

    /// What is measured: one decision with its booking.
    @inline(never)
    func pick() -> Lease? {
        let isBare = traffic == .bare
        let request = RoutingRequest(
            prefixHashes: isBare ? .init(start: nil, count: 0) : UnsafeBufferPointer(hashes), chunkBytes: Self.chunkBytes,
            promptBytes: isBare ? 0 : Self.chunks * Self.chunkBytes + 100)
        guard case .success(let decision) = table.pick(request, now: now) else { return nil }
        return decision.lease
    }

    /// Keeps a request open, and ends the one that has been open longest when there are enough.
    mutating func turnOver(_ lease: Lease?) {
        guard let lease else { preconditionFailure("a decision failed") }
        if openCount == open.count {
            finish(open[oldest])
            oldest = (oldest + 1) % open.count
            openCount -= 1
        }
        open[(oldest + openCount) % open.count] = lease
        openCount += 1
        guard isShared, now &- toldAt >= 20_000_000 else { return }
        toldAt = now
        table.takeReplicaMessages(into: &messages, now: now)
    }

    private mutating func finish(_ lease: Lease?) {
        guard let lease else { return }
        now &+= 1_000
        table.firstToken(lease, now: now)
        table.settle(lease, usage: nil, now: now)
    }
}
