import Testing

@testable import Routing

@Suite struct AffinityTests {
    /// A conversation of 40 chunks and its continuation by 4.
    private let opening = Prompt(Array(0..<40))
    private let nextTurn = Prompt(Array(0..<44))

    @Test(arguments: [Policy.leastCost, .prefixAffinity])
    func aConversationKeepsItsGroup(policy: Policy) throws {
        let table = RoutingTable(equalGroups(4), policy: policy)
        let home = try table.serve(opening).group
        for turn in 1...10 {
            // Others come and go in between.
            for other in 0..<5 { try table.serve(.distinct(turn * 10 + other, chunkCount: 8), now: UInt64(turn) * second) }
            let decision = try table.serve(Prompt(Array(0..<(40 + 4 * turn))), now: UInt64(turn) * second)
            #expect(decision.group == home)
            #expect(decision.reason == .prefix)
            #expect(decision.predictedCachedTokens == (36 + 4 * turn) * Prompt.tokensPerChunk)
        }
    }

    @Test func aConversationLeavesWhenTheQueueCostsMoreThanRecomputing() throws {
        // What others queue at the conversation's group, in chunks; recomputing costs 40.
        func turn(behind queuedChunks: Int) throws -> (keepsGroup: Bool, reason: DecisionReason) {
            let table = RoutingTable(equalGroups(2))
            let home = try table.serve(opening).group
            var tried = TriedGroups()
            for state in table.groups(now: 0) where state.id != home { tried.insert(state.id) }
            if queuedChunks > 0 { _ = try table.pick(.distinct(1, chunkCount: queuedChunks), excluding: tried, now: 10 * second).get() }
            let decision = try table.pick(nextTurn, now: 10 * second).get()
            return (decision.group == home, decision.reason)
        }
        #expect(try turn(behind: 0) == (true, .prefix))
        #expect(try turn(behind: 20) == (true, .prefix))
        #expect(try turn(behind: 120) == (false, .cost))
    }

    @Test func aGroupThatQueuesReturnsToBeingTheBestOnceItsPromptsArePrefilled() throws {
        let table = RoutingTable(equalGroups(2))
        let home = try table.serve(opening).group
        var tried = TriedGroups()
        for state in table.groups(now: 0) where state.id != home { tried.insert(state.id) }
        let busy = try table.pick(.distinct(1, chunkCount: 400), excluding: tried, now: second).get()
        table.firstToken(busy.lease, now: 2 * second)
        #expect(try table.pick(nextTurn, now: 2 * second).get().group == home)
    }

    @Test func oneQueuedRequestDoesNotOutweighTwentyThousandCachedTokens() throws {
        let table = RoutingTable(equalGroups(2))
        let long = Prompt(Array(0..<320))
        let home = try table.serve(long).group
        var tried = TriedGroups()
        for state in table.groups(now: 0) where state.id != home { tried.insert(state.id) }
        _ = try table.pick(.distinct(1, chunkCount: 8), excluding: tried, now: 10 * second).get()
        #expect(try table.pick(Prompt(Array(0..<324)), now: 10 * second).get().group == home)
    }

    @Test func aSharedPrefixCountsInFullHoweverLongTheRestIs() throws {
        // 8k shared tokens under 30k of one's own: a fifth of the prompt, but worth 0.4 s.
        let table = RoutingTable(equalGroups(4))
        let shared = Array(0..<128)
        let home = try table.serve(Prompt(shared + [500])).group
        let decision = try table.pick(Prompt(shared + (1_000..<1_470)), now: 10 * second).get()
        #expect(decision.group == home)
        #expect(decision.predictedCachedTokens == 128 * Prompt.tokensPerChunk)
    }

    @Test func nothingIsCreditedBeyondADifference() throws {
        let table = RoutingTable(equalGroups(2))
        try table.serve(Prompt(Array(0..<100)))
        var changed = Array(0..<100)
        changed[10] = 9_999
        let decision = try table.pick(Prompt(changed), now: second).get()
        #expect(decision.predictedCachedTokens == 10 * Prompt.tokensPerChunk)
    }

    @Test func aPromptThatIsStillPrefillingCountsAsHeld() throws {
        let table = RoutingTable(equalGroups(1))
        #expect(try table.pick(opening).get().predictedCachedTokens == 0)
        #expect(try table.pick(nextTurn).get().predictedCachedTokens == 40 * Prompt.tokensPerChunk)
    }

    @Test func aBurstOfSiblingsStaysTogetherUntilItsQueueCostsMore() throws {
        let table = RoutingTable(equalGroups(4))
        // Steady traffic, so that prefill capacity has a value.
        for number in 0..<200 { try table.serve(.distinct(number, chunkCount: 8), now: UInt64(number) * 50 * millisecond) }
        let now = 10 * second
        let prompt = Prompt.distinct(5_000, chunkCount: 128)
        var prefilled = 0
        for _ in 0..<16 {
            let decision = try table.pick(prompt, now: now).get()
            if decision.predictedCachedTokens == 0 { prefilled += 1 }
        }
        #expect(prefilled <= 4, "who waits for the prompt gets it as soon as who computes it elsewhere, so each group does so once at most")
    }

    @Test func deepestMatchWinsUntilItIsSaturated() throws {
        let table = RoutingTable(equalGroups(3), policy: .prefixAffinity)
        let home = try table.serve(opening).group
        for _ in 0..<100 { #expect(try table.pick(nextTurn).get().group == home) }
        table.reportSaturated(home, now: 0)
        #expect(try table.pick(nextTurn).get().group != home)
    }

    @Test func policiesWithoutAffinityKeepNoIndex() throws {
        for policy in [Policy.roundRobin, .random, .leastRequest] {
            let table = RoutingTable(equalGroups(2), policy: policy)
            try table.serve(opening)
            #expect(table.groups(now: 0).allSatisfy { $0.indexBlocks == 0 })
        }
    }

    @Test func aCancelledPromptThatNobodyPrefilledIsNotHeld() throws {
        let table = RoutingTable(equalGroups(1))
        try table.serve(Prompt(Array(0..<10)))
        let unanswered = try table.pick(opening).get()
        table.cancel(unanswered.lease, now: 1)
        #expect(table.state("g0")?.indexBlocks == 10)
        let mayBeHeld = try table.pick(opening).get()
        table.cancel(mayBeHeld.lease, now: 1, prefixHeld: true)
        #expect(table.state("g0")?.indexBlocks == 40)
        let answered = try table.pick(nextTurn).get()
        table.firstToken(answered.lease, now: 1)
        table.cancel(answered.lease, now: 2)
        #expect(table.state("g0")?.indexBlocks == 44)
    }

    @Test func aCancelledSiblingDoesNotTakeAwayWhatAnotherUses() throws {
        let table = RoutingTable(equalGroups(1))
        let first = try table.pick(opening).get()
        _ = try table.pick(nextTurn).get()
        table.cancel(first.lease, now: 1)
        #expect(table.state("g0")?.indexBlocks == 44)
    }
}
