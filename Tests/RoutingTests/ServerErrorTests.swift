import Testing

@testable import Routing

/// A group that answers every prompt with an error is done with them at once and so looks idle: by load alone it gets them all.
@Suite struct ServerErrorTests {
    private func fail(_ table: RoutingTable, _ decision: Decision, now: UInt64) {
        table.cancel(decision.lease, now: now, isServerError: true)
    }

    /// Which of `attempts` go to g0, which fails them all, when the same prompt comes every tenth of a second.
    private func failures(of table: RoutingTable, prompt: Prompt, attempts: Int) throws -> Int {
        var failed = 0
        for attempt in 0..<attempts {
            let now = UInt64(attempt) * 100 * millisecond
            let decision = try table.pick(prompt, now: now).get()
            if table.name(of: decision.group) == "g0" {
                failed += 1
                fail(table, decision, now: now + millisecond)
            } else {
                table.settle(decision.lease, usage: nil, now: now + 50 * millisecond)
            }
        }
        return failed
    }

    @Test(arguments: Policy.allCases)
    func itIsSparedForLongerEachTime(policy: Policy) throws {
        for name in 0..<8 {
            let table = RoutingTable(equalGroups(2), policy: policy)
            // Three, and one each time that it is tried again: after 1, 2, 4, 8 and 10 seconds and more.
            #expect(try failures(of: table, prompt: .distinct(name, chunkCount: 20), attempts: 400) <= 3 + 6)
        }
    }

    @Test func oneErrorIsNoReason() throws {
        let table = RoutingTable(equalGroups(2))
        for turn in 0..<20 {
            let now = UInt64(turn) * second
            for _ in 0..<2 { fail(table, try table.pick(.distinct(turn, chunkCount: 4), pinnedTo: "g0", now: now).get(), now: now) }
            let answered = try table.pick(.distinct(turn, chunkCount: 4), pinnedTo: "g0", now: now).get()
            table.settle(answered.lease, usage: nil, now: now)
            #expect(table.state("g0", now: now)?.obstacle == nil)
        }
    }

    @Test func anAnswerEndsIt() throws {
        let table = RoutingTable(equalGroups(2))
        let before = try table.pick(.distinct(0, chunkCount: 4), pinnedTo: "g0").get()
        for name in 1...3 { fail(table, try table.pick(.distinct(name, chunkCount: 4), pinnedTo: "g0").get(), now: 1) }
        #expect(table.state("g0", now: 2)?.obstacle == .failing)
        table.settle(before.lease, usage: nil, now: 3)
        #expect(table.state("g0", now: 4)?.obstacle == nil)
    }

    /// A prompt that no engine can do must not take the fleet from everybody else.
    @Test func aPromptThatFailsEverywhereTakesNoGroupAway() throws {
        let table = RoutingTable(equalGroups(3))
        for turn in 0..<200 {
            let now = UInt64(turn) * millisecond
            fail(table, try table.pick(.distinct(0, chunkCount: 20), now: now).get(), now: now)
        }
        #expect(table.groups(now: 200 * millisecond).allSatisfy { $0.obstacle == .failing && $0.obstacleSeconds <= 10 })
        #expect(try table.pick(.distinct(1, chunkCount: 20), now: 200 * millisecond).get().reason == .saturated)
    }

    /// Other APIs of an engine may be broken, or not be there.
    @Test func whatHasNoPromptDoesNotCount() throws {
        let table = RoutingTable(equalGroups(2))
        for _ in 0..<10 { fail(table, try table.pick(nil, pinnedTo: "g0").get(), now: 1) }
        #expect(table.state("g0", now: 2)?.obstacle == nil)
    }

    /// Twenty that fail together are one failure, and none of them is in flight any more.
    @Test func aCrowdOfErrorsCountsOnce() throws {
        let table = RoutingTable(equalGroups(2))
        let crowd = try (0..<20).map { try table.pick(.distinct($0, chunkCount: 4), pinnedTo: "g0").get() }
        for decision in crowd { fail(table, decision, now: 1) }
        let state = try #require(table.state("g0", now: 1))
        #expect(state.obstacle == .failing && state.obstacleSeconds == 1)
        #expect(state.inFlight == 0 && state.indexBlocks == 0)
    }
}
