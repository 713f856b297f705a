/// What one step of the engine has to do, in the terms that its duration depends on.
public struct StepLoad: Sendable, Equatable {
    /// Prompt tokens computed in this step, over all sequences.
    public var prefillTokens = 0
    /// Sequences that those belong to.
    public var prefillSequences = 0
    /// Pairs of a token computed and one that it attends to, itself included, over all prefills: what grows with the square of a prompt.
    public var prefillPairs = 0
    /// Tokens already in the KV cache that the prefilling sequences read.
    public var prefillContextTokens = 0
    /// Sequences that get one more token by computing just the one before it.
    public var decodeSequences = 0
    /// Tokens already in the KV cache that the decoding sequences read.
    public var decodeContextTokens = 0
    /// Time that the step first waits for LoRA adapters to be loaded, ns.
    public var adapterLoadNanoseconds: UInt64 = 0

    public init() {}

    /// Nothing to do.
    public var isEmpty: Bool { prefillTokens == 0 && decodeSequences == 0 }
    /// Tokens that go through the model in this step.
    public var tokens: Int { prefillTokens + decodeSequences }

    /// Adds `tokens` of a prompt of which `context` are computed already.
    public mutating func addPrefill(tokens: Int, context: Int) {
        prefillTokens += tokens
        prefillSequences += 1
        prefillPairs += tokens * context + tokens * (tokens + 1) / 2
        prefillContextTokens += context
    }
}

/// How long a step takes: the coefficients of a roofline, all in ns.
///
/// A step reads all weights once, whatever it computes; while that read lasts, computing is free. So a step takes the longer of
/// the two, and then what adds to either: attention, the KV cache's reads, work per token and per sequence, a fixed overhead.
///
///     duration = max(compute · tokens, weights) + token · tokens + pair · pairs + context · context tokens
///              + sequence · sequences + fixed
///
/// Two ways to get them: ``init(prefillNanosecondsPerToken:decodeNanosecondsPerStep:decodeNanosecondsPerSequence:overheadNanoseconds:)``
/// takes what a user of the engine would measure; ``init(model:accelerator:tensorParallel:)`` derives them from hardware and model.
public struct StepTimeModel: Sendable, Equatable {
    /// Per token in matrix products, hidden behind the weights' read as long as that takes longer.
    public var prefillCompute: Double
    public var decodeCompute: Double
    /// The read of all weights.
    public var weights: Double
    /// Per token, beside the above: element-wise kernels, all-reduce traffic.
    public var token = 0.0
    /// Per pair of tokens in prefill attention.
    public var pair = 0.0
    /// Per token of context read from the KV cache.
    public var context = 0.0
    /// Per sequence: sampling, bookkeeping.
    public var prefillSequence = 0.0
    public var decodeSequence: Double
    /// Per step: scheduling, launches, the start of all-reduces.
    public var fixed: Double

    /// - Parameters:
    ///   - prefillNanosecondsPerToken: time to compute one prompt token, ns.
    ///   - decodeNanosecondsPerStep: time of a step that decodes one sequence, ns: the read of the weights.
    ///   - decodeNanosecondsPerSequence: added per decoding sequence, ns.
    ///   - overheadNanoseconds: added to every step, ns.
    public init(
        prefillNanosecondsPerToken: UInt64 = 100_000, decodeNanosecondsPerStep: UInt64 = 20_000_000,
        decodeNanosecondsPerSequence: UInt64 = 200_000, overheadNanoseconds: UInt64 = 0
    ) {
        prefillCompute = Double(prefillNanosecondsPerToken)
        decodeCompute = 0
        weights = Double(decodeNanosecondsPerStep)
        decodeSequence = Double(decodeNanosecondsPerSequence)
        fixed = Double(overheadNanoseconds)
    }

    /// The same engine on a clock that runs slower (above 1) or faster: every duration times `factor`.
    public func scaled(by factor: Double) -> StepTimeModel {
        var scaled = self
        scaled.prefillCompute *= factor
        scaled.decodeCompute *= factor
        scaled.weights *= factor
        scaled.token *= factor
        scaled.pair *= factor
        scaled.context *= factor
        scaled.prefillSequence *= factor
        scaled.decodeSequence *= factor
        scaled.fixed *= factor
        return scaled
    }

    /// Duration of a step, ns.
    public func nanoseconds(of load: StepLoad) -> UInt64 {
        let computing = prefillCompute * Double(load.prefillTokens) + decodeCompute * Double(load.decodeSequences)
        let work =
            max(computing, weights) + token * Double(load.tokens) + pair * Double(load.prefillPairs)
            + context * Double(load.prefillContextTokens + load.decodeContextTokens)
            + prefillSequence * Double(load.prefillSequences) + decodeSequence * Double(load.decodeSequences) + fixed
        // Half a century at most, so that the conversion cannot trap and no sum of two can overflow.
        return UInt64(min(max(work, 0), 1.5e18) + 0.5) &+ load.adapterLoadNanoseconds
    }
}
