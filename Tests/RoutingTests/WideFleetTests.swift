import Testing

@testable import Routing

/// Fleets of more groups than are scored one by one.
@Suite struct WideFleetTests {
    private func wide(_ count: Int = 300, seed: UInt64 = 1) -> RoutingTable {
        RoutingTable(equalGroups(count), seed: seed, limits: RoutingLimits(indexBlocks: 1 << 18))
    }

    @Test func distinctArrivalsAreBookedEvenly() throws {
        let table = wide()
        for name in 0..<900 { _ = try table.pick(.distinct(name, chunkCount: 16)).get() }
        #expect(table.groups(now: 0).allSatisfy { $0.inFlight == 3 })
        for _ in 0..<600 { _ = try table.pick(nil).get() }
        let inFlight = table.groups(now: 0).map(\.inFlight)
        #expect((inFlight.max() ?? 0) - (inFlight.min() ?? 0) <= 1)
    }

    @Test func aConversationKeepsItsGroup() throws {
        let table = wide()
        let homes = try (0..<50).map { try table.serve(.distinct($0, chunkCount: 40)).group }
        for (name, home) in homes.enumerated() {
            let decision = try table.serve(.distinct(name, chunkCount: 44), now: second)
            #expect(decision.group == home && decision.reason == .prefix)
            #expect(decision.predictedCachedTokens == 40 * Prompt.tokensPerChunk)
        }
    }

    @Test func routersThatNeverTalkPlaceNewPrefixesAlike() throws {
        let first = wide()
        let second = RoutingTable(equalGroups(300).reversed(), seed: 77, limits: RoutingLimits(indexBlocks: 1 << 18))
        var chosen: Set<Endpoint> = []
        for name in 0..<200 {
            let here = try first.serve(.distinct(name, chunkCount: 6)).endpoint
            #expect(try second.serve(.distinct(name, chunkCount: 6)).endpoint == here)
            chosen.insert(here)
        }
        #expect(chosen.count > 120)
    }

    /// The rough look may not overlook a group that the close look would have preferred by much; what it may, `least-cost` levels anyway.
    @Test(arguments: 1...4 as ClosedRange<UInt64>, [(262_144, 400), (8_192, 1_000)])
    func theChoiceCostsLittleMoreThanTheBest(seed: UInt64, fleet: (kvCapacityTokens: Int, mostOpen: Int)) throws {
        var random = SeededGenerator(seed: seed)
        var groups = equalGroups(200)
        for place in groups.indices { groups[place].kvCapacityTokens = fleet.kvCapacityTokens }
        let table = RoutingTable(groups, seed: seed, limits: RoutingLimits(indexBlocks: 1 << 18))
        var open: [Lease] = []
        var excess = 0.0
        var sum = 0.0
        for step in 0..<2_000 {
            let now = UInt64(step) * 5 * millisecond
            let prompt = Prompt.distinct(Int.random(in: 0..<120, using: &random), chunkCount: Int.random(in: 1...120, using: &random))
            let groups = table.explain(prompt, now: now).groups.filter { $0.obstacle == nil }
            let best = groups.map(\.terms.total).min() ?? 0
            let decision = try table.pick(prompt, isStreamed: Bool.random(using: &random), now: now).get()
            excess += decision.terms.total - best
            sum += best
            open.append(decision.lease)
            if open.count > fleet.mostOpen {
                let lease = open.remove(at: Int.random(in: 0..<open.count, using: &random))
                table.firstToken(lease, now: now)
                table.settle(lease, usage: nil, now: now)
            }
            if step.isMultiple(of: 40) { table.reportSaturated(decision.group, now: now) }
        }
        #expect(excess / sum < 0.05)
    }

    /// An explanation looks at the same groups as the decision after it, and hides none of them from it.
    @Test func whoHoldsAPromptIsFoundAfterAnExplanation() throws {
        let table = wide(100)
        for name in 0..<50 {
            let home = try table.serve(.distinct(name, chunkCount: 40)).group
            _ = table.explain(.distinct(name, chunkCount: 44), now: second)
            let decision = try table.serve(.distinct(name, chunkCount: 44), now: second)
            #expect(decision.group == home && decision.reason == .prefix)
        }
    }

    @Test func whatTakesNothingIsNotChosen() throws {
        let table = wide(100)
        let states = table.groups(now: 0)
        for state in states.prefix(40) { table.reportSaturated(state.id, now: 0) }
        for state in states[40..<80] { table.reportUnreachable(state.id, now: 0) }
        _ = table.setDrained(true, group: states[80].name)
        for name in 0..<200 {
            let decision = try table.pick(.distinct(name, chunkCount: 8), now: 1).get()
            #expect(states[81...].contains { $0.id == decision.group })
        }
        // A second later they are back, the unreachable ones for one probe each.
        for name in 200..<800 { _ = try table.pick(.distinct(name, chunkCount: 8), now: 2 * second).get() }
        let inFlight = table.groups(now: 2 * second).map(\.inFlight)
        #expect(inFlight[..<40].allSatisfy { $0 > 4 } && inFlight[40..<80].allSatisfy { $0 == 1 } && inFlight[80] == 0)
    }

    @Test func whenAllArePushingBackTheBestOfThemIsTaken() throws {
        let table = wide(100)
        for state in table.groups(now: 0) { table.reportSaturated(state.id, now: 0) }
        #expect(try table.pick(nil, now: 1).get().reason == .saturated)
        #expect(throws: RoutingFailure.noReadyGroup) { try table.pick(nil, needsHTTP2: true, now: 1).get() }
    }

    @Test func theFewOfAnotherProtocolAreFound() throws {
        var groups = equalGroups(200)
        groups[150].leader = Endpoint(host: "10.0.9.9", port: 8_000, protocol: .http2)
        let table = RoutingTable(groups)
        for _ in 0..<20 { #expect(try table.name(of: table.pick(nil, needsHTTP2: true).get().group) == "g150") }
    }

    @Test func fleetsGrowAndShrinkAcrossTheBorder() throws {
        let table = RoutingTable(equalGroups(60))
        for count in [60, 70, 65, 64, 200, 3, 100] {
            table.replaceGroups(equalGroups(count), now: 1)
            var chosen: Set<GroupID> = []
            for name in 0..<(count * 2) { chosen.insert(try table.pick(.distinct(name, chunkCount: 8), now: 2).get().group) }
            // Those that keep bookings from before are passed over for the new ones.
            #expect(chosen.count > count / 2)
            #expect(chosen.isSubset(of: Set(table.groups(now: 2).map(\.id))))
        }
    }

    @Test func answersThatAreNotStreamedLeaveTheQueueByThemselves() throws {
        let table = wide(100)
        for name in 0..<100 { _ = try table.pick(.distinct(name, chunkCount: 100), isStreamed: false).get() }
        #expect(table.groups(now: 0).allSatisfy { $0.queuedUncachedTokens == 6_400 })
        _ = try table.pick(nil, now: 60 * second).get()
        #expect(table.groups(now: 60 * second).reduce(0) { $0 + $1.queuedUncachedTokens } < 100)
    }
}
