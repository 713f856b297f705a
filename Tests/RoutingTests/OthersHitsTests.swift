import Testing

@testable import Routing

/// Routers that know nothing of each other but place alike, and what each expects the others to have brought.
@Suite struct OthersHitsTests {
    private let start = 100 * second

    /// Tells the table of so many sequences of others on each of its groups.
    private func report(_ others: [Double], to table: RoutingTable, now: UInt64) throws {
        for (number, count) in others.enumerated() {
            let state = try #require(table.state("g\(number)", now: now))
            table.reportLoad(LoadReport(running: Double(state.inFlight) + count, waiting: 0, madeAt: now), of: state.id, now: now)
        }
    }

    private func usage(_ prompt: Prompt, cached: Int) -> Usage {
        Usage(promptTokens: prompt.bytes / 4, cachedTokens: cached, completionTokens: 20)
    }

    /// Each of them has placed ten requests since.
    @Test func routersPlaceAlikeAlthoughTheySawDifferentLoads() throws {
        let routers = [RoutingTable(equalGroups(8), seed: 1), RoutingTable(equalGroups(8).reversed(), seed: 2)]
        for (router, loads) in zip(routers, [[9.0, 11, 10, 12, 9, 10, 11, 12], [12, 9, 11, 9, 12, 11, 10, 10]]) {
            for _ in 0..<10 { try report(loads, to: router, now: start) }
            for name in 100..<110 { try router.serve(.distinct(name, chunkCount: 2), now: start + second) }
        }
        var chosen: Set<Endpoint> = []
        for name in 0..<40 {
            let prompt = Prompt.distinct(name, chunkCount: 100)
            let places = try routers.map { try $0.serve(prompt, now: start + second).endpoint }
            #expect(places[0] == places[1], "prompt \(name)")
            chosen.insert(places[0])
        }
        #expect(chosen.count == 8)
    }

    /// Nothing of others' was ever found where the order leads, and the first in it has the largest batch.
    @Test(arguments: [(age: 0, follows: false), (age: 2_000, follows: true)])
    func freshReportsAreFollowedAndOldOnesSpread(age: Int, follows: Bool) throws {
        let table = RoutingTable(equalGroups(4))
        for name in 100..<150 {
            let now = start + UInt64(name) * 20 * millisecond
            try report([10, 10, 10, 10], to: table, now: now)
            let prompt = Prompt.distinct(name, chunkCount: 200)
            try table.serve(prompt, usage: usage(prompt, cached: 0), now: now)
        }
        let prompt = Prompt.distinct(0, chunkCount: 100)
        let then = start + 3 * second
        let first = try #require(table.explain(prompt, now: then).groups.firstIndex { $0.isChosen })
        var loads = [10.0, 10, 10, 10]
        loads[first] = 80
        try report(loads, to: table, now: then)
        let now = then + UInt64(age) * millisecond
        #expect(table.explain(prompt, now: now).groups[first].isChosen == follows)
    }

    /// Two thirds of the load are others', and this router places some 13 requests a second, so that others have placed three 100 ms after a report
    /// and 13 after half a second: worth nine tenths of a prefill, and all of the two thirds of `orderBand` that they can be worth.
    @Test(
        arguments: [
            (age: 0, prefills: 0.5, follows: false), (100, 0.5, true), (100, 2, false), (500, 2, true), (2_000, 6, false),
        ] as [(age: UInt64, prefills: Double, follows: Bool)])
    func theOlderAReportTheMoreOfAQueueTheOrderOutweighs(age: UInt64, prefills: Double, follows: Bool) throws {
        var rule = CostRule()
        (rule.queueBehind, rule.memory) = (0, 0)
        let table = RoutingTable(equalGroups(4), cost: rule)
        for name in 100..<150 {
            let now = start + UInt64(name) * 20 * millisecond
            try report([10, 10, 10, 10], to: table, now: now)
            let prompt = Prompt.distinct(name, chunkCount: 200)
            try table.serve(prompt, usage: usage(prompt, cached: 0), now: now)
        }
        let then = start + 3 * second
        for name in 200..<220 {
            let own = try table.pick(.distinct(name, chunkCount: 1), pinnedTo: "g\(name % 4)", now: then).get()
            table.firstToken(own.lease, now: then)
        }
        try report([10, 10, 10, 10], to: table, now: then)
        let prompt = Prompt.distinct(0, chunkCount: 100)
        let first = try #require(table.explain(prompt, now: then).groups.first { $0.isChosen })
        let now = then + age * millisecond
        _ = try table.pick(.distinct(1, chunkCount: Int(100 * prefills)), pinnedTo: first.name, now: now).get()
        #expect(try table.name(of: table.pick(prompt, now: now).get().group) == first.name ? follows : !follows)
    }

    @Test func aQueueOutweighsTheOrder() throws {
        let table = RoutingTable(equalGroups(4))
        for _ in 0..<10 { try report([10, 10, 10, 10], to: table, now: start) }
        let prompt = Prompt.distinct(0, chunkCount: 20)
        let first = try #require(table.explain(prompt, now: start).groups.first { $0.isChosen })
        for name in 1..<40 {
            _ = try table.pick(.distinct(name, chunkCount: 400), pinnedTo: first.name, now: start).get()
        }
        #expect(table.explain(prompt, now: start).groups.first(where: \.isChosen)?.name != first.name)
    }

    @Test func whatOthersBroughtIsExpectedOfTheFirstInOrder() throws {
        let table = RoutingTable(equalGroups(8))
        for name in 0..<100 {
            let prompt = Prompt.distinct(name, chunkCount: 100)
            try table.serve(prompt, usage: usage(prompt, cached: 5_000), now: start + UInt64(name) * second)
        }
        let groups = table.explain(Prompt.distinct(200, chunkCount: 100), now: start + 100 * second).groups
        let most = try #require(groups.map(\.othersTokens).max())
        #expect(most > 4_000 && most <= 6_400)
        #expect(groups.allSatisfy { $0.cachedTokens >= $0.othersTokens })
        let decision = try table.pick(.distinct(200, chunkCount: 100), now: start + 100 * second).get()
        #expect(decision.predictedCachedTokens >= most - 1, "the booking counts with it, too")
    }

    @Test func aLoneRouterExpectsNothingOfOthers() throws {
        let table = RoutingTable(equalGroups(4))
        var seen: Set<Int> = []
        for number in 0..<400 {
            let now = start + UInt64(number) * second / 10
            let tenant = number * number % 17
            let prompt = Prompt((0..<80).map { 1_000 * (tenant + 1) + $0 } + [1_000_000 + number])
            let decision = try table.pick(prompt, now: now).get()
            for number in 0..<4 {
                let state = try #require(table.state("g\(number)", now: now))
                let report = LoadReport(running: Double(state.inFlight), waiting: 0, madeAt: now)
                table.reportLoad(report, of: state.id, now: now)
            }
            table.firstToken(decision.lease, now: now + millisecond)
            table.settle(decision.lease, usage: usage(prompt, cached: decision.predictedCachedTokens), now: now + millisecond)
            seen.insert(tenant)
            #expect(table.explain(prompt, now: now).groups.allSatisfy { $0.othersTokens == 0 })
        }
        #expect(seen.count > 5)
    }

    /// An engine keeps what it has answered as well as what it was asked, and the next turn of a conversation begins with both. Nobody else
    /// brought that: who takes it for others' work sends prompts that nobody has to groups that have nothing of them.
    @Test func whatWasAnsweredHereIsNotOthersDoing() throws {
        let table = RoutingTable(equalGroups(4))
        for conversation in 0..<40 {
            var held = 0
            for turn in 0..<5 {
                let now = start + UInt64(conversation * 5 + turn) * second
                // 36 chunks, and with each turn an answer of six and a question of two.
                let prompt = Prompt((0..<(36 + 8 * turn)).map { 1_000_000 * (conversation + 1) + $0 })
                let tokens = prompt.bytes / 4
                let usage = Usage(promptTokens: tokens, cachedTokens: held, completionTokens: 384)
                try table.serve(prompt, usage: usage, now: now)
                held = tokens + 384
            }
        }
        let unseen = table.explain(.distinct(900, chunkCount: 100), now: start + 300 * second)
        #expect(unseen.groups.allSatisfy { $0.othersTokens == 0 }, "\(unseen.groups.map(\.othersTokens))")
    }

    /// A turn that came by another router adds more than we answered.
    @Test func whatOthersAnsweredIs() throws {
        let table = RoutingTable(equalGroups(4))
        for conversation in 0..<60 {
            var held = 0
            for turn in [0, 4] {
                let now = start + UInt64(conversation * 5 + turn) * second
                let prompt = Prompt((0..<(36 + 40 * turn)).map { 1_000_000 * (conversation + 1) + $0 })
                let tokens = prompt.bytes / 4
                try table.serve(prompt, usage: Usage(promptTokens: tokens, cachedTokens: held, completionTokens: 384), now: now)
                held = 4 * tokens
            }
        }
        let unseen = table.explain(.distinct(900, chunkCount: 100), now: start + 300 * second)
        #expect(unseen.groups.contains { $0.othersTokens > 500 }, "\(unseen.groups.map(\.othersTokens))")
    }

    @Test func anEngineThatLiesMovesSharesWithinTheirBounds() {
        var hits = OthersHits()
        let lies: [Double] = [1e18, -1e18, .infinity, -.infinity, 1e18]
        for found in lies {
            for rank in 0...OthersHits.unranked { hits.observe(rank: rank, found: found, of: 1_000, prior: 0.8) }
            hits.observe(loadShare: found, prior: 0.8)
            for rank in 0..<OthersHits.ranks { #expect(hits.shares[rank] >= 0 && hits.shares[rank] <= 1) }
        }
        hits.observe(loadShare: 1, prior: 8)
        #expect(hits.shares[0] == 1, "whatever is presumed")
        let before = hits.shares
        hits.observe(rank: 0, found: 10, of: 0, prior: 0.8)
        hits.observe(rank: 0, found: 10, of: -5, prior: 0.8)
        #expect(hits.shares == before, "a prompt that we hold whole says nothing")
    }

    @Test func theExpectationFadesWhenTheOthersAreGone() throws {
        let table = RoutingTable(equalGroups(4))
        func serve(_ names: Range<Int>, cached: Int) throws {
            for name in names {
                let prompt = Prompt.distinct(name, chunkCount: 100)
                try table.serve(prompt, usage: usage(prompt, cached: cached), now: start + UInt64(name) * second)
            }
        }
        try serve(0..<100, cached: 5_000)
        try serve(100..<1_500, cached: 0)
        let groups = table.explain(Prompt.distinct(2_000, chunkCount: 100), now: start + 1_000 * second).groups
        #expect(groups.allSatisfy { $0.othersTokens < 200 })
    }

    @Test func whatIsPresumedGoesWhenAnswersDenyIt() throws {
        let table = RoutingTable(equalGroups(4))
        for _ in 0..<10 { try report([10, 10, 10, 10], to: table, now: start) }
        func presumed() -> Int { table.explain(.distinct(999, chunkCount: 100), now: start).groups.map(\.othersTokens).max() ?? 0 }
        #expect(presumed() > 3_000)
        for name in 0..<60 {
            try table.serve(.distinct(name, chunkCount: 100), usage: usage(.distinct(name, chunkCount: 100), cached: 0), now: start)
        }
        #expect(presumed() < 200)
    }

    /// Ordered by what nearly all prompts begin with, they would all go to one group.
    @Test func whatMostGroupsHoldTellsPromptsApartNoMore() {
        var index = PrefixIndex(blockLimit: 4_096, holderLimit: 8, seed: 1)
        let holders = (0..<8).map { _ in index.addHolder() }
        func depth(_ prompt: Prompt) -> Int {
            prompt.hashes.withUnsafeBufferPointer { hashes in
                index.match(hashes)
                return index.commonDepth(hashes)
            }
        }
        for (count, holder) in holders.enumerated() {
            let asked = Prompt(Array(0..<40) + [7_000])
            #expect(depth(asked) == (count > 4 ? 40 : 0))
            let prompt = Prompt(Array(0..<40) + [1_000 + count])
            prompt.hashes.withUnsafeBufferPointer { hashes in
                index.match(hashes)
                _ = index.insert(hashes, holder: holder, quota: 1_000)
            }
        }
    }

    @Test func wideFleetsHaveAnOrderToo() throws {
        let limits = RoutingLimits(indexBlocks: 1 << 18)
        let routers = [
            RoutingTable(equalGroups(200), seed: 1, limits: limits), RoutingTable(equalGroups(200).reversed(), seed: 2, limits: limits),
        ]
        for (offset, router) in routers.enumerated() {
            try report((0..<200).map { Double(10 + ($0 * 7 + offset * 3) % 4) }, to: router, now: start)
        }
        for name in 0..<40 {
            let prompt = Prompt.distinct(name, chunkCount: 100)
            let places = try routers.map { try $0.serve(prompt, now: start).endpoint }
            #expect(places[0] == places[1], "prompt \(name)")
        }
    }
}
