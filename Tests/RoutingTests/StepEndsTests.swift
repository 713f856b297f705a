import Testing

@testable import Routing

@Suite struct StepEndsTests {
    private let ms: UInt64 = 1_000_000

    /// Tokens of one step come in a row; the first of them is the nearest to its end.
    @Test func theFirstTokenOfAStepTells() {
        let ends = StepEnds(groups: 2)
        #expect(ends.seconds(since: 0, nowMicroseconds: 5_000) > 1e6)
        ends.note(slot: 0, generation: 0, now: 100 * ms)
        for later in 1...2 { ends.note(slot: 0, generation: 0, now: (100 + UInt64(later)) * ms) }
        #expect(ends.seconds(since: 0, nowMicroseconds: 104_000).isClose(0.004))
        ends.note(slot: 0, generation: 0, now: 103 * ms)
        #expect(ends.seconds(since: 0, nowMicroseconds: 104_000).isClose(0.001))
        ends.note(slot: 0, generation: 0, now: 90 * ms)
        #expect(ends.seconds(since: 0, nowMicroseconds: 104_000).isClose(0.001), "a loop that is behind")
        #expect(ends.seconds(since: 0, nowMicroseconds: 102_000) == 0)
        #expect(ends.seconds(since: 1, nowMicroseconds: 104_000) > 1e6)
        ends.begin(slot: 0, generation: 1)
        #expect(ends.seconds(since: 0, nowMicroseconds: 104_000) > 1e6)
    }

    /// Both decode one answer, and nothing else tells them apart: a prompt goes where a step is about to end.
    @Test(arguments: [0, 1]) func promptsGoWhereAStepIsAboutToEnd(sooner: Int) throws {
        let table = RoutingTable(equalGroups(2))
        var groups: [GroupID] = []
        for number in 0..<2 {
            let decision = try table.pick(.distinct(number, chunkCount: 4), now: 0).get()
            table.firstToken(decision.lease, now: second)
            groups.append(decision.group)
        }
        try #require(groups[0] != groups[1])
        let now = 2 * second
        table.stepEnded(on: groups[sooner], now: now - 13 * ms)
        table.stepEnded(on: groups[1 - sooner], now: now - 1 * ms)
        let terms = table.explain(.distinct(9, chunkCount: 4), now: now).groups.map(\.terms)
        #expect(terms.count == 2 && terms.map(\.stepWait).min()! < 0.005 && terms.map(\.stepWait).max()! > 0.015)
        for other in 10..<20 {
            let decision = try table.pick(.distinct(other, chunkCount: 4), now: now).get()
            #expect(decision.group == groups[sooner])
            table.cancel(decision.lease, now: now)
        }
    }

    /// What a slot's former group did says nothing of the next one there.
    @Test func aGroupThatIsGoneTakesItsStepsAlong() throws {
        let table = RoutingTable(equalGroups(1))
        let gone = try table.pick(.distinct(1, chunkCount: 4), now: 0).get()
        table.firstToken(gone.lease, now: 10 * ms)
        table.stepEnded(on: gone.group, now: 20 * ms)
        table.replaceGroups([], now: 21 * ms)
        table.replaceGroups(equalGroups(1), now: 21 * ms)
        let next = try table.pick(.distinct(2, chunkCount: 4), now: 22 * ms).get()
        table.firstToken(next.lease, now: 22 * ms)
        // Its streams go on while it drains.
        table.stepEnded(on: gone.group, now: 22 * ms)
        #expect(table.explain(.distinct(3, chunkCount: 4), now: 23 * ms).groups[0].terms.stepWait.isClose(0.01, within: 1e-3))
    }
}

extension Double {
    fileprivate func isClose(_ other: Double, within tolerance: Double = 1e-9) -> Bool { abs(self - other) < tolerance }
}
