import Testing

@testable import Routing

@Suite struct CostTests {
    private func load() -> GroupLoad {
        var load = GroupLoad(generation: 1, holder: 1, identity: 1)
        load.secondsPerToken = 1 / 40_000
        load.decodeStepSeconds = 0.02
        load.kvCapacityTokens = 500_000
        load.reuse = 0.1
        return load
    }

    private func inputs(horizonSeconds: Double = 0.5) -> CostInputs {
        CostInputs(
            promptTokens: 6_400, tokensPerChunk: 64, outputTokens: 256, arrivalsPerGroup: 2, horizonSeconds: horizonSeconds,
            prefillScale: 2,
            overheadSeconds: 0.01)
    }

    @Test func timeToFirstTokenIsQueueAndOwnWorkOverTheRate() {
        var load = load()
        load.queuedTokens = 2_000
        let terms = inputs().terms(on: load, depth: 40)
        #expect(abs(terms.queueWait - 0.1) < 1e-9)
        #expect(abs(terms.prefill - (6_400 - 2_560) / 20_000) < 1e-9)
        #expect(abs(terms.timeToFirstToken - 0.302) < 1e-9)
    }

    /// 470,000 tokens in use and 6,656 of this request are 95.3 % of the cache: its square of the time in which 256 steps of 20 ms, which the
    /// batch makes 1 + 1.5 · (470,000 + 6,400) / 500,000 + 0.001 times as long, end a mean answer.
    @Test func aFullCacheHasItsPrice() {
        var load = load()
        load.activeTokens = 470_000
        let share = 476_656 / 500_000.0
        let expected = 0.1 * share * share * 256 * 0.02 * (1 + 0.001 + 1.5 * 476_400 / 500_000)
        let terms = inputs().terms(on: load, depth: 0)
        #expect(abs(terms.memory - expected) < 1e-9)
        #expect(terms.timeToFirstToken == inputs().terms(on: self.load(), depth: 0).timeToFirstToken, "a price is no wait")
    }

    /// 470,000 tokens, of which 40,000 are outputs of 100 answers that have been decoding for 2 s, so that steps of 51 ms have made some
    /// 4,000 of them: with the request's 6,400 the cache is 88 % full, and pays nothing. 20 s later all are made.
    @Test func aCacheThatIsFullNowIsPricedFromNineTenthsOn() {
        var load = load()
        load.inFlight = 100
        load.activeTokens = 470_000
        load.activeOutputTokens = 40_000
        load.decodesSince = 100 * 5_000_000
        var inputs = inputs()
        inputs.nowMicroseconds = 7_000_000
        #expect(inputs.terms(on: load, depth: 0).memoryWait == 0)
        inputs.nowMicroseconds = 27_000_000
        let answer = 256 * 0.02 * (1 + 0.101 + 1.5 * 476_400 / 500_000)
        #expect(abs(inputs.terms(on: load, depth: 0).memoryWait - 3 * (476_400 / 500_000 - 0.9) * answer) < 1e-9)
        inputs.nowMicroseconds = 4_999_999
        #expect(inputs.terms(on: load, depth: 0).memoryWait == 0, "the clock of the loop that saw the first tokens was ahead")
    }

    /// A copy of a prompt in a full cache costs what it evicts, as far as prompts are asked for again.
    @Test func evictionIsPricedByReuse() {
        var load = load()
        load.reuse = 0
        load.heldTokens = 500_000
        var inputs = inputs()
        #expect(inputs.terms(on: load, depth: 0).eviction == 0)
        inputs.reuseShare = 0.5
        #expect(abs(inputs.terms(on: load, depth: 0).eviction - 0.5 * 6_656 / 20_000) < 1e-9)
    }

    @Test func theLastBlockIsNeverFree() {
        let terms = inputs().terms(on: load(), depth: 100)
        #expect(abs(terms.prefill - 16 / 20_000.0) < 1e-9)
    }

    /// More of any load never makes a group look better; a deeper match never makes it look worse.
    @Test(arguments: 1...20 as ClosedRange<UInt64>)
    func everyTermGrowsWithLoadAndShrinksWithTheMatch(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        let inputs = inputs(horizonSeconds: .random(in: 0.05...10, using: &random))
        var load = load()
        load.inFlight = .random(in: 0...200, using: &random)
        load.queuedTokens = .random(in: 0...200_000, using: &random)
        load.activeTokens = .random(in: 0...600_000, using: &random)
        load.heldTokens = .random(in: 0...500_000, using: &random)
        let depth = Int.random(in: 0...99, using: &random)
        let base = inputs.terms(on: load, depth: depth)
        func expectNoTermBelowBase(_ change: (inout GroupLoad) -> Void) {
            var heavier = load
            change(&heavier)
            let terms = inputs.terms(on: heavier, depth: depth)
            for (more, less) in zip(values(terms), values(base)) { #expect(more >= less && more.isFinite) }
        }
        expectNoTermBelowBase { $0.inFlight += 1 }
        expectNoTermBelowBase { $0.queuedTokens += 500 }
        expectNoTermBelowBase { $0.activeTokens += 500 }
        expectNoTermBelowBase { $0.heldTokens += 500 }
        expectNoTermBelowBase { $0.reuse += 0.1 }
        for (more, less) in zip(values(base), values(inputs.terms(on: load, depth: depth + 1))) { #expect(more >= less) }
    }

    private func values(_ terms: CostTerms) -> [Double] {
        [
            terms.overhead, terms.queueWait, terms.prefill, terms.decode, terms.stall, terms.slowdown, terms.queueBehind, terms.eviction,
            terms.memory, terms.memoryWait, terms.total,
        ]
    }
}
