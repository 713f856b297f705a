import Testing

@testable import Routing

/// Groups come and go while requests wait for them.
@Suite struct HeldGroupTests {
    @Test func aModelThatNobodyServesAnyMoreIsRefused() throws {
        let table = RoutingTable([group(0, models: ["a"]), group(1, models: ["b"])], cost: rule())
        _ = try table.makeBusy(["g0", "g1"])
        #expect(table.admit(.distinct(0, chunkCount: 10), 0, model: "b").isHeld)
        #expect(table.admit(.distinct(1, chunkCount: 10), 1, model: "a").isHeld)
        #expect(table.admit(.distinct(2, chunkCount: 10), 2, model: "b").isHeld)
        table.replaceGroups([group(0, models: ["a"]), group(2, models: ["a"])], now: 1)
        let released = table.release(now: 1)
        #expect(released.failures == [.modelNotFound, .modelNotFound] && released.numbers == [0, 2, 1])
        #expect(released.decisions.map { table.name(of: $0.group) } == ["g2"])
    }

    /// Whoever could not be overtaken any more is not in the way of one that nobody serves.
    @Test func whoIsRefusedOvertakesNobody() throws {
        let table = RoutingTable([group(0, models: ["a", "b"])], cost: rule { $0.overtaking = 0 })
        let busy = try table.makeBusy(["g0"])[0].lease
        #expect(table.admit(.distinct(0, chunkCount: 10), 0, model: "a").isHeld)
        #expect(table.admit(.distinct(1, chunkCount: 10), 1, model: "b").isHeld)
        #expect(table.admit(.distinct(2, chunkCount: 10), 2, model: "a").isHeld)
        table.setModels(["a"], of: try #require(table.group(named: "g0")).id)
        table.firstToken(busy, now: 1)
        let released = table.release(now: 1)
        #expect(released.failures == [.modelNotFound] && Set(released.numbers) == [0, 1])
    }

    /// A group that is out for a second is no group that is gone.
    @Test func whoWaitsForTheOnlyGroupWaitsUntilItIsBack() throws {
        let table = RoutingTable(equalGroups(1), cost: rule())
        let busy = try table.hold([10, 10, 10])
        let group = try #require(table.group(named: "g0")).id
        table.reportUnreachable(group, now: 1)
        table.cancel(busy, now: 2)
        #expect(table.release(now: 2).isEmpty && table.heldCount == 3)
        let probe = table.release(now: 2_000_000_000)
        #expect(probe.numbers == [0] && table.heldCount == 2, "one tries it")
        #expect(table.release(now: 2_000_000_001).isEmpty)
        table.reportReachable(group, now: 2_000_000_002)
        table.settle(try #require(probe.decisions.first).lease, usage: nil, now: 2_000_000_003)
        #expect(table.release(now: 2_000_000_004).numbers == [1])
    }

    /// Nor is one that has pushed back.
    @Test func whoWaitsForAFullGroupWaitsUntilItIsWorthAnotherTry() throws {
        let table = RoutingTable(equalGroups(1), cost: rule())
        let busy = try table.hold([10])
        table.reportSaturated(try #require(table.group(named: "g0")).id, retryAfterSeconds: 3, now: 1)
        table.cancel(busy, now: 2)
        #expect(table.release(now: 2_900_000_000).isEmpty && table.heldCount == 1)
        #expect(table.release(now: 3_100_000_000).numbers == [0])
    }

    @Test func whoLookedLatelyNeedNotLookAgain() throws {
        let table = RoutingTable(equalGroups(1), cost: rule())
        let busy = try table.hold([10])
        var released: [ReleasedRequest] = []
        table.releaseHeld(into: &released, now: 100)
        table.firstToken(busy, now: 101)
        table.releaseHeld(into: &released, unlessWithin: 10, now: 109)
        #expect(released.isEmpty)
        table.releaseHeld(into: &released, unlessWithin: 10, now: 110)
        #expect(released.numbers == [0])
    }

    @Test func whoWaitsForAGroupThatLeavesGoesToOthers() throws {
        let table = RoutingTable(equalGroups(2), cost: rule())
        _ = try table.makeBusy(["g0", "g1"])
        for number in 0..<UInt64(200) { #expect(table.admit(.distinct(Int(number), chunkCount: 1), number).isHeld) }
        table.replaceGroups([group(2), group(3)], now: 1)
        var released = table.release(now: 1)
        #expect(Set(released.decisions.compactMap { table.name(of: $0.group) }) == ["g2", "g3"])
        var now: UInt64 = 1
        while table.heldCount > 0, now < 1_000 {
            now += 1
            for decision in released.decisions { table.firstToken(decision.lease, now: now) }
            released += table.release(now: now)
        }
        #expect(released.failures.isEmpty && Set(released.numbers) == Set(0..<200))
    }

    /// The slot that they wait for is another group's now, and whoever comes for that is not kept behind them.
    @Test func aNewGroupInAnOldOnesPlaceIsSeenAsIdle() throws {
        var state = RoutingState(
            policy: .leastCost, seed: 1, limits: .init(groups: 2, indexBlocks: 1 << 12), placement: .init(), cost: rule())
        state.replaceGroups([group(0, models: ["a"]), group(1, models: ["b"])], now: 0)
        func admit(_ number: Int, model: StaticString, chunkCount: Int = 10) -> Admission {
            Prompt.distinct(number, chunkCount: chunkCount).hashes.withUnsafeBufferPointer { hashes in
                state.admit(
                    RoutingRequest(
                        model: UnsafeRawBufferPointer(start: model.utf8Start, count: model.utf8CodeUnitCount), prefixHashes: hashes,
                        promptBytes: chunkCount * Prompt.chunkBytes),
                    tried: .init(), ticket: AdmissionTicket(loop: 0, number: UInt64(number)), now: 0)
            }
        }
        #expect(admit(1_000, model: "a").decision?.group.slot == 0 && admit(1_001, model: "b").decision?.group.slot == 1)
        for number in 0..<100 { #expect(admit(number, model: "b").isHeld) }
        // Nobody serves b; c is served from the same slot.
        _ = state.updateGroups([group(2, models: ["c"])], removing: ["g1"], now: 1)
        #expect(state.slotOfName["g2"] == 1 && state.admission.isAwaited(1))
        #expect(admit(200, model: "c").isHeld)
        var released: [ReleasedRequest] = []
        while state.releaseSome(into: &released, now: 1) {}
        #expect(released.failures == Array(repeating: .modelNotFound, count: 100))
        #expect(released.decisions.map(\.group.slot) == [1])
        #expect(state.admission.isEmpty && state.admission.tokens[0] == 0 && state.admission.tokens[1] == 0)
    }

    /// What was booked on it has left its load as it was.
    @Test func aGroupThatHasLeftIsNotWaitedFor() throws {
        let table = RoutingTable([group(0, models: ["a"]), group(1, models: ["a", "b"])], cost: rule())
        _ = try table.makeBusy(["g0", "g1"])
        for number in 0..<UInt64(100) { #expect(table.admit(.distinct(Int(number), chunkCount: 10), number, model: "b").isHeld) }
        table.replaceGroups([group(0, models: ["a", "b"]), group(2, models: ["a"])], now: 1)
        table.updateGroups([], removing: ["g2"], now: 2)
        #expect(table.release(now: 2).isEmpty, "g0 has enough to do")
        table.updateGroups([group(3, models: ["b"])], now: 3)
        #expect(table.release(now: 3).numbers == [0])
    }

    @Test func allAreRefusedWhereAllGroupsAreGone() throws {
        for isEmpty in [true, false] {
            let table = RoutingTable(equalGroups(2), cost: rule())
            _ = try table.makeBusy(["g0", "g1"])
            for number in 0..<UInt64(100) { #expect(table.admit(.distinct(Int(number), chunkCount: 10), number).isHeld) }
            if isEmpty {
                table.replaceGroups([], now: 1)
            } else {
                for name in ["g0", "g1"] { #expect(table.setDrained(true, group: name)) }
            }
            let released = table.release(now: 1)
            #expect(released.numbers == Array(0..<100))
            #expect(released.failures == Array(repeating: .noReadyGroup, count: 100))
            #expect(table.heldCount == 0)
        }
    }

    /// Whatever happens, each ends once.
    @Test(arguments: [1, 2, 3]) func everyTicketEndsOnce(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        var state = RoutingState(
            policy: .leastCost, seed: seed, limits: .init(groups: 6, indexBlocks: 1 << 10, leases: 200, heldRequests: 150),
            placement: .init(),
            cost: rule())
        let all = (0..<6).map { group($0, models: $0 % 3 == 0 ? ["a", "b"] : $0 % 3 == 1 ? ["a"] : []) }
        state.replaceGroups(all, now: 0)
        var held: Set<UInt64> = []
        var open: [Lease] = []
        var counts = (held: 0, released: 0, refused: 0, withdrawn: 0)
        var now: UInt64 = 0
        func release() {
            var released: [ReleasedRequest] = []
            while state.releaseSome(into: &released, now: now) {}
            for one in released {
                #expect(held.remove(one.ticket.number) != nil)
                switch one.result {
                case .success(let decision):
                    open.append(decision.lease)
                    counts.released += 1
                case .failure: counts.refused += 1
                }
            }
            // Sums are those of who is there.
            let entries = state.admission.entries
            #expect(Set(entries.map(\.ticket.number)) == held && entries.count == held.count)
            #expect(state.admission.hashCount == entries.map(\.content.hashes.count).reduce(0, +))
            for slot in 0..<UInt32(6) {
                #expect(state.admission.tokens[slot] == entries.filter { $0.slot == slot }.map(\.tokens).reduce(0, +))
            }
        }
        for number in 0..<UInt64(4_000) {
            now += UInt64.random(in: 0..<20, using: &random) * millisecond
            switch Int.random(in: 0..<100, using: &random) {
            case 0..<50:
                let prompt = Prompt((0..<Int.random(in: 1...12, using: &random)).map { _ in Int.random(in: 0..<3, using: &random) })
                var model = ["a", "b", ""].randomElement(using: &random) ?? ""
                let isStreamed = Int.random(in: 0..<4, using: &random) > 0
                let admission = model.withUTF8 { name in
                    prompt.hashes.withUnsafeBufferPointer { hashes in
                        state.admit(
                            RoutingRequest(
                                model: UnsafeRawBufferPointer(name), prefixHashes: hashes, promptBytes: prompt.bytes, isStreamed: isStreamed
                            ),
                            tried: .init(), ticket: AdmissionTicket(loop: 0, number: number), now: now)
                    }
                }
                if let decision = admission.decision { open.append(decision.lease) }
                if admission.isHeld { counts.held += held.insert(number).inserted ? 1 : 0 }
            case 50..<65: if let lease = open.randomElement(using: &random) { state.firstToken(lease, now: now) }
            case 65..<80:
                guard !open.isEmpty else { continue }
                let lease = open.remove(at: Int.random(in: 0..<open.count, using: &random))
                state.settle(lease, usage: nil, events: 0, isHeldBack: false, now: now)
            case 80..<84:
                guard !open.isEmpty else { continue }
                let lease = open.remove(at: Int.random(in: 0..<open.count, using: &random))
                state.cancel(lease, prefixHeld: false, isServerError: Bool.random(using: &random), now: now)
            case 84..<88:
                guard let gone = held.sorted().randomElement(using: &random) else { continue }
                held.remove(gone)
                state.withdraw(AdmissionTicket(loop: 0, number: gone))
                counts.withdrawn += 1
            case 88..<91: state.replaceGroups(all.filter { _ in Int.random(in: 0..<3, using: &random) > 0 }, now: now)
            case 91: state.replaceGroups([], now: now)
            case 92..<95: _ = state.setDrained(Bool.random(using: &random), group: "g\(Int.random(in: 0..<6, using: &random))")
            case 95..<97: if let slot = state.order.randomElement(using: &random) { state.reportUnreachable(slot, now: now) }
            default: if let slot = state.order.randomElement(using: &random) { state.reportReachable(slot, now: now) }
            }
            if Int.random(in: 0..<3, using: &random) == 0 { release() }
        }
        for lease in open { state.cancel(lease, prefixHeld: false, isServerError: false, now: now) }
        open = []
        state.replaceGroups([], now: now)
        release()
        #expect(held.isEmpty && state.admission.isEmpty && state.admission.hashCount == 0)
        #expect(counts.held == counts.released + counts.refused + counts.withdrawn)
        #expect(counts.released > 100 && counts.refused > 10 && counts.withdrawn > 10)
        for lease in open { state.cancel(lease, prefixHeld: false, isServerError: false, now: now) }
        #expect(state.leases.openCount == 0)
    }
}
