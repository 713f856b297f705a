import Testing

@testable import Routing

@Suite struct ExplanationTests {
    @Test(arguments: Policy.allCases)
    func itForetellsTheDecisionAndChangesNothing(policy: Policy) throws {
        let table = RoutingTable(equalGroups(5), policy: policy)
        var open: [Lease] = []
        for number in 0..<60 {
            let now = UInt64(number) * 50 * millisecond
            let prompt = Prompt.distinct(number % 7, chunkCount: 30)
            let before = table.groups(now: now).map(\.inFlight)
            let explanation = table.explain(prompt, session: UInt64(number % 5), now: now)
            #expect(explanation == table.explain(prompt, session: UInt64(number % 5), now: now))
            #expect(table.groups(now: now).map(\.inFlight) == before)
            let decision = try table.pick(prompt, session: UInt64(number % 5), now: now).get()
            #expect(explanation.groups.first(where: \.isChosen)?.name == table.name(of: decision.group))
            #expect(explanation.groups.count == 5)
            if case .success(let reason) = explanation.outcome { #expect(reason == decision.reason) }
            #expect(explanation.groups.first(where: \.isChosen)?.terms == decision.terms)
            open.append(decision.lease)
            if open.count > 12 { table.settle(open.removeFirst(), usage: nil, now: now) }
        }
    }

    @Test func itSaysWhatStandsInTheWay() throws {
        let table = RoutingTable(equalGroups(3))
        table.reportSaturated(try #require(table.state("g0")?.id), now: 0)
        _ = table.setDrained(true, group: "g1")
        let explanation = table.explain(Prompt.distinct(0, chunkCount: 10))
        #expect(explanation.groups.map(\.obstacle) == [.saturated, .drained, nil])
        #expect(explanation.promptTokens == 640)
        guard case .failure(.noReadyGroup) = RoutingTable(equalGroups(0)).explain(nil).outcome else {
            Issue.record("without a group there is none to explain")
            return
        }
    }

    @Test func theTermsAddUp() throws {
        let table = RoutingTable(equalGroups(2))
        for name in 0..<20 { _ = try table.pick(.distinct(name, chunkCount: 50)).get() }
        for group in table.explain(Prompt.distinct(3, chunkCount: 60), wantedTTFT: 0.01).groups {
            let named = group.terms.named
            let sum = named.dropLast().reduce(0) { $0 + $1.seconds }
            #expect(named.last?.name == "total" && abs(sum - group.terms.total) < 1e-9)
            #expect(Set(named.map(\.name)).count == named.count)
            #expect(group.terms.lateness > 0)
        }
    }
}

@Suite struct WishTests {
    /// A cache hit behind a queue, or prefill at once among sequences whose decodes it stalls: the sum for all is served by the first, a
    /// tight wish by the second.
    @Test func aWishForTheFirstTokenCanOutweighWhatIsCheapestForAll() throws {
        func keepsHome(wantedTTFT: Double) throws -> Bool {
            let table = RoutingTable(equalGroups(2))
            let prompt = Prompt.distinct(0, chunkCount: 80)
            let home = try table.serve(prompt, seconds: 0.25).group
            let homeName = try #require(table.name(of: home))
            let other = homeName == "g0" ? "g1" : "g0"
            for _ in 0..<16 {
                let decoding = try table.pick(nil, pinnedTo: other, now: 10 * second).get()
                table.firstToken(decoding.lease, now: 10 * second)
            }
            _ = try table.pick(.distinct(1, chunkCount: 200), pinnedTo: homeName, now: 10 * second).get()
            return try table.pick(prompt, wantedTTFT: wantedTTFT, now: 10 * second).get().group == home
        }
        #expect(try keepsHome(wantedTTFT: 0))
        #expect(try keepsHome(wantedTTFT: 10))
        #expect(try !keepsHome(wantedTTFT: 0.02))
    }

    @Test func latenessIsConvexAndOnlyBeyondTheWish() {
        func lateness(queued: Double, wanted: Double) -> Double {
            var load = GroupLoad(generation: 1, holder: 1, identity: 1)
            load.secondsPerToken = 1 / 20_000
            load.decodeStepSeconds = 0.02
            load.kvCapacityTokens = 500_000
            load.queuedWork = queued
            var inputs = CostInputs(
                promptTokens: 1_000, tokensPerChunk: 64, outputTokens: 100, prefillScale: 1,
                overheadSeconds: 0)
            inputs.rule.attention = 0
            inputs.wantedTTFTSeconds = wanted
            return inputs.terms(on: load, depth: 0).lateness
        }
        #expect(lateness(queued: 0, wanted: 0) == 0)
        #expect(lateness(queued: 0, wanted: 0.06) == 0)
        let once = lateness(queued: 1_000, wanted: 0.05)
        let twice = lateness(queued: 2_000, wanted: 0.05)
        #expect(once > 0 && abs(twice / once - 4) < 1e-6)
    }

    @Test func aWishForTheStepTimeAvoidsFullBatches() {
        func lateness(running: Int32, wanted: Double) -> Double {
            var load = GroupLoad(generation: 1, holder: 1, identity: 1)
            load.secondsPerToken = 1 / 20_000
            load.decodeStepSeconds = 0.02
            load.kvCapacityTokens = 500_000
            load.inFlight = running
            load.activeTokens = Double(running) * 2_000
            var inputs = CostInputs(
                promptTokens: 1_000, tokensPerChunk: 64, outputTokens: 100, prefillScale: 1,
                overheadSeconds: 0)
            inputs.wantedTPOTSeconds = wanted
            return inputs.terms(on: load, depth: 0).lateness
        }
        #expect(lateness(running: 0, wanted: 0.021) == 0)
        #expect(lateness(running: 100, wanted: 0.021) > lateness(running: 20, wanted: 0.021))
        #expect(lateness(running: 100, wanted: 0) == 0)
    }
}
