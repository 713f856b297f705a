import Testing

@testable import Routing

@Suite struct LearningTests {
    @Test(arguments: [200.0, 5_000.0, 80_000.0])
    func learnsTheRealPrefillRate(rate: Double) {
        var random = SeededGenerator(seed: 3)
        var fit = LineFit(intercept: 0, slope: 1 / 20_000, priorX: 2_048)
        for _ in 0..<300 {
            let tokens = Double.random(in: 50...6_000, using: &random)
            fit.observe(x: tokens, y: (0.01 + tokens / rate) * Double.random(in: 0.9...1.1, using: &random))
        }
        #expect((0.85...1.15).contains(1 / fit.slope / rate))
    }

    /// A fleet's first prompts are cold and of one size, and its engines other than presumed.
    @Test(arguments: [3.0, 20, 60]) func promptsOfOneSizeTeachTheRateAtOnce(slowness: Double) {
        var fit = LineFit(intercept: 0, slope: 1, priorX: 0.1)
        var slopes: [Double] = []
        for _ in 0..<12 {
            fit.observe(x: 0.036, y: 0.02 + 0.036 * slowness)
            slopes.append(fit.slope)
        }
        #expect(slopes.allSatisfy { $0 >= 1 }, "never the other way: \(slopes)")
        #expect((0.5 * slowness...1.1 * slowness).contains(fit.slope), "\(slopes)")
    }

    /// Short prompts take a step, whatever the rate.
    @Test func whatAStepTakesIsNotTakenForTheRate() {
        var fit = LineFit(intercept: 0, slope: 1, priorX: 0.1)
        for _ in 0..<50 { fit.observe(x: 0.001, y: 0.04) }
        #expect((0.3...2).contains(fit.slope) && abs(fit.intercept - 0.04) < 0.01, "\(fit.slope), \(fit.intercept)")
    }

    @Test func aStallDoesNotMoveTheRateFar() {
        var fit = LineFit(intercept: 0, slope: 1 / 20_000, priorX: 2_048)
        for step in 0..<200 { fit.observe(x: Double(500 + 37 * (step % 100)), y: 0.01 + Double(500 + 37 * (step % 100)) / 20_000) }
        let before = fit.slope
        fit.observe(x: 2_000, y: 30)
        #expect(fit.slope < before * 1.5 && fit.slope > before / 1.5)
    }

    /// One prompt of a hundred times the usual size, misjudged by four: a lever as long as the square of that.
    @Test(arguments: [4.0, 0.25])
    func whatIsFarOutDoesNotOutweighTheRest(misjudged: Double) {
        var random = SeededGenerator(seed: 5)
        var fit = LineFit(intercept: 0, slope: 1, priorX: 0.1)
        func observeUsual(_ count: Int) {
            for _ in 0..<count {
                let seconds = Double.random(in: 0.01...0.1, using: &random)
                fit.observe(x: seconds, y: 0.01 + seconds * Double.random(in: 0.9...1.1, using: &random))
            }
        }
        observeUsual(200)
        let before = fit.slope
        fit.observe(x: 6, y: 6 * misjudged)
        #expect(fit.slope < 3 * before && fit.slope > before / 3)
        observeUsual(200)
        #expect(abs(fit.slope / before - 1) < 0.2)
    }

    /// A megabyte of digits, a token each, says little of what others write.
    @Test func oneLongPromptDoesNotSayWhatATokenWeighs() throws {
        let table = RoutingTable(equalGroups(1))
        for name in 0..<50 {
            try table.serve(.distinct(name, chunkCount: 16), usage: Usage(promptTokens: 1_024, cachedTokens: nil, completionTokens: 10))
        }
        try table.serve(.distinct(100, chunkCount: 4_096), usage: Usage(promptTokens: 1 << 20, cachedTokens: nil, completionTokens: 10))
        #expect(try #require(table.state("g0")?.tokensPerByte) < 0.45)
    }

    /// What others have queued is judged by the mean prompt; one of sixty megabytes, which no engine takes, is not what it consists of.
    @Test func oneHugePromptIsNotTheMean() throws {
        let table = RoutingTable(equalGroups(1))
        let id = try #require(table.state("g0")?.id)
        for name in 0..<50 { try table.serve(.distinct(name, chunkCount: 16)) }
        func waiting(at now: UInt64) -> Double {
            table.reportLoad(LoadReport(running: 0, waiting: 1, madeAt: now), of: id, now: now)
            return table.explain(.distinct(1_000, chunkCount: 4), now: now).groups[0].terms.queueWait
        }
        let before = waiting(at: 10 * second)
        var huge = Prompt.distinct(200, chunkCount: 4)
        huge.bytes = 64 << 20
        table.cancel(try table.pick(huge, now: 10 * second).get().lease, now: 10 * second, isServerError: false)
        #expect(waiting(at: 11 * second) < 2 * before)
    }

    /// Nor are many of them: 65,536 tokens is the most that one of others' is ever taken to have.
    @Test func manyHugePromptsAreNotTheMeanEither() throws {
        var groups = equalGroups(1)
        groups[0].kvCapacityTokens = 50_000_000
        let table = RoutingTable(groups)
        let id = try #require(table.state("g0")?.id)
        for name in 0..<1_000 {
            var huge = Prompt.distinct(name, chunkCount: 1)
            huge.bytes = 64 << 20
            table.cancel(try table.pick(huge, now: UInt64(name) * millisecond).get().lease, now: UInt64(name) * millisecond)
        }
        table.reportLoad(LoadReport(running: 0, waiting: 1, madeAt: 2 * second), of: id, now: 2 * second)
        let state = try #require(table.state("g0", now: 2 * second))
        let waiting = table.explain(.distinct(2_000, chunkCount: 4), now: 2 * second).groups[0].terms.queueWait
        #expect((60_000...65_600).contains(waiting * state.prefillTokensPerSecond), "\(waiting * state.prefillTokensPerSecond)")
    }

    @Test func observationsOfNonsenseStayFinite() {
        var fit = LineFit(intercept: 0, slope: 1 / 20_000, priorX: 2_048)
        for step in 0..<1_000 { fit.observe(x: step.isMultiple(of: 2) ? 0 : 1e9, y: step.isMultiple(of: 3) ? 0 : 1e6) }
        #expect(fit.slope.isFinite && fit.slope > 0 && fit.intercept >= 0)
    }

    @Test func aSlowGroupGetsLessOfTheWork() throws {
        var random = SeededGenerator(seed: 9)
        let table = RoutingTable(equalGroups(2))
        let slow = try #require(table.state("g0")?.id)
        var booked: [GroupID: Int] = [:]
        // Both prefill in order of arrival, g0 four times slower; arrivals keep both busy.
        var busyUntil: [GroupID: UInt64] = [:]
        var pending: [(at: UInt64, lease: Lease)] = []
        for arrival in 0..<600 {
            let now = UInt64(arrival) * 60 * millisecond
            for due in pending.filter({ $0.at <= now }) {
                table.firstToken(due.lease, now: due.at)
                table.settle(due.lease, usage: nil, now: due.at)
            }
            pending.removeAll { $0.at <= now }
            let chunks = Int.random(in: 20...40, using: &random)
            let decision = try table.pick(.distinct(arrival, chunkCount: chunks), now: now).get()
            if arrival >= 300 { booked[decision.group, default: 0] += 1 }
            let work = UInt64(chunks * 64) * (decision.group == slow ? 200_000 : 50_000)
            let done = max(busyUntil[decision.group] ?? 0, now) + work
            busyUntil[decision.group] = done
            pending.append((done, decision.lease))
        }
        let share = Double(booked[slow] ?? 0) / 300
        #expect(share > 0.02 && share < 0.35)
    }

    @Test func aGroupWithoutTrafficIsJudgedByWhatTheOthersShowed() throws {
        // Real engines five times faster than the prior: were each group to learn alone, only the first ever used would be.
        let table = RoutingTable(equalGroups(4))
        let shared = Array(0..<8)
        for number in 0..<100 {
            try table.serve(Prompt(shared + [1_000 + number]), seconds: 0.006, now: UInt64(number) * second)
        }
        let rates = table.groups(now: 0).map(\.prefillTokensPerSecond)
        #expect((rates.max() ?? 0) / (rates.min() ?? 1) < 2)
        #expect(table.groups(now: 0).map(\.decisions).max() == 100, "the prefix keeps them together, so three groups are unobserved")
    }

    @Test func aGroupThatWasSlowGetsAnotherChance() throws {
        let table = RoutingTable(equalGroups(2))
        // g0 stalls on whatever it gets, then it is well again.
        var chosen: [Int] = [0, 0]
        for number in 0..<1_000 {
            let now = UInt64(number) * 200 * millisecond
            let isSlow = number < 200
            let decision = try table.pick(.distinct(number, chunkCount: 20), now: now).get()
            let isFirst = table.name(of: decision.group) == "g0"
            let delay = (isSlow && isFirst ? 1_000 : 64) * millisecond
            table.firstToken(decision.lease, now: now + delay)
            table.settle(decision.lease, usage: nil, now: now + delay)
            if isFirst && (isSlow || number >= 800) { chosen[isSlow ? 0 : 1] += 1 }
        }
        #expect(chosen[0] < 30)
        #expect(chosen[1] > 50)
    }

    /// Long before an answer of a slow group ends, what has come of it tells of its decode steps; and what engines put into one event counts.
    @Test(arguments: [1, 4])
    func aSlowGroupIsKnownWhileItsAnswersRun(tokensPerEvent: Int) throws {
        let table = RoutingTable(equalGroups(2))
        var now: UInt64 = 0
        for number in 0..<200 {
            let decision = try table.pick(.distinct(number, chunkCount: 4), now: now).get()
            table.firstToken(decision.lease, now: now + 20 * millisecond)
            let usage = Usage(promptTokens: 256, cachedTokens: 0, completionTokens: 64 * tokensPerEvent)
            table.settle(decision.lease, usage: usage, events: 64, now: now + 20 * millisecond)
            now += 10 * millisecond
        }
        for number in 0..<600 {
            let decision = try table.pick(.distinct(1_000 + number, chunkCount: 4), now: now).get()
            let step = (table.name(of: decision.group) == "g0" ? 80 : 20) * millisecond
            table.firstToken(decision.lease, now: now + 20 * millisecond)
            table.streamed(decision.lease, events: 64, now: now + 20 * millisecond + UInt64(64 * tokensPerEvent - 1) * step)
            now += 10 * millisecond
        }
        let groups = table.groups(now: now)
        #expect(groups[0].decodeStepSeconds > 1.3 * groups[1].decodeStepSeconds)
        #expect(groups.allSatisfy { $0.inFlight > 0 }, "no answer has ended")
    }

    /// Who reads a word a second makes no engine slow, and may be anybody.
    @Test func aClientThatReadsSlowlyTeachesNothingOfSteps() throws {
        func decode(isHeldBack: Bool) throws -> Double {
            let table = RoutingTable(equalGroups(2))
            for number in 0..<100 {
                let now = UInt64(number) * second
                let decision = try table.pick(.distinct(number, chunkCount: 4), now: now).get()
                table.firstToken(decision.lease, now: now)
                table.streamed(decision.lease, events: 64, isHeldBack: isHeldBack, now: now + 64 * second)
                let usage = Usage(promptTokens: 256, cachedTokens: 0, completionTokens: 256)
                table.settle(decision.lease, usage: usage, events: 256, isHeldBack: isHeldBack, now: now + 256 * second)
            }
            // What all groups are slower by than described is in it, which one alone could at most be by a factor of four.
            #expect((table.groups(now: 1_000 * second)[0].decodeStepSeconds > 0.1) != isHeldBack)
            return table.explain(.distinct(1_000, chunkCount: 4), now: 1_000 * second).groups[0].terms.decode
        }
        let expected = RoutingTable(equalGroups(2)).explain(.distinct(0, chunkCount: 4)).groups[0].terms.decode
        #expect(abs(try decode(isHeldBack: true) - expected) < 0.1 * expected)
        #expect(try decode(isHeldBack: false) > 2 * expected, "an engine that is so slow is known to be")
    }

    /// 256 tokens of prompt, and as many are expected of an answer of which nothing is known. When 512 have come it is taken to become 1,024
    /// tokens long, but never longer than the cache; and its end gives back all of it.
    @Test func anAnswerLongerThanExpectedIsTakenToDouble() throws {
        let table = RoutingTable(equalGroups(1))
        let decision = try table.pick(.distinct(0, chunkCount: 4), now: 0).get()
        table.streamed(decision.lease, events: 512, now: 1)
        #expect(table.state("g0")?.activeKVTokens == 512, "nothing can have come before the first token")
        table.firstToken(decision.lease, now: 20 * millisecond)
        table.streamed(decision.lease, events: 128, now: second)
        #expect(table.state("g0")?.activeKVTokens == 512)
        table.streamed(decision.lease, events: 512, now: 2 * second)
        #expect(table.state("g0")?.activeKVTokens == 256 + 1_024)
        table.streamed(decision.lease, events: .max, now: 3 * second)
        let capacity = try #require(table.state("g0")?.kvCapacityTokens)
        let state = try #require(table.state("g0"))
        #expect(state.activeKVTokens == capacity && state.waitingKVTokens == 256)
        table.settle(decision.lease, usage: nil, now: 4 * second)
        #expect(table.state("g0")?.activeKVTokens == 0)
    }

    /// Answers that go on teach their length before any has ended, and each counts once: what came of it last.
    @Test func lengthsAreLearnedOfAnswersThatGoOn() throws {
        let table = RoutingTable(equalGroups(1))
        let prompt = Prompt.distinct(0, chunkCount: 4)
        #expect(abs(table.explain(prompt).outputTokens - 256) <= 1)
        let leases = try (0..<20).map { _ in try table.pick(prompt, now: 0).get().lease }
        for lease in leases { table.firstToken(lease, now: millisecond) }
        for events in [256, 512, 1_024] { for lease in leases { table.streamed(lease, events: events, now: 20 * second) } }
        let running = table.explain(prompt).outputTokens
        #expect((1_000...2_048).contains(running))
        for lease in leases {
            table.settle(lease, usage: Usage(promptTokens: 256, cachedTokens: 0, completionTokens: 1_100), now: 21 * second)
        }
        #expect((700...1_200).contains(table.explain(prompt).outputTokens))
    }

    @Test func progressIsToldWheneverAnAnswerHasDoubled() {
        let marks = [0, 15, 16, 63, 64, 127, 128, 1_000, 1 << 39].map { RoutingTable.progressMark(after: $0) }
        #expect(marks == [16, 16, 64, 64, 128, 128, 256, 1_024, 1 << 40])
        #expect(RoutingTable.progressMark(after: .max) == .max)
    }

    /// Ten requests in flight with a prefix make its next copy cheaper; when they have ended nobody shares it.
    @Test func requestsInFlightShareTheNextCopy() throws {
        let table = RoutingTable(equalGroups(2))
        let first = try table.pick(Prompt(Array(0..<40) + [99]), now: 0).get()
        table.firstToken(first.lease, now: millisecond)
        let others = try (0..<9).map { number in
            try table.pick(Prompt(Array(0..<40) + [100 + number]), pinnedTo: table.name(of: first.group), now: second).get().lease
        }
        func copy() -> Double { table.explain(Prompt(Array(0..<40) + [200])).groups.map(\.terms.copy).min() ?? 0 }
        #expect(copy() < 0)
        for lease in [first.lease] + others { table.settle(lease, usage: nil, now: 2 * second) }
        #expect(copy() == 0)
    }

    /// Sixty decode behind one prefix and ten of others beside: the next with the prefix goes where few decode, unless crowds count for nothing.
    @Test(arguments: [(0.1, "g1"), (0, "g0")]) func aHotPrefixIsCopiedToTheSmallerBatch(weight: Double, group: String) throws {
        var cost = CostRule()
        cost.crowding = weight
        let table = RoutingTable(equalGroups(2), cost: cost)
        for number in 0..<60 {
            let lease = try table.pick(Prompt(Array(0..<60) + [100 + number]), pinnedTo: "g0").get().lease
            table.firstToken(lease, now: millisecond)
        }
        for number in 0..<10 {
            let lease = try table.pick(.distinct(number + 1, chunkCount: 2), pinnedTo: "g1").get().lease
            table.firstToken(lease, now: millisecond)
        }
        let next = Prompt(Array(0..<60) + [200])
        let crowding = table.explain(next, now: second).groups.map(\.terms.crowding)
        #expect(weight == 0 ? crowding == [0, 0] : crowding[0] > 5 * crowding[1] && crowding[1] > 0)
        #expect(try table.name(of: table.pick(next, now: second).get().group) == group)
    }

    @Test func tokensPerByteFollowUsage() throws {
        let table = RoutingTable(equalGroups(1))
        for number in 0..<100 {
            try table.serve(
                .distinct(number, chunkCount: 10), usage: Usage(promptTokens: 1_280, cachedTokens: nil, completionTokens: 10))
        }
        let ratio = try #require(table.state("g0")?.tokensPerByte)
        #expect((0.4...0.5).contains(ratio))
    }

    /// Ten chunks that the client says have 1,280 tokens, twice what text of their length would: taken for granted, and no lesson for text.
    @Test func tokensThatTheClientCountedAreNoLesson() throws {
        let table = RoutingTable(equalGroups(1))
        let prompt = Prompt.distinct(0, chunkCount: 10)
        for turn in 0..<100 {
            let decision = try table.pick(prompt, promptTokens: 1_280).get()
            #expect(decision.predictedCachedTokens == (turn == 0 ? 0 : 1_264))
            table.firstToken(decision.lease, now: second / 20)
            table.settle(
                decision.lease, usage: Usage(promptTokens: 1_280, cachedTokens: turn == 0 ? 0 : 1_264, completionTokens: 10),
                now: second / 20)
        }
        #expect(try #require(table.state("g0")?.tokensPerByte) == 0.25)
        #expect(try table.pick(prompt).get().predictedCachedTokens == 624)
    }

    @Test func anEngineWithoutPrefixCachingEndsTheAffinity() throws {
        let table = RoutingTable(equalGroups(1))
        let prompt = Prompt.distinct(0, chunkCount: 20)
        for turn in 0..<60 {
            let usage = Usage(promptTokens: 1_280, cachedTokens: 0, completionTokens: 10)
            try table.serve(prompt, usage: usage, now: UInt64(turn) * second)
        }
        let state = try #require(table.state("g0"))
        #expect(state.hitYield < 0.05)
        // And it comes back when the engine starts to cache.
        for turn in 60..<100 {
            let usage = Usage(promptTokens: 1_280, cachedTokens: 1_264, completionTokens: 10)
            try table.serve(prompt, usage: usage, now: UInt64(turn) * second)
        }
        #expect(try #require(table.state("g0")).hitYield > 0.9)
    }

    @Test func aRestartedEngineIsForgottenByItsFirstMiss() throws {
        let table = RoutingTable(equalGroups(1))
        for name in 0..<50 { try table.serve(.distinct(name, chunkCount: 20), now: UInt64(name) * second) }
        #expect(table.state("g0")?.indexBlocks == 1_000)
        // The newest of all is asked for again and misses from the root on: everything older is lost, too.
        let usage = Usage(promptTokens: 1_280, cachedTokens: 0, completionTokens: 10)
        try table.serve(.distinct(49, chunkCount: 20), usage: usage, now: 60 * second)
        #expect(table.state("g0")?.indexBlocks == 20)
    }

    @Test func aMissOfWhatIsStillPrefillingTeachesNothing() throws {
        let table = RoutingTable(equalGroups(1))
        try table.serve(.distinct(9, chunkCount: 20))
        let prompt = Prompt.distinct(0, chunkCount: 20)
        let first = try table.pick(prompt, now: second).get()
        let sibling = try table.pick(prompt, now: second).get()
        let usage = Usage(promptTokens: 1_280, cachedTokens: 0, completionTokens: 10)
        for lease in [first.lease, sibling.lease] {
            table.firstToken(lease, now: 2 * second)
            table.settle(lease, usage: usage, now: 2 * second)
        }
        #expect(table.state("g0")?.hitYield == 1)
        #expect(table.state("g0")?.indexBlocks == 40)
    }

    @Test(arguments: [0, -1, Int.min, 1_000_000_000_001, .max])
    func aCapacityThatNoMachineHasIsNotBelieved(tokens: Int) throws {
        let table = RoutingTable(equalGroups(1))
        let state = try #require(table.state("g0"))
        table.updateKVCapacity(tokens: tokens, of: state.id)
        #expect(table.state("g0")?.kvCapacityTokens == state.kvCapacityTokens)
    }

    /// An engine that finds half of what was promised, time and again, holds less than it says; one that finds what nobody promised, more than was thought.
    @Test func theShadowFollowsWhatIsFound() throws {
        let table = RoutingTable(equalGroups(1))
        table.updateKVCapacity(tokens: 200 * Prompt.tokensPerChunk, of: try #require(table.state("g0")?.id))
        var name = 0
        func serveNew(_ count: Int, cached: Int) throws {
            for _ in 0..<count {
                name += 1
                let prompt = Prompt.distinct(name, chunkCount: 40)
                try table.serve(prompt, usage: Usage(promptTokens: prompt.bytes / 4, cachedTokens: cached, completionTokens: 20))
            }
        }
        try serveNew(10, cached: 0)
        #expect(table.state("g0")?.indexBlocks == 200)
        let repeated = Prompt.distinct(0, chunkCount: 60)
        for _ in 0..<31 {
            try table.serve(repeated, usage: Usage(promptTokens: repeated.bytes / 4, cachedTokens: 1_920, completionTokens: 20))
        }
        try serveNew(10, cached: 0)
        // 0.98 to the power of 30.
        #expect(table.state("g0")?.indexBlocks == 109)
        try serveNew(100, cached: 2_000)
        #expect(table.state("g0")?.indexBlocks == 200)
    }

    @Test func theEnginesOwnCapacityBoundsItsShadow() throws {
        let table = RoutingTable(equalGroups(1))
        let id = try #require(table.state("g0")?.id)
        table.updateKVCapacity(tokens: 6_400, of: id)
        for name in 0..<50 { try table.serve(.distinct(name, chunkCount: 20)) }
        #expect(table.state("g0")?.indexBlocks == 100)
        // A description with its prior does not undo what the engine told.
        var groups = equalGroups(1)
        groups[0].kvCapacityTokens = 400_000
        table.replaceGroups(groups, now: 1)
        #expect(table.state("g0")?.kvCapacityTokens == 6_400)
    }

    @Test func aClientThatLiesAboutItsOutputChangesNothingForOthers() throws {
        func booked(claim: Int) throws -> Int? {
            let table = RoutingTable(equalGroups(1))
            _ = try table.pick(.distinct(0, chunkCount: 4), maxOutputTokens: claim).get()
            return table.state("g0")?.activeKVTokens
        }
        #expect(try booked(claim: .max) == booked(claim: 100_000))
        #expect(try booked(claim: 10) == 256 + 10)
        #expect(try booked(claim: .min) == 256 + 1)
    }

    @Test func absurdUsageIsSurvived() throws {
        let table = RoutingTable(equalGroups(2))
        for (number, value) in [Int.max, .min, 0, -1, 1].enumerated() {
            let usage = Usage(promptTokens: value, cachedTokens: value, completionTokens: value)
            try table.serve(.distinct(0, chunkCount: 20), usage: usage, now: UInt64(number) * second)
        }
        for state in table.groups(now: 0) {
            #expect(state.tokensPerByte.isFinite && state.tokensPerByte > 0)
            #expect(state.prefillTokensPerSecond.isFinite)
        }
        _ = try table.pick(.distinct(1, chunkCount: 20)).get()
    }
}
