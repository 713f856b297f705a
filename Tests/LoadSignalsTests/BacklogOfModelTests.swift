import EngineModel
import Testing

@testable import LoadSignals

/// The backlog worked out from the counters of a modelled engine, against what it truly has.
@Suite struct BacklogOfModelTests {
    struct Errors {
        var readings = 0
        /// Sums over all readings of how far an account is from the truth.
        var ofEstimate = 0.0
        var ofQueue = 0.0
        var ofTokens = 0.0
        var tokens = 0.0
        var preemptions: UInt64 = 0
    }

    /// Ten minutes of an engine whose prefill is busy nine tenths of the time, read every second.
    private func errors(seed: UInt64, abortShare: Double, blocks: Int = 1 << 16, pauses: UInt64 = 400_000_000) throws -> Errors {
        var random = Generator(state: seed)
        let configuration = EngineConfiguration(
            blockCount: blocks, maximumSequences: 64, reportsTokens: false,
            stepTime: StepTimeModel(
                prefillNanosecondsPerToken: 50_000, decodeNanosecondsPerStep: 10_000_000, decodeNanosecondsPerSequence: 100_000))
        var engine = Engine(configuration: configuration)
        var backlog = FirstTokenBacklog()
        var errors = Errors()
        var firstTokens = 0.0
        var events: [EngineEvent] = []
        var aborts: [(id: SequenceID, at: UInt64)] = []
        var (id, arrival): (SequenceID, UInt64) = (0, 1_000_000_000)
        for now in stride(from: 0, to: 600_000_000_000 as UInt64, by: 1_000_000_000) {
            while arrival <= now {
                for abort in aborts where abort.at <= arrival { engine.abort(abort.id) }
                aborts.removeAll { $0.at <= arrival }
                engine.advance(to: arrival, events: &events)
                id += 1
                let prompt =
                    Int.random(in: 0..<8, using: &random) == 0
                    ? Int.random(in: 8_000...24_000, using: &random) : Int.random(in: 500...4_000, using: &random)
                let shared = Prompt(
                    tokenCount: prompt, blockHashes: Array(1...UInt64.random(in: 1...100, using: &random)), blockSize: 16, uniqueness: id)
                try engine.submit(
                    SequenceRequest(id: id, prompt: shared, outputTokens: Int.random(in: 10...200, using: &random)), now: arrival)
                if Double.random(in: 0..<1, using: &random) < abortShare {
                    aborts.append((id, arrival + UInt64.random(in: 0...5_000_000_000, using: &random)))
                }
                arrival += UInt64.random(in: 0...pauses, using: &random)
            }
            engine.advance(to: now, events: &events)
            for event in events { if case .firstToken = event { firstTokens += 1 } }
            events.removeAll()
            let counters = engine.counters
            let counts = FirstTokenBacklog.Counts(
                running: Double(engine.runningCount), waiting: Double(engine.waitingCount), firstTokens: firstTokens,
                ended: Double(counters.finishedByStop + counters.finishedByLength), preemptions: Double(counters.preemptions),
                tokens: .init(
                    lookedUp: Double(counters.prefixQueryTokens), found: Double(counters.prefixHitTokens),
                    prefilled: Double(counters.promptTokens), prefilledFound: Double(counters.promptHitTokens)),
                kvUsage: engine.cacheUsage, longestPrompt: Double(configuration.maximumSequenceTokens))
            let estimate = backlog.observe(counts, at: now)
            let truth = Double(max(engine.unprefilledCount, engine.waitingCount))
            errors.readings += 1
            errors.ofEstimate += abs(estimate.awaiting - truth)
            errors.ofQueue += abs(counts.waiting - truth)
            errors.ofTokens += abs((estimate.prefillTokens ?? 0) - Double(engine.prefillTokens))
            errors.tokens += Double(engine.prefillTokens)
        }
        errors.preemptions = engine.counters.preemptions
        return errors
    }

    @Test(arguments: [1, 2] as [UInt64]) func isExactWithoutAborts(seed: UInt64) throws {
        let errors = try errors(seed: seed, abortShare: 0)
        #expect(errors.ofEstimate == 0 && errors.ofTokens == 0)
        #expect(errors.ofQueue > Double(errors.readings) && errors.tokens > 6_000 * Double(errors.readings), "what no gauge tells")
        #expect(errors.preemptions == 0)
    }

    /// A sequence that was preempted in its prefill waits, and its tokens are not told from those in the batch.
    @Test(arguments: [1, 2] as [UInt64]) func aFullCacheTakesLittleOfIt(seed: UInt64) throws {
        let errors = try errors(seed: seed, abortShare: 0, blocks: 3_500)
        #expect(errors.ofEstimate == 0)
        #expect(errors.ofTokens < 0.03 * errors.tokens)
        #expect(errors.preemptions > 500)
    }

    /// Each abort hides one, until for a moment nobody is being prefilled: the fewer such moments, the more is hidden.
    @Test(
        arguments: [
            (0.02, 500_000_000, 1 << 16, 0.2), (0.02, 400_000_000, 1 << 16, 0.4), (0.02, 400_000_000, 5_000, 0.4),
            (0.1, 800_000_000, 1 << 16, 0.25), (0.1, 400_000_000, 1 << 16, 0.7),
        ] as [(Double, UInt64, Int, Double)])
    func abortsHideAPartOfIt(share: Double, pauses: UInt64, blocks: Int, most: Double) throws {
        let errors = try errors(seed: 1, abortShare: share, blocks: blocks, pauses: pauses)
        #expect(errors.ofEstimate > 0 && errors.ofEstimate < most * errors.ofQueue)
        #expect(errors.ofTokens < (most + 0.1) * errors.tokens)
    }
}

/// SplitMix64.
private struct Generator: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = (state ^ (state >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }
}
