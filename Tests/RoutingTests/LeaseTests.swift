import Testing

@testable import Routing

@Suite struct LeaseTests {
    private func expectIdle(_ state: GroupState?) {
        #expect(state?.inFlight == 0)
        #expect(state?.awaitingFirstToken == 0)
        #expect(state?.queuedUncachedTokens == 0)
        #expect(state?.activeKVTokens == 0)
    }

    @Test func aPrefixThatRequestsShareIsChargedOnce() throws {
        let table = RoutingTable(equalGroups(1))
        let shared = Array(0..<20)
        let decisions = try (0..<4).map { try table.pick(Prompt(shared + [100 + $0]), maxOutputTokens: 100).get() }
        #expect(table.state("g0")?.activeKVTokens == (20 + 4) * 64 + 4 * 100)
        for (left, decision) in zip([3, 2, 1, 0], decisions) {
            table.settle(decision.lease, usage: nil, now: second)
            #expect(table.state("g0")?.activeKVTokens == (left == 0 ? 0 : (20 + left) * 64 + left * 100))
        }
    }

    /// Of ten prompts the cache has room for one, and so has its shadow. The others wait, and will take their room all the same.
    @Test func whatWaitsForRoomIsChargedThoughTheShadowHasNone() throws {
        var groups = equalGroups(1)
        groups[0].kvCapacityTokens = 1_000
        let table = RoutingTable(groups)
        let decisions = try (0..<10).map { try table.pick(.distinct($0, chunkCount: 10), maxOutputTokens: 100).get() }
        func charged() -> [Int?] { [table.state("g0")?.activeKVTokens, table.state("g0")?.waitingKVTokens] }
        #expect(charged() == [1_000, 10 * (640 + 100) - 1_000], "a cache holds no more than its capacity")
        for (left, decision) in zip((0..<10).reversed(), decisions) {
            table.settle(decision.lease, usage: nil, now: second)
            let tokens = left * (640 + 100)
            #expect(charged() == [min(tokens, 1_000), max(tokens - 1_000, 0)])
        }
    }

    /// An engine that evicts sooner than we think has a smaller shadow, and as much to compute.
    @Test func predictionsThatProveTooHighTakeNothingFromWhatIsCharged() throws {
        var groups = equalGroups(1)
        groups[0].kvCapacityTokens = 20_000
        let table = RoutingTable(groups)
        for round in 0..<200 {
            let decision = try table.pick(.distinct(0, chunkCount: 10), now: UInt64(round) * second).get()
            table.firstToken(decision.lease, now: UInt64(round) * second + 1)
            table.settle(
                decision.lease, usage: Usage(promptTokens: 640, cachedTokens: 0, completionTokens: 100), now: UInt64(round) * second + 2)
        }
        let now = 200 * second
        for number in 1...20 { _ = try table.pick(.distinct(number, chunkCount: 10), maxOutputTokens: 100, now: now).get() }
        #expect(table.state("g0")?.activeKVTokens == 20 * (640 + 100))
    }

    @Test func aBookingIsChargedAndReleasedExactly() throws {
        let table = RoutingTable(equalGroups(1))
        let decision = try table.pick(.distinct(0, chunkCount: 10), maxOutputTokens: 100).get()
        #expect(table.state("g0")?.queuedUncachedTokens == 640)
        #expect(table.state("g0")?.activeKVTokens == 740)
        #expect(table.state("g0")?.awaitingFirstToken == 1)
        table.firstToken(decision.lease, now: second)
        #expect(table.state("g0")?.queuedUncachedTokens == 0)
        #expect(table.state("g0")?.running == 1)
        table.firstToken(decision.lease, now: 2 * second)
        #expect(table.state("g0")?.running == 1)
        table.settle(decision.lease, usage: Usage(promptTokens: 640, cachedTokens: 0, completionTokens: 10), now: 3 * second)
        expectIdle(table.state("g0"))
    }

    @Test func endingALeaseTwiceDoesNothing() throws {
        let table = RoutingTable(equalGroups(1))
        let first = try table.pick(.distinct(0, chunkCount: 10)).get().lease
        table.settle(first, usage: nil, now: 1)
        let second = try table.pick(.distinct(1, chunkCount: 10)).get().lease
        #expect(second.index == first.index, "the slot is used again, so the stale lease points at it")
        table.settle(first, usage: nil, now: 2)
        table.cancel(first, now: 2)
        table.firstToken(first, now: 2)
        #expect(table.state("g0")?.inFlight == 1)
        #expect(table.state("g0")?.awaitingFirstToken == 1)
        table.cancel(second, now: 3)
        table.settle(second, usage: nil, now: 3)
        expectIdle(table.state("g0"))
    }

    @Test func aGroupMayVanishWithLeasesOutstanding() throws {
        let table = RoutingTable(equalGroups(2))
        let prompt = Prompt.distinct(0, chunkCount: 10)
        let old = try table.pick(prompt, isStreamed: false).get()
        let alsoOld = try table.pick(prompt, isStreamed: false).get()
        table.replaceGroups([], now: 1)
        #expect(throws: RoutingFailure.noReadyGroup) { try table.pick(nil).get() }
        table.replaceGroups(equalGroups(2), now: 2)
        for state in table.groups(now: 2) {
            expectIdle(state)
            #expect(state.indexBlocks == 0)
            #expect(state.id != old.group && state.id != alsoOld.group)
        }
        let new = try (0..<2).map { _ in try table.pick(.distinct(1, chunkCount: 10), isStreamed: false).get() }
        table.firstToken(old.lease, now: 3)
        table.settle(old.lease, usage: Usage(promptTokens: 9, cachedTokens: 0, completionTokens: 1), now: 3)
        table.cancel(alsoOld.lease, now: 3)
        table.reportUnreachable(old.group, now: 3)
        table.reportSaturated(old.group, now: 3)
        #expect(table.groups(now: 3).map(\.inFlight).reduce(0, +) == 2)
        for decision in new { table.settle(decision.lease, usage: nil, now: 4) }
        for state in table.groups(now: 4) { expectIdle(state) }
    }

    @Test func leasesAreBoundedAndComeBack() throws {
        let table = RoutingTable(equalGroups(1), limits: RoutingLimits(leases: 10))
        let leases = try (0..<10).map { _ in try table.pick(nil).get().lease }
        #expect(throws: RoutingFailure.leasesExhausted) { try table.pick(nil).get() }
        table.cancel(leases[3], now: 1)
        _ = try table.pick(nil).get()
        #expect(throws: RoutingFailure.leasesExhausted) { try table.pick(nil).get() }
    }

    @Test(arguments: Policy.allCases)
    func nothingLeaksUnderRandomTraffic(policy: Policy) throws {
        var random = SeededGenerator(seed: 11)
        let table = RoutingTable(equalGroups(3), policy: policy, limits: RoutingLimits(indexBlocks: 500, leases: 64))
        var open: [Lease] = []
        for step in 0..<5_000 {
            let now = UInt64(step) * millisecond
            switch Int.random(in: 0..<10, using: &random) {
            case 0..<4:
                let prompt = Prompt((0..<Int.random(in: 1...30, using: &random)).map { _ in Int.random(in: 0..<3, using: &random) })
                let isStreamed = Bool.random(using: &random)
                if case .success(let decision) = table.pick(prompt, isStreamed: isStreamed, now: now) { open.append(decision.lease) }
            case 4..<6:
                if let lease = open.randomElement(using: &random) { table.firstToken(lease, now: now) }
            case 6..<8:
                guard !open.isEmpty else { continue }
                let lease = open.remove(at: Int.random(in: 0..<open.count, using: &random))
                let cached = Int.random(in: 0...200, using: &random)
                let usage = Usage(promptTokens: Int.random(in: 0...500, using: &random), cachedTokens: cached, completionTokens: 20)
                table.settle(lease, usage: Bool.random(using: &random) ? usage : nil, now: now)
            case 8:
                guard !open.isEmpty else { continue }
                let lease = open.remove(at: Int.random(in: 0..<open.count, using: &random))
                table.cancel(lease, now: now, prefixHeld: Bool.random(using: &random))
            default:
                guard let group = table.groups(now: now).randomElement(using: &random)?.id else { continue }
                if Int.random(in: 0..<4, using: &random) == 0 { table.reportUnreachable(group, now: now) }
                table.reportReachable(group, now: now + 2 * second)
            }
        }
        for lease in open { table.cancel(lease, now: 6 * second) }
        for state in table.groups(now: 6 * second) {
            expectIdle(state)
            #expect(state.indexBlocks <= 500)
        }
        #expect(table.groups(now: 0).map(\.indexBlocks).reduce(0, +) <= 500)
    }

    @Test func answersThatAreNotStreamedLeaveTheQueueByThemselves() throws {
        let table = RoutingTable(equalGroups(1))
        let lease = try table.pick(.distinct(0, chunkCount: 100), isStreamed: false).get().lease
        #expect(table.state("g0")?.queuedUncachedTokens == 6_400)
        // The work of 7,014 tokens at 20,000 a second: presumed over after 0.70 s, seen by the next decision.
        let early = try table.pick(nil, now: 690 * millisecond).get().lease
        #expect(table.state("g0")?.awaitingFirstToken == 2)
        let late = try table.pick(nil, now: 710 * millisecond).get().lease
        #expect(table.state("g0")?.queuedUncachedTokens == 32)
        for lease in [lease, early, late] { table.settle(lease, usage: nil, now: second) }
        expectIdle(table.state("g0", now: second))
    }

    /// Prompts for five caches: the last of them waits until four mean answers have ended, each more than 10 s in a full batch.
    @Test func whatWaitsForRoomIsNotPresumedPrefilled() throws {
        var groups = equalGroups(1)
        groups[0].prefillTokensPerSecond = 1_000_000
        let table = RoutingTable(groups)
        let capacity = try #require(table.state("g0")?.kvCapacityTokens)
        for number in 0..<5 * capacity / 6_400 { _ = try table.pick(.distinct(number, chunkCount: 100), isStreamed: false).get() }
        func awaiting(_ now: UInt64) throws -> Int {
            let lease = try table.pick(nil, now: now).get().lease
            defer { table.cancel(lease, now: now) }
            return try #require(table.state("g0", now: now)?.awaitingFirstToken) - 1
        }
        #expect(try awaiting(50 * second) > 0)
        #expect(try awaiting(600 * second) == 0)
    }

    @Test func aFirstTokenProvesThatEarlierUnstreamedPromptsArePrefilled() throws {
        let table = RoutingTable(equalGroups(1))
        _ = try table.pick(.distinct(0, chunkCount: 100), isStreamed: false).get()
        let streamed = try table.pick(.distinct(1, chunkCount: 10)).get().lease
        _ = try table.pick(.distinct(2, chunkCount: 5), isStreamed: false).get()
        table.firstToken(streamed, now: millisecond)
        #expect(table.state("g0")?.queuedUncachedTokens == 320)
        #expect(table.state("g0")?.running == 2)
    }

    @Test func triedGroupsRememberTheLastEight() {
        var tried = TriedGroups()
        let ids = (0..<9).map { GroupID(slot: $0, generation: 1) }
        for id in ids.prefix(8) { tried.insert(id) }
        tried.insert(ids[0])
        #expect(tried.count == 8)
        #expect(ids.prefix(8).allSatisfy(tried.contains))
        tried.insert(ids[8])
        #expect(!tried.contains(ids[0]))
        #expect(tried.contains(ids[8]))
        #expect(!tried.contains(GroupID(slot: 1, generation: 2)))
    }

    /// Nobody counts backwards; who does all the same ends nothing.
    @Test func aCountOfEventsBelowZeroIsNone() throws {
        let table = RoutingTable(equalGroups(1))
        let prompt = Prompt.distinct(0, chunkCount: 10)
        let decision = try table.pick(prompt).get()
        table.firstToken(decision.lease, now: 1)
        table.streamed(decision.lease, events: .min, now: second)
        table.settle(decision.lease, usage: nil, events: .min, now: 2 * second)
        #expect(table.state("g0")?.inFlight == 0)
        #expect(try table.pick(prompt, now: 3 * second).get().predictedCachedTokens == 9 * Prompt.tokensPerChunk + 48)
    }
}
