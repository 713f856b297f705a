import Testing

@testable import Routing

/// Placements that came to nothing, as other replicas hear of them.
@Suite struct TakenBackTests {
    private let start = 100 * second

    /// In one table's chunks, what it takes a group to hold of a prompt.
    private func held(_ table: RoutingTable, _ prompt: Prompt, by group: String = "g1") throws -> Int {
        let tokens = try #require(table.explain(prompt, now: start).groups.first { $0.name == group }).cachedTokens
        return (tokens + 16) / 64
    }

    private func pick(_ prompt: Prompt, _ table: RoutingTable) throws -> Lease {
        try table.pick(prompt, pinnedTo: "g1", now: start).get().lease
    }

    private func serve(_ prompt: Prompt, _ table: RoutingTable) throws {
        let lease = try pick(prompt, table)
        table.firstToken(lease, now: start)
        table.settle(lease, usage: nil, now: start)
    }

    /// What others had placed before stays, and nobody has anything under way.
    @Test(arguments: [false, true]) func whatAnEngineRefusedIsTakenBack(isToldBefore: Bool) throws {
        var pair = ReplicaPair(3, now: start)
        let prompt = Prompt.distinct(1, chunkCount: 40)
        try serve(.distinct(1, chunkCount: 10), pair.teller)
        pair.tell(now: start)
        let lease = try pick(prompt, pair.teller)
        if isToldBefore {
            pair.tell(now: start)
            #expect(try held(pair.listener, prompt) == 40)
        }
        pair.teller.cancel(lease, now: start)
        pair.tell(now: start)
        #expect(try held(pair.listener, prompt) == 10)
        #expect(try #require(pair.listener.state("g1", now: start)).indexBlocks == 10)
        let state = try #require(pair.listener.state("g1", now: start))
        #expect(state.othersWaiting == 0 && state.othersRunning == 0)
        #expect(pair.tell(now: start).isEmpty, "once")
    }

    /// An engine that has begun to answer holds the prompt, and one whose answer ended.
    @Test func whatAnEngineHoldsIsNotTakenBack() throws {
        var pair = ReplicaPair(3, now: start)
        let (first, second) = (Prompt.distinct(1, chunkCount: 9), Prompt.distinct(2, chunkCount: 9))
        let lease = try pick(first, pair.teller)
        pair.teller.cancel(lease, now: start, prefixHeld: true)
        let other = try pick(second, pair.teller)
        pair.teller.firstToken(other, now: start)
        pair.teller.cancel(other, now: start)
        pair.tell(now: start)
        #expect(try held(pair.listener, first) == 9 && held(pair.listener, second) == 9)
    }

    /// By the listener, by the teller once more, or by a third: then the engine holds it whatever became of the first.
    @Test(arguments: 0..<3) func whatWasPlacedAgainSinceStays(who: Int) throws {
        var pair = ReplicaPair(3, now: start)
        let prompt = Prompt.distinct(1, chunkCount: 9)
        let lease = try pick(prompt, pair.teller)
        pair.tell(now: start)
        switch who {
        case 0: try serve(prompt, pair.listener)
        case 1: try serve(prompt, pair.teller)
        default:
            var third = ReplicaPair(3, now: start)
            try serve(prompt, third.teller)
            third.teller.takeReplicaMessages(into: &third.messages, now: start)
            for place in 0..<third.messages.count {
                _ = third.messages.withMessage(place) { pair.listener.receiveReplicaMessage($0, from: 8, now: start) }
            }
        }
        pair.teller.cancel(lease, now: start)
        pair.tell(now: start)
        #expect(try held(pair.listener, prompt) == 9)
    }

    /// The beginning of a prompt was told, and of that nothing remains.
    @Test(arguments: [6_999, 7_000, 7_001, 8_192, 9_000]) func longPromptsAreTakenBack(chunks: Int) throws {
        func make() -> RoutingTable { RoutingTable(equalGroups(3), limits: .init(indexBlocks: 1 << 16)) }
        let (teller, listener) = (make(), make())
        teller.startSharing(now: start)
        let lease = try pick(.distinct(1, chunkCount: chunks), teller)
        teller.cancel(lease, now: start)
        var messages = ReplicaMessages()
        teller.takeReplicaMessages(into: &messages, now: start)
        for place in 0..<messages.count {
            #expect(messages.withMessage(place) { listener.receiveReplicaMessage($0, from: 7, now: start) } != .malformed)
        }
        #expect(messages.placements == 1)
        #expect(try #require(listener.state("g1", now: start)).indexBlocks == 0)
    }

    /// An earlier release takes no message that it does not know all of: what else there is to tell is told apart.
    @Test func whatIsTakenBackIsToldApart() throws {
        var pair = ReplicaPair(3, now: start)
        for name in 0..<5 { pair.teller.cancel(try pick(.distinct(name, chunkCount: 9), pair.teller), now: start) }
        try serve(.distinct(9, chunkCount: 9), pair.teller)
        pair.teller.takeReplicaMessages(into: &pair.messages, now: start)
        let kinds = (0..<pair.messages.count).map { place in
            pair.messages.withMessage(place) { message in
                var reader = ReplicaMessageReader(message)
                var kinds: Set<UInt8> = []
                while let record = reader?.nextRecord() { kinds.insert(ReplicaRecord.kind(record.header)) }
                return kinds
            }
        }
        #expect(kinds.last == [ReplicaRecord.takenBack])
        #expect(kinds.dropLast().allSatisfy { !$0.contains(ReplicaRecord.takenBack) } && kinds.count > 1)
    }

    /// Nobody takes back another's, nor what it never told, nor what a group held before it began anew.
    @Test func onlyWhatOneToldOneTakesBack() throws {
        let table = RoutingTable(equalGroups(3))
        let prompt = Prompt.distinct(1, chunkCount: 4)
        let hashes = prompt.hashes
        func placement(_ group: String) -> [UInt64] {
            [ReplicaRecord.header(ReplicaRecord.placement, count: hashes.count, argument: UInt32(Prompt.chunkBytes)), identity(group)]
                + hashes
        }
        func back(_ group: String, _ hash: UInt64) -> [UInt64] { [ReplicaRecord.header(ReplicaRecord.takenBack), identity(group), hash] }
        let applied = ReplicaMessageOutcome.applied(placements: 0, loads: 0)
        #expect(receive(placement("g1"), table, now: start) == .applied(placements: 1, loads: 0))
        #expect(receive(back("g1", hashes[3]), table, from: 8, now: start) == applied)
        #expect(receive(back("g0", hashes[3]), table, now: start) == applied)
        #expect(receive(back("g1", hashes[2]), table, now: start) == applied)
        #expect(receive(back("nobody", hashes[3]), table, now: start) == applied)
        #expect(try held(table, prompt) == 4)
        #expect(receive(back("g1", hashes[3]), table, now: start) == applied)
        #expect(try held(table, prompt) == 0)
        // Held by ourselves, not by its word.
        try serve(prompt, table)
        #expect(receive(back("g1", hashes[3]), table, now: start) == applied)
        #expect(receive(placement("g1") + back("g1", hashes[3]), table, now: start) == .applied(placements: 1, loads: 0))
        #expect(try held(table, prompt) == 4)
        #expect(receive(placement("g2"), table, now: start) == .applied(placements: 1, loads: 0))
        var groups = equalGroups(3)
        groups[2].incarnation = "2"
        table.replaceGroups(groups, now: start)
        try serve(prompt, table)
        #expect(receive(back("g2", hashes[3]), table, now: start) == applied)
        #expect(try held(table, prompt) == 4)
        for header in [ReplicaRecord.header(ReplicaRecord.takenBack, count: 1), ReplicaRecord.header(ReplicaRecord.takenBack, argument: 1)]
        {
            #expect(receive([header, identity("g1"), hashes[3]], table, now: start) == .malformed)
        }
    }

    /// Of so many placements each may be taken back, of more some not: a later one may have its place.
    @Test func soManyPlacementsAreRemembered() throws {
        let table = RoutingTable(equalGroups(3), limits: .init(indexBlocks: 1 << 16))
        func placement(_ hash: UInt64) -> [UInt64] {
            [ReplicaRecord.header(ReplicaRecord.placement, count: 1, argument: UInt32(Prompt.chunkBytes)), identity("g1"), hash]
        }
        func back(_ hash: UInt64) -> [UInt64] { [ReplicaRecord.header(ReplicaRecord.takenBack), identity("g1"), hash] }
        func blocks() throws -> Int { try #require(table.state("g1", now: start)).indexBlocks }
        let hashes = (1...200).map { mix64(UInt64($0)) }
        for hash in hashes { _ = receive(placement(hash), table, now: start) }
        for hash in hashes { _ = receive(back(hash), table, now: start) }
        #expect(try blocks() < 10)
        let more = (1_000...4_500).map { mix64(UInt64($0)) }
        for hash in hashes + more { _ = receive(placement(hash), table, now: start) }
        for hash in hashes { _ = receive(back(hash), table, now: start) }
        #expect(try blocks() > more.count && blocks() < hashes.count + more.count)
    }
}
