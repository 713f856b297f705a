import Testing

@testable import Routing

@Suite struct PlacementTests {
    /// The difference between the fullest and the emptiest group never exceeds one request, whatever has been picked so far.
    private func expectEvenBooking(_ table: RoutingTable, arrivals: Int, prompt: (Int) -> Prompt?) throws {
        var booked: [GroupID: Int] = [:]
        for state in table.groups(now: 0) { booked[state.id] = 0 }
        for arrival in 0..<arrivals {
            let decision = try table.pick(prompt(arrival)).get()
            booked[decision.group, default: 0] += 1
            let spread = (booked.values.max() ?? 0) - (booked.values.min() ?? 0)
            #expect(spread <= 1, "after \(arrival + 1) arrivals")
        }
    }

    @Test(arguments: [1, 4, 16, 64, 400])
    func aThousandDistinctArrivalsAreBookedEvenly(chunkCount: Int) throws {
        try expectEvenBooking(RoutingTable(equalGroups(4)), arrivals: 1_000) { .distinct($0, chunkCount: chunkCount) }
    }

    @Test(arguments: [Policy.leastCost, .roundRobin, .leastRequest, .prefixAffinity])
    func aThousandArrivalsWithoutPromptAreBookedEvenly(policy: Policy) throws {
        try expectEvenBooking(RoutingTable(equalGroups(4), policy: policy), arrivals: 1_000) { _ in nil }
    }

    @Test(arguments: [3, 7, 64])
    func evenBookingHoldsForOtherGroupCounts(count: Int) throws {
        try expectEvenBooking(RoutingTable(equalGroups(count)), arrivals: 500) { .distinct($0, chunkCount: 8) }
    }

    @Test(arguments: Policy.allCases)
    func idleGroupsTakeTurnsWithoutPrompt(policy: Policy) throws {
        let table = RoutingTable(equalGroups(4), policy: policy)
        var chosen: [GroupID: Int] = [:]
        for _ in 0..<400 {
            let decision = try table.pick(nil).get()
            chosen[decision.group, default: 0] += 1
            table.settle(decision.lease, usage: nil, now: 0)
        }
        #expect(chosen.count == 4)
        #expect(chosen.values.allSatisfy { policy == .random || policy == .powerOfTwo ? (50...150).contains($0) : $0 == 100 })
    }

    @Test func routersThatNeverTalkPlaceNewPrefixesAlikeAndSpreadThem() throws {
        let first = RoutingTable(equalGroups(8), seed: 1)
        let second = RoutingTable(equalGroups(8).reversed(), seed: 99)
        var chosen: [String: Int] = [:]
        for name in 0..<400 {
            let prompt = Prompt.distinct(name, chunkCount: 6)
            let here = try first.serve(prompt).endpoint
            let there = try second.serve(prompt).endpoint
            #expect(here == there)
            chosen[here.description, default: 0] += 1
        }
        #expect(chosen.count == 8)
        #expect(chosen.values.allSatisfy { (20...90).contains($0) })
    }

    @Test func aPrefixThatEverybodySharesDoesNotDrawAllNewPromptsToOneGroup() throws {
        let table = RoutingTable(equalGroups(4))
        let shared = Array(0..<8)
        // Enough simultaneous work that every group takes the shared prefix.
        let leases = try (0..<64).map { name in
            try table.pick(Prompt(shared + (0..<40).map { part in 1_000 + name * 100 + part })).get().lease
        }
        for lease in leases { table.settle(lease, usage: nil, now: 0) }
        var chosen: [GroupID: Int] = [:]
        for name in 0..<100 {
            let decision = try table.serve(Prompt(shared + [100_000 + name]), now: 60 * second)
            #expect(decision.predictedCachedTokens == 8 * Prompt.tokensPerChunk)
            chosen[decision.group, default: 0] += 1
        }
        #expect(chosen.count == 4)
        #expect(chosen.values.allSatisfy { $0 >= 10 })
    }

    @Test func randomIsTheSameForTheSameSeedAndNotForAnother() throws {
        func picks(seed: UInt64) throws -> [UInt32] {
            let table = RoutingTable(equalGroups(4), policy: .random, seed: seed)
            return try (0..<50).map { _ in try table.pick(nil).get().group.slot }
        }
        #expect(try picks(seed: 5) == picks(seed: 5))
        #expect(try picks(seed: 5) != picks(seed: 6))
    }

    /// 40 chunks are being prefilled, and 2 to 8 others behind them are in the way: a sibling waits there as long as a copy elsewhere would be
    /// sooner by little, and no longer than that.
    @Test(arguments: [(2, 0.0, "g0"), (4, 0, "g1"), (4, 0.1, "g0"), (8, 0.1, "g1"), (8, 0.3, "g0")] as [(Int, Double, String)])
    func aPrefixThatIsBeingPrefilledIsWaitedFor(others: Int, band: Double, group: String) throws {
        var cost = CostRule()
        cost.awaitedBand = band
        let table = RoutingTable(equalGroups(2), cost: cost)
        let chunks = Array(0..<40)
        let first = try table.pick(Prompt(chunks), pinnedTo: "g0").get()
        _ = try table.pick(.distinct(9, chunkCount: others), pinnedTo: "g0").get()
        let sibling = try table.pick(Prompt(chunks + [1_000])).get()
        #expect(table.name(of: sibling.group) == group)
        table.cancel(sibling.lease, now: 0)
        table.firstToken(first.lease, now: second)
        #expect(table.name(of: try table.pick(Prompt(chunks + [2_000]), now: second).get().group) == "g0", "a hit")
    }
}
