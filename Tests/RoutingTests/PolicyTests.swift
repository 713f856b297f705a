import Testing

@testable import Routing

@Suite struct PolicyTests {
    /// Where each session goes when nothing else is there.
    private func places(_ table: RoutingTable, sessions: Range<Int>) throws -> [String] {
        try sessions.map { session in
            let decision = try table.pick(.distinct(session, chunkCount: 4), session: UInt64(session + 1)).get()
            table.cancel(decision.lease, now: 0)
            return try #require(table.name(of: decision.group))
        }
    }

    @Test func theLessBusyOfTwoIsTaken() throws {
        let table = RoutingTable(equalGroups(2), policy: .powerOfTwo)
        // Two of two are always both: a difference of more than one cannot arise.
        for _ in 0..<100 {
            #expect(try table.pick(nil).get().reason == .powerOfTwo)
            let inFlight = table.groups(now: 0).map(\.inFlight)
            #expect(abs(inFlight[0] - inFlight[1]) <= 1)
        }
        let wide = RoutingTable(equalGroups(50), policy: .powerOfTwo)
        for _ in 0..<1_000 { _ = try wide.pick(nil).get() }
        let inFlight = wide.groups(now: 0).map(\.inFlight)
        // Chance alone would leave differences of twenty around a mean of twenty.
        #expect((inFlight.max() ?? 0) - (inFlight.min() ?? 0) <= 6)
    }

    @Test(arguments: [Policy.session, .consistentHash])
    func aSessionKeepsItsGroupAndSessionsSpread(policy: Policy) throws {
        let table = RoutingTable(equalGroups(8), policy: policy)
        let first = try places(table, sessions: 0..<400)
        #expect(try places(table, sessions: 0..<400) == first)
        let counts = Dictionary(grouping: first, by: \.self).mapValues(\.count)
        #expect(counts.count == 8)
        #expect(counts.values.allSatisfy { (20...90).contains($0) })
        // Another replica, with the groups in another order, agrees.
        #expect(try places(RoutingTable(equalGroups(8).reversed(), policy: policy, seed: 9), sessions: 0..<400) == first)
    }

    @Test(arguments: [Policy.session, .consistentHash])
    func onlyTheSessionsOfAGroupThatGoesMove(policy: Policy) throws {
        let table = RoutingTable(equalGroups(8), policy: policy)
        let before = try places(table, sessions: 0..<400)
        table.updateGroups([], removing: ["g3"], now: 1)
        let after = try places(table, sessions: 0..<400)
        for (old, new) in zip(before, after) { #expect(old == "g3" ? new != "g3" : new == old) }
    }

    @Test func aSessionStaysWhateverTheLoadAndLeavesAGroupThatPushedBack() throws {
        let table = RoutingTable(equalGroups(4), policy: .session)
        let home = try table.pick(.distinct(0, chunkCount: 4), session: 7).get()
        #expect(home.reason == .session)
        for name in 0..<50 { #expect(try table.pick(.distinct(name, chunkCount: 40), session: 7).get().group == home.group) }
        table.reportSaturated(home.group, now: 0)
        #expect(try table.pick(.distinct(0, chunkCount: 4), session: 7).get().group != home.group)
        #expect(try table.pick(.distinct(0, chunkCount: 4), session: 7, now: 2 * second).get().group == home.group)
    }

    @Test func aRequestWithoutASessionIsPlacedByItsCost() throws {
        let table = RoutingTable(equalGroups(4), policy: .session)
        let prompt = Prompt.distinct(3, chunkCount: 40)
        let home = try table.serve(prompt).group
        let next = try table.pick(prompt, now: second).get()
        #expect(next.group == home && next.reason == .prefix)
    }

    @Test func noGroupIsHashedToBeyondItsShare() throws {
        let table = RoutingTable(equalGroups(4), policy: .consistentHash)
        // One hot prompt: three of four groups would idle without the bound.
        let hot = Prompt.distinct(0, chunkCount: 8)
        for arrival in 1...400 {
            _ = try table.pick(hot).get()
            let most = table.groups(now: 0).map(\.inFlight).max() ?? 0
            #expect(Double(most) <= (1.25 * Double(arrival) / 4).rounded(.up))
        }
    }

    @Test func promptsWithOneBeginningHashAlike() throws {
        let table = RoutingTable(equalGroups(8), policy: .consistentHash)
        let system = Array(0..<4)
        let groups = try Set(
            (0..<20).map { question in
                let decision = try table.pick(Prompt(system + [100 + question])).get()
                table.cancel(decision.lease, now: 0)
                return decision.group
            })
        #expect(groups.count == 1)
        // Nothing to hash: in turn.
        #expect(try Set((0..<8).map { _ in try table.pick(nil).get().group }).count == 8)
    }
}
