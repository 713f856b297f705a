import Testing

@testable import Routing

/// What a router knew before a replica began, it tells that one.
@Suite struct ReplicaHandoverTests {
    private let start = 100 * second

    private func makeTable(_ groups: Int, indexBlocks: Int = 1 << 14) -> RoutingTable {
        let table = RoutingTable(equalGroups(groups), limits: .init(indexBlocks: indexBlocks))
        table.startSharing(now: start)
        return table
    }

    private struct Told {
        var slices = 0
        var bytes = 0
        var records: [(kind: UInt8, group: UInt64)] = []
    }

    @discardableResult
    private func handOver(_ teller: RoutingTable, _ listener: RoutingTable, meanwhile: (Int) throws -> Void = { _ in }) throws -> Told {
        var (handover, messages, told) = (ReplicaHandover(), ReplicaMessages(), Told())
        var isMore = true
        while isMore {
            isMore = teller.handOver(&handover, into: &messages)
            var bytes = 0
            for place in 0..<messages.count {
                messages.withMessage(place) { message in
                    bytes += message.count
                    var reader = ReplicaMessageReader(message)
                    while let record = reader?.nextRecord() { told.records.append((ReplicaRecord.kind(record.header), record.group)) }
                    #expect(listener.receiveReplicaMessage(message, from: 7, now: start) != .malformed)
                }
            }
            #expect(bytes <= 8 * (1_024 + ReplicaRecord.placementWords + ReplicaRecord.mostChunks))
            told.bytes += bytes
            told.slices += 1
            try #require(told.slices < 10_000, "it comes to an end")
            try meanwhile(told.slices)
        }
        return told
    }

    private func cached(_ table: RoutingTable, _ prompt: Prompt) -> [String: Int] {
        table.explain(prompt, now: start).groups.reduce(into: [:]) { $0[$1.name] = $1.cachedTokens }
    }

    private func place(_ prompt: Prompt, on group: String, _ table: RoutingTable) throws {
        let lease = try table.pick(prompt, pinnedTo: group, now: start).get().lease
        table.firstToken(lease, now: start)
        table.settle(lease, usage: nil, now: start)
    }

    @Test func whatOneHoldsTheOtherHoldsAsWell() throws {
        let (teller, listener) = (makeTable(5), makeTable(5))
        for name in 0..<200 { try place(.distinct(name, chunkCount: 1 + name % 37), on: "g\(name % 5)", teller) }
        // Conversations, and prompts that begin alike.
        let branches = (0..<20).map { name in Prompt(Array(0..<30) + (0..<5).map { 5_000 * (name + 1) + $0 }) }
        for (name, prompt) in branches.enumerated() { try place(prompt, on: "g\(name % 2)", teller) }
        let told = try handOver(teller, listener)
        #expect(told.slices > 3)
        for name in 0..<200 {
            #expect(cached(teller, .distinct(name, chunkCount: 40)) == cached(listener, .distinct(name, chunkCount: 40)))
        }
        for prompt in branches { #expect(cached(teller, prompt) == cached(listener, prompt)) }
        for (one, other) in zip(teller.groups(now: start), listener.groups(now: start)) { #expect(one.indexBlocks == other.indexBlocks) }
    }

    /// What is the next to be forgotten here is the next there.
    @Test func bothForgetInTheSameOrder() throws {
        func makeSmall() -> RoutingTable {
            var groups = equalGroups(1)
            groups[0].kvCapacityTokens = 64 * 64
            let table = RoutingTable(groups, limits: .init(indexBlocks: 1 << 14))
            table.startSharing(now: start)
            return table
        }
        let (teller, listener) = (makeSmall(), makeSmall())
        for name in [0, 1, 2, 3, 4, 5, 6, 7, 0, 3] { try place(.distinct(name, chunkCount: 8), on: "g0", teller) }
        try handOver(teller, listener)
        for name in 100..<107 {
            for table in [teller, listener] { try place(.distinct(name, chunkCount: 8), on: "g0", table) }
            for old in 0..<8 {
                #expect(cached(teller, .distinct(old, chunkCount: 8)) == cached(listener, .distinct(old, chunkCount: 8)), "\(old)")
            }
        }
        #expect(cached(listener, .distinct(1, chunkCount: 8)) == ["g0": 0] && cached(listener, .distinct(3, chunkCount: 8)) != ["g0": 0])
    }

    /// What the listener placed before it was told anything, and while it is told, is the last that it forgets; the teller has heard of it.
    @Test(arguments: 1...4 as ClosedRange<UInt64>) func whatTheNewcomerPlacedIsNotOlderThanWhatWasBefore(seed: UInt64) throws {
        var generator = SeededGenerator(seed: seed)
        let prompts = 1_000
        func makeSmall() -> RoutingTable {
            var groups = equalGroups(1)
            groups[0].kvCapacityTokens = 64 * 8 * prompts
            let table = RoutingTable(groups, limits: .init(indexBlocks: 1 << 15))
            table.startSharing(now: start)
            return table
        }
        let (teller, listener) = (makeSmall(), makeSmall())
        for name in 0..<prompts { try place(.distinct(name, chunkCount: 8), on: "g0", teller) }
        var messages = ReplicaMessages()
        teller.takeReplicaMessages(into: &messages, now: start)
        var fresh: [Int] = []
        func placeAtNewcomer(_ name: Int) throws {
            try place(.distinct(name, chunkCount: 8), on: "g0", listener)
            fresh.removeAll { $0 == name }
            fresh.append(name)
            listener.takeReplicaMessages(into: &messages, now: start)
            for place in 0..<messages.count {
                _ = messages.withMessage(place) { teller.receiveReplicaMessage($0, from: 8, now: start) }
            }
        }
        for name in 0..<20 { try placeAtNewcomer(name % 2 == 0 ? 10_000 + name : Int.random(in: 0..<prompts, using: &generator)) }
        let told = try handOver(teller, listener) { slice in
            if slice < 8 { try placeAtNewcomer(slice % 2 == 0 ? 20_000 + slice : Int.random(in: 0..<prompts, using: &generator)) }
        }
        #expect(told.slices > 8)
        // As many as there is room for besides.
        for name in 0..<(prompts - fresh.count) { try place(.distinct(50_000 + name, chunkCount: 8), on: "g0", listener) }
        let forgotten = fresh.filter { cached(listener, .distinct($0, chunkCount: 8)) == ["g0": 0] }
        #expect(forgotten.isEmpty)
        for name in 0..<fresh.count { try place(.distinct(80_000 + name, chunkCount: 8), on: "g0", listener) }
        #expect(fresh.allSatisfy { cached(listener, .distinct($0, chunkCount: 8)) == ["g0": 0] }, "there is room for no more")
    }

    /// What is placed, touched again, forgotten and evicted while all of it is being told.
    @Test(arguments: 1...4 as ClosedRange<UInt64>) func placementsMayGoOn(seed: UInt64) throws {
        var generator = SeededGenerator(seed: seed)
        let (teller, listener) = (makeTable(3, indexBlocks: 1 << 12), makeTable(3, indexBlocks: 1 << 12))
        func placeAny(_ names: Range<Int>) throws {
            let name = Int.random(in: names, using: &generator)
            try place(.distinct(name, chunkCount: 1 + name % 23), on: "g\(name % 3)", teller)
        }
        for name in 0..<600 { try place(.distinct(name, chunkCount: 1 + name % 23), on: "g\(name % 3)", teller) }
        var messages = ReplicaMessages()
        teller.takeReplicaMessages(into: &messages, now: start)
        let told = try handOver(teller, listener) { slice in
            try #require(slice < 1_000)
            for _ in 0..<40 { try placeAny(0..<900) }
            if slice == 3 {
                var groups = equalGroups(3)
                groups[1].incarnation = "2"
                teller.replaceGroups(groups, now: start)
            }
            teller.takeReplicaMessages(into: &messages, now: start)
            for place in 0..<messages.count {
                _ = messages.withMessage(place) { listener.receiveReplicaMessage($0, from: 7, now: start) }
            }
        }
        #expect(told.records.count > 20)
        // Of what the teller holds in the end hardly anything is missing, but for the group of which nobody told the listener that it began anew.
        var (held, missing) = (0, 0)
        for name in 0..<900 where name % 3 != 1 {
            let prompt = Prompt.distinct(name, chunkCount: 1 + name % 23)
            let group = "g\(name % 3)"
            guard let there = cached(teller, prompt)[group], there > 0 else { continue }
            held += 1
            missing += cached(listener, prompt)[group] ?? 0 < there ? 1 : 0
        }
        #expect(held > 50 && missing <= held / 20, "\(missing) of \(held)")
    }

    @Test func nobodyIsTakenForBusyByWhatIsLongOver() throws {
        let (teller, listener) = (makeTable(2), makeTable(2))
        for name in 0..<500 { try place(.distinct(name, chunkCount: 20), on: "g0", teller) }
        try handOver(teller, listener)
        let explained = listener.explain(.distinct(9_999, chunkCount: 20), now: start).groups
        #expect(explained.count == 2 && explained.allSatisfy { $0.terms.queueBehind == 0 && $0.terms.queueWait == 0 })
        #expect(listener.groups(now: start).allSatisfy { $0.othersRunning + $0.othersWaiting == 0 })
    }

    /// Their questions are shorter than a chunk, so that chunks do not tell them apart.
    @Test func conversationsGoOn() throws {
        let (teller, listener) = (makeTable(4), makeTable(4))
        func turn(_ number: Int, of name: Int) -> Prompt {
            var prompt = Prompt(Array(0..<20) + (0..<10 * number).map { 1_000_000 * (name + 1) + $0 })
            prompt.bytes += Prompt.chunkBytes / 2
            prompt.digests = (mix64(UInt64(name * 100 + number + 1)), number == 0 ? 0 : mix64(UInt64(name * 100 + number)))
            return prompt
        }
        for name in 0..<40 {
            let prompt = turn(0, of: name)
            let lease = try teller.pick(prompt, pinnedTo: "g\(name % 4)", now: start).get().lease
            teller.firstToken(lease, now: start)
            teller.settle(lease, usage: Usage(promptTokens: prompt.bytes / 4, cachedTokens: 1_280, completionTokens: 640), now: start)
        }
        let told = try handOver(teller, listener)
        #expect(told.records.count { $0.kind == ReplicaRecord.turn } == 40)
        for name in 0..<40 {
            let found = cached(listener, turn(1, of: name))
            let home = try #require(found["g\(name % 4)"])
            // Half a chunk of question and the answer, behind the chunks that all have.
            #expect(found.allSatisfy { $0.key == "g\(name % 4)" || $0.value + 600 < home }, "\(name): \(found)")
        }
    }

    @Test func whoHasPlacedNothingHasNothingToTell() throws {
        let (teller, listener) = (makeTable(3), makeTable(3))
        let told = try handOver(teller, listener)
        #expect(told.records.isEmpty && told.bytes == 0)
        // What it was told itself it tells as well, in chunks of the size that it was told.
        let third = makeTable(3)
        try place(.distinct(1, chunkCount: 9), on: "g1", teller)
        try handOver(teller, listener)
        try handOver(listener, third)
        #expect(cached(third, .distinct(1, chunkCount: 9)) == cached(teller, .distinct(1, chunkCount: 9)))
    }

    @Test func aPathLongerThanARecordIsToldInPart() throws {
        let (teller, listener) = (makeTable(1, indexBlocks: 1 << 15), makeTable(1, indexBlocks: 1 << 15))
        try place(.distinct(1, chunkCount: 8_192), on: "g0", teller)
        try handOver(teller, listener)
        #expect(try #require(listener.state("g0", now: start)).indexBlocks == ReplicaRecord.mostChunks)
    }

    /// Also to find that a group holds nothing takes its time.
    @Test func groupsThatHoldNothingAreGoneThroughInPieces() throws {
        let teller = RoutingTable(equalGroups(3_000), limits: .init(groups: 3_000, indexBlocks: 1 << 14))
        teller.startSharing(now: start)
        let turns = FormerTurns.places / 512
        #expect(try handOver(teller, makeTable(1)).slices > turns + 4)
        try place(.distinct(1, chunkCount: 8), on: "g2999", teller)
        let told = try handOver(teller, makeTable(1))
        #expect(told.slices > turns + 4 && told.records.count == 1)
    }

    /// The same on so many groups that a search does not look at each: what was placed behind it stays behind it.
    @Test func whatManyGroupsHoldKeepsItsAgeOnEach() throws {
        func make() -> RoutingTable {
            let table = RoutingTable(
                equalGroups(200).map { group in
                    var group = group
                    group.kvCapacityTokens = 32 * 64
                    return group
                }, limits: .init(groups: 256, indexBlocks: 1 << 14))
            table.startSharing(now: start)
            return table
        }
        let (teller, listener) = (make(), make())
        let common = Prompt.distinct(1, chunkCount: 8)
        for group in 0..<199 { try place(common, on: "g\(group)", teller) }
        for group in 0..<199 {
            try place(common, on: "g\(group)", listener)
            try place(.distinct(1_000 + group, chunkCount: 8), on: "g\(group)", listener)
        }
        var messages = ReplicaMessages()
        listener.takeReplicaMessages(into: &messages, now: start)
        for place in 0..<messages.count { _ = messages.withMessage(place) { teller.receiveReplicaMessage($0, from: 8, now: start) } }
        try handOver(teller, listener)
        for group in 0..<199 {
            // There is room for four of that length: the oldest gives way.
            for name in 10..<13 { try place(.distinct(name, chunkCount: 8), on: "g\(group)", listener) }
            #expect(cached(listener, .distinct(1_000 + group, chunkCount: 8))["g\(group)"] ?? 0 > 0)
        }
    }
}
