/// One thing that an answer teaches of engines and texts. A router learns it, and tells its replicas: each of them sees a part of the answers only,
/// and what it has not learned yet it would decide by priors.
enum Lesson: BitwiseCopyable, Equatable {
    /// A first token came after so many seconds, with so much prefill work ahead and own, see `CostRule.prefillWork`.
    case prefill(work: Double, seconds: Double)
    /// Natural logarithm of a decode step's observed over its described time, in a batch as large as that one.
    case step(logRatio: Double)
    /// Natural logarithm of the tokens that an answer has, or is taken to get, and of what was taught of the same answer before; 0: nothing.
    case length(Double, former: Double)
    /// The same of one that has ended.
    case wholeLength(Double, former: Double)
    /// So many tokens were so many bytes of text.
    case text(tokens: Double, bytes: Double)
    /// So many tokens came in so many events.
    case events(tokens: Double, count: Double)
}

extension Lesson {
    /// How it is told: which, and two numbers of 32 bits.
    var told: (kind: Int, numbers: UInt64) {
        switch self {
        case .prefill(let work, let seconds): (0, Self.pack(work, seconds))
        case .step(let ratio): (1, Self.pack(ratio, 0))
        case .length(let length, let former): (2, Self.pack(length, former))
        case .wholeLength(let length, let former): (3, Self.pack(length, former))
        case .text(let tokens, let bytes): (4, Self.pack(tokens, bytes))
        case .events(let tokens, let count): (5, Self.pack(tokens, count))
        }
    }

    static var kinds: Range<Int> { 0..<6 }

    /// What a replica told; nil for what no answer can teach.
    init?(kind: Int, numbers: UInt64) {
        let first = Double(Float(bitPattern: UInt32(truncatingIfNeeded: numbers)))
        let second = Double(Float(bitPattern: UInt32(truncatingIfNeeded: numbers >> 32)))
        switch kind {
        case 0 where Self.tokens ~= first && Self.seconds ~= second: self = .prefill(work: first, seconds: second)
        case 1 where Self.logRatios ~= first: self = .step(logRatio: first)
        case 2 where Self.logLengths ~= first && Self.logLengths ~= second: self = .length(first, former: second)
        case 3 where Self.logLengths ~= first && Self.logLengths ~= second: self = .wholeLength(first, former: second)
        case 4 where Self.bytes ~= second && 0...4 * second ~= first: self = .text(tokens: first, bytes: second)
        case 5 where Self.events ~= first && Self.events ~= second: self = .events(tokens: first, count: second)
        default: return nil
        }
    }

    private static func pack(_ first: Double, _ second: Double) -> UInt64 {
        UInt64(Float(first).bitPattern) | UInt64(Float(second).bitPattern) << 32
    }

    // NaN is in no range.
    private static var tokens: ClosedRange<Double> { 1...0x1p24 }
    private static var seconds: ClosedRange<Double> { 0...3_600 }
    private static var logRatios: ClosedRange<Double> { -20...20 }
    fileprivate static var logLengths: ClosedRange<Double> { 0...14 }
    private static var bytes: ClosedRange<Double> { 1...RoutingState.mostTellingBytes }
    private static var events: ClosedRange<Double> { 1...0x1p20 }
}

extension RoutingState {
    /// Learns what an answer of that group teaches, and keeps it for the replicas.
    mutating func take(_ lesson: Lesson, of slot: UInt32) {
        if sharing.isOn { tell(lesson, slot: slot) }
        learn(lesson, of: slot)
    }

    mutating func learn(_ lesson: Lesson, of slot: UInt32) {
        switch lesson {
        case .prefill(let work, let seconds): learnPrefill(slot, work: work, seconds: seconds)
        case .step(let ratio): learnStep(slot, logRatio: ratio)
        case .length(let length, let former): learnLength(length, former: former)
        case .wholeLength(let length, let former):
            learnLength(length, former: former)
            outputLearning = max(outputLearning / (1 + outputLearning), 0.02)
        case .text(let tokens, let bytes): tokensPerByteRatio.observe(numerator: tokens, denominator: bytes)
        case .events(let tokens, let count): tokensPerEvent.observe(numerator: tokens, denominator: count)
        }
    }

    private mutating func learnLength(_ length: Double, former: Double) {
        // What was taught before may have been lost on its way, or never taught.
        let mean = outputLogMean + outputLearning * (length - (former > 0 ? former : outputLogMean))
        outputLogMean = min(max(mean, Lesson.logLengths.lowerBound), Lesson.logLengths.upperBound)
    }
}
