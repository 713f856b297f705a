import Testing

@testable import Routing

/// Conversations whose first questions are shorter than a chunk, so that chunks alone do not tell them apart.
@Suite struct FormerTurnTests {
    private static let system = 20

    /// The chunks of a turn: of the first one the system prompt and half of a chunk that is the question; then an answer of ten chunks and
    /// again half a one.
    private func turn(_ number: Int, of name: Int, system: Int = system) -> Prompt {
        var prompt = Prompt(Array(0..<system) + (0..<10 * number).map { 1_000_000 * (name + 1) + $0 })
        prompt.bytes += Prompt.chunkBytes / 2
        prompt.digests = (mix64(UInt64(name * 100 + number + 1)), number == 0 ? 0 : mix64(UInt64(name * 100 + number)))
        return prompt
    }

    private func usage(_ prompt: Prompt, cached: Int) -> Usage {
        Usage(promptTokens: prompt.bytes / 4, cachedTokens: cached, completionTokens: 640)
    }

    /// Every group holds the system prompt before it gets an own conversation.
    private func opened(_ table: RoutingTable, system: Int = system) throws -> [GroupID] {
        try (0..<40).map { name in
            let prompt = turn(0, of: name, system: system)
            let decision = try table.pick(prompt, pinnedTo: "g\(name % 4)").get()
            table.firstToken(decision.lease, now: 0)
            table.settle(decision.lease, usage: usage(prompt, cached: 64 * system), now: 0)
            return decision.group
        }
    }

    @Test(arguments: [system, 0])
    func theNextTurnGoesWhereTheFormerOneWasAnswered(system: Int) throws {
        let table = RoutingTable(equalGroups(4))
        for (name, home) in try opened(table, system: system).enumerated() {
            let second = turn(1, of: name, system: system)
            let decision = try table.serve(second, usage: usage(second, cached: 64 * system + 640))
            #expect(decision.group == home, "conversation \(name)")
            // Half a chunk of question and 640 tokens of answer, less the block that is always computed.
            #expect(abs(decision.predictedCachedTokens - (64 * system + 672 - 16)) <= 16)
        }
    }

    /// All of them end in the chunk where the system prompt does, so that chunks tell nothing.
    @Test(arguments: ["formerTurns", "continuation"]) func eachIsSwitchedOffAlone(constant: String) throws {
        var cost = CostRule()
        let isSet = cost.set(constant, to: 0)
        #expect(isSet)
        let table = RoutingTable(equalGroups(4), cost: cost)
        _ = try opened(table)
        let decision = try table.pick(turn(1, of: 7)).get()
        // Some of the rest others may have brought.
        #expect(decision.predictedCachedTokens < 64 * Self.system + 320)
        // One of its own that is longer is found by its chunks.
        try table.serve(turn(1, of: 3), usage: usage(turn(1, of: 3), cached: 64 * Self.system))
        let further = table.explain(turn(2, of: 3)).groups.map(\.cachedTokens).max() ?? 0
        #expect((further > 64 * (Self.system + 10) + 320) == (constant == "formerTurns"), "\(further)")
    }

    @Test func aFirstQuestionFindsNobodysAnswer() throws {
        let table = RoutingTable(equalGroups(4))
        try table.serve(turn(0, of: 0), usage: usage(turn(0, of: 0), cached: 0))
        let explanation = table.explain(turn(0, of: 1))
        #expect(explanation.groups.map(\.cachedTokens).max() == 64 * Self.system)
    }

    @Test func anEngineThatBeganAnewHoldsNoAnswer() throws {
        let table = RoutingTable(equalGroups(1))
        try table.serve(turn(0, of: 0), usage: usage(turn(0, of: 0), cached: 0))
        let group = try #require(table.state("g0")?.id)
        for attempt in 1...2 { table.reportUnreachable(group, now: UInt64(attempt) * 10 * second) }
        let decision = try table.pick(turn(1, of: 0), now: 100 * second).get()
        #expect(decision.predictedCachedTokens == 0)
    }

    /// What is not known by its digest is found by chunks, as without any.
    @Test func aTurnThatWasForgottenIsFoundByItsChunks() throws {
        let table = RoutingTable(equalGroups(4))
        var first = Prompt.distinct(0, chunkCount: 20)
        first.digests = (1, 0)
        let home = try table.serve(first, usage: usage(first, cached: 0)).group
        var second = Prompt(first.hashes.indices.map { 1_000_000 + $0 } + (20..<32).map { 1_000_000 + $0 })
        second.digests = (2, 3)
        let decision = try table.pick(second).get()
        #expect(decision.group == home && decision.predictedCachedTokens > 20 * 64 + 500)
    }

    /// Of conversations with four turns each.
    @Test func howManyTurnsFollowIsLearned() {
        var later = LaterTurns()
        #expect(later.expected == 0)
        for turn in 0..<4_000 { later.observe(continues: turn % 4 != 0) }
        #expect((2.9...3.1).contains(later.expected))
        for _ in 0..<100_000 { later.observe(continues: true) }
        #expect(later.expected == LaterTurns.most)
        for _ in 0..<100_000 { later.observe(continues: false) }
        #expect(later.expected < 1e-6)
    }

    /// Later turns have their place, and what has no turns is as before.
    @Test func firstTurnsAndNoOthersPayForThoseThatFollow() throws {
        func memory(laterTurns: Double) throws -> (first: Double, later: Double, plain: Double) {
            var cost = CostRule()
            let isSet = cost.set("laterTurns", to: laterTurns)
            #expect(isSet)
            let table = RoutingTable(equalGroups(1), cost: cost)
            for name in 0..<400 {
                for number in 0..<4 { try table.serve(turn(number, of: name), usage: usage(turn(number, of: name), cached: 0)) }
            }
            func price(_ prompt: Prompt) -> Double { table.explain(prompt).groups[0].terms.memory }
            return (price(turn(0, of: 1_000)), price(turn(4, of: 399)), price(.distinct(1_000, chunkCount: 20)))
        }
        let (paid, unpaid) = (try memory(laterTurns: 1), try memory(laterTurns: 0))
        #expect((3.5...4.5).contains(paid.first / unpaid.first))
        #expect(paid.later == unpaid.later && paid.plain == unpaid.plain)
    }

    @Test func aLaterTurnTakesThePlaceOfAnEarlierOne() {
        let turns = FormerTurns()
        let (one, other) = (UInt64(7) << 48 | 5, UInt64(7) << 48 | 9)
        turns.note(FormerTurns.Turn(digest: one, tokens: 1, stamp: 2, holder: 3, chunks: 4))
        #expect(turns.find(one)?.holder == 3 && turns.find(0) == nil && turns.find(other) == nil)
        turns.note(FormerTurns.Turn(digest: other, tokens: 1, stamp: 2, holder: 7, chunks: 4))
        #expect(turns.find(one) == nil && turns.find(other)?.holder == 7)
        turns.note(FormerTurns.Turn(digest: 0, tokens: 1, stamp: 2, holder: 9, chunks: 4))
        #expect(turns.find(0) == nil)
        #expect(turns.byteCount <= 3 << 19)
    }

    @Test func theSameWordsAnsweredByTwoTellNothing() {
        let turns = FormerTurns()
        turns.note(FormerTurns.Turn(digest: 5, tokens: 100, stamp: 2, holder: 3, chunks: 4))
        turns.note(FormerTurns.Turn(digest: 5, tokens: 120, stamp: 9, holder: 3, chunks: 4))
        #expect(turns.find(5)?.tokens == 120, "one group is where it was")
        turns.note(FormerTurns.Turn(digest: 5, tokens: 120, stamp: 9, holder: 4, chunks: 4))
        #expect(turns.find(5)?.tokens == FormerTurns.Turn.ambiguous)
    }

    @Test func whatWasEvictedSinceIsExpectedNoMore() throws {
        var groups = equalGroups(1)
        groups[0].kvCapacityTokens = 64 * 100
        let table = RoutingTable(groups)
        let first = turn(0, of: 0, system: 0)
        try table.serve(first, usage: usage(first, cached: 0))
        #expect(table.explain(turn(1, of: 0, system: 0)).groups[0].cachedTokens > 500)
        for name in 0..<3 { try table.serve(.distinct(name, chunkCount: 60)) }
        #expect(table.explain(turn(1, of: 0, system: 0)).groups[0].cachedTokens == 0)
    }
}
