import Testing

@testable import LoadSignals

/// What vLLM counts of requests that come, are scheduled, get their first token, end or are aborted; and the truth, which it does not tell.
private struct CountingEngine {
    struct Request {
        var prompt: Double
        var cached: Double
    }

    var waiting: [Request] = []
    var prefilling: [Request] = []
    var decoding: [Request] = []
    /// Were decoding, lost their blocks and wait at the head of the queue.
    var preempted: [Request] = []
    var counts = FirstTokenBacklog.Counts(
        running: 0, waiting: 0, firstTokens: 0, ended: 0, tokens: .init(lookedUp: 0, found: 0, prefilled: 0, prefilledFound: 0),
        kvUsage: 0.1, longestPrompt: 100_000)

    var truth: FirstTokenBacklog.Estimate {
        .init(awaiting: Double(waiting.count + prefilling.count), prefillTokens: prefilling.reduce(0) { $0 + $1.prompt - $1.cached })
    }

    var reading: FirstTokenBacklog.Counts {
        var reading = counts
        reading.running = Double(prefilling.count + decoding.count)
        reading.waiting = Double(waiting.count + preempted.count)
        return reading
    }

    mutating func arrive(prompt: Double = 1_000, cached: Double = 0) { waiting.append(Request(prompt: prompt, cached: cached)) }

    mutating func lookUpHead() {
        guard let request = waiting.first else { return }
        counts.tokens?.lookedUp += request.prompt
        counts.tokens?.found += request.cached
    }

    mutating func schedule() {
        guard !waiting.isEmpty else { return }
        lookUpHead()
        prefilling.append(waiting.removeFirst())
    }

    mutating func firstToken() {
        guard !prefilling.isEmpty else { return }
        let request = prefilling.removeFirst()
        counts.firstTokens += 1
        counts.tokens?.prefilled += request.prompt
        if counts.tokens?.prefilledFound != nil { counts.tokens?.prefilledFound! += request.cached }
        decoding.append(request)
    }

    mutating func end() {
        guard !decoding.isEmpty else { return }
        decoding.removeFirst()
        counts.ended += 1
    }

    mutating func preempt() {
        guard let request = decoding.popLast() else { return }
        preempted.append(request)
        counts.preemptions += 1
    }

    mutating func resume() { if let request = preempted.popLast() { decoding.append(request) } }

    mutating func abort(_ draw: Int) {
        if draw % 3 == 0, !waiting.isEmpty { waiting.removeLast() }
        if draw % 3 == 1, !prefilling.isEmpty { prefilling.removeLast() }
        if draw % 3 == 2, !decoding.isEmpty { decoding.removeLast() }
    }

    mutating func drain() {
        while !waiting.isEmpty { schedule() }
        while !prefilling.isEmpty { firstToken() }
        while !preempted.isEmpty { resume() }
        while !decoding.isEmpty { end() }
    }

    /// Something happens; less comes than can go, so that there are ebbs.
    mutating func live(_ random: inout SplitMix64) {
        switch random.draw(12) {
        case 0, 1, 2: arrive(prompt: Double(1 + random.draw(4_000)), cached: 0)
        case 3:
            let prompt = 100 + random.draw(4_000)
            arrive(prompt: Double(prompt), cached: Double(random.draw(prompt)))
        case 4, 5, 6: schedule()
        case 7, 8, 9: firstToken()
        default: end()
        }
    }
}

private struct SplitMix64 {
    var state: UInt64

    mutating func draw(_ bound: Int) -> Int {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = (state ^ (state >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return Int((mixed ^ (mixed >> 31)) >> 33) % bound
    }
}

@Suite struct FirstTokenBacklogTests {
    private let second: UInt64 = 1_000_000_000

    @Test(arguments: 1...20 as ClosedRange<UInt64>)
    func isExactOfAnEngineThatWasOnceSeenEmptyAndAbortsNothing(seed: UInt64) {
        var (engine, backlog, random) = (CountingEngine(), FirstTokenBacklog(), SplitMix64(state: seed))
        // Counts of a past that the router did not see.
        engine.counts.firstTokens = 500
        engine.counts.ended = 420
        engine.counts.tokens = .init(lookedUp: 9e6, found: 4e6, prefilled: 8e6, prefilledFound: 3.7e6)
        var sawPrefill = false
        for moment in 0..<2_900 as Range<UInt64> {
            let estimate = backlog.observe(engine.reading, at: moment * second / 10)
            #expect(estimate == engine.truth, "at \(moment)")
            sawPrefill = sawPrefill || estimate.prefillTokens! > 4_000
            for _ in 0..<(1 + random.draw(4)) { engine.live(&random) }
        }
        #expect(sawPrefill)
    }

    @Test(arguments: 1...20 as ClosedRange<UInt64>)
    func whateverHappensIsWithinBoundsAndForgottenWhenAllAreGone(seed: UInt64) {
        var (engine, backlog, random) = (CountingEngine(), FirstTokenBacklog(), SplitMix64(state: seed))
        for _ in 0..<200 { engine.live(&random) }
        for moment in 0..<3_000 as Range<UInt64> {
            let reading = engine.reading
            let estimate = backlog.observe(reading, at: moment * second)
            #expect(estimate.awaiting >= reading.waiting && estimate.awaiting <= reading.running + reading.waiting)
            let inBatch = estimate.awaiting - reading.waiting
            if let tokens = estimate.prefillTokens { #expect(tokens >= inBatch && tokens <= inBatch * reading.longestPrompt!) }
            switch random.draw(40) {
            case 0...3: engine.abort(random.draw(3))
            case 4: for _ in 0..<30 { engine.lookUpHead() }
            case 5: engine.preempt()
            case 6: engine.resume()
            case 7: engine.counts.kvUsage = Double(random.draw(100)) / 100
            case 8 where random.draw(20) == 0: engine = CountingEngine()
            case 9 where random.draw(5) == 0:
                engine.drain()
                #expect(backlog.observe(engine.reading, at: moment * second) == .init(awaiting: 0, prefillTokens: 0))
                engine.arrive(prompt: 700, cached: 200)
                engine.schedule()
                #expect(backlog.observe(engine.reading, at: moment * second) == .init(awaiting: 1, prefillTokens: 500))
            default: engine.live(&random)
            }
        }
    }

    @Test func ofTheFirstReadingNothingIsKnownButTheQueue() {
        var (engine, backlog) = (CountingEngine(), FirstTokenBacklog())
        for _ in 0..<5 { engine.arrive() }
        for _ in 0..<3 { engine.schedule() }
        #expect(backlog.observe(engine.reading, at: 0) == .init(awaiting: 2, prefillTokens: 0))
        // Two of those that seemed to decode get their first tokens: they did not.
        for _ in 0..<2 { engine.firstToken() }
        #expect(backlog.observe(engine.reading, at: second) == .init(awaiting: 2, prefillTokens: 0))
        for _ in 0..<2 { engine.schedule() }
        #expect(backlog.observe(engine.reading, at: 2 * second) == .init(awaiting: 2, prefillTokens: 2_000))
        engine.drain()
        engine.arrive()
        #expect(backlog.observe(engine.reading, at: 3 * second).awaiting == 1)
    }

    /// Each abort of a sequence that decodes hides one that is being prefilled, until none is.
    @Test func abortsAreForgottenAtTheNextMomentWithoutAPrefill() {
        var (engine, backlog) = (CountingEngine(), FirstTokenBacklog())
        _ = backlog.observe(engine.reading, at: 0)
        for _ in 0..<6 { engine.arrive() }
        for _ in 0..<6 { engine.schedule() }
        for _ in 0..<4 { engine.firstToken() }
        #expect(backlog.observe(engine.reading, at: second) == engine.truth)
        for _ in 0..<2 { engine.abort(2) }
        #expect(backlog.observe(engine.reading, at: 2 * second).awaiting == 0, "two too few")
        for _ in 0..<2 { engine.firstToken() }
        engine.arrive()
        #expect(backlog.observe(engine.reading, at: 3 * second).awaiting == 1, "two decode, one waits")
        for _ in 0..<3 { engine.arrive() }
        for _ in 0..<2 { engine.schedule() }
        #expect(backlog.observe(engine.reading, at: 4 * second) == engine.truth)
        // One aborted before its first token takes nothing from the count of requests, and leaves tokens that nobody computes.
        engine.abort(1)
        #expect(backlog.observe(engine.reading, at: 5 * second) == .init(awaiting: 3, prefillTokens: 2_000))
        while !engine.prefilling.isEmpty { engine.firstToken() }
        #expect(backlog.observe(engine.reading, at: 6 * second) == engine.truth)
        engine.schedule()
        #expect(backlog.observe(engine.reading, at: 7 * second) == engine.truth)
    }

    /// Seen of a vLLM under load: look-ups of thirty times the prompts that it got.
    @Test func lookUpsThatAreRepeatedCountAsUsualPrompts() {
        var (engine, backlog) = (CountingEngine(), FirstTokenBacklog())
        _ = backlog.observe(engine.reading, at: 0)
        for _ in 0..<10 {
            engine.arrive(prompt: 2_000, cached: 500)
            engine.schedule()
            engine.firstToken()
        }
        for _ in 0..<3 { engine.arrive(prompt: 2_000, cached: 500) }
        engine.schedule()
        engine.counts.kvUsage = 0.95
        for _ in 0..<100 { engine.lookUpHead() }
        #expect(backlog.observe(engine.reading, at: second) == engine.truth, "usual, and so right")
        engine.counts.kvUsage = 0.2
        for _ in 0..<2 { engine.schedule() }
        #expect(backlog.observe(engine.reading, at: 2 * second) == engine.truth)
        for _ in 0..<3 { engine.firstToken() }
        #expect(backlog.observe(engine.reading, at: 3 * second) == engine.truth)
        engine.arrive(prompt: 30_000)
        engine.schedule()
        #expect(backlog.observe(engine.reading, at: 4 * second) == engine.truth, "and long ones are believed again")
    }

    @Test func whetherLookUpsAreRepeatedIsLearned() {
        for repeats in [false, true] {
            var (engine, backlog) = (CountingEngine(), FirstTokenBacklog())
            _ = backlog.observe(engine.reading, at: 0)
            func crowd(at moment: UInt64, prompt: Double, usage: Double) -> FirstTokenBacklog.Estimate {
                engine.counts.kvUsage = usage
                engine.arrive(prompt: prompt)
                engine.arrive()
                engine.schedule()
                if repeats { for _ in 0..<50 { engine.lookUpHead() } }
                let estimate = backlog.observe(engine.reading, at: moment * second)
                engine.firstToken()
                _ = backlog.observe(engine.reading, at: (moment + 1) * second)
                engine.schedule()
                engine.firstToken()
                return estimate
            }
            _ = crowd(at: 1, prompt: 1_000, usage: 0.95)
            #expect(crowd(at: 3, prompt: 1_000, usage: 0.95) == .init(awaiting: 2, prefillTokens: 1_000))
            let long = crowd(at: 5, prompt: 50_000, usage: 0.6)
            #expect(long == .init(awaiting: 2, prefillTokens: repeats ? 1_000 : 50_000))
        }
    }

    @Test func whoWasPreemptedIsNotTakenForOneThatIsBeingPrefilled() {
        var (engine, backlog) = (CountingEngine(), FirstTokenBacklog())
        _ = backlog.observe(engine.reading, at: 0)
        for _ in 0..<4 { engine.arrive() }
        for _ in 0..<4 { engine.schedule() }
        for _ in 0..<4 { engine.firstToken() }
        _ = backlog.observe(engine.reading, at: second)
        for _ in 0..<3 { engine.preempt() }
        #expect(backlog.observe(engine.reading, at: 2 * second).awaiting == 3)
        for _ in 0..<3 { engine.resume() }
        #expect(backlog.observe(engine.reading, at: 3 * second) == engine.truth)
        engine.arrive()
        engine.schedule()
        #expect(backlog.observe(engine.reading, at: 4 * second) == engine.truth)
    }

    @Test func endsWithoutAFirstTokenAreForgottenInTime() {
        var (engine, backlog) = (CountingEngine(), FirstTokenBacklog())
        engine.arrive()
        engine.schedule()
        engine.firstToken()
        _ = backlog.observe(engine.reading, at: 0)
        engine.counts.ended += 1
        #expect(backlog.observe(engine.reading, at: second).awaiting == 1, "one too many")
        var emptied = backlog
        var later = engine
        later.end()
        _ = emptied.observe(later.reading, at: 2 * second)
        later.arrive()
        later.schedule()
        later.firstToken()
        #expect(emptied.observe(later.reading, at: 3 * second) == later.truth, "at once when nobody is there")
        var at = second
        while at < 2 * LowestOfLate.spanNanoseconds + 10 * second {
            at += 5 * second
            _ = backlog.observe(engine.reading, at: at)
        }
        #expect(backlog.observe(engine.reading, at: at) == engine.truth)
    }

    /// vLLM before it counted prompt tokens by source: what share of them was cached is taken from the look-ups.
    @Test func withoutSourcesTheShareOfHitsTells() throws {
        var (engine, backlog) = (CountingEngine(), FirstTokenBacklog())
        engine.counts.tokens?.prefilledFound = nil
        _ = backlog.observe(engine.reading, at: 0)
        for _ in 0..<100 {
            engine.arrive(prompt: 1_000, cached: 750)
            engine.schedule()
            engine.firstToken()
        }
        #expect(backlog.observe(engine.reading, at: second).prefillTokens == 0)
        for _ in 0..<2 {
            engine.arrive(prompt: 1_000, cached: 750)
            engine.schedule()
        }
        let estimate = backlog.observe(engine.reading, at: 2 * second)
        #expect(estimate.awaiting == 2)
        #expect(abs(try #require(estimate.prefillTokens) - 500) < 1e-6)
    }

    @Test func ofAnEngineWithoutAPrefixCacheTheTokensAreNotKnown() {
        var (engine, backlog) = (CountingEngine(), FirstTokenBacklog())
        engine.counts.tokens = nil
        _ = backlog.observe(engine.reading, at: 0)
        engine.arrive()
        engine.schedule()
        #expect(backlog.observe(engine.reading, at: second) == .init(awaiting: 1, prefillTokens: nil))
    }

    @Test func countsThatGoBackBeginAnew() {
        var (engine, backlog) = (CountingEngine(), FirstTokenBacklog())
        engine.counts.firstTokens = 1_000
        engine.counts.ended = 950
        _ = backlog.observe(engine.reading, at: 0)
        engine = CountingEngine()
        for _ in 0..<3 { engine.arrive() }
        engine.schedule()
        #expect(backlog.observe(engine.reading, at: second) == .init(awaiting: 2, prefillTokens: 0))
    }

    /// 20 decode, and always two are being prefilled: the moment without one, at which all is forgotten, never comes.
    private func busyEngine(seenBy backlog: inout FirstTokenBacklog) -> CountingEngine {
        var engine = CountingEngine()
        _ = backlog.observe(engine.reading, at: 0)
        for _ in 0..<22 { engine.arrive() }
        for _ in 0..<22 { engine.schedule() }
        for _ in 0..<20 { engine.firstToken() }
        #expect(backlog.observe(engine.reading, at: second) == engine.truth)
        return engine
    }

    @Test(arguments: [0, 300]) func abortsInThePrefillAreForgottenAfterAsManyFirstTokensAsTheBatchAwaited(queue: Int) {
        var backlog = FirstTokenBacklog()
        var engine = busyEngine(seenBy: &backlog)
        for _ in 0..<3 { engine.arrive(prompt: 100_000) }
        for _ in 0..<3 { engine.schedule() }
        for _ in 0..<queue { engine.arrive() }
        #expect(backlog.observe(engine.reading, at: 2 * second) == engine.truth)
        for _ in 0..<3 { engine.abort(1) }
        #expect(backlog.observe(engine.reading, at: 3 * second).prefillTokens! > 2_000, "not told from the next ones")
        // One of the two that are awaited, too, and its first token does not come.
        engine.abort(1)
        engine.arrive()
        engine.schedule()
        for step in 1...UInt64(600) {
            engine.arrive()
            engine.schedule()
            engine.firstToken()
            engine.end()
            let estimate = backlog.observe(engine.reading, at: 3 * second + step * second / 5)
            if step > 3 { #expect(estimate == engine.truth, "after \(step) first tokens") }
        }
    }

    /// As long as nobody is aborted who has a first token.
    @Test(arguments: 1...20 as ClosedRange<UInt64>)
    func abortsInThePrefillMakeItNeverTooLittleAndSeldomTooMuch(seed: UInt64) {
        var (backlog, random) = (FirstTokenBacklog(), SplitMix64(state: seed))
        var engine = busyEngine(seenBy: &backlog)
        var (sum, truths) = (0.0, 0.0)
        for moment in 2..<2_000 as Range<UInt64> {
            for _ in 0..<(1 + random.draw(4)) { engine.live(&random) }
            if random.draw(10) == 0 { engine.abort(random.draw(2)) }
            while engine.prefilling.count < 2 {
                engine.arrive(prompt: Double(1 + random.draw(20_000)))
                engine.schedule()
            }
            let estimate = backlog.observe(engine.reading, at: moment * second / 10)
            #expect(estimate.awaiting == engine.truth.awaiting)
            #expect(estimate.prefillTokens! >= engine.truth.prefillTokens!)
            sum += estimate.prefillTokens!
            truths += engine.truth.prefillTokens!
        }
        #expect(sum < 1.5 * truths, "\(sum / truths)")
    }

    @Test func ofSeveralRanksOneMayOvertakeTheOther() {
        var backlog = FirstTokenBacklog()
        var engine = busyEngine(seenBy: &backlog)
        engine.counts.ranks = 2
        engine.arrive(prompt: 90_000)
        engine.schedule()
        for moment in 2..<50 as Range<UInt64> {
            #expect(backlog.observe(engine.reading, at: moment * second) == engine.truth)
            engine.arrive()
            engine.schedule()
            if let long = engine.prefilling.firstIndex(where: { $0.prompt == 90_000 }) {
                engine.prefilling.append(engine.prefilling.remove(at: long))
            }
            engine.firstToken()
            engine.end()
        }
    }

    @Test func withoutABoundOfOnePromptNobodyHasNoTokens() {
        var (engine, backlog) = (CountingEngine(), FirstTokenBacklog())
        engine.counts.longestPrompt = nil
        _ = backlog.observe(engine.reading, at: 0)
        for _ in 0..<2 { engine.arrive(prompt: 50_000) }
        for _ in 0..<2 { engine.schedule() }
        engine.firstToken()
        #expect(backlog.observe(engine.reading, at: second) == engine.truth)
        // Hides the other one; and somebody who waits may have been preempted, so that it is not certain that nobody is being prefilled.
        engine.abort(2)
        for _ in 0..<2 { engine.arrive() }
        engine.counts.preemptions += 1
        #expect(backlog.observe(engine.reading, at: 2 * second) == .init(awaiting: 2, prefillTokens: 0))
    }

    @Test func countsOfTokensThatGoBackBeginAnew() {
        let falls: [(inout FirstTokenBacklog.Tokens) -> Void] = [
            { $0.lookedUp -= 1_000 }, { $0.found -= 1_000 }, { $0.prefilled -= 1_000 }, { $0.prefilledFound! -= 1_000 },
        ]
        for (number, fall) in falls.enumerated() {
            var backlog = FirstTokenBacklog()
            var engine = busyEngine(seenBy: &backlog)
            engine.counts.tokens = .init(lookedUp: 9e6, found: 4e6, prefilled: 8e6, prefilledFound: 3.7e6)
            _ = backlog.observe(engine.reading, at: second)
            fall(&engine.counts.tokens!)
            let estimate = backlog.observe(engine.reading, at: 2 * second)
            #expect(estimate == .init(awaiting: 0, prefillTokens: 0), "\(number): as of a first reading")
        }
    }

    @Test func preemptionsThatGoBackBeginAnew() {
        var backlog = FirstTokenBacklog()
        var engine = busyEngine(seenBy: &backlog)
        engine.counts.preemptions = 7
        _ = backlog.observe(engine.reading, at: second)
        engine.counts.preemptions = 0
        #expect(backlog.observe(engine.reading, at: 2 * second) == .init(awaiting: 0, prefillTokens: 0), "as of a first reading")
    }

    /// What is usual is learned from what came since the tokens were last told, and not once more from all that there ever was.
    @Test func tokensThatAreMissingOnceTeachNothing() throws {
        var (engine, backlog) = (CountingEngine(), FirstTokenBacklog())
        engine.counts.tokens?.prefilledFound = nil
        func pass(_ requests: Int, cached: Double) {
            for _ in 0..<requests {
                engine.arrive(prompt: 1_000, cached: cached)
                engine.schedule()
                engine.firstToken()
            }
        }
        pass(50_000, cached: 0)
        _ = backlog.observe(engine.reading, at: 0)
        for moment in 1...100 as ClosedRange<UInt64> {
            pass(100, cached: 750)
            _ = backlog.observe(engine.reading, at: moment * second)
        }
        var blind = engine
        blind.counts.tokens = nil
        #expect(backlog.observe(blind.reading, at: 101 * second).prefillTokens == nil)
        pass(1, cached: 750)
        _ = backlog.observe(engine.reading, at: 102 * second)
        engine.arrive(prompt: 1_000, cached: 750)
        engine.schedule()
        let tokens = try #require(backlog.observe(engine.reading, at: 103 * second).prefillTokens)
        #expect(abs(tokens - 250) < 1, "\(tokens)")
    }

    /// Counts that come back after they were missing, in a sum over ranks.
    @Test func moreHitsThanLookUpsTeachNothing() throws {
        var (engine, backlog) = (CountingEngine(), FirstTokenBacklog())
        engine.counts.tokens?.prefilledFound = nil
        _ = backlog.observe(engine.reading, at: 0)
        engine.counts.tokens?.found += 1e9
        engine.arrive()
        engine.schedule()
        #expect(backlog.observe(engine.reading, at: second) == engine.truth)
    }

    @Test(arguments: [.nan, .infinity, -.infinity, -1, 1e308] as [Double])
    func nothingButNumbersComesOfWhatIsNone(odd: Double) {
        let oddities: [(inout FirstTokenBacklog.Counts) -> Void] = [
            { $0.running = odd }, { $0.waiting = odd }, { $0.firstTokens = odd }, { $0.ended = odd }, { $0.preemptions = odd },
            { $0.tokens?.lookedUp = odd }, { $0.tokens?.found = odd }, { $0.tokens?.prefilled = odd }, { $0.tokens?.prefilledFound = odd },
            { $0.kvUsage = odd }, { $0.longestPrompt = odd }, { $0.longestPrompt = nil }, { $0.ranks = odd },
        ]
        for first in oddities {
            for second in oddities {
                var (engine, backlog, random) = (CountingEngine(), FirstTokenBacklog(), SplitMix64(state: 1))
                for moment in 0..<60 as Range<UInt64> {
                    var reading = engine.reading
                    if moment % 7 == 3 { first(&reading) }
                    if moment % 5 == 3 { second(&reading) }
                    let estimate = backlog.observe(reading, at: moment * self.second)
                    #expect(estimate.awaiting.isFinite && estimate.awaiting >= 0)
                    if let tokens = estimate.prefillTokens { #expect(tokens.isFinite && tokens >= 0) }
                    for _ in 0..<4 { engine.live(&random) }
                }
                engine.drain()
                #expect(backlog.observe(engine.reading, at: 61 * self.second) == engine.truth)
            }
        }
    }
}
