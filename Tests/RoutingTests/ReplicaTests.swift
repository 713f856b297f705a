import Synchronization
import Testing

@testable import Routing

/// Routers that tell one another what they place and have under way, on a virtual clock.
@Suite struct ReplicaTests {
    private let start = 100 * second

    private func load(_ group: String, inFlight: UInt64, awaiting: UInt64 = 0, tokens: Double = 0, work: Double = 0) -> [UInt64] {
        [ReplicaRecord.header(ReplicaRecord.load), identity(group), inFlight | awaiting << 32, tokens.bitPattern, work.bitPattern]
    }

    private func queueWait(_ table: RoutingTable, _ group: String, now: UInt64) throws -> Double {
        try #require(table.explain(.distinct(999, chunkCount: 4), now: now).groups.first { $0.name == group }).terms.queueWait
    }

    // MARK: Placements

    @Test func whatOnePlacesIsAHitForTheOther() throws {
        var pair = ReplicaPair(8, now: start)
        for name in 0..<24 {
            let prompt = Prompt.distinct(name, chunkCount: 40)
            let group = "g\(name % 8)"
            let placed = try pair.teller.pick(prompt, pinnedTo: group, now: start).get()
            pair.teller.firstToken(placed.lease, now: start)
            pair.teller.settle(placed.lease, usage: nil, now: start)
            #expect(pair.listener.explain(prompt, now: start).groups.allSatisfy { $0.cachedTokens == 0 })
            #expect(pair.tell(now: start) == [.applied(placements: 1, loads: 1)])
            let decision = try pair.listener.serve(prompt, now: start)
            #expect(pair.listener.name(of: decision.group) == group && decision.reason == .prefix, "prompt \(name)")
            #expect(decision.predictedCachedTokens == 40 * 64 - 16)
        }
    }

    /// Its tail is not known here, its beginning is.
    @Test func aLongPromptIsToldInOneRecordAndAnOverlongOneInPart() throws {
        for (chunks, told) in [(6_999, 6_999), (7_000, 7_000), (7_001, 7_000), (8_192, 7_000)] {
            let teller = RoutingTable(equalGroups(1), limits: .init(indexBlocks: 1 << 16))
            teller.startSharing(now: start)
            _ = try teller.pick(.distinct(1, chunkCount: chunks), now: start).get()
            var messages = ReplicaMessages()
            teller.takeReplicaMessages(into: &messages, now: start)
            #expect(messages.count == 2)
            #expect(messages.withMessage(1) { $0.count } == 8 * (2 + told))
            #expect(messages.withMessage(1) { $0.count } <= ReplicaMessages.mostBytes)
            let listener = RoutingTable(equalGroups(1), limits: .init(indexBlocks: 1 << 16))
            let outcome = messages.withMessage(1) { listener.receiveReplicaMessage($0, from: 1, now: start) }
            #expect(outcome == .applied(placements: 1, loads: 0))
            #expect(try #require(listener.state("g0")).indexBlocks == told)
        }
    }

    @Test func shortRecordsShareMessagesThatFitIntoAFrame() throws {
        var pair = ReplicaPair(4, now: start)
        for name in 0..<50 { _ = try pair.teller.pick(.distinct(name, chunkCount: 12), now: start).get() }
        let outcomes = pair.tell(now: start)
        #expect(outcomes.count == 5, "4 loads of 5 words and 50 placements of 14 in messages of 160")
        for place in 0..<outcomes.count { #expect(pair.messages.withMessage(place) { $0.count } <= 1_280) }
        let placements = outcomes.reduce(0) { sum, outcome in
            guard case .applied(let placements, _) = outcome else { return -1_000 }
            return sum + placements
        }
        #expect(placements == 50)
        #expect(pair.tell(now: start).isEmpty, "all has been told")
    }

    @Test func whatNobodyTakesIsBoundedAndCounted() throws {
        let table = RoutingTable(equalGroups(1))
        table.startSharing(now: start)
        for name in 0..<700 {
            let decision = try table.pick(.distinct(name, chunkCount: 98), now: start).get()
            table.cancel(decision.lease, now: start, prefixHeld: true)
        }
        #expect(table.placementsNotShared() == 700 - UInt64(RoutingState.outboxWords / 100))
        var messages = ReplicaMessages()
        table.takeReplicaMessages(into: &messages, now: start)
        _ = try table.pick(.distinct(1_000, chunkCount: 98), now: start).get()
        table.takeReplicaMessages(into: &messages, now: start)
        #expect(messages.count == 1)
        #expect(table.placementsNotShared() == 700 - UInt64(RoutingState.outboxWords / 100))
    }

    /// Behind a balancer any of the routers may get the next turn.
    @Test func aConversationIsContinuedByAnother() throws {
        var pair = ReplicaPair(4, now: start)
        let system = Array(0..<20)
        func turn(_ number: Int) -> Prompt {
            var prompt = Prompt(system + (0..<10 * number).map { 1_000_000 + $0 })
            prompt.bytes += Prompt.chunkBytes / 2
            prompt.digests = (UInt64(number + 1), UInt64(number))
            return prompt
        }
        for number in 0..<4 {
            let other = try pair.teller.pick(Prompt(system), pinnedTo: "g\(number)", now: start).get()
            pair.teller.settle(other.lease, usage: nil, now: start)
        }
        let first = try pair.teller.pick(turn(0), pinnedTo: "g2", now: start).get()
        pair.teller.firstToken(first.lease, now: start)
        pair.teller.settle(
            first.lease, usage: Usage(promptTokens: turn(0).bytes / 4, cachedTokens: 64 * 20, completionTokens: 640), now: start)
        pair.tell(now: start)
        let next = try pair.listener.serve(turn(1), now: start)
        #expect(pair.listener.name(of: next.group) == "g2")
        #expect(next.predictedCachedTokens > 64 * 20 + 600)
    }

    // MARK: Load

    @Test func loadIsToldUntilItIsGone() throws {
        var pair = ReplicaPair(2, now: start)
        let lease = try pair.teller.pick(.distinct(1, chunkCount: 100), sequences: 3, pinnedTo: "g0", now: start).get().lease
        pair.tell(now: start)
        var state = try #require(pair.listener.state("g0", now: start))
        #expect(state.othersWaiting == 3 && state.othersRunning == 0)
        let waits = pair.listener.explain(.distinct(2, chunkCount: 4), now: start).groups.first { $0.name == "g0" }
        #expect(try #require(waits).terms.queueWait > 0)
        pair.teller.firstToken(lease, now: start)
        pair.tell(now: start)
        state = try #require(pair.listener.state("g0", now: start))
        #expect(state.othersWaiting == 0 && state.othersRunning == 3)
        pair.teller.settle(lease, usage: nil, now: start)
        pair.tell(now: start)
        state = try #require(pair.listener.state("g0", now: start))
        #expect(state.othersWaiting == 0 && state.othersRunning == 0)
    }

    @Test(arguments: [Policy.leastCost, .leastRequest]) func whoIsBusyElsewhereIsSpared(policy: Policy) throws {
        var pair = ReplicaPair(2, policy: policy, now: start)
        for name in 0..<6 { _ = try pair.teller.pick(.distinct(name, chunkCount: 50), pinnedTo: "g0", now: start).get() }
        pair.tell(now: start)
        for name in 10..<13 {
            let decision = try pair.listener.pick(.distinct(name, chunkCount: 50), now: start).get()
            #expect(pair.listener.name(of: decision.group) == "g1")
        }
    }

    /// A token of a long prompt takes longer than one of a short one, whoever has queued it.
    @Test func aLongPromptIsMoreWorkThanAsManyTokensOfShortOnes() throws {
        var pair = ReplicaPair(2, now: start)
        let tokens = 102_400
        _ = try pair.teller.pick(.distinct(0, chunkCount: 1_600), pinnedTo: "g0", promptTokens: tokens, now: start).get()
        for name in 1...50 {
            _ = try pair.teller.pick(.distinct(name, chunkCount: 32), pinnedTo: "g1", promptTokens: tokens / 50, now: start).get()
        }
        #expect(pair.teller.state("g0", now: start)?.queuedUncachedTokens == tokens)
        #expect(pair.teller.state("g1", now: start)?.queuedUncachedTokens == tokens)
        pair.tell(now: start)
        for group in ["g0", "g1"] {
            let told = try queueWait(pair.listener, group, now: start)
            #expect(try told == queueWait(pair.teller, group, now: start), "both count the same prompts alike")
        }
        let (long, short) = try (queueWait(pair.listener, "g0", now: start), queueWait(pair.listener, "g1", now: start))
        let rule = CostRule()
        let expected =
            rule.prefillWork(uncached: Double(tokens), promptTokens: Double(tokens))
            / (50 * rule.prefillWork(uncached: Double(tokens / 50), promptTokens: Double(tokens / 50)))
        #expect(expected > 2 && abs(long / short / expected - 1) < 1e-3)
    }

    /// What an engine reports are tokens: those of replicas are subtracted from them, and not the work that they make.
    @Test func anEngineReportIsComparedWithReplicasTokens() throws {
        var pair = ReplicaPair(1, now: start)
        let group = try #require(pair.listener.state("g0")?.id)
        pair.listener.reportLoad(LoadReport(running: 0, waiting: 0, madeAt: start), of: group, now: start)
        let tokens = 102_400
        _ = try pair.teller.pick(.distinct(0, chunkCount: 1_600), promptTokens: tokens, now: start).get()
        pair.tell(now: start)
        let replicas = try queueWait(pair.listener, "g0", now: start)
        let secondsPerToken = try replicas / CostRule().prefillWork(uncached: Double(tokens), promptTokens: Double(tokens))
        func wait(reported: Int) throws -> Double {
            let report = LoadReport(
                running: 2, waiting: 0, awaitingFirstToken: 2, prefillTokens: Double(reported), kvUsage: 0.1, notBefore: start,
                madeAt: start)
            pair.listener.reportLoad(report, of: group, now: start)
            return try queueWait(pair.listener, "g0", now: start)
        }
        #expect(try wait(reported: tokens) == replicas)
        let more = try wait(reported: tokens + 50_000)
        #expect(abs((more - replicas) / secondsPerToken - 50_000) < 1, "of others' contexts nothing is known")
    }

    /// Engines count replicas' requests, too.
    @Test func anEngineReportDoesNotCountReplicasTwice() throws {
        var pair = ReplicaPair(1, now: start)
        let group = try #require(pair.listener.state("g0")?.id)
        pair.listener.reportLoad(LoadReport(running: 0, waiting: 0, madeAt: start), of: group, now: start)
        for name in 0..<4 {
            let lease = try pair.teller.pick(.distinct(name, chunkCount: 10), now: start).get().lease
            pair.teller.firstToken(lease, now: start)
        }
        // Told a little after the engine was asked, and before its answer came.
        let told = start + 20 * millisecond
        pair.tell(now: told)
        let now = start + 30 * millisecond
        pair.listener.reportLoad(LoadReport(running: 4, waiting: 0, madeAt: start + 10 * millisecond), of: group, now: now)
        #expect(try #require(pair.listener.state("g0", now: now)).othersRunning == 4)
        // Somebody who tells nothing has three more.
        let later = start + second
        pair.listener.reportLoad(LoadReport(running: 7, waiting: 0, madeAt: later), of: group, now: later)
        #expect(abs(try #require(pair.listener.state("g0", now: later)).othersRunning - 7) < 0.01)
    }

    @Test func whatIsUnderWayIsToldAgainWithinASecond() throws {
        var pair = ReplicaPair(8, now: start)
        for number in 0..<8 { _ = try pair.teller.pick(.distinct(number, chunkCount: 4), pinnedTo: "g\(number)", now: start).get() }
        // These are lost.
        pair.teller.takeReplicaMessages(into: &pair.messages, now: start)
        for step in 1...50 { pair.tell(now: start + UInt64(step) * 20 * millisecond) }
        for number in 0..<8 { #expect(try #require(pair.listener.state("g\(number)", now: start + second)).othersWaiting == 1) }
    }

    @Test func whatIsNotToldAgainIsOver() throws {
        var pair = ReplicaPair(2, now: start)
        let lease = try pair.teller.pick(.distinct(1, chunkCount: 4), pinnedTo: "g0", now: start).get().lease
        pair.tell(now: start)
        pair.teller.cancel(lease, now: start)
        // Its end is lost.
        pair.teller.takeReplicaMessages(into: &pair.messages, now: start)
        var own = ReplicaMessages()
        for (seconds, waiting) in [(3.0, 1.0), (4.1, 0)] {
            let now = start + UInt64(seconds * 1e9)
            pair.listener.takeReplicaMessages(into: &own, now: now)
            #expect(try #require(pair.listener.state("g0", now: now)).othersWaiting == waiting)
        }
    }

    @Test func aReplicaThatIsGoneHasNothing() throws {
        let table = RoutingTable(equalGroups(2))
        for replica in 1...3 { _ = receive(load("g0", inFlight: 4, awaiting: 1, tokens: 100), table, from: UInt64(replica), now: start) }
        #expect(try #require(table.state("g0", now: start)).othersRunning == 9)
        table.forgetReplica(2, now: start)
        table.forgetReplica(2, now: start)
        table.forgetReplica(99, now: start)
        let state = try #require(table.state("g0", now: start))
        #expect(state.othersRunning == 6 && state.othersWaiting == 2)
    }

    @Test func aRestartedGroupHasNothingOfBefore() throws {
        let table = RoutingTable(equalGroups(2))
        _ = receive(load("g0", inFlight: 4), table, now: start)
        var groups = equalGroups(2)
        groups[0].incarnation = "2"
        table.replaceGroups(groups, now: start)
        #expect(try #require(table.state("g0", now: start)).othersRunning == 0)
        _ = receive(load("g0", inFlight: 1), table, now: start)
        #expect(try #require(table.state("g0", now: start)).othersRunning == 1)
        _ = receive(load("g0", inFlight: 0), table, now: start)
        table.forgetReplica(7, now: start)
        #expect(try #require(table.state("g0", now: start)).othersRunning == 0)
    }

    /// Groups come and go, replicas come and go, and what is counted is what was last told by those who are there.
    @Test func theSumIsWhatWasToldLast() throws {
        var generator = SeededGenerator(seed: 5)
        let table = RoutingTable(equalGroups(4))
        var told: [UInt64: [Int: (running: UInt64, waiting: UInt64)]] = [:]
        var incarnations = [0, 0, 0, 0]
        for _ in 0..<5_000 {
            let replica = UInt64.random(in: 1...5, using: &generator)
            let group = Int.random(in: 0..<4, using: &generator)
            switch Int.random(in: 0..<20, using: &generator) {
            case 0:
                table.forgetReplica(replica, now: start)
                told[replica] = nil
            case 1:
                incarnations[group] += 1
                var groups = equalGroups(4)
                for index in 0..<4 { groups[index].incarnation = "\(incarnations[index])" }
                if Bool.random(using: &generator) { table.updateGroups([], removing: ["g\(group)"], now: start) }
                table.replaceGroups(groups, now: start)
                for replica in told.keys { told[replica]?[group] = nil }
            default:
                let running = UInt64.random(in: 0...3, using: &generator)
                let waiting = UInt64.random(in: 0...3, using: &generator)
                let words = load("g\(group)", inFlight: running + waiting, awaiting: waiting, tokens: Double(100 * waiting))
                #expect(receive(words, table, from: replica, now: start) == .applied(placements: 0, loads: 1))
                told[replica, default: [:]][group] = (running, waiting)
            }
            for group in 0..<4 {
                let state = try #require(table.state("g\(group)", now: start))
                let all = told.values.compactMap { $0[group] }
                #expect(state.othersRunning == Double(all.reduce(0) { $0 + $1.running }))
                #expect(state.othersWaiting == Double(all.reduce(0) { $0 + $1.waiting }))
            }
        }
    }

    // MARK: Being called

    @Test func itIsCalledOnceUntilAllIsTaken() throws {
        final class Calls: Sendable { let count = Atomic(0) }
        let calls = Calls()
        let table = RoutingTable(equalGroups(2))
        var lease = try table.pick(.distinct(0, chunkCount: 4), now: start).get().lease
        table.startSharing(now: start) { calls.count.add(1, ordering: .relaxed) }
        var messages = ReplicaMessages()
        for round in 1...3 {
            table.firstToken(lease, now: start)
            table.settle(lease, usage: nil, now: start)
            lease = try table.pick(.distinct(round, chunkCount: 4), now: start).get().lease
            #expect(calls.count.load(ordering: .relaxed) == round)
            table.takeReplicaMessages(into: &messages, now: start + UInt64(round))
            #expect(messages.count > 0)
        }
        // What is told again calls nobody.
        table.takeReplicaMessages(into: &messages, now: start + 10 * second)
        #expect(messages.count > 0 && calls.count.load(ordering: .relaxed) == 3)
    }

    @Test func nothingIsKeptForNobody() throws {
        let table = RoutingTable(equalGroups(2))
        for name in 0..<1_000 { try table.serve(.distinct(name, chunkCount: 100), now: start) }
        var messages = ReplicaMessages()
        table.takeReplicaMessages(into: &messages, now: start)
        #expect(messages.count == 0 && table.placementsNotShared() == 0)
    }

    // MARK: Hostile messages

    @Test func halfAMessageIsNone() throws {
        let placement = [ReplicaRecord.header(ReplicaRecord.placement, count: 2, argument: 256), identity("g0"), 1, 2]
        let wrong: [[UInt64]] = [
            [0], [ReplicaRecord.header(9), 1], Array(placement.dropLast()), placement + [7],
            Array(load("g0", inFlight: 1).dropLast()), load("g0", inFlight: 1) + [0],
            [ReplicaRecord.header(ReplicaRecord.placement, count: 0, argument: 256), identity("g0")],
            [ReplicaRecord.header(ReplicaRecord.placement, count: 1, argument: 0), identity("g0"), 1],
            [ReplicaRecord.header(ReplicaRecord.placement, count: 1, argument: 1 << 20 + 1), identity("g0"), 1],
            [ReplicaRecord.header(ReplicaRecord.placement, count: 1, argument: 256) | 0x100, identity("g0"), 1],
            [ReplicaRecord.header(ReplicaRecord.placement, count: 7_001, argument: 256), identity("g0")]
                + Array(repeating: 1, count: 7_001),
            [ReplicaRecord.header(ReplicaRecord.load, count: 1), identity("g0"), 1, 0],
            [ReplicaRecord.header(ReplicaRecord.lesson, argument: 1), identity("g0"), 0],
            [ReplicaRecord.header(ReplicaRecord.lesson), identity("g0")],
            load("g0", inFlight: 5) + [0],
            // Version 1's, without the work.
            Array(load("g0", inFlight: 5, tokens: 7).prefix(4)),
            [load("g0", inFlight: 5).prefix(4), load("g0", inFlight: 6).prefix(4)].flatMap { $0 },
        ]
        let table = RoutingTable(equalGroups(1))
        for words in wrong { #expect(receive(words, table, now: start) == .malformed) }
        for bytes in [1, 7, 9, 31] {
            let text = [UInt8](repeating: 1, count: bytes)
            #expect(text.withUnsafeBytes { table.receiveReplicaMessage($0, from: 1, now: start) } == .malformed)
        }
        let state = try #require(table.state("g0", now: start))
        #expect(state.othersRunning == 0 && state.indexBlocks == 0, "nothing of a wrong message counts")
        #expect(receive([], table, now: start) == .applied(placements: 0, loads: 0))
        #expect(receive(placement, table, now: start) == .applied(placements: 1, loads: 0))
        #expect(try #require(table.state("g0", now: start)).indexBlocks == 2)
    }

    private static let impossible = [Double.nan, .infinity, -.infinity, -1, 1e300, 5e-324, 0.5, 0]

    @Test(arguments: impossible, impossible) func figuresThatNobodyCanHaveStayWithinBounds(tokens: Double, work: Double) throws {
        let table = RoutingTable(equalGroups(2))
        for counts: UInt64 in [.max, 0x8000_0000_8000_0000, 1 << 32, 0xffff_ffff] {
            let words = [ReplicaRecord.header(ReplicaRecord.load), identity("g0"), counts, tokens.bitPattern, work.bitPattern]
            for replica in 0..<256 { _ = receive(words, table, from: UInt64(replica), now: start) }
            let state = try #require(table.state("g0", now: start))
            #expect((0...(256.0 * 1_048_576)).contains(state.othersRunning + state.othersWaiting))
            let explained = table.explain(.distinct(1, chunkCount: 4), now: start)
            #expect(explained.groups.allSatisfy { $0.terms.total.isFinite && $0.terms.total >= 0 })
        }
        for replica in 0..<256 { table.forgetReplica(UInt64(replica), now: start) }
        let state = try #require(table.state("g0", now: start))
        #expect(state.othersRunning == 0 && state.othersWaiting == 0)
        #expect(table.explain(.distinct(1, chunkCount: 4), now: start).groups.allSatisfy { $0.terms.queueWait == 0 })
    }

    @Test func oneReplicaTooManyIsRefused() {
        let table = RoutingTable(equalGroups(1))
        for replica in 0..<256 { #expect(receive(load("g0", inFlight: 1), table, from: UInt64(replica), now: start) != .tooManyReplicas) }
        #expect(receive(load("g0", inFlight: 1), table, from: 256, now: start) == .tooManyReplicas)
        #expect(receive(load("g0", inFlight: 2), table, from: 255, now: start) == .applied(placements: 0, loads: 1))
        table.forgetReplica(3, now: start)
        #expect(receive(load("g0", inFlight: 1), table, from: 256, now: start) == .applied(placements: 0, loads: 1))
    }

    @Test func groupsThatAreNotKnownAreLeftOut() throws {
        let table = RoutingTable(equalGroups(1))
        #expect(receive(load("g1", inFlight: 9), table, now: start) == .applied(placements: 0, loads: 1))
        let placement = [ReplicaRecord.header(ReplicaRecord.placement, count: 1, argument: 256), identity("g1"), 5]
        #expect(receive(placement, table, now: start) == .applied(placements: 1, loads: 0))
        #expect(
            receive([ReplicaRecord.header(ReplicaRecord.turn), identity("g1"), 5], table, now: start) == .applied(placements: 0, loads: 0))
        let state = try #require(table.state("g0", now: start))
        #expect(state.othersRunning == 0 && state.indexBlocks == 0)
    }
}
