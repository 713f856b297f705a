import Testing

@testable import Routing

// MARK: Who waits

@Suite struct AdmissionTests {
    @Test func aRequestWaitsFromExactlyAsManyQueuedTokensOn() {
        for (queued, holds) in [(9, false), (10, true)] {
            let table = RoutingTable(equalGroups(1), cost: rule())
            #expect(table.admit(.distinct(0, chunkCount: queued), 0).decision != nil, "an empty group takes anything")
            #expect(table.state("g0")?.queuedUncachedTokens == queued * 64)
            #expect(table.admit(.distinct(1, chunkCount: 1), 1).isHeld == holds)
            #expect(table.heldCount == (holds ? 1 : 0))
        }
    }

    @Test func withoutABoundNobodyWaits() {
        let table = RoutingTable(equalGroups(1), cost: rule { $0.holdFrom = 0 })
        for number in 0..<100 { #expect(table.admit(.distinct(number, chunkCount: 100), UInt64(number)).decision != nil) }
        #expect(table.heldCount == 0 && table.release().isEmpty)
    }

    @Test func whoHasNoPromptOrIsPinnedNeverWaits() throws {
        let table = RoutingTable(equalGroups(1), cost: rule())
        _ = try table.hold([1])
        #expect(table.admit(nil, 1).decision != nil)
        #expect(table.admit(.distinct(1, chunkCount: 1), 2, pinnedTo: "g0").decision?.reason == .pinned)
        #expect(table.admit(.distinct(2, chunkCount: 1), 3).isHeld)
    }

    /// Under others than `least-cost` a request would go where it was to go, however long it waited.
    @Test(arguments: Policy.allCases) func otherPoliciesPlaceAtOnce(policy: Policy) throws {
        let table = RoutingTable(equalGroups(2), policy: policy, cost: rule())
        _ = try table.makeBusy(["g0", "g1"])
        #expect(table.admit(.distinct(0, chunkCount: 1), 0).isHeld == (policy == .leastCost))
    }

    /// Who comes when there is room, but not for all that wait, is behind them.
    @Test func nobodyGoesPastThoseWhoWait() throws {
        let table = RoutingTable(equalGroups(1), cost: rule())
        let busy = try table.hold([10])
        let calls = Calls(of: table)
        table.settle(busy, usage: nil, now: 1)
        #expect(calls.all == [0])
        #expect(table.admit(.distinct(1, chunkCount: 10), 1).isHeld)
        #expect(calls.all == [0], "called once")
        #expect(table.release().numbers == [0])
        #expect(table.heldCount == 1)
    }

    @Test func whereNobodyMayWaitAllArePlaced() throws {
        let table = RoutingTable(equalGroups(1), limits: RoutingLimits(indexBlocks: 1 << 12, heldRequests: 0), cost: rule())
        _ = try table.makeBusy(["g0"])
        #expect(table.admit(.distinct(50, chunkCount: 1), 50).decision != nil && table.heldCount == 0)
    }

    /// Whoever has waited longest goes on to wait at his group: nobody overtakes him for coming later.
    @Test(arguments: [1, 3]) func beyondTheirNumberTheOldestGoOn(limit: Int) throws {
        let table = RoutingTable(equalGroups(1), limits: RoutingLimits(indexBlocks: 1 << 12, heldRequests: limit), cost: rule())
        let calls = Calls(of: table)
        let busy = try table.hold(Array(repeating: 1, count: limit))
        #expect(calls.all.isEmpty && table.heldCount == limit)
        #expect(table.admit(.distinct(50, chunkCount: 1), 50, loop: 7).isHeld)
        #expect(calls.all == [0], "the loop of the one that goes on")
        #expect(table.heldCount == limit && table.release().numbers == [0])
        table.firstToken(busy, now: 1)
        #expect(table.release(now: 1).numbers.count == limit && table.heldCount == 0)
    }

    /// 512 chunks for two of them.
    @Test func beyondTheirChunksTheOldestGoOn() throws {
        let limits = RoutingLimits(indexBlocks: 1 << 12, heldRequests: 2)
        for (chunkCount, gone) in [(212, [UInt64]()), (213, [0])] {
            let table = RoutingTable(equalGroups(1), limits: limits, cost: rule())
            _ = try table.hold([300])
            #expect(table.admit(.distinct(1, chunkCount: chunkCount), 1).isHeld)
            #expect(table.release().numbers == gone && table.heldCount == 2 - gone.count)
        }
        let table = RoutingTable(equalGroups(1), limits: limits, cost: rule())
        _ = try table.hold([300])
        #expect(table.admit(.distinct(1, chunkCount: 513), 1).decision != nil && table.heldCount == 1, "for which there never is room")
    }

    /// No more of a prompt is kept than is looked at: of 33 times 256 chunks 8,192 leave room for 256.
    @Test func aPromptCountsAsManyChunksAsAreLookedAt() throws {
        let limits = RoutingLimits(indexBlocks: 1 << 12, heldRequests: 33)
        for (chunkCount, count) in [(256, 2), (257, 1)] {
            let table = RoutingTable(equalGroups(1), limits: limits, cost: rule())
            _ = try table.hold([9_000])
            #expect(table.admit(.distinct(1, chunkCount: chunkCount), 1).isHeld)
            #expect(table.heldCount == count)
        }
    }

    /// What is explained is what `admit` then does.
    @Test(arguments: [Policy.leastCost, .leastRequest]) func anExplanationTellsWhoWouldWait(policy: Policy) throws {
        let table = RoutingTable(equalGroups(1), policy: policy, cost: rule())
        #expect(!table.explain(.distinct(0, chunkCount: 1)).waits)
        let busy = try table.makeBusy(["g0"])[0].lease
        #expect(table.explain(.distinct(0, chunkCount: 1)).waits == (policy == .leastCost))
        #expect(table.heldCount == 0 && !table.explain(nil).waits)
        #expect(table.admit(.distinct(0, chunkCount: 1), 0).isHeld == (policy == .leastCost))
        table.firstToken(busy, now: 1)
        #expect(table.explain(.distinct(1, chunkCount: 1), now: 1).waits == (policy == .leastCost), "behind the one that came before")
        _ = table.release(now: 1)
        #expect(!table.explain(.distinct(1, chunkCount: 1), now: 1).waits)
    }

    @Test func whoCannotBePlacedIsRefusedAtOnce() {
        let table = RoutingTable([group(0, models: ["a"])], limits: RoutingLimits(indexBlocks: 1 << 12, leases: 1), cost: rule())
        #expect(table.admit(.distinct(0, chunkCount: 1), 0, model: "b").failure == .modelNotFound)
        #expect(table.admit(.distinct(0, chunkCount: 10), 1, model: "a").decision != nil)
        #expect(table.admit(.distinct(0, chunkCount: 1), 2, model: "a").failure == .leasesExhausted)
        #expect(table.explain(.distinct(0, chunkCount: 1), model: "a").outcome == .failure(.leasesExhausted))
        table.replaceGroups([], now: 1)
        #expect(RoutingTable([], cost: rule()).admit(.distinct(0, chunkCount: 1), 0).failure == .noReadyGroup)
    }
}

// MARK: In which order

@Suite struct ReleaseOrderTests {
    @Test func equalOnesGoInTheOrderOfArrival() throws {
        let table = RoutingTable(equalGroups(1), cost: rule())
        var lease = try table.hold([10, 10, 10, 10, 10])
        #expect(table.release().isEmpty)
        for number in 0..<5 {
            table.firstToken(lease, now: UInt64(number + 1))
            let released = table.release(now: UInt64(number + 1))
            #expect(released.numbers == [UInt64(number)], "each fills the queue")
            lease = try #require(released.decisions.first?.lease)
        }
        #expect(table.heldCount == 0)
    }

    @Test func asManyGoAsThereIsRoomFor() throws {
        let table = RoutingTable(equalGroups(1), cost: rule())
        let lease = try table.hold([3, 3, 3, 3, 3])
        table.firstToken(lease, now: 1)
        #expect(table.release(now: 1).numbers == [0, 1, 2, 3], "the fourth finds nine chunks, a fifth twelve")
    }

    /// 40 chunks and 16 tokens of output are 2,576 tokens, a quarter of which 5 and 16 overtake once: 336 · 1 ≤ 644 < 336 · 2.
    @Test func aCheaperOneOvertakesWithinTheBound() throws {
        let table = RoutingTable(equalGroups(1), cost: rule { $0.overtaking = 0.25 })
        let lease = try table.hold([40, 5, 5], maxOutputTokens: 16)
        table.firstToken(lease, now: 1)
        #expect(table.release(now: 1).numbers == [1, 0])
    }

    @Test(arguments: [(1.0, true), (0.999_999, false), (0, false)]) func byExactlyAsMuchAsMayBe(share: Double, overtakes: Bool) throws {
        // The first finds nothing ahead of itself and takes 64 · 40 + 16.
        let tokens = (first: 64.0 * 40 + 16, later: 64.0 * 5 + 16)
        let table = RoutingTable(equalGroups(1), cost: rule { $0.overtaking = share * tokens.later / tokens.first })
        let lease = try table.hold([40, 5], maxOutputTokens: 16)
        table.firstToken(lease, now: 1)
        #expect(table.release(now: 1).numbers.first == (overtakes ? 1 : 0))
    }

    @Test func withoutOvertakingItIsFirstComeFirstServedPerGroup() throws {
        var random = SeededGenerator(seed: 5)
        let table = RoutingTable([group(0, models: ["a"]), group(1, models: ["b"])], cost: rule { $0.overtaking = 0 })
        var open = try table.makeBusy(["g0", "g1"]).map(\.lease)
        for number in 0..<200 {
            let prompt = Prompt.distinct(number, chunkCount: Int.random(in: 1...30, using: &random))
            #expect(table.admit(prompt, UInt64(number), model: number % 2 == 0 ? "a" : "b").isHeld)
        }
        var order: [UInt64] = []
        for now in 1...UInt64(400) where !open.isEmpty {
            table.settle(open.remove(at: Int.random(in: 0..<open.count, using: &random)), usage: nil, now: now)
            let released = table.release(now: now)
            order += released.numbers
            open += released.decisions.map(\.lease)
        }
        #expect(order.filter { $0 % 2 == 0 } == (0..<100).map { 2 * $0 })
        #expect(order.filter { $0 % 2 == 1 } == (0..<100).map { 2 * $0 + 1 })
    }

    /// What overtakes a request among those that wait for the same group is within the bound whatever comes and goes, and in the end nothing is left.
    @Test(arguments: [0.1, 0.25, 1]) func overtakingIsBounded(share: Double) throws {
        var random = SeededGenerator(seed: 21)
        let models = ["a", "b", "c"]
        var state = RoutingState(
            policy: .leastCost, seed: 1, limits: .init(groups: 3, indexBlocks: 1 << 12), placement: .init(),
            cost: rule { $0.overtaking = share })
        state.replaceGroups(models.indices.map { group($0, models: [models[$0]]) }, now: 0)
        var waiting: [(number: UInt64, slot: UInt32, tokens: Double, bound: Double, overtaken: Double)] = []
        var open: [Lease] = []
        var (overtakings, mostUsed) = (0, 0.0)
        func release(now: UInt64) {
            var released: [ReleasedRequest] = []
            while state.releaseSome(into: &released, now: now) {}
            for one in released {
                guard let place = waiting.firstIndex(where: { $0.number == one.ticket.number }), let decision = try? one.result.get() else {
                    Issue.record("released twice, or refused")
                    continue
                }
                let gone = waiting.remove(at: place)
                open.append(decision.lease)
                #expect(gone.slot == decision.group.slot)
                #expect(gone.overtaken <= gone.bound)
                for earlier in 0..<place where waiting[earlier].slot == gone.slot {
                    waiting[earlier].overtaken += gone.tokens
                    overtakings += 1
                    mostUsed = max(mostUsed, waiting[earlier].overtaken / waiting[earlier].bound)
                }
            }
        }
        for number in 0..<UInt64(1_000) {
            let prompt = Prompt.distinct(Int(number), chunkCount: Int.random(in: 1...40, using: &random))
            var model = models[Int.random(in: 0..<3, using: &random)]
            let admission = model.withUTF8 { name in
                prompt.hashes.withUnsafeBufferPointer { hashes in
                    state.admit(
                        RoutingRequest(
                            model: UnsafeRawBufferPointer(name), prefixHashes: hashes, promptBytes: prompt.bytes, maxOutputTokens: 16),
                        tried: .init(), ticket: AdmissionTicket(loop: 0, number: number), now: number)
                }
            }
            if let decision = admission.decision { open.append(decision.lease) }
            if admission.isHeld, let entry = state.admission.entries.last {
                let ahead = waiting.filter { $0.slot == entry.slot }.map(\.tokens).reduce(0, +)
                waiting.append((number, entry.slot, entry.tokens, share * (ahead + entry.tokens), 0))
            }
            if Int.random(in: 0..<20, using: &random) == 0, let gone = waiting.indices.randomElement(using: &random) {
                state.withdraw(AdmissionTicket(loop: 0, number: waiting.remove(at: gone).number))
            }
            if Int.random(in: 0..<4, using: &random) > 0, !open.isEmpty {
                state.settle(
                    open.remove(at: Int.random(in: 0..<open.count, using: &random)), usage: nil, events: 0, isHeldBack: false, now: number)
            }
            release(now: number)
        }
        #expect(waiting.count > 32, "some beyond those asked first")
        #expect(overtakings > 50 && mostUsed > 0.9 && mostUsed <= 1)
        while let lease = open.popLast() {
            state.settle(lease, usage: nil, events: 0, isHeldBack: false, now: 2_000)
            release(now: 2_000)
        }
        #expect(waiting.isEmpty && state.admission.isEmpty && state.admission.hashCount == 0)
        for slot in 0..<3 { #expect(state.admission.tokens[slot] == 0) }
    }
}

// MARK: Where to

@Suite struct ReleasePlaceTests {
    /// g0 holds a long prefix and is busy, g1 is idle.
    private func heldByItsPrefix(_ rule: CostRule, count: Int = 1) throws -> (table: RoutingTable, busy: Lease, difference: Double) {
        let table = RoutingTable(equalGroups(2), cost: rule)
        let shared = Array(0..<100)
        let first = try table.pick(Prompt(shared), pinnedTo: "g0", now: 0).get()
        table.settle(first.lease, usage: nil, now: 1)
        let busy = try table.makeBusy(["g0"])[0].lease
        let totals = table.explain(Prompt(shared + [1_000])).groups.map(\.terms.total)
        for number in 0..<count { #expect(table.admit(Prompt(shared + [1_000 + number]), UInt64(number)).isHeld) }
        return (table, busy, totals[1] - totals[0])
    }

    @Test(arguments: [0.0, 5]) func patienceSendsElsewhereWhoHasWaitedLongEnough(recomputing: Double) throws {
        let (table, _, difference) = try heldByItsPrefix(
            rule {
                $0.patience = 2
                $0.recomputing = recomputing
            })
        #expect(difference > 0.1)
        let prefills = table.explain(Prompt(Array(0..<100) + [1_000])).groups.map(\.terms.prefill)
        let enough = (difference + recomputing * (prefills[1] - prefills[0])) / 2 * 1e9
        #expect(table.release(now: UInt64(0.95 * enough)).isEmpty)
        let released = table.release(now: UInt64(1.05 * enough))
        #expect(released.numbers == [0])
        #expect(released.decisions.map { table.name(of: $0.group) } == ["g1"])
        #expect(released.decisions.map(\.reason) == [.cost], "not for its prefix")
    }

    @Test func withoutPatienceItWaitsForItsGroup() throws {
        let (table, busy, _) = try heldByItsPrefix(rule { $0.patience = 0 })
        #expect(table.release(now: 3_600 * second).isEmpty)
        table.firstToken(busy, now: 3_600 * second)
        #expect(table.release(now: 3_600 * second).decisions.map { table.name(of: $0.group) } == ["g0"])
    }

    @Test func roomInItsOwnGroupIsTakenFirst() throws {
        let (table, busy, _) = try heldByItsPrefix(rule())
        table.firstToken(busy, now: 1)
        let released = table.release(now: 1)
        #expect(released.decisions.map { table.name(of: $0.group) } == ["g0"])
        #expect(released.decisions.map(\.reason) == [.prefix])
    }

    @Test func groupsTriedInVainAreNotTriedAgain() throws {
        let table = RoutingTable(equalGroups(2), cost: rule())
        let busy = try table.makeBusy(["g0", "g1"])
        var tried = TriedGroups()
        tried.insert(busy[0].group)
        #expect(table.admit(.distinct(0, chunkCount: 1), 0, excluding: tried).isHeld)
        table.firstToken(busy[0].lease, now: 1)
        #expect(table.release(now: 3_600 * second).isEmpty)
        table.firstToken(busy[1].lease, now: 3_600 * second)
        #expect(table.release(now: 3_600 * second).decisions.map(\.group) == [busy[1].group])
    }

    /// A hundred that can only go to one group do not keep others from their own.
    @Test func whoIsBehindManyForAnotherGroupGoesWhenItsOwnHasRoom() throws {
        let table = RoutingTable([group(0, models: ["a"]), group(1, models: ["b"])], cost: rule())
        let busy = try table.makeBusy(["g0", "g1"])
        for number in 0..<UInt64(100) { #expect(table.admit(.distinct(Int(number), chunkCount: 10), number, model: "a").isHeld) }
        #expect(table.admit(.distinct(100, chunkCount: 10), 100, model: "b").isHeld)
        table.firstToken(busy[1].lease, now: 1)
        #expect(table.release(now: 1).numbers == [100])
    }

    /// Nor from going elsewhere in time: all are asked in turn.
    @Test func whoIsBehindManyGoesElsewhereWhenItHasWaitedLongEnough() throws {
        let table = RoutingTable([group(0, models: ["a", "b"]), group(1, models: ["b"])], cost: rule())
        let shared = Array(0..<100)
        let first = try table.pick(Prompt(shared), pinnedTo: "g0").get()
        table.settle(first.lease, usage: nil, now: 1)
        _ = try table.makeBusy(["g0"])
        for number in 0..<UInt64(100) { #expect(table.admit(.distinct(Int(number), chunkCount: 10), number, model: "a").isHeld) }
        #expect(table.admit(Prompt(shared + [200]), 100, model: "b").isHeld)
        for number in UInt64(101)..<200 { #expect(table.admit(.distinct(Int(number), chunkCount: 10), number, model: "a").isHeld) }
        let released = (0..<16).flatMap { _ in table.release(now: 3_600 * second) }
        #expect(released.numbers == [100])
    }

    /// Nobody decides meanwhile, and no first token comes of answers that are not streamed.
    @Test func whatIsPresumedPrefilledMakesRoom() throws {
        let table = RoutingTable(equalGroups(1), cost: rule())
        _ = try table.makeBusy(["g0"], isStreamed: false)
        #expect(table.admit(.distinct(0, chunkCount: 10), 0).isHeld)
        #expect(table.release(now: millisecond).isEmpty)
        #expect(table.release(now: 10 * second).numbers == [0])
    }

    @Test func whoFindsNoLeaseWaitsForOne() throws {
        let table = RoutingTable(equalGroups(1), limits: RoutingLimits(indexBlocks: 1 << 12, leases: 2), cost: rule())
        let busy = try table.hold([1])
        let other = try table.pick(nil).get()
        for lease in [busy, other.lease] { table.firstToken(lease, now: 1) }
        #expect(table.release(now: 1).isEmpty)
        let calls = Calls(of: table)
        table.settle(other.lease, usage: nil, now: 2)
        #expect(calls.all == [0])
        #expect(table.release(now: 2).decisions.count == 1)
    }
}

// MARK: Who goes, and who is told

@Suite struct WithdrawalTests {
    @Test func whoIsWithdrawnIsNeverReleased() throws {
        let table = RoutingTable(equalGroups(1), cost: rule())
        let busy = try table.hold([1, 1, 1])
        let ticket = AdmissionTicket(loop: 0, number: 1)
        table.withdraw(ticket)
        #expect(table.heldCount == 2)
        for gone in [ticket, AdmissionTicket(loop: 0, number: 77), AdmissionTicket(loop: 1, number: 0)] { table.withdraw(gone) }
        #expect(table.heldCount == 2)
        table.firstToken(busy, now: 1)
        #expect(table.release(now: 1).numbers == [0, 2])
        table.withdraw(AdmissionTicket(loop: 0, number: 0))
        #expect(table.heldCount == 0 && table.release(now: 2).isEmpty)
    }

    @Test func ticketsAreOfALoop() throws {
        let table = RoutingTable(equalGroups(1), cost: rule())
        let busy = try table.makeBusy(["g0"])[0].lease
        for loop in 0..<UInt32(20) { #expect(table.admit(.distinct(Int(loop), chunkCount: 1), 7, loop: loop).isHeld) }
        table.withdraw(AdmissionTicket(loop: 3, number: 7))
        table.settle(busy, usage: nil, now: 1)
        var released = table.release(now: 1)
        while case let decisions = released.decisions, table.heldCount > 0 {
            for decision in decisions { table.firstToken(decision.lease, now: 2) }
            let more = table.release(now: 2)
            guard !more.isEmpty else { break }
            released += more
        }
        #expect(released.map(\.ticket.loop) == (0..<20).filter { $0 != 3 })
    }
}

@Suite struct WakeTests {
    private enum End: CaseIterable { case firstToken, settle, cancel }

    @Test func whoHoldsIsToldOnceUntilItReleases() throws {
        for end in End.allCases {
            let table = RoutingTable(equalGroups(1), cost: rule())
            let calls = Calls(of: table)
            func finish(_ lease: Lease) {
                switch end {
                case .firstToken: table.firstToken(lease, now: 1)
                case .settle: table.settle(lease, usage: nil, now: 1)
                case .cancel: table.cancel(lease, now: 1)
                }
            }
            let small = try table.makeBusy(["g0"], chunkCount: 1)[0].lease
            // It shares the other's one chunk.
            let busy = try table.makeBusy(["g0"], chunkCount: 11)[0].lease
            #expect(table.admit(.distinct(0, chunkCount: 10), 0, loop: 7).isHeld)
            #expect(table.admit(.distinct(1, chunkCount: 10), 1, loop: 3).isHeld)
            finish(small)
            #expect(calls.all == [], "it has ten chunks still")
            finish(busy)
            #expect(calls.all == [7])
            let nobody = try table.makeBusy(["g0"], chunkCount: 1)[0].lease
            finish(nobody)
            #expect(calls.all == [7], "told already")
            let released = table.release(now: 1)
            #expect(released.map(\.ticket.loop) == [7] && calls.all == [7])
            finish(try #require(released.decisions.first).lease)
            #expect(calls.all == [7, 3])
        }
    }

    @Test func nobodyIsToldWhereNobodyWaits() throws {
        let table = RoutingTable(equalGroups(1), cost: rule())
        let calls = Calls(of: table)
        let busy = try table.hold([1])
        table.withdraw(AdmissionTicket(loop: 0, number: 0))
        table.firstToken(busy, now: 1)
        table.replaceGroups(equalGroups(2), now: 1)
        #expect(calls.all == [])
    }

    /// Others' first tokens say nothing to those who wait for another group.
    @Test func whoMakesNoRoomTellsNobody() throws {
        let table = RoutingTable([group(0, models: ["a"]), group(1, models: ["b"])], cost: rule())
        let calls = Calls(of: table)
        _ = try table.makeBusy(["g0"])
        #expect(table.admit(.distinct(0, chunkCount: 1), 0, model: "a").isHeld)
        let other = try table.makeBusy(["g1"], chunkCount: 9)[0].lease
        table.firstToken(other, now: 1)
        #expect(calls.all == [])
    }

    @Test func whoHoldsLaterIsToldOfWhatComesThen() throws {
        let table = RoutingTable(equalGroups(1), cost: rule())
        let busy = try table.hold([1, 1])
        table.firstToken(busy, now: 1)
        let calls = Calls(of: table)
        #expect(table.admit(.distinct(5, chunkCount: 1), 5).isHeld)
        #expect(calls.all == [0])
    }

    typealias Change = @Sendable (RoutingTable, GroupID) -> Void

    /// With the group's state before it.
    static let changes: [(name: String, before: Change, change: Change)] = [
        ("one comes", { _, _ in }, { table, _ in table.replaceGroups(equalGroups(3), now: 1) }),
        ("one comes by itself", { _, _ in }, { table, _ in table.updateGroups([group(2)], now: 1) }),
        ("one goes", { _, _ in }, { table, _ in table.replaceGroups(equalGroups(1), now: 1) }),
        ("one goes by itself", { _, _ in }, { table, _ in table.updateGroups([], removing: ["g1"], now: 1) }),
        ("one starts anew", { _, _ in }, { table, _ in table.updateGroups([group(1, incarnation: "2")], now: 1) }),
        ("one is drained", { _, _ in }, { table, _ in _ = table.setDrained(true, group: "g1") }),
        (
            "one is taken back", { table, _ in _ = table.setDrained(true, group: "g1") },
            { table, _ in _ = table.setDrained(false, group: "g1") }
        ),
        ("one serves something else", { _, _ in }, { table, group in table.setModels(["a"], of: group) }),
        ("one is ejected", { _, _ in }, { table, group in table.reportUnreachable(group, now: 1) }),
        (
            "one is back", { table, group in table.reportUnreachable(group, now: 1) },
            { table, group in table.reportReachable(group, now: 2 * second) }
        ),
        ("one pushes back", { _, _ in }, { table, group in table.reportSaturated(group, now: 1) }),
    ]

    @Test(arguments: changes.indices) func groupsThatComeAndGoAreTold(number: Int) throws {
        let table = RoutingTable(equalGroups(2), cost: rule())
        let busy = try table.makeBusy(["g0", "g1"])
        Self.changes[number].before(table, busy[1].group)
        #expect(table.admit(.distinct(0, chunkCount: 1), 0, loop: 9).isHeld)
        let calls = Calls(of: table)
        Self.changes[number].change(table, busy[1].group)
        #expect(calls.all == [9], "\(Self.changes[number].name)")
    }

    @Test func nothingIsToldOfGroupsThatStayWhatTheyAre() throws {
        let table = RoutingTable(equalGroups(2), cost: rule())
        _ = try table.makeBusy(["g0", "g1"])
        #expect(table.admit(.distinct(0, chunkCount: 1), 0).isHeld)
        let calls = Calls(of: table)
        table.updateGroups(equalGroups(2), now: 1)
        #expect(table.setDrained(false, group: "g0"))
        #expect(calls.all == [])
    }
}
