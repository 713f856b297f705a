import Testing

@testable import EngineModel

/// An engine with a clock of its own and easy numbers: 1 ns per prefill token, 10 ns per step, nothing per sequence.
struct Bench {
    var engine: Engine
    var events: [EngineEvent] = []
    var now: UInt64 = 0

    init(_ change: (inout EngineConfiguration) -> Void = { _ in }) {
        var configuration = EngineConfiguration(
            blockSize: 4, blockCount: 101, maximumSequences: 8, maximumBatchedTokens: 64,
            stepTime: StepTimeModel(
                prefillNanosecondsPerToken: 1, decodeNanosecondsPerStep: 10, decodeNanosecondsPerSequence: 0))
        change(&configuration)
        engine = Engine(configuration: configuration)
    }

    func prompt(_ tokens: [UInt32], salt: String? = nil, adapter: String? = nil) -> Prompt {
        Prompt(
            tokens: tokens, blockSize: engine.configuration.blockSize, root: BlockHash.root(cacheSalt: salt, adapter: adapter))
    }

    mutating func submit(_ id: SequenceID, _ prompt: Prompt, output: Int, seed: UInt64 = 0) throws {
        try engine.submit(SequenceRequest(id: id, prompt: prompt, replySeed: seed, outputTokens: output), now: now)
    }

    mutating func submit(_ id: SequenceID, _ tokens: [UInt32], output: Int) throws {
        try submit(id, prompt(tokens), output: output)
    }

    /// Begins a step, or ends the one under way and begins the next. Returns when that one ends.
    @discardableResult
    mutating func step() -> UInt64? {
        now = max(now, engine.nextStepEnd ?? now)
        engine.step(now: now, events: &events)
        return engine.nextStepEnd
    }

    /// Steps, and expects the step that then begins to end at `end`.
    mutating func expectStepEnd(_ end: UInt64?, sourceLocation: SourceLocation = #_sourceLocation) {
        let ends = step()
        #expect(ends == end, sourceLocation: sourceLocation)
    }

    /// Steps until there is nothing to do. Returns how many steps that took, at most `limit`.
    @discardableResult
    mutating func run(limit: Int = 100_000) -> Int {
        var steps = 0
        step()
        while engine.nextStepEnd != nil, steps < limit {
            step()
            steps += 1
        }
        return steps
    }

    func cachedTokens(of id: SequenceID) -> Int? {
        events.compactMap { if case .scheduled(id, let cached) = $0 { cached } else { nil } }.first
    }

    func tokens(of id: SequenceID) -> [ReplyToken] {
        events.compactMap { if case .token(id, let token) = $0 { token } else { nil } }
    }

    func summary(of id: SequenceID) -> SequenceSummary? {
        events.compactMap { if case .finished(id, let summary) = $0 { summary } else { nil } }.first
    }

    var finishOrder: [SequenceID] {
        events.compactMap { if case .finished(let id, _) = $0 { id } else { nil } }
    }
}

/// `count` tokens that no other `name` has.
func tokens(_ name: UInt32, _ count: Int) -> [UInt32] { (0..<UInt32(count)).map { name &* 1_000_000 &+ $0 } }

/// A seeded generator for property tests (SplitMix64).
struct SeededGenerator: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }
}
