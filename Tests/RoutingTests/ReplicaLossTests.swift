import Foundation
import Testing

@testable import Routing

/// Routers that tell one another, over ways that lose and repeat what is told; and several threads at once.
@Suite struct ReplicaLossTests {
    private let start = 100 * second

    private static func load(_ group: String, inFlight: UInt64, awaiting: UInt64 = 0, tokens: Double = 0, work: Double = 0) -> [UInt64] {
        [ReplicaRecord.header(ReplicaRecord.load), identity(group), inFlight | awaiting << 32, tokens.bitPattern, work.bitPattern]
    }

    private static func placement(_ group: String, chunkBytes: UInt32 = UInt32(Prompt.chunkBytes), _ hashes: [UInt64]) -> [UInt64] {
        [ReplicaRecord.header(ReplicaRecord.placement, count: hashes.count, argument: chunkBytes), identity(group)] + hashes
    }

    // MARK: Losses

    /// Whatever is lost: seconds after all is quiet, each knows what the others have.
    @Test(arguments: 1...4 as ClosedRange<UInt64>) func whatIsLostIsMadeGood(seed: UInt64) throws {
        var generator = SeededGenerator(seed: seed)
        let tables = (0..<3).map { RoutingTable(equalGroups(6), seed: UInt64($0)) }
        for table in tables { table.startSharing(now: start) }
        var open: [[Lease]] = [[], [], []]
        var messages = ReplicaMessages()
        var now = start
        func tell(losing share: Double) {
            for sender in 0..<3 {
                tables[sender].takeReplicaMessages(into: &messages, now: now)
                for place in 0..<messages.count {
                    for listener in 0..<3 where listener != sender {
                        for _ in 0..<Int.random(in: 1...2, using: &generator) where Double.random(in: 0..<1, using: &generator) >= share {
                            _ = messages.withMessage(place) {
                                tables[listener].receiveReplicaMessage($0, from: UInt64(sender), now: now)
                            }
                        }
                    }
                }
            }
        }
        func areExact() -> Bool {
            let states = tables.map { $0.groups(now: now) }
            return (0..<3).allSatisfy { listener in
                (0..<6).allSatisfy { group in
                    let others = (0..<3).filter { $0 != listener }.map { states[$0][group] }
                    return states[listener][group].othersWaiting == Double(others.reduce(0) { $0 + $1.awaitingFirstToken })
                        && states[listener][group].othersRunning
                            == Double(others.reduce(0) { $0 + $1.inFlight - $1.awaitingFirstToken })
                }
            }
        }
        for round in 0..<40 {
            for _ in 0..<50 {
                now += 20 * millisecond
                for router in 0..<3 {
                    if Int.random(in: 0..<3, using: &generator) == 0 {
                        let prompt = Prompt.distinct(Int.random(in: 0..<100, using: &generator), chunkCount: 8)
                        open[router].append(try tables[router].pick(prompt, now: now).get().lease)
                    }
                    if let place = open[router].indices.randomElement(using: &generator), Bool.random(using: &generator) {
                        switch Int.random(in: 0..<3, using: &generator) {
                        case 0: tables[router].firstToken(open[router][place], now: now)
                        case 1: tables[router].settle(open[router].remove(at: place), usage: nil, now: now)
                        default: tables[router].cancel(open[router].remove(at: place), now: now)
                        }
                    }
                }
                tell(losing: 0.3)
            }
            if round % 4 == 3 {
                for router in 0..<3 {
                    for lease in open[router] where Bool.random(using: &generator) { tables[router].settle(lease, usage: nil, now: now) }
                }
            }
            if round % 10 == 9 {
                // All groups begin anew, as each router learns in its own time.
                for router in [0, 1, 2].shuffled(using: &generator) {
                    var groups = equalGroups(6)
                    for group in groups.indices { groups[group].incarnation = "\(round)" }
                    tables[router].replaceGroups(groups, now: now)
                    now += 20 * millisecond
                    tell(losing: 0.3)
                }
            }
        }
        var seconds = 0.0
        while !areExact(), seconds < 30 {
            now += 100 * millisecond
            seconds += 0.1
            tell(losing: 0.3)
        }
        #expect(seconds < 8)
        for router in 0..<3 { for lease in open[router] { tables[router].settle(lease, usage: nil, now: now) } }
        seconds = 0
        while !areExact(), seconds < 30 {
            now += 100 * millisecond
            seconds += 0.1
            tell(losing: 0.3)
        }
        #expect(seconds < 8)
        for table in tables { for group in table.groups(now: now) { #expect(group.othersWaiting + group.othersRunning == 0) } }
    }

    /// An end that is lost is told again, long before it would be taken for over.
    @Test func anEndIsToldThrice() throws {
        let teller = RoutingTable(equalGroups(4))
        let listener = RoutingTable(equalGroups(4))
        teller.startSharing(now: start)
        var messages = ReplicaMessages()
        let lease = try teller.pick(.distinct(1, chunkCount: 4), pinnedTo: "g2", now: start).get().lease
        func tell(now: UInt64) {
            teller.takeReplicaMessages(into: &messages, now: now)
            for place in 0..<messages.count { _ = messages.withMessage(place) { listener.receiveReplicaMessage($0, from: 1, now: now) } }
        }
        tell(now: start)
        teller.cancel(lease, now: start, prefixHeld: true)
        teller.takeReplicaMessages(into: &messages, now: start)
        #expect(messages.count == 1)
        for step in 1...11 { tell(now: start + UInt64(step) * 100 * millisecond) }
        #expect(try #require(listener.state("g2", now: start + second)).othersWaiting == 0)
        var told = 1
        for step in 12...60 {
            teller.takeReplicaMessages(into: &messages, now: start + UInt64(step) * 100 * millisecond)
            told += messages.count
        }
        #expect(told == 2, "and then no more")
    }

    /// The listener has seen the restart first, and is told what was before.
    @Test func whatWasBeforeARestartIsSoonOver() throws {
        let teller = RoutingTable(equalGroups(2))
        let listener = RoutingTable(equalGroups(2))
        teller.startSharing(now: start)
        var messages = ReplicaMessages()
        func tell(now: UInt64) {
            teller.takeReplicaMessages(into: &messages, now: now)
            for place in 0..<messages.count { _ = messages.withMessage(place) { listener.receiveReplicaMessage($0, from: 1, now: now) } }
        }
        var groups = equalGroups(2)
        groups[0].incarnation = "2"
        listener.replaceGroups(groups, now: start)
        _ = try teller.pick(.distinct(1, chunkCount: 4), pinnedTo: "g0", now: start).get()
        tell(now: start)
        #expect(try #require(listener.state("g0", now: start)).othersWaiting == 1)
        teller.replaceGroups(groups, now: start)
        for step in 1...11 { tell(now: start + UInt64(step) * 100 * millisecond) }
        #expect(try #require(listener.state("g0", now: start + second)).othersWaiting == 0)
    }

    /// However many replicas there were, and however seldom anything is told here.
    @Test(arguments: [1, 16, 256]) func whatManyDoNotTellAgainIsOver(replicas: UInt64) throws {
        let table = RoutingTable(equalGroups(2))
        for replica in 0..<replicas { receive(Self.load("g0", inFlight: 1), table, from: replica, now: start) }
        var messages = ReplicaMessages()
        for step in 1...5 { table.takeReplicaMessages(into: &messages, now: start + UInt64(step) * second) }
        #expect(try #require(table.state("g0", now: start + 5 * second)).othersRunning == 0)
    }

    // MARK: Accounts

    @Test func whoWasForgottenMeanwhileHasNothing() {
        var state = RoutingState(
            policy: .leastCost, seed: 1, limits: .init(indexBlocks: 1 << 10), placement: .init(), cost: .init())
        state.replaceGroups(equalGroups(1), now: start)
        let isAdmitted = state.admitReplica(3)
        #expect(isAdmitted)
        state.forgetReplica(3, now: start)
        Self.load("g0", inFlight: 4).map(\.littleEndian).withUnsafeBytes { bytes in
            guard var message = ReplicaMessageReader(bytes), let record = message.nextRecord() else { return }
            state.apply(record, of: message, from: 3, now: start)
        }
        let (loads, sequences) = (state.sharing.loads[0], state.sharing.openSequences)
        #expect(loads == .none && sequences == 0, "nobody would take it off again")
    }

    /// What is counted is the sum of what is kept, whatever comes.
    @Test(arguments: [6, 80]) func sumsAreThoseOfTheEntries(groups: Int) throws {
        var generator = SeededGenerator(seed: 11)
        var state = RoutingState(
            policy: .leastCost, seed: 1, limits: .init(groups: 128, indexBlocks: 1 << 12), placement: .init(), cost: .init())
        var names = (0..<groups).map { $0 }
        var incarnations = [Int](repeating: 0, count: 2 * groups)
        func descriptions() -> [GroupDescription] {
            names.map { name in
                var group = GroupDescription(name: "g\(name)", leader: Endpoint(host: "10.0.0.1", port: 8_000))
                group.incarnation = "\(incarnations[name])"
                return group
            }
        }
        state.replaceGroups(descriptions(), now: start)
        var now = start
        for step in 0..<4_000 {
            now = now &+ UInt64.random(in: 0..<(60 * millisecond), using: &generator) &- 10 * millisecond
            let name = Int.random(in: 0..<(2 * groups), using: &generator)
            let replica = UInt64.random(in: 0..<8, using: &generator)
            switch Int.random(in: 0..<40, using: &generator) {
            case 0: state.forgetReplica(replica, now: now)
            case 1:
                if let place = names.firstIndex(of: name), names.count > 2 { names.remove(at: place) } else { names.append(name) }
                state.replaceGroups(descriptions(), now: now)
            case 2:
                incarnations[name] += 1
                state.replaceGroups(descriptions(), now: now)
            case 3: while state.forgetOutdatedReplicaLoads(now: now) {}
            case 4:
                if let slot = state.slotOfName["g\(name)"] {
                    state.reportLoad(LoadReport(running: 3, waiting: 1, madeAt: now), of: slot, now: now)
                }
            default:
                let words = Self.load(
                    "g\(name)", inFlight: .random(in: 0...3, using: &generator), awaiting: .random(in: 0...3, using: &generator),
                    tokens: Double(Int.random(in: 0...1_000, using: &generator)), work: .random(in: 0...3_000, using: &generator))
                guard state.admitReplica(replica) else { continue }
                words.map(\.littleEndian).withUnsafeBytes { bytes in
                    guard var message = ReplicaMessageReader(bytes), let record = message.nextRecord() else { return }
                    state.apply(record, of: message, from: replica, now: now)
                }
            }
            var all = 0
            for slot in 0..<UInt32(state.records.count) {
                let entries = state.sharing.accounts.entries.values.compactMap { $0[slot] }
                var sum = ReplicaLoad.none
                let (isUsed, generation) = (state.loads[slot].isUsed, state.loads[slot].generation)
                for entry in entries where isUsed && entry.generation == generation { sum.add(entry.load) }
                let counted = state.sharing.loads[slot]
                #expect(counted == sum, "step \(step), slot \(slot)")
                all += Int(sum.inFlight)
            }
            let counted = state.sharing.openSequences
            #expect(counted == all, "step \(step)")
        }
    }

    // MARK: What engines report

    /// Of an engine that tells only how many it has, what they hold of the cache is presumed, whoever brought them.
    @Test(arguments: [true, false]) func whatReplicasHoldOfTheCacheCounts(isReported: Bool) throws {
        let table = RoutingTable(equalGroups(2))
        receive(Self.load("g0", inFlight: 8), table, now: start)
        for group in isReported ? table.groups(now: start) : [] {
            table.reportLoad(LoadReport(running: group.name == "g0" ? 8 : 0, waiting: 0, madeAt: start), of: group.id, now: start)
        }
        let state = try #require(table.state("g0", now: start))
        #expect(state.othersRunning == 8)
        let terms = table.explain(.distinct(1, chunkCount: 4), now: start).groups.reduce(into: [:]) { $0[$1.name] = $1.terms.memory }
        #expect(try #require(terms["g0"]) > 1.01 * #require(terms["g1"]))
    }

    // MARK: Chunks

    @Test func chunksOfAnotherSizeAreNotKept() throws {
        let table = RoutingTable(equalGroups(1))
        table.startSharing(now: start)
        for name in 0..<20 { try table.serve(.distinct(name, chunkCount: 20), now: start) }
        let before = try #require(table.state("g0", now: start))
        for bytes: UInt32 in [1, 1 << 20] { receive(Self.placement("g0", chunkBytes: bytes, [1, 2, 3]), table, now: start) }
        let after = try #require(table.state("g0", now: start))
        #expect(after.indexBlocks == before.indexBlocks, "a million bytes a chunk would leave the group room for one")
        receive(Self.placement("g0", [1, 2, 3]), table, now: start)
        #expect(try #require(table.state("g0", now: start)).indexBlocks == before.indexBlocks + 3)
    }

    @Test func whatFitsIntoNoRecordHidesNoOther() throws {
        let table = RoutingTable(equalGroups(1))
        table.startSharing(now: start)
        ([1, 2, 3] as [UInt64]).withUnsafeBufferPointer { hashes in
            for bytes in [1 << 21, 256] {
                _ = table.pick(RoutingRequest(prefixHashes: hashes, chunkBytes: bytes, promptBytes: 1_000), now: start)
            }
        }
        let listener = RoutingTable(equalGroups(1))
        var messages = ReplicaMessages()
        table.takeReplicaMessages(into: &messages, now: start)
        for place in 0..<messages.count { _ = messages.withMessage(place) { listener.receiveReplicaMessage($0, from: 1, now: start) } }
        #expect(try #require(listener.state("g0", now: start)).indexBlocks == 3)
    }

    // MARK: Noise

    /// The least and the greatest that lessons may say.
    private func extremes(using generator: inout SeededGenerator) -> UInt64 {
        let numbers: [Float] = [0, .leastNonzeroMagnitude, 0.001, 1, 4, 14, -20, 20, 3_600, 32_768, 0x1p20, 0x1p24]
        return UInt64(numbers.randomElement(using: &generator)!.bitPattern) | UInt64(numbers.randomElement(using: &generator)!.bitPattern)
            << 32
    }

    /// Bytes that are no message, and messages that no router would write, change nothing that is not theirs to change.
    @Test func anythingMayCome() throws {
        var generator = SeededGenerator(seed: 3)
        let table = RoutingTable(equalGroups(4), limits: .init(indexBlocks: 1 << 12))
        table.startSharing(now: start)
        var now = start
        for _ in 0..<20_000 {
            now = now &+ UInt64.random(in: 0..<(3 * millisecond), using: &generator) &- millisecond
            var words: [UInt64] = []
            for _ in 0..<Int.random(in: 1...4, using: &generator) {
                let name = "g\(Int.random(in: 0..<5, using: &generator))"
                switch Int.random(in: 0..<6, using: &generator) {
                case 5:
                    let hashes = (0..<Int.random(in: 1...9, using: &generator)).map { _ in UInt64.random(in: 0..<200, using: &generator) }
                    if Bool.random(using: &generator) { words += Self.placement(name, hashes) }
                    words += [ReplicaRecord.header(ReplicaRecord.takenBack), identity(name), hashes.last ?? 0]
                case 0:
                    let (tokens, work) = (Double(bitPattern: generator.next()), Double(bitPattern: generator.next()))
                    words += Self.load(name, inFlight: generator.next(), awaiting: generator.next(), tokens: tokens, work: work)
                case 1:
                    let hashes = (0..<Int.random(in: 1...64, using: &generator)).map { _ in UInt64.random(in: 0..<200, using: &generator) }
                    words += Self.placement(name, hashes)
                case 2:
                    let (count, tokens) = (Int.random(in: 0...0xffff, using: &generator), UInt32.random(in: 0 ... .max, using: &generator))
                    words += [
                        ReplicaRecord.header(ReplicaRecord.turn, count: count, argument: tokens), identity(name), generator.next(),
                    ]
                case 3:
                    let kind = Int.random(in: 0..<7, using: &generator)
                    let numbers = Bool.random(using: &generator) ? generator.next() : extremes(using: &generator)
                    words += [ReplicaRecord.header(ReplicaRecord.lesson, count: kind), identity(name), numbers]
                default: words.append(generator.next())
                }
            }
            if Int.random(in: 0..<4, using: &generator) == 0 {
                words[Int.random(in: words.indices, using: &generator)] ^= 1 << UInt64.random(in: 0..<64, using: &generator)
            }
            receive(words, table, from: UInt64.random(in: 0..<300, using: &generator), now: now)
            if Int.random(in: 0..<8, using: &generator) == 0 {
                let usage = Usage(promptTokens: 700, cachedTokens: 0, completionTokens: Int.random(in: 0...2_000, using: &generator))
                try table.serve(.distinct(Int.random(in: 0..<30, using: &generator), chunkCount: 12), usage: usage, now: now)
            }
        }
        for replica in 0..<300 { table.forgetReplica(UInt64(replica), now: now) }
        for group in table.groups(now: now) { #expect(group.othersRunning == 0 && group.othersWaiting == 0 && group.inFlight == 0) }
        #expect(table.explain(.distinct(1, chunkCount: 8), now: now).groups.allSatisfy { $0.terms.total.isFinite && $0.terms.total >= 0 })
    }

    /// Decisions, messages, restarts and farewells on several threads: in the end nobody has anything.
    @Test(arguments: [4, 100]) func severalThreadsLeaveNothingBehind(groups: Int) throws {
        let table = RoutingTable(equalGroups(groups), limits: .init(groups: 128, indexBlocks: 1 << 13))
        nonisolated(unsafe) let counter = UnsafeMutablePointer<Int>.allocate(capacity: 1)
        counter.initialize(to: 0)
        defer { counter.deallocate() }
        // Within the critical section, so no two at once.
        table.startSharing(now: start) { counter.pointee += 1 }
        let start = self.start
        DispatchQueue.concurrentPerform(iterations: 4) { thread in
            var generator = SeededGenerator(seed: UInt64(thread))
            var messages = ReplicaMessages()
            var now = start
            for step in 0..<2_000 {
                now += UInt64.random(in: 0..<(5 * millisecond), using: &generator)
                let name = Int.random(in: 0..<groups, using: &generator)
                switch thread {
                case 0, 1:
                    guard let lease = try? table.pick(.distinct(name, chunkCount: 20), now: now).get().lease else { continue }
                    table.firstToken(lease, now: now)
                    table.settle(lease, usage: nil, now: now)
                case 2:
                    let hashes = (0..<30).map { mix64(UInt64(name) << 8 | UInt64($0)) }
                    let words =
                        Self.load("g\(name)", inFlight: UInt64(step % 5), awaiting: UInt64(step % 3), tokens: 100)
                        + Self.placement("g\(name)", hashes)
                    receive(words, table, from: UInt64(step % 7), now: now)
                    if step % 10 == 0 { table.takeReplicaMessages(into: &messages, now: now) }
                default:
                    table.forgetReplica(UInt64(step % 7), now: now)
                    if step % 50 == 0 {
                        var changed = equalGroups(groups)
                        changed[name].incarnation = "\(step)"
                        table.updateGroups([changed[name]], now: now)
                    }
                }
            }
        }
        for replica in 0..<7 { table.forgetReplica(UInt64(replica), now: start + 20 * second) }
        for group in table.groups(now: start + 20 * second) {
            #expect(group.othersRunning == 0 && group.othersWaiting == 0 && group.inFlight == 0)
        }
        #expect(counter.pointee > 0)
    }
}
