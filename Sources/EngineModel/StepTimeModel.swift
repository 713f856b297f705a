/// What one step of the engine has to do, in the terms that its duration depends on.
public struct StepLoad: Sendable, Equatable {
    /// Prompt tokens computed in this step, over all sequences.
    public var prefillTokens = 0
    /// Sequences that get one more token by computing just the one before it.
    public var decodeSequences = 0
    /// Tokens already in the KV cache that the decoding sequences read.
    public var decodeContextTokens = 0

    public init() {}

    /// Nothing to do.
    public var isEmpty: Bool { prefillTokens == 0 && decodeSequences == 0 }
    /// Tokens that go through the model in this step.
    public var tokens: Int { prefillTokens + decodeSequences }
}

/// How long a step takes: linear in its load.
///
/// A step reads all weights once, whatever it computes; while that read lasts, computing is free. So a step takes the longer of
/// the two, plus what grows with the number of decoding sequences (their KV reads, sampling), plus a fixed overhead. A model
/// built from weights, bandwidth and FLOPs takes the place of these four constants without changing its callers.
public struct StepTimeModel: Sendable, Equatable {
    /// Time to compute one prompt token, ns.
    public var prefillNanosecondsPerToken: UInt64
    /// Time of a step that decodes one sequence, ns: the read of the weights.
    public var decodeNanosecondsPerStep: UInt64
    /// Added per decoding sequence, ns.
    public var decodeNanosecondsPerSequence: UInt64
    /// Added to every step, ns: scheduling, kernel launches.
    public var overheadNanoseconds: UInt64

    public init(
        prefillNanosecondsPerToken: UInt64 = 100_000, decodeNanosecondsPerStep: UInt64 = 20_000_000,
        decodeNanosecondsPerSequence: UInt64 = 200_000, overheadNanoseconds: UInt64 = 0
    ) {
        self.prefillNanosecondsPerToken = prefillNanosecondsPerToken
        self.decodeNanosecondsPerStep = decodeNanosecondsPerStep
        self.decodeNanosecondsPerSequence = decodeNanosecondsPerSequence
        self.overheadNanoseconds = overheadNanoseconds
    }

    /// Duration of a step, ns.
    public func nanoseconds(of load: StepLoad) -> UInt64 {
        let computing = prefillNanosecondsPerToken &* UInt64(clamping: load.prefillTokens)
        return overheadNanoseconds &+ max(computing, decodeNanosecondsPerStep)
            &+ decodeNanosecondsPerSequence &* UInt64(clamping: load.decodeSequences)
    }
}
