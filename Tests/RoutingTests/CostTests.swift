import Testing

@testable import Routing

@Suite struct CostTests {
    private func load() -> GroupLoad {
        var load = GroupLoad(generation: 1, holder: 1, identity: 1)
        load.secondsPerToken = 1 / 40_000
        load.decodeStepSeconds = 0.02
        load.describedStepSeconds = 0.02
        load.kvCapacityTokens = 500_000
        return load
    }

    /// Without attention, so that the other terms are round.
    private func inputs() -> CostInputs {
        var inputs = CostInputs(
            promptTokens: 6_400, tokensPerChunk: 64, outputTokens: 256, prefillScale: 2,
            overheadSeconds: 0.01)
        inputs.rule.attention = 0
        return inputs
    }

    @Test func timeToFirstTokenIsQueueAndOwnWorkOverTheRate() {
        var load = load()
        load.queuedWork = 2_000
        let terms = inputs().terms(on: load, depth: 40)
        #expect(abs(terms.queueWait - 0.1) < 1e-9)
        #expect(abs(terms.prefill - (6_400 - 2_560) / 20_000) < 1e-9)
        #expect(abs(terms.timeToFirstToken - 0.302) < 1e-9)
    }

    /// 470,000 tokens in use and 6,656 of this request are 95.3 % of the cache, the mean while it comes 94.7 %: seven times that and the request's own share of the time in which
    /// 256 steps of 20 ms, which the batch makes 1 + 1.5 · (470,000 + 6,400) / 500,000 times as long, end a mean answer.
    @Test func whatARequestTakesOfTheCacheHasItsPrice() {
        var load = load()
        load.activeTokens = 470_000
        let share = 473_328 / 500_000.0
        let expected = 7 * share * (6_656 / 500_000.0) * 256 * 0.02 * (1 + 1.5 * 476_400 / 500_000)
        let terms = inputs().terms(on: load, depth: 0)
        #expect(abs(terms.memory - expected) < 1e-9)
        #expect(inputs().terms(on: load, depth: 80).memory < 0.3 * expected, "what is there already takes no room")
        #expect(terms.timeToFirstToken == inputs().terms(on: self.load(), depth: 0).timeToFirstToken, "a price is no wait")
    }

    @Test func severalAnswersTakeRoomAndStepsOfTheirOwn() {
        var load = load()
        load.inFlight = 10
        load.activeTokens = 100_000
        var inputs = inputs()
        let one = inputs.terms(on: load, depth: 0)
        inputs.sequences = 8
        let eight = inputs.terms(on: load, depth: 0)
        let (less, more) = (6_400 + 256.0, 6_400 + 8 * 256.0)
        #expect(abs(eight.memory / one.memory - (100_000 + more / 2) * more / ((100_000 + less / 2) * less)) < 1e-9)
        #expect(eight.decode == one.decode, "they go on side by side")
    }

    /// 470,000 tokens, of which 40,000 are outputs of 100 answers that have been decoding for 2 s, so that steps of 51 ms have made some
    /// 4,000 of them: with the request's 6,400 the cache is 88 % full, and pays nothing. 20 s later all are made.
    @Test func aCacheThatIsFullNowIsPricedFromNineTenthsOn() {
        var load = load()
        load.inFlight = 100
        load.activeTokens = 470_000
        load.activeOutputTokens = 40_000
        load.decodesSince = 100 * 5_000_000
        load.generatedTokens = 0
        var inputs = inputs()
        inputs.nowMicroseconds = 7_000_000
        #expect(inputs.terms(on: load, depth: 0).memoryWait == 0)
        inputs.nowMicroseconds = 27_000_000
        let answer = 256 * 0.02 * (1 + 1.5 * 476_400 / 500_000)
        #expect(abs(inputs.terms(on: load, depth: 0).memoryWait - 3 * (476_400 / 500_000 - 0.9) * answer) < 1e-9)
        load.idleMatchTokens = 5_000
        #expect(
            abs(inputs.terms(on: load, depth: 0).memoryWait - 3 * (481_400 / 500_000 - 0.9) * answer) < 1e-9, "cached, until it joins")
        load.idleMatchTokens = 0
        inputs.nowMicroseconds = 4_999_999
        #expect(inputs.terms(on: load, depth: 0).memoryWait == 0, "the clock of the loop that saw the first tokens was ahead")
    }

    /// Twice full is no worse than full: who fits nowhere goes where the wait is short.
    @Test func memoryThatIsNotThereIsNotPriced() {
        var load = load()
        load.inFlight = 100
        let inputs = inputs()
        func price(_ tokens: Double) -> Double {
            load.activeTokens = tokens
            return inputs.terms(on: load, depth: 0).memoryWait
        }
        // The time of a mean answer, which the price is a multiple of, grows with what steps read of the cache: all of it at most.
        let answer = 256 * 0.02 * (1 + 1.5)
        #expect(abs(price(493_599) - 3 * (499_999 / 500_000 - 0.9) * answer) < 1e-5)
        for tokens in [493_600.0, 493_601, 600_000, 1_000_000] { #expect(abs(price(tokens) - 3 * 0.1 * answer) < 1e-9) }
    }

    /// Two contexts of 200,000 tokens leave 100,000 free, of which the request needs 120,000: one of the two must end, half a mean answer from now.
    /// With five of 80,000 tokens one in five does. And with three that overfill the cache it takes two.
    @Test(
        arguments: [(2, 400_000, 0.5), (5, 400_000, 0.2), (3, 600_000, 2.0 / 3), (2, 380_000, 0), (1, 900_000, 1)]
            as [(Int, Double, Double)])
    func whatDoesNotFitWaitsForAnswersToEnd(sequences: Int, inUse: Double, share: Double) {
        var load = load()
        load.inFlight = Int32(sequences)
        load.activeTokens = inUse
        var inputs = inputs()
        inputs.promptTokens = 120_000
        let answer = 256 * 0.02 * (1 + 1.5 * min((inUse + 120_000) / 500_000, 1))
        #expect(abs(inputs.terms(on: load, depth: 0).roomWait - share * answer) < 1e-9)
        #expect(inputs.terms(on: self.load(), depth: 0).roomWait == 0, "nobody is there")
    }

    @Test(arguments: [0, 0.1, 1, 1.000_001, 2.5, 3.999_999, 7, 1e6 + 0.25, 0x1p52, 0x1p52 + 1, 0x1p53 + 2, 1e300, .infinity])
    func numbersAreRoundedUp(value: Double) { #expect(CostRule.roundedUp(value) == value.rounded(.up)) }

    /// Half a mean answer, as above, is part of the time to first token; that memory is about to be short is a price alone.
    @Test func aWishCountsTheWaitForRoom() {
        var load = load()
        load.inFlight = 2
        load.activeTokens = 400_000
        var inputs = inputs()
        inputs.promptTokens = 120_000
        inputs.wantedTTFTSeconds = 0.5
        let wait = 0.5 * 256 * 0.02 * (1 + 1.5)
        for price in [0.0, 3, 7.5] {
            inputs.rule.memoryWait = price
            let terms = inputs.terms(on: load, depth: 0)
            #expect(abs(terms.timeToFirstToken - (0.01 + 6 + wait)) < 1e-9)
            #expect(abs(terms.lateness - 4 * (5.51 + wait) * (5.51 + wait) / 0.5) < 1e-9)
            let sum = terms.named.reduce(0) { $0 + ($1.name == "total" ? 0 : $1.seconds) }
            #expect(abs(terms.total - sum) < 1e-9)
        }
        load.activeTokens = 370_000
        #expect(inputs.terms(on: load, depth: 0).memoryWait > 0)
        #expect(abs(inputs.terms(on: load, depth: 0).timeToFirstToken - 6.01) < 1e-9, "who fits does not wait")
    }

    /// A busy group with arrivals beyond all bounds, nearly full, which holds less of the prompt than another.
    @Test(arguments: [
        ("decode", "decode"), ("stall stallWhenFull", "stall"), ("memory", "memory"), ("memoryWait", "memory_wait"),
        ("roomWait", "room_wait"),
        ("queueBehind", "queue_behind"), ("copySharing", "copy"), ("crowding", "crowding"), ("lateness", "lateness"),
    ])
    func aFactorOfNothingTakesItsOwnTermAway(constant: String, term: String) {
        var load = load()
        load.inFlight = 40
        load.activeTokens = 499_000
        load.queuedWork = 30_000
        for _ in 0..<1_000 { load.arrivals.observe(nowMicroseconds: 0) }
        var inputs = inputs()
        (inputs.deepest, inputs.sharers, inputs.wantedTTFTSeconds, inputs.wantedTPOTSeconds) = (80, 5, 0.1, 0.001)
        let all = Dictionary(uniqueKeysWithValues: inputs.terms(on: load, depth: 0).named.map { ($0.name, $0.seconds) })
        #expect(all[term] != 0, "or nothing is shown")
        for constant in constant.split(separator: " ") {
            let isSet = inputs.rule.set(String(constant), to: 0)
            #expect(isSet)
        }
        for (name, seconds) in inputs.terms(on: load, depth: 0).named where name != "total" {
            if name == term { #expect(seconds == 0) }
            // What others take over of a copy is a share of what it costs, and a wish is missed by all that is waited.
            let follows = name == "copy" || name == "lateness" && constant == "roomWait"
            if name != term && !follows { #expect(seconds == all[name], "\(name)") }
        }
    }

    /// With room a second decode counts, a hundredth hardly; where there is none each counts alike. None of it is a number that is none.
    @Test func decodesAreHeldUpByTheFirstFewOrByMemory() {
        var rule = CostRule()
        #expect(abs(rule.decodesHeldUp(10, fullness: 0) - 1.5) < 1e-9)
        #expect(abs(rule.decodesHeldUp(100, fullness: 0) - 0.3 * 1_000 / 110) < 1e-9)
        let first = rule.decodesHeldUp(1, fullness: 0)
        #expect(rule.decodesHeldUp(101, fullness: 0) - rule.decodesHeldUp(100, fullness: 0) < 0.02 * first)
        #expect(abs(rule.decodesHeldUp(100, fullness: 1) - rule.decodesHeldUp(100, fullness: 0) - 60) < 1e-9)
        #expect(abs(rule.decodesHeldUp(100, fullness: 0.5) - rule.decodesHeldUp(100, fullness: 0) - 3.75) < 1e-9)
        #expect(rule.decodesHeldUp(100, fullness: 7) == rule.decodesHeldUp(100, fullness: 1))
        for sequences in [0, 0.2, 1, 1e6] {
            let isSet = rule.set("stallSequences", to: 0)
            #expect(isSet && rule.decodesHeldUp(sequences, fullness: 0) == 0)
        }
    }

    /// An empty group's own prefill keeps nobody waiting, however long; behind a queue, a prompt does, where others come.
    @Test func aPromptDelaysThoseThatCouldNotBeSoonerElsewhere() {
        var load = load()
        for second in 1...60 { load.arrivals.observe(nowMicroseconds: UInt64(second) * 1_000_000) }
        var inputs = inputs()
        inputs.nowMicroseconds = 60_000_000
        inputs.promptTokens = 120_000
        inputs.overheadSeconds = 0
        #expect(inputs.terms(on: load, depth: 0).queueBehind == 0)
        load.queuedWork = 20_000
        let perSecond = load.arrivals.perSecond(nowMicroseconds: 60_000_000)
        let terms = inputs.terms(on: load, depth: 0)
        #expect(abs(terms.queueBehind - 4 * perSecond * terms.queueWait * terms.prefill) < 1e-9)
        load.queuedWork = 20_000_000
        let most = inputs.terms(on: load, depth: 0)
        #expect(abs(most.queueBehind - 4 * 8 * most.prefill) < 1e-9, "bursts end")
        load.arrivals = ArrivalRate()
        #expect(inputs.terms(on: load, depth: 0).queueBehind == 0, "nobody comes")
    }

    /// One a second is about one a second, and after 20 s without any it is none.
    @Test func arrivalsOfLateTellTheRate() {
        var rate = ArrivalRate()
        #expect(rate.perSecond(nowMicroseconds: 0) == 0)
        for second in 1...60 { rate.observe(nowMicroseconds: UInt64(second) * 1_000_000) }
        #expect((0.8...1.2).contains(rate.perSecond(nowMicroseconds: 60_000_000)))
        let later = rate.perSecond(nowMicroseconds: 70_000_000)
        #expect(later > 0 && later < 0.1)
        #expect(rate.perSecond(nowMicroseconds: 80_000_000) == 0)
        #expect(rate.perSecond(nowMicroseconds: 59_000_000) == rate.perSecond(nowMicroseconds: 60_000_000), "a clock that is behind")
        // Where milliseconds wrap.
        let wrap = UInt64(1 << 32) * 1_000
        rate.observe(nowMicroseconds: wrap - 1_000_000)
        #expect(rate.perSecond(nowMicroseconds: wrap) > 0.1 && rate.perSecond(nowMicroseconds: wrap + 30_000_000) == 0)
    }

    /// Twenty requests in flight with 80 chunks that another group holds take ten elevenths of what a copy costs, and none of what only this request
    /// brings: 5,120 of its 6,400 tokens are copied.
    @Test func aCopyIsSharedByThoseInFlightWithThePrefix() {
        var load = load()
        load.inFlight = 4
        load.queuedWork = 2_000
        load.arrivals.observe(nowMicroseconds: 0)
        var inputs = inputs()
        inputs.deepest = 80
        #expect(inputs.terms(on: load, depth: 0).copy == 0, "nobody else is there")
        inputs.sharers = 20
        let terms = inputs.terms(on: load, depth: 0)
        let whole = terms.prefill + terms.stall + terms.queueBehind
        #expect(abs(terms.copy + 0.8 * whole * 10 / 11) < 1e-9)
        #expect(inputs.terms(on: load, depth: 80).copy == 0, "nothing is copied")
        inputs.rule.copySharing = 0
        #expect(inputs.terms(on: load, depth: 0).copy == 0)
    }

    /// 50 chunks of 64 tokens are 0.64 % of the cache and make a step of 20 ms 0.192 ms longer; 100 decodes lose that 256 times.
    @Test func aHotPrefixCrowdsItsBatch() {
        var load = load()
        load.inFlight = 103
        load.awaitingFirstToken = 3
        var inputs = inputs()
        (inputs.promptTokens, inputs.deepest) = (4_000, 50)
        #expect(inputs.terms(on: load, depth: 50).crowding == 0, "nobody shares it")
        inputs.sharers = 6
        let lost = 100 * 0.02 * 1.5 * 3_200 / 500_000 * 256
        #expect(abs(inputs.terms(on: load, depth: 50).crowding - 0.1 * lost / 4) < 1e-9)
        #expect(inputs.terms(on: load, depth: 0).crowding == inputs.terms(on: load, depth: 50).crowding, "a copy is read as often")
        inputs.sequences = 2
        #expect(abs(inputs.terms(on: load, depth: 50).crowding - 0.1 * lost / 4) < 1e-9, "a wish for many answers outweighs nothing")
        inputs.rule.crowdingSharers = 0
        #expect(abs(inputs.terms(on: load, depth: 50).crowding - 0.1 * lost) < 1e-9)
    }

    /// Behind 100 decodes, or as a copy among 40: those that many will follow move, the third of a kind stays.
    @Test(arguments: [(3.0, false), (30.0, true)])
    func whatManyShareIsCopiedToSmallerBatches(sharers: Double, isCopied: Bool) {
        var (crowded, other) = (load(), load())
        (crowded.inFlight, other.inFlight) = (100, 40)
        (crowded.activeTokens, other.activeTokens) = (60_000, 30_000)
        var inputs = inputs()
        (inputs.promptTokens, inputs.deepest, inputs.sharers) = (4_256, 64, sharers)
        func copies() -> Bool { inputs.terms(on: other, depth: 0).total < inputs.terms(on: crowded, depth: 64).total }
        #expect(copies() == isCopied)
        inputs.rule.crowding = 0
        #expect(!copies())
    }

    /// Of an answer that was counted only what came since is extrapolated: 2,000 tokens, and 2 s of 100 sequences at 51 ms.
    @Test func whatWasCountedOfAnswersIsInUse() {
        var load = load()
        load.inFlight = 100
        load.activeTokens = 100_000
        load.activeOutputTokens = 40_000
        load.generatedTokens = 2_000
        load.decodesSince = 100 * 5_000_000
        let inUse = load.tokensInUse(atMicroseconds: 7_000_000, tokenSeconds: 0.051, youngGrowth: 0)
        #expect(abs(inUse - (62_000 + 200 / 0.051)) < 1e-6)
    }

    /// Of 40,000 tokens to come all count where none is there, half of what is left at a quarter, and none from a half on.
    @Test(arguments: [(0.0, 100_000.0), (10_000.0, 85_000.0), (20_000.0, 80_000.0), (30_000.0, 90_000.0), (50_000.0, 100_000.0)])
    func aYoungBatchIsTakenForWhatItBecomes(generated: Double, inUse: Double) {
        var load = load()
        load.activeTokens = 100_000
        load.activeOutputTokens = 40_000
        load.generatedTokens = generated
        #expect(abs(load.tokensInUse(atMicroseconds: 0, tokenSeconds: 0.05, youngGrowth: 1) - inUse) < 1e-6)
        #expect(load.tokensInUse(atMicroseconds: 0, tokenSeconds: 0.05, youngGrowth: 0) == 60_000 + min(generated, 40_000))
    }

    @Test func aFirstTurnPaysForTheMemoryOfThoseThatFollow() {
        var load = load()
        load.inFlight = 10
        load.activeTokens = 200_000
        var inputs = inputs()
        let alone = inputs.terms(on: load, depth: 10)
        inputs.laterTurns = 3
        var followed = inputs.terms(on: load, depth: 10)
        #expect(alone.memory > 0 && abs(followed.memory - 4 * alone.memory) < 1e-12)
        followed.memory = alone.memory
        #expect(followed == alone)
    }

    /// 1,000 tokens behind 9,000 are computed with 9,500 in the mean, 10,000 behind none with 5,000; 30 for a million of them.
    @Test func attentionMakesTokensBehindALongContextDearer() {
        var rule = CostRule()
        #expect(abs(rule.prefillWork(uncached: 1_000, promptTokens: 10_000) - 1_000 * 1.285) < 1e-9)
        #expect(abs(rule.prefillWork(uncached: 10_000, promptTokens: 10_000) - 10_000 * 1.15) < 1e-9)
        rule.attention = 0
        #expect(rule.prefillWork(uncached: 1_000, promptTokens: 10_000) == 1_000)
        var inputs = inputs()
        inputs.rule.attention = 30
        let terms = inputs.terms(on: load(), depth: 80)
        #expect(abs(terms.prefill - (6_400 - 5_120) * (1 + 30e-6 * (6_400 - 640)) / 20_000) < 1e-12)
        #expect(terms.memory == self.inputs().terms(on: load(), depth: 80).memory, "memory is taken by tokens")
    }

    @Test func theLastBlockIsNeverFree() {
        let terms = inputs().terms(on: load(), depth: 100)
        #expect(abs(terms.prefill - 16 / 20_000.0) < 1e-9)
    }

    /// More of any load never makes a group look better; a deeper match never makes it look worse.
    @Test(arguments: 1...20 as ClosedRange<UInt64>)
    func everyTermGrowsWithLoadAndShrinksWithTheMatch(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        var inputs = inputs()
        var load = load()
        load.inFlight = .random(in: 0...200, using: &random)
        load.queuedWork = .random(in: 0...200_000, using: &random)
        load.activeTokens = .random(in: 0...600_000, using: &random)
        load.heldTokens = .random(in: 0...500_000, using: &random)
        let depth = Int.random(in: 0...99, using: &random)
        inputs.deepest = .random(in: 0...100, using: &random)
        inputs.sharers = .random(in: 0...50, using: &random)
        let pricing = inputs
        let base = pricing.terms(on: load, depth: depth)
        func expectNoTermBelowBase(ofTerms values: (CostTerms) -> [Double], _ change: (inout GroupLoad) -> Void) {
            var heavier = load
            change(&heavier)
            let terms = pricing.terms(on: heavier, depth: depth)
            for (more, less) in zip(values(terms), values(base)) { #expect(more >= less && more.isFinite) }
        }
        func expectNoTermBelowBase(_ change: (inout GroupLoad) -> Void) { expectNoTermBelowBase(ofTerms: values, change) }
        // The more sequences share the same memory, the sooner one of them gives its part back.
        expectNoTermBelowBase(ofTerms: { [$0.decode, $0.stall, $0.memory, $0.memoryWait, $0.crowding] }) { $0.inFlight += 1 }
        expectNoTermBelowBase { $0.queuedWork += 500 }
        expectNoTermBelowBase { $0.activeTokens += 500 }
        expectNoTermBelowBase { $0.heldTokens += 500 }
        for (more, less) in zip(values(base), values(inputs.terms(on: load, depth: depth + 1))) { #expect(more >= less) }
    }

    private func values(_ terms: CostTerms) -> [Double] {
        [
            terms.overhead, terms.queueWait, terms.prefill, terms.decode, terms.stall, terms.queueBehind,
            terms.memory, terms.memoryWait, terms.roomWait, terms.total,
        ]
    }

    /// Scoring fetches the first lines of each group, and nothing of another.
    @Test func whatScoringReadsOfAGroupIsInItsFirstLines() throws {
        #expect(try #require(MemoryLayout<GroupLoad>.offset(of: \.continuationTokens)) + 8 == GroupLoad.decisiveBytes)
        #expect(MemoryLayout<GroupLoad>.stride.isMultiple(of: 64))
        #expect(MemoryLayout<PrefixIndex.Holder>.stride == 64)
        #expect(MemoryLayout<PrefixIndex.Block>.stride == 32)
    }
}
