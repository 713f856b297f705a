import Testing

@testable import Routing

/// What engines hold of answers, which the next turns of conversations repeat.
@Suite struct ContinuationTests {
    private func index() -> PrefixIndex { PrefixIndex(blockLimit: 64, holderLimit: 4, seed: 1) }

    private func insert(_ chunks: [Int], into index: inout PrefixIndex, holder: UInt16, quota: UInt32 = 64) -> PrefixIndex.Insertion {
        Prompt(chunks).hashes.withUnsafeBufferPointer { hashes in
            index.match(hashes)
            return index.insert(hashes, holder: holder, quota: quota)
        }
    }

    private func continuation(_ chunks: [Int], in index: inout PrefixIndex, holder: UInt16) -> PrefixIndex.Continuation {
        Prompt(chunks).hashes.withUnsafeBufferPointer { _ = index.match($0) }
        return index.continuation(of: holder)
    }

    @Test func itIsFoundWhereThePromptEndedAndNowhereElse() {
        var index = index()
        let holders = [index.addHolder(), index.addHolder()]
        let prompt = insert(Array(0..<8), into: &index, holder: holders[0])
        _ = insert(Array(0..<8), into: &index, holder: holders[1])
        index.noteContinuation(of: prompt, tokens: 300)
        #expect(continuation(Array(0..<12), in: &index, holder: holders[0]) == .init(tokens: 300))
        #expect(continuation(Array(0..<12), in: &index, holder: holders[1]) == .none, "the other one answered nothing")
        #expect(continuation(Array(0..<7), in: &index, holder: holders[0]) == .none)
        #expect(continuation([9], in: &index, holder: holders[0]) == .none)
    }

    @Test func promptsThatEndAlikeTellNothing() {
        var index = index()
        let holder = index.addHolder()
        let first = insert(Array(0..<8), into: &index, holder: holder)
        index.noteContinuation(of: first, tokens: 300)
        let second = insert(Array(0..<8), into: &index, holder: holder)
        index.noteContinuation(of: second, tokens: 300)
        #expect(continuation(Array(0..<12), in: &index, holder: holder) == .ambiguous)
    }

    @Test func itGoesOnWithTheConversation() {
        var index = index()
        let holder = index.addHolder()
        let first = insert(Array(0..<8), into: &index, holder: holder)
        index.noteContinuation(of: first, tokens: 300)
        let second = insert(Array(0..<12), into: &index, holder: holder)
        #expect(continuation(Array(0..<12), in: &index, holder: holder) == .none, "not answered yet")
        index.noteContinuation(of: second, tokens: 200)
        #expect(continuation(Array(0..<16), in: &index, holder: holder) == .init(tokens: 200))
    }

    @Test func aBranchAboveLeavesItInPlace() {
        var index = index()
        let holder = index.addHolder()
        let whole = insert(Array(0..<8), into: &index, holder: holder)
        index.retain(whole)
        index.noteContinuation(of: whole, tokens: 300)
        _ = insert([0, 1, 2, 100], into: &index, holder: holder)
        #expect(continuation(Array(0..<9), in: &index, holder: holder) == .init(tokens: 300))
        #expect(continuation([0, 1, 2, 200], in: &index, holder: holder) == .none, "nobody's prompt ended there")
    }

    @Test func whatLosesItsEndHasNone() {
        var index = index()
        let holder = index.addHolder()
        let old = insert(Array(0..<8), into: &index, holder: holder, quota: 10)
        index.noteContinuation(of: old, tokens: 300)
        _ = insert(Array(100..<104), into: &index, holder: holder, quota: 10)
        #expect(continuation(Array(0..<8), in: &index, holder: holder) == .none)
        index.noteContinuation(of: old, tokens: 300)
        #expect(continuation(Array(0..<8), in: &index, holder: holder) == .none, "the answer came too late")
    }

    // MARK: In decisions

    /// A conversation whose n-th turn has 20 chunks more than the one before, 10 of which are the answer to it.
    private func turn(_ number: Int, of name: Int) -> Prompt { Prompt((0..<20 * (number + 1)).map { 1_000_000 * (name + 1) + $0 }) }

    private func usage(_ prompt: Prompt, cached: Int?) -> Usage {
        Usage(promptTokens: prompt.bytes / 4, cachedTokens: cached, completionTokens: 10 * Prompt.tokensPerChunk)
    }

    @Test func theNextTurnFindsTheAnswer() throws {
        let table = RoutingTable(equalGroups(4))
        let home = try table.serve(turn(0, of: 0), usage: usage(turn(0, of: 0), cached: nil), now: second)
        let next = try table.pick(turn(1, of: 0), now: 2 * second).get()
        #expect(next.group == home.group)
        #expect(next.predictedCachedTokens == 30 * Prompt.tokensPerChunk)
        let other = table.explain(turn(1, of: 0), now: 2 * second).groups.first { !$0.isChosen }
        #expect(other?.cachedTokens == 0)
    }

    @Test func withoutUsageEventsTell() throws {
        let table = RoutingTable(equalGroups(4))
        let home = try table.pick(turn(0, of: 0), now: second).get()
        table.firstToken(home.lease, now: second)
        table.settle(home.lease, usage: nil, events: 640, now: 2 * second)
        #expect(try table.pick(turn(1, of: 0), now: 2 * second).get().predictedCachedTokens == 30 * Prompt.tokensPerChunk)
    }

    /// As with templates that drop what a model thought.
    @Test func answersThatAreNotRepeatedAreExpectedNoMore() throws {
        let table = RoutingTable(equalGroups(4))
        for name in 0..<200 {
            try table.serve(turn(0, of: name), usage: usage(turn(0, of: name), cached: 0), now: second)
            try table.serve(turn(1, of: name), usage: usage(turn(1, of: name), cached: 20 * Prompt.tokensPerChunk), now: second)
        }
        try table.serve(turn(0, of: 300), usage: usage(turn(0, of: 300), cached: 0), now: second)
        let next = try table.pick(turn(1, of: 300), now: second).get()
        // A quarter of 640 tokens, for another client's may be repeated.
        #expect(next.predictedCachedTokens < 23 * Prompt.tokensPerChunk)
    }

    /// What an engine had beyond our match was its own answer, and no other router's doing.
    @Test func answersAreNoOthers() throws {
        let table = RoutingTable(equalGroups(4))
        for name in 0..<100 {
            try table.serve(turn(0, of: name), usage: usage(turn(0, of: name), cached: 0), now: second)
            try table.serve(turn(1, of: name), usage: usage(turn(1, of: name), cached: 30 * Prompt.tokensPerChunk), now: second)
        }
        #expect(table.explain(.distinct(500, chunkCount: 40), now: second).groups.allSatisfy { $0.othersTokens == 0 })
    }

    /// Two asked the same and were answered differently: which answer the next turn repeats is not known, but that it is one of ours.
    @Test func oneOfSeveralAnswersIsNoOthersEither() throws {
        let table = RoutingTable(equalGroups(4))
        for name in 0..<100 {
            for cached in [0, 20] {
                try table.serve(turn(0, of: name), usage: usage(turn(0, of: name), cached: cached * Prompt.tokensPerChunk), now: second)
            }
            try table.serve(turn(1, of: name), usage: usage(turn(1, of: name), cached: 30 * Prompt.tokensPerChunk), now: second)
        }
        #expect(table.explain(.distinct(500, chunkCount: 40), now: second).groups.allSatisfy { $0.othersTokens == 0 })
    }
}
