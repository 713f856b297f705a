import Testing

@testable import Routing

/// Others' load, on a virtual clock.
@Suite struct LoadReportTests {
    /// Everything begins late enough for reports to be made before.
    private let start = 100 * second

    private func report(_ table: RoutingTable, _ group: String, _ report: LoadReport, now: UInt64) throws {
        table.reportLoad(report, of: try #require(table.state(group)?.id), now: now)
    }

    @Test func whatIsReportedBeyondOurOwnIsOthers() throws {
        let table = RoutingTable(equalGroups(1))
        try report(table, "g0", LoadReport(running: 0, waiting: 0, madeAt: start), now: start)
        for name in 0..<3 { _ = try table.pick(.distinct(name, chunkCount: 10), now: start).get() }
        let now = start + second / 10
        try report(table, "g0", LoadReport(running: 7, waiting: 5, kvUsage: 0.5, madeAt: now), now: now)
        let state = try #require(table.state("g0", now: now))
        #expect(state.othersWaiting == 2, "three of the five are ours")
        #expect(state.othersRunning == 7)
        #expect(state.othersActiveKVTokens == 250_000 - state.activeKVTokens)
        #expect(state.reported?.running == 7 && state.reported?.waiting == 5 && state.reported?.kvUsage == 0.5)
    }

    /// One prompt of 100,000 tokens keeps an engine for five seconds, and its queue is empty: what is known of it lives as long.
    @Test func aLongPrefillOutlivesItsReport() throws {
        let table = RoutingTable(equalGroups(2))
        for name in ["g0", "g1"] {
            let tokens = name == "g0" ? 100_000.0 : 0
            let engine = LoadReport(
                running: tokens > 0 ? 1 : 0, waiting: 0, awaitingFirstToken: tokens > 0 ? 1 : 0, prefillTokens: tokens, madeAt: start)
            try report(table, name, engine, now: start)
        }
        func queueWait(_ group: String, seconds: Double) throws -> Double {
            let explanation = table.explain(.distinct(1, chunkCount: 4), now: start + UInt64(seconds * 1e9))
            return try #require(explanation.groups.first { $0.name == group }).terms.queueWait
        }
        let first = try queueWait("g0", seconds: 0)
        #expect(first > 4)
        #expect(try queueWait("g0", seconds: 2) > first / 2)
        #expect(try queueWait("g1", seconds: 2) < first / 2)
    }

    /// Reports in answers know of the queue alone; they may raise what others have queued, not hide what a reading told of a prefill.
    @Test func aReportOfTheQueueAloneHidesNoPrefill() throws {
        let table = RoutingTable(equalGroups(1))
        try report(
            table, "g0", LoadReport(running: 4, waiting: 0, awaitingFirstToken: 4, prefillTokens: 80_000, madeAt: start), now: start)
        #expect(try #require(table.state("g0", now: start)).othersWaiting == 4)
        let soon = start + second / 10
        try report(table, "g0", LoadReport(waiting: 0, madeAt: soon), now: soon)
        #expect(try #require(table.state("g0", now: soon)).othersWaiting > 3)
        try report(table, "g0", LoadReport(waiting: 500, madeAt: soon), now: soon)
        #expect(try #require(table.state("g0", now: soon)).othersWaiting == 500)
        let reported = try #require(table.state("g0", now: soon)?.reported)
        #expect(reported.awaitingFirstToken == 4 && reported.prefillTokens == 80_000)
        // An engine that has not said it for long does not say it.
        let late = start + 60 * second
        try report(table, "g0", LoadReport(running: 2, waiting: 2, madeAt: late), now: late)
        #expect(try #require(table.state("g0", now: late)).othersWaiting == 2)
        #expect(try #require(table.state("g0", now: late)?.reported).awaitingFirstToken == nil)
    }

    // MARK: Tokens of a queue

    /// What waits on g0 by such a report, in prefill tokens, where we have so many prompts of 640 tokens.
    private func othersTokens(own: Int, _ report: LoadReport) throws -> Double {
        let table = RoutingTable(equalGroups(1))
        func queueWait() throws -> Double {
            try #require(table.explain(.distinct(999, chunkCount: 4), now: start).groups.first).terms.queueWait
        }
        let rate = try #require(table.state("g0")?.prefillTokensPerSecond)
        try self.report(table, "g0", LoadReport(running: 0, waiting: 0, madeAt: start), now: start)
        for name in 0..<own { _ = try table.pick(.distinct(name, chunkCount: 10), now: start).get() }
        let before = try queueWait()
        try self.report(table, "g0", report, now: start)
        return (try queueWait() - before) * rate
    }

    @Test func tokensThatAnEngineTellsAreNoGuess() throws {
        func told(_ tokens: Double?, waiting: Double, own: Int) throws -> Double {
            try othersTokens(own: own, LoadReport(running: 8, waiting: waiting, queuedTokens: tokens, madeAt: start))
        }
        #expect(try abs(told(100_000, waiting: 1, own: 0) - 100_000) < 1)
        #expect(try told(nil, waiting: 1, own: 0) < 2_000, "a mean prompt")
        #expect(try abs(told(50, waiting: 20, own: 0) - 50) < 1, "what was found in the cache is not computed")
        #expect(try abs(told(60_000, waiting: 0, own: 0) - 60_000) < 1, "one that is prefilled in chunks does not wait")
        #expect(try abs(told(4 * 640 + 400, waiting: 5, own: 4) - 400) < 1, "what is ours is not others'")
        #expect(try told(4 * 640, waiting: 4, own: 4) == 0)
        #expect(try told(300, waiting: 5, own: 4) == 0)
    }

    /// An engine that counts of our prompts what is cached, too, brings nobody else's load upon the group that has them in its cache.
    @Test func cachedTokensOfOursAreNotOthers() throws {
        func told(_ tokens: Double, waiting: Double) throws -> Double {
            try othersTokens(own: 4, LoadReport(running: 8, waiting: waiting, queuedTokens: tokens, madeAt: start))
        }
        #expect(try told(40_000, waiting: 4) == 0)
        #expect(try told(40_000, waiting: 0) == 0)
        #expect(try abs(told(50_000, waiting: 5) - 10_000) < 1, "one of five")
    }

    /// Reports in answers do not know of tokens: those that a reading told stay on the page, with their age.
    @Test func whatWasToldOfAQueueIsShownForAMinute() throws {
        let table = RoutingTable(equalGroups(1))
        func reported(after seconds: UInt64) throws -> ReportedLoad {
            try #require(table.state("g0", now: start + seconds * second)?.reported)
        }
        func answer(after seconds: UInt64) throws {
            let now = start + seconds * second
            try report(table, "g0", LoadReport(waiting: 2, madeAt: now), now: now)
        }
        try answer(after: 0)
        #expect(try reported(after: 0).queuedTokens == nil && reported(after: 0).queuedTokensAgeSeconds == nil)
        try report(table, "g0", LoadReport(running: 1, waiting: 3, queuedTokens: 700, madeAt: start), now: start)
        for seconds in [0, 1, 20, 59] as [UInt64] {
            try answer(after: seconds)
            let reported = try reported(after: seconds)
            #expect(reported.queuedTokens == 700 && reported.ageSeconds == 0)
            #expect(try abs(#require(reported.queuedTokensAgeSeconds) - Double(seconds)) < 1e-6)
        }
        try answer(after: 61)
        #expect(try reported(after: 61).queuedTokens == nil && reported(after: 61).queuedTokensAgeSeconds == nil)
    }

    @Test(arguments: [Double.nan, .infinity, -.infinity, -1, 1e300]) func tokensThatNobodyCanHaveStayWithinBounds(tokens: Double) throws {
        let others = try othersTokens(own: 1, LoadReport(running: 1, waiting: 3, queuedTokens: tokens, madeAt: start))
        #expect(others >= 0 && others <= 1.001 * LoadReport.mostTokens)
    }

    /// A report that was made in the moment of the bookings holds all of their prompts, the last one's too.
    @Test func whatWasBookedAtThatMomentIsOurs() throws {
        let table = RoutingTable(equalGroups(1))
        try report(table, "g0", LoadReport(running: 0, waiting: 0, madeAt: start), now: start)
        for name in 0..<3 { _ = try table.pick(.distinct(name, chunkCount: 10), now: start).get() }
        try report(table, "g0", LoadReport(running: 7, waiting: 5, kvUsage: 0.5, madeAt: start), now: start)
        let state = try #require(table.state("g0", now: start))
        #expect(state.othersActiveKVTokens == 250_000 - state.activeKVTokens)
    }

    @Test func itIsNeverNegative() throws {
        let table = RoutingTable(equalGroups(1))
        try report(table, "g0", LoadReport(running: 0, waiting: 0, madeAt: start), now: start)
        for _ in 0..<9 { _ = try table.pick(.distinct(0, chunkCount: 10), now: start).get() }
        let now = start + second / 10
        try report(table, "g0", LoadReport(running: 2, waiting: 1, kvUsage: 0, madeAt: now), now: now)
        let state = try #require(table.state("g0", now: now))
        #expect(state.othersWaiting == 0 && state.othersRunning == 0 && state.othersActiveKVTokens == 0)
    }

    @Test(arguments: [UInt64(0), 10, 50, 100, 500]) func whatWasOursWhenTheReportWasMadeIsTakenOff(ageMilliseconds: UInt64) throws {
        let table = RoutingTable(equalGroups(1))
        try report(table, "g0", LoadReport(running: 0, waiting: 0, madeAt: start), now: start)
        // One more of ours every tick of the history, then all of them end at once.
        let step = OwnLoadHistory.tickNanoseconds
        var leases: [Lease] = []
        for index in 0..<60 { leases.append(try table.pick(nil, now: start + UInt64(index) * step).get().lease) }
        let end = start + 60 * step
        for lease in leases { table.settle(lease, usage: nil, now: end) }
        // The engine knows of all 60 and of four others.
        let made = end - 2 * step
        let now = made + ageMilliseconds * millisecond
        try report(table, "g0", LoadReport(running: 63, waiting: 0, madeAt: made), now: max(now, made))
        let state = try #require(table.state("g0", now: max(now, made)))
        #expect(abs(state.othersRunning - 4) < 1.1, "\(state.othersRunning)")
    }

    @Test func aWindowTakesOffTheMostThatWasOursWithinIt() throws {
        let table = RoutingTable(equalGroups(1))
        try report(table, "g0", LoadReport(running: 0, waiting: 0, madeAt: start), now: start)
        let leases = try (0..<10).map { _ in try table.pick(nil, now: start).get().lease }
        for lease in leases { table.settle(lease, usage: nil, now: start + 300 * millisecond) }
        let made = start + 400 * millisecond
        try report(table, "g0", LoadReport(running: 10, waiting: 0, madeAt: made), now: made)
        #expect(table.state("g0", now: made)?.othersRunning == 10)
        try report(table, "g0", LoadReport(running: 10, waiting: 0, notBefore: start + 200 * millisecond, madeAt: made), now: made)
        #expect(table.state("g0", now: made)?.othersRunning == 0, "a gauge that trails by 200 ms still counts those that were ours")
    }

    @Test func whatChangedOnlyAfterAnOldReportIsNotTakenOff() throws {
        let table = RoutingTable(equalGroups(1))
        try report(table, "g0", LoadReport(running: 0, waiting: 0, madeAt: start), now: start)
        let made = start + 300 * millisecond
        for _ in 0..<10 { _ = try table.pick(nil, now: made + 100 * millisecond).get() }
        let now = made + 200 * millisecond
        try report(table, "g0", LoadReport(running: 6, waiting: 0, madeAt: made), now: now)
        #expect(try #require(table.state("g0", now: now)).othersRunning > 5)
    }

    /// With a veto at nine tenths smg's follow-up turns found their worker in 15 of 100 cases, where they had in 87: what fills a cache there is their own.
    @Test func aCacheThatOnlyOursFillIsNotOthers() throws {
        let table = RoutingTable(equalGroups(1))
        _ = try table.pick(.distinct(0, chunkCount: 10), now: start - second).get()
        try report(table, "g0", LoadReport(running: 1, waiting: 0, kvUsage: 0.9, madeAt: start), now: start)
        #expect(table.state("g0", now: start)?.othersActiveKVTokens == 0)
        let later = start + second
        try report(table, "g0", LoadReport(running: 5, waiting: 0, kvUsage: 0.9, madeAt: later), now: later)
        #expect(try #require(table.state("g0", now: later)).othersActiveKVTokens > 400_000)
    }

    @Test func trafficGoesWhereOthersAreNot() throws {
        let table = RoutingTable(equalGroups(2))
        try report(table, "g0", LoadReport(running: 40, waiting: 12, kvUsage: 0.7, madeAt: start), now: start)
        try report(table, "g1", LoadReport(running: 1, waiting: 0, kvUsage: 0.1, madeAt: start), now: start)
        for index in 0..<8 {
            let decision = try table.pick(.distinct(index, chunkCount: 8), now: start + UInt64(index) * millisecond).get()
            #expect(table.name(of: decision.group) == "g1")
        }
    }

    /// A queue that a frozen engine tells of must not stand for ever between us and an idle group, nor its emptiness draw everybody.
    @Test(arguments: [0.0, 40.0]) func reportsThatStoppedTenSecondsAgoDecideNothing(frozenWaiting: Double) throws {
        let table = RoutingTable(equalGroups(2))
        try report(table, "g0", LoadReport(running: frozenWaiting, waiting: frozenWaiting, madeAt: start), now: start)
        try report(table, "g1", LoadReport(running: 20, waiting: 20, madeAt: start), now: start)
        let now = start + 10 * second
        var counts: [String: Int] = [:]
        for index in 0..<64 {
            let decision = try table.pick(.distinct(index, chunkCount: 8), now: now).get()
            counts[table.name(of: decision.group) ?? "", default: 0] += 1
        }
        #expect(counts["g0", default: 0] >= 16 && counts["g1", default: 0] >= 16, "\(counts)")
    }

    @Test func aGroupThatDoesNotReportIsTakenToBeLikeTheOthers() throws {
        let table = RoutingTable(equalGroups(3))
        for group in ["g0", "g1"] { try report(table, group, LoadReport(running: 10, waiting: 10, madeAt: start), now: start) }
        let silent = try #require(table.state("g2", now: start))
        #expect(abs(silent.othersRunning - 10) < 1 && abs(silent.othersWaiting - 10) < 1)
        #expect(silent.reported == nil)
    }

    @Test func oldReportsFadeToTheMeanAndThenToNothing() throws {
        let table = RoutingTable(equalGroups(2))
        try report(table, "g0", LoadReport(running: 20, waiting: 0, madeAt: start), now: start)
        try report(table, "g1", LoadReport(running: 0, waiting: 0, madeAt: start), now: start)
        var last = 20.0
        for seconds in 1...20 as ClosedRange<UInt64> {
            let running = try #require(table.state("g0", now: start + seconds * second)).othersRunning
            #expect(running <= last && running >= 0)
            last = running
        }
        let late = table.groups(now: start + 30 * second)
        #expect(abs(late[0].othersRunning - late[1].othersRunning) < 0.01, "what nobody knows any more is alike")
        #expect(table.groups(now: start + 61 * second).allSatisfy { $0.othersRunning == 0 && $0.othersWaiting == 0 })
    }

    @Test func aReportThatCameLateDoesNotReplaceANewerOne() throws {
        let table = RoutingTable(equalGroups(1))
        try report(table, "g0", LoadReport(running: 4, waiting: 0, madeAt: start + second), now: start + second)
        try report(table, "g0", LoadReport(running: 30, waiting: 9, madeAt: start), now: start + second)
        #expect(table.state("g0", now: start + second)?.othersRunning == 4)
        #expect(table.state("g0", now: start + second)?.othersWaiting == 0)
    }

    @Test func nonsenseIsNotSaidAndLiesAreBounded() throws {
        let nonsense = LoadReport(running: .nan, waiting: -3, inFlight: -.infinity, kvUsage: 1.5, notBefore: 7, madeAt: 5)
        #expect(nonsense.running == nil && nonsense.waiting == nil && nonsense.inFlight == nil && nonsense.kvUsage == nil)
        #expect(nonsense.notBefore == 5)
        #expect(LoadReport(running: .infinity, madeAt: 0).running == LoadReport.most)

        let table = RoutingTable(equalGroups(9))
        for index in 0..<8 { try report(table, "g\(index)", LoadReport(running: 5, waiting: 1, madeAt: start), now: start) }
        for step in 0..<100 as Range<UInt64> {
            try report(table, "g0", LoadReport(running: 1e300, waiting: 1e300, madeAt: start + step), now: start + step)
            for index in 1..<8 {
                try report(table, "g\(index)", LoadReport(running: 5, waiting: 1, madeAt: start + step), now: start + step)
            }
        }
        let states = table.groups(now: start + 100)
        #expect(states[8].othersRunning < 20, "the liar hardly moves what is thought of a group that is silent: \(states[8].othersRunning)")
        let decision = try table.pick(.distinct(0, chunkCount: 8), now: start + 100).get()
        #expect(table.name(of: decision.group) != "g0", "and gets no traffic")
        // Alone it is still chosen.
        var tried = TriedGroups()
        for state in states.dropFirst() { tried.insert(state.id) }
        #expect(try table.name(of: table.pick(nil, excluding: tried, now: start + 100).get().group) == "g0")
    }

    @Test func anEngineThatSaysItIsEmptyStillHasWhatWeSentIt() throws {
        let table = RoutingTable(equalGroups(2))
        var counts: [String: Int] = [:]
        for index in 0..<100 as Range<UInt64> {
            let now = start + index * millisecond
            try report(table, "g0", LoadReport(running: 0, waiting: 0, kvUsage: 0, madeAt: now), now: now)
            try report(table, "g1", LoadReport(running: 3, waiting: 0, kvUsage: 0.01, madeAt: now), now: now)
            let decision = try table.pick(.distinct(Int(index), chunkCount: 8), now: now).get()
            counts[table.name(of: decision.group) ?? "", default: 0] += 1
        }
        #expect(counts["g1", default: 0] > 35, "\(counts)")
    }

    @Test func oneNumberForAllRequestsIsEnough() throws {
        let table = RoutingTable(equalGroups(1))
        try report(table, "g0", LoadReport(inFlight: 0, madeAt: start), now: start)
        _ = try table.pick(nil, now: start).get()
        let now = start + 50 * millisecond
        try report(table, "g0", LoadReport(inFlight: 9, madeAt: now), now: now)
        #expect(table.state("g0", now: now)?.othersRunning == 8)
        #expect(try #require(table.state("g0", now: now)?.othersActiveKVTokens) > 0)
    }

    @Test func queueAloneLeavesTheBatchAsItWas() throws {
        let table = RoutingTable(equalGroups(1))
        try report(table, "g0", LoadReport(running: 9, waiting: 1, madeAt: start), now: start)
        try report(table, "g0", LoadReport(waiting: 6, kvUsage: 0.25, madeAt: start + 1), now: start + 1)
        let state = try #require(table.state("g0", now: start + 1))
        #expect(state.othersRunning > 8.9 && state.othersWaiting == 6 && state.othersActiveKVTokens == 125_000)
    }

    @Test func othersAheadOfOursDoNotTeachThatTheEngineIsSlow() throws {
        func expectedWhenIdle(reporting: Bool) throws -> Double {
            let table = RoutingTable(equalGroups(1))
            for index in 0..<40 {
                let now = start + UInt64(index) * second
                if reporting { try report(table, "g0", LoadReport(running: 12, waiting: 12, madeAt: now), now: now) }
                // What the others' twelve prompts and ours take at the described rate.
                try table.serve(.distinct(index, chunkCount: 16), seconds: 0.65, now: now)
            }
            return try table.pick(.distinct(99, chunkCount: 16), now: start + 200 * second).get().terms.timeToFirstToken
        }
        let (knowing, unknowing) = try (expectedWhenIdle(reporting: true), expectedWhenIdle(reporting: false))
        #expect(knowing < 0.1 && unknowing > 0.3, "\(knowing) \(unknowing)")
    }

    @Test func aNewGroupInTheSlotHasNoReports() throws {
        let table = RoutingTable(equalGroups(1))
        try report(table, "g0", LoadReport(running: 9, waiting: 9, madeAt: start), now: start)
        table.replaceGroups([], now: start)
        table.replaceGroups(equalGroups(1), now: start)
        #expect(table.state("g0", now: start)?.reported == nil)
    }

    @Test(arguments: [(nil, 1.0), (0, 1.0), (3, 3.0), (10, 10.0), (3_600, 10.0), (Int.max, 10.0)] as [(Int?, Double)])
    func retryAfterIsHonouredWithinBounds(asked: Int?, seconds: Double) throws {
        let table = RoutingTable(equalGroups(2))
        let group = try #require(table.group(named: "g0")?.id)
        table.reportSaturated(group, retryAfterSeconds: asked, now: start)
        let end = start + UInt64(seconds * 1e9)
        #expect(table.state("g0", now: end - 1)?.obstacle == .saturated)
        #expect(table.state("g0", now: end)?.obstacle == nil)
    }

    @Test func aLaterPushbackDoesNotShortenRetryAfter() throws {
        let table = RoutingTable(equalGroups(2))
        let group = try #require(table.group(named: "g0")?.id)
        table.reportSaturated(group, retryAfterSeconds: 5, now: start)
        table.reportSaturated(group, now: start + second)
        #expect(table.state("g0", now: start + 4 * second)?.obstacle == .saturated)
    }

    @Test func anEngineThatBeganAnewHasAnEmptyCache() throws {
        let table = RoutingTable(equalGroups(1))
        try table.serve(.distinct(0, chunkCount: 10), now: start)
        #expect(table.state("g0", now: start)?.indexBlocks == 10)
        table.reportRestarted(try #require(table.group(named: "g0")?.id), now: start)
        #expect(table.state("g0", now: start)?.indexBlocks == 0)
        #expect(table.state("g0", now: start)?.warmUpSlowness == 3, "and is cold")
        #expect(table.group(named: "g1")?.id == nil)
    }
}
