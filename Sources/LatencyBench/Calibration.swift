import Routing
import Workload

/// Why there are no figures, in a sentence for people.
public struct CalibrationFailure: Error, CustomStringConvertible, Equatable {
    public let description: String

    public init(_ description: String) { self.description = description }
}

/// How fast an idle engine is, in the terms of the router's priors: from first tokens of prompts that share nothing, and answers to short
/// ones, sent one after the other. Pure.
///
/// Of each length the median counts, and a line goes through those (`PrefillLine`). Intervals are of 95 %, from drawing as many samples again
/// with repetition (Efron, 1979), within each length, by a fixed seed.
public struct Calibration: Codable, Sendable {
    public struct FirstToken: Sendable {
        /// Number of the planned length among those that were sent.
        public var length: Int
        public var promptTokens: Int
        public var cachedTokens: Int
        /// Of the prompt's text, without a template's.
        public var textBytes: Int
        /// From the send to the first token.
        public var seconds: Double

        public init(length: Int, promptTokens: Int, cachedTokens: Int, textBytes: Int, seconds: Double) {
            self.length = length
            self.promptTokens = promptTokens
            self.cachedTokens = cachedTokens
            self.textBytes = textBytes
            self.seconds = seconds
        }

        var computedTokens: Double { Double(promptTokens - cachedTokens) }
        var point: PrefillLine.Point {
            .init(work: CostRule().prefillWork(uncached: computedTokens, promptTokens: Double(promptTokens)), seconds: seconds)
        }
    }

    public struct Samples: Sendable {
        public var firstTokens: [FirstToken] = []
        /// One for each answer: the mean of its gaps.
        public var stepSeconds: [Double] = []

        public init() {}
    }

    public struct Estimate: Codable, Sendable, Equatable {
        public var value: Double
        public var low: Double
        public var high: Double

        /// Width of the interval over the value.
        public var spread: Double { value > 0 ? (high - low) / value : .infinity }
    }

    public struct Length: Codable, Sendable {
        /// Median of the tokens that were computed.
        public var tokens: Double
        public var samples: Int
        public var medianSeconds: Double
        public var lowerQuartileSeconds: Double
        public var upperQuartileSeconds: Double
        /// Median over what the line says, less one.
        public var offTheLine: Double
    }

    /// Of tokens behind no context, as `CostRule.prefillWork` counts.
    public var prefillTokensPerSecond: Estimate
    /// What a first token takes beside the prompt's tokens.
    public var fixedSeconds: Estimate
    /// Of one sequence with little context.
    public var decodeStepSeconds: Estimate
    /// Of the text that was sent, which is no prose: of the longest prompts, where what a chat template adds is nothing.
    public var bytesPerToken: Estimate
    public var lengths: [Length]

    /// Fewer of one length, or answers, have no median to speak of.
    public static let leastSamples = 3
    /// What `Configuration` takes, and more than any engine does.
    private static let possibleRates = 1.0...1e9
    private static let possibleSteps = 1e-6...60.0
    private static let draws = 400

    public init(_ samples: Samples) throws(CalibrationFailure) {
        let byLength = Dictionary(grouping: samples.firstTokens, by: \.length).sorted { $0.key < $1.key }.map(\.value)
            .filter { $0.count >= Self.leastSamples }
        try Self.checkCounts(byLength)
        let medians = byLength.map { Self.median($0) }
        guard let line = PrefillLine(medians) else {
            throw CalibrationFailure(
                "there are first tokens of \(byLength.count == 1 ? "one length of prompts only" : "no prompts"): two tell rate and overhead apart"
            )
        }
        guard line.secondsPerToken > 0, Self.possibleRates.contains(1 / line.secondsPerToken) else {
            throw CalibrationFailure(
                "first tokens of long prompts come no later than those of short ones: what answers there computes no prompts, or is not idle"
            )
        }
        let step = Quantiles(samples.stepSeconds).median
        guard samples.stepSeconds.count >= Self.leastSamples, Self.possibleSteps.contains(step) else {
            throw CalibrationFailure(
                samples.stepSeconds.count < Self.leastSamples
                    ? "there are \(samples.stepSeconds.count) streamed answers, and \(Self.leastSamples) are needed to tell a decode step"
                    : "a decode step seems to take \(step) s: the answers come at once, or not as they are made")
        }
        var generator = SeededGenerator(seed: 1)
        let lines = (0..<Self.draws).compactMap { _ in PrefillLine(byLength.map { Self.median(Self.redrawn($0, &generator)) }) }
        // A draw without slope has no rate; the interval then reaches as far as it can.
        let rates = lines.map { 1 / max($0.secondsPerToken, 1 / Self.possibleRates.upperBound) }
        prefillTokensPerSecond = Self.estimate(1 / line.secondsPerToken, rates)
        fixedSeconds = Self.estimate(line.fixedSeconds, lines.map(\.fixedSeconds))
        decodeStepSeconds = Self.estimate(ofMedian: samples.stepSeconds, &generator)
        let longest = byLength.last ?? []
        bytesPerToken = Self.estimate(ofMedian: longest.map { Double($0.textBytes) / Double($0.promptTokens) }, &generator)
        lengths = zip(byLength, medians).map { samples, median in
            let seconds = Quantiles(samples.map(\.seconds))
            return Length(
                tokens: Quantiles(samples.map(\.computedTokens)).median, samples: samples.count, medianSeconds: median.seconds,
                lowerQuartileSeconds: seconds.at(0.25),
                upperQuartileSeconds: seconds.at(0.75), offTheLine: median.seconds / line.seconds(work: median.work) - 1)
        }
    }

    /// Engines that cut prompts short, or have what they cannot have, are not measured by what was sent.
    private static func checkCounts(_ byLength: [[FirstToken]]) throws(CalibrationFailure) {
        var former = 0.0
        for samples in byLength {
            let prompt = Quantiles(samples.map { Double($0.promptTokens) }).median
            let cached = Quantiles(samples.map { Double($0.cachedTokens) }).median
            guard cached <= prompt / 2 else {
                throw CalibrationFailure(
                    "it counts \(Int(cached)) of \(Int(prompt)) prompt tokens as cached, of prompts that it cannot have seen: its usage tells nothing"
                )
            }
            guard prompt > former else {
                throw CalibrationFailure(
                    "it counts \(Int(prompt)) tokens of a prompt that is longer than one of \(Int(former)): it cuts prompts short, or counts what was not sent"
                )
            }
            former = prompt
        }
    }

    private static func median(_ samples: [FirstToken]) -> PrefillLine.Point {
        let points = samples.map(\.point)
        return .init(work: Quantiles(points.map(\.work)).median, seconds: Quantiles(points.map(\.seconds)).median)
    }

    private static func redrawn<Value>(_ values: [Value], _ generator: inout SeededGenerator) -> [Value] {
        values.indices.map { _ in values[Int.random(in: values.indices, using: &generator)] }
    }

    private static func estimate(ofMedian values: [Double], _ generator: inout SeededGenerator) -> Estimate {
        let medians = (0..<draws).map { _ in Quantiles(redrawn(values, &generator)).median }
        return estimate(Quantiles(values).median, medians)
    }

    private static func estimate(_ value: Double, _ drawn: [Double]) -> Estimate {
        let quantiles = Quantiles(drawn)
        return Estimate(value: value, low: quantiles.at(0.025), high: quantiles.at(0.975))
    }

    // MARK: Whether to believe it

    /// A line is what the router presumes; where it says little of an engine, a sentence.
    public var curvature: String? {
        guard let worst = lengths.max(by: { abs($0.offTheLine) < abs($1.offTheLine) }), abs(worst.offTheLine) > 0.1 else { return nil }
        return "a first token is not a line over the prompt's length here: \(Int((worst.offTheLine * 100).rounded())) % off at "
            + "\(CalibrationText.number(worst.tokens)) tokens. --prompt-tokens with the lengths that are usual for you fits it better."
    }

    /// Intervals that are wider, over the value, come of something else that the engine does, or of a machine that is too busy to measure on.
    public static let greatestSpread = 0.3

    /// Why the figures are no priors; empty when they are.
    public var invalidReasons: [String] {
        func reason(_ name: String, _ estimate: Estimate, _ text: (Double) -> String) -> String? {
            guard estimate.spread > Self.greatestSpread else { return nil }
            return "\(name) may be anything from \(text(estimate.low)) to \(text(estimate.high)): "
                + "the engine has other work, or the machine that measures has, or a --repeats of more is needed"
        }
        return [
            reason("the prefill rate", prefillTokensPerSecond) { CalibrationText.number($0) + " tokens/s" },
            reason("a decode step", decodeStepSeconds) { CalibrationText.number($0 * 1_000) + " ms" },
        ].compactMap { $0 }
    }
}
