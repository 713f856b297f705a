import Testing

@testable import Routing

/// What answers teach one router, its replicas learn as well.
@Suite struct ReplicaLessonTests {
    private let start = 100 * second

    private static func tell(_ teller: RoutingTable, _ listener: RoutingTable, now: UInt64) {
        var messages = ReplicaMessages()
        teller.takeReplicaMessages(into: &messages, now: now)
        for place in 0..<messages.count {
            _ = messages.withMessage(place) { listener.receiveReplicaMessage($0, from: 7, now: now) }
        }
    }

    private static func receive(_ kind: Int, _ first: Float, _ second: Float, _ table: RoutingTable, now: UInt64) -> ReplicaMessageOutcome {
        var name = "g0"
        let group = name.withUTF8 { ModelCatalog.hash(UnsafeRawBufferPointer($0)) }
        let numbers = UInt64(first.bitPattern) | UInt64(second.bitPattern) << 32
        return [ReplicaRecord.header(ReplicaRecord.lesson, count: kind), group, numbers].map(\.littleEndian).withUnsafeBytes {
            table.receiveReplicaMessage($0, from: 7, now: now)
        }
    }

    private static func learned(_ table: RoutingTable, now: UInt64) -> [Double] {
        table.groups(now: now).flatMap { [$0.prefillTokensPerSecond, $0.overheadSeconds, $0.decodeStepSeconds, $0.tokensPerByte] }
            + table.explain(.distinct(9_999, chunkCount: 8), now: now).groups.map(\.terms.decode)
    }

    /// A fleet whose first group is three times slower than described, texts of few tokens, and answers longer than presumed.
    @Test func whatAnswersTeachIsLearnedByAll() throws {
        let (teller, listener) = (RoutingTable(equalGroups(3)), RoutingTable(equalGroups(3)))
        teller.startSharing(now: start)
        let priors = Self.learned(listener, now: start)
        #expect(Self.learned(teller, now: start) == priors)
        var now = start
        for name in 0..<90 {
            let slowness = name % 3 == 0 ? 3.0 : 1.0
            let lease = try teller.pick(.distinct(name, chunkCount: 40), pinnedTo: "g\(name % 3)", now: now).get().lease
            // Deviations are drawn towards the mean by whoever decides.
            try listener.cancel(listener.pick(.distinct(name, chunkCount: 40), pinnedTo: "g\(name % 3)", now: now).get().lease, now: now)
            now += UInt64(slowness * 0.3 * 1e9)
            teller.firstToken(lease, now: now)
            for events in [16, 64, 128, 256, 512] {
                now += UInt64(slowness * 0.03 * 1e9) * UInt64(events / 2)
                teller.streamed(lease, events: events, now: now)
            }
            teller.settle(lease, usage: Usage(promptTokens: 2_000, cachedTokens: 0, completionTokens: 700), events: 600, now: now)
            Self.tell(teller, listener, now: now)
        }
        let (taught, told) = (Self.learned(teller, now: now), Self.learned(listener, now: now))
        for place in taught.indices {
            #expect(abs(told[place] / taught[place] - 1) < 0.05, "figure \(place): \(told[place]) and \(taught[place])")
        }
        #expect(zip(told, priors).count { abs($0 / $1 - 1) > 0.1 } >= 9, "there was something to learn")
    }

    @Test func noMoreAreToldAtATimeThanAreRemembered() throws {
        let table = RoutingTable(equalGroups(1))
        table.startSharing(now: start)
        var messages = ReplicaMessages()
        for count in [4, 200, 200] {
            for name in 0..<count {
                try table.serve(
                    .distinct(name, chunkCount: 8), usage: Usage(promptTokens: 512, cachedTokens: 0, completionTokens: 20), now: start)
            }
            table.takeReplicaMessages(into: &messages, now: start)
            var lessons = 0
            for place in 0..<messages.count {
                messages.withMessage(place) { bytes in
                    var reader = ReplicaMessageReader(bytes)
                    while let record = reader?.nextRecord() {
                        lessons += ReplicaRecord.kind(record.header) == ReplicaRecord.lesson ? 1 : 0
                    }
                }
            }
            #expect(count == 4 ? (8...31).contains(lessons) : lessons == 32)
        }
    }

    @Test func whoTellsNobodyKeepsNoLessons() throws {
        let table = RoutingTable(equalGroups(1))
        for name in 0..<50 {
            try table.serve(
                .distinct(name, chunkCount: 8), usage: Usage(promptTokens: 512, cachedTokens: 0, completionTokens: 20), now: start)
        }
        var messages = ReplicaMessages()
        table.takeReplicaMessages(into: &messages, now: start)
        #expect(messages.count == 0)
    }

    /// The edges of what is believed, and one step beyond.
    @Test(arguments: [
        (0, Float(1), Float(0), true), (0, 0x1p24, 3_600, true), (0, 0.9, 1, false), (0, 0x1.000002p24, 1, false), (0, 1, -0.001, false),
        (0, 1, 3_600.5, false), (1, 20, 0, true), (1, -20, 0, true), (1, 20.1, 0, false), (2, 14, 14, true), (2, 14.1, 0, false),
        (2, -0.1, 0, false), (3, 7, 14.1, false), (3, 7, 0, true), (4, 4, 1, true), (4, 4.1, 1, false), (4, 0, 32_768, true),
        (4, 1, 32_769, false), (4, 1, 0.9, false), (5, 1, 1, true), (5, 0x1p20, 0x1p20, true), (5, 0.9, 1, false),
        (5, 1, 0x1.000002p20, false),
    ])
    func whatNoAnswerTeachesIsNotBelieved(kind: Int, first: Float, second: Float, isBelieved: Bool) {
        let numbers = UInt64(first.bitPattern) | UInt64(second.bitPattern) << 32
        #expect((Lesson(kind: kind, numbers: numbers) != nil) == isBelieved)
    }

    @Test(arguments: 0..<6) func numbersThatAreNoneTeachNothing(kind: Int) {
        let table = RoutingTable(equalGroups(2))
        let before = Self.learned(table, now: start)
        for number in [Float.nan, .infinity, -.infinity, .greatestFiniteMagnitude, -.greatestFiniteMagnitude] {
            #expect(Self.receive(kind, number, number, table, now: start) == .applied(placements: 0, loads: 0))
        }
        #expect(Self.learned(table, now: start) == before)
    }

    @Test func aLessonOfNoKindIsNoMessage() {
        let table = RoutingTable(equalGroups(1))
        #expect(Self.receive(6, 1, 1, table, now: start) == .malformed)
        #expect(Lesson(kind: 6, numbers: 0) == nil)
    }

    /// One that lies moves what is learned no further than as many answers would, and truth brings it back.
    @Test func liesAreUnlearned() throws {
        let table = RoutingTable(equalGroups(2))
        for _ in 0..<10_000 {
            for (kind, first, second) in [(0, Float(0x1p24), Float(0)), (1, -20, 0), (3, 14, 0), (4, 0, 32_768), (5, 0x1p20, 1)] {
                #expect(Self.receive(kind, first, second, table, now: start) != .malformed)
            }
        }
        let lied = table.explain(.distinct(1, chunkCount: 8), now: start)
        #expect(lied.groups.allSatisfy { $0.terms.total.isFinite && $0.terms.total >= 0 })
        for _ in 0..<2_000 {
            for (kind, first, second) in [(0, Float(1_000), Float(0.1)), (1, 0, 0), (3, 5.5, 0), (4, 256, 1_024), (5, 64, 64)] {
                #expect(Self.receive(kind, first, second, table, now: start) != .malformed)
            }
        }
        let state = try #require(table.state("g0", now: start))
        #expect((2_500...40_000).contains(state.prefillTokensPerSecond), "\(state.prefillTokensPerSecond)")
        #expect(abs(state.tokensPerByte - 0.25) < 0.01)
    }

    /// What was taught of an answer before need not have been taught: what is lost, or made up, may not add up to lengths that no answer has.
    @Test(arguments: [(Float(14), Float(0.001)), (0, 14)])
    func aLengthIsThatOfAnAnswerWhateverWasTaughtBefore(length: Float, former: Float) throws {
        let table = RoutingTable(equalGroups(2))
        for _ in 0..<20_000 { #expect(Self.receive(2, length, former, table, now: start) != .malformed) }
        let terms = table.explain(.distinct(1, chunkCount: 8), now: start).groups.map(\.terms)
        #expect(terms.allSatisfy { $0.total.isFinite && $0.total >= 0 && $0.decode > 0 })
        try table.serve(.distinct(1, chunkCount: 8), usage: Usage(promptTokens: 512, cachedTokens: 0, completionTokens: 20), now: start)
        for _ in 0..<1_000 { #expect(Self.receive(3, 5.5, 0, table, now: start) != .malformed) }
        let decode = try #require(table.explain(.distinct(2, chunkCount: 8), now: start).groups.first).terms.decode
        let fresh = try #require(RoutingTable(equalGroups(2)).explain(.distinct(2, chunkCount: 8), now: start).groups.first).terms.decode
        #expect(abs(decode / fresh - 1) < 0.1, "\(decode) and \(fresh) s")
    }

    // MARK: What is not told, and follows from what is

    /// Of an engine that tells what it holds, replicas' answers are half of what they will be.
    @Test func whatReplicasAnswersAreYetToTakeCounts() throws {
        func memory(replicaSequences: UInt64) throws -> Double {
            let table = RoutingTable(equalGroups(1))
            for group in table.groups(now: start) {
                var report = LoadReport(running: 8, waiting: 0, madeAt: start)
                report.kvUsage = 0.5
                table.reportLoad(report, of: group.id, now: start)
            }
            var name = "g0"
            let group = name.withUTF8 { ModelCatalog.hash(UnsafeRawBufferPointer($0)) }
            let words = [ReplicaRecord.header(ReplicaRecord.load), group, replicaSequences, 0, 0]
            _ = words.map(\.littleEndian).withUnsafeBytes { table.receiveReplicaMessage($0, from: 7, now: start) }
            return try #require(table.explain(.distinct(1, chunkCount: 4), now: start).groups.first).terms.memory
        }
        #expect(try memory(replicaSequences: 100) > 1.05 * memory(replicaSequences: 0))
    }

    /// Who shares a prefix with whom is known of our own requests; replicas have as many in proportion.
    @Test func replicasShareWhatOursShare() throws {
        func copyTerm(replicaSequences: UInt64) throws -> Double {
            let table = RoutingTable(equalGroups(2))
            let prompt = Prompt.distinct(1, chunkCount: 40)
            for _ in 0..<3 {
                let lease = try table.pick(prompt, pinnedTo: "g0", now: start).get().lease
                table.firstToken(lease, now: start)
            }
            var name = "g0"
            let group = name.withUTF8 { ModelCatalog.hash(UnsafeRawBufferPointer($0)) }
            let words = [ReplicaRecord.header(ReplicaRecord.load), group, replicaSequences, 0, 0]
            _ = words.map(\.littleEndian).withUnsafeBytes { table.receiveReplicaMessage($0, from: 7, now: start) }
            return try #require(table.explain(prompt, now: start).groups.first { $0.name == "g1" }).terms.copy
        }
        let (alone, amongMany) = try (copyTerm(replicaSequences: 0), copyTerm(replicaSequences: 27))
        #expect(alone < 0 && amongMany < 1.5 * alone, "\(alone) and \(amongMany) s")
    }
}
