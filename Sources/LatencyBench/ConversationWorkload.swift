import Foundation
import Workload

/// A multi-turn conversation workload, wholly computed from its seed before anything is sent. Sizes are words, and the text is made
/// of words of four to seven letters; times are nanoseconds.
public struct ConversationWorkload: Sendable {
    public struct Parameters: Sendable {
        public var conversations = 48
        public var turns = 6
        /// Words of the instructions that some of the conversations share.
        public var systemWords = 600
        /// Different instructions; conversation `i` has number `i % systems`.
        public var systems = 12
        public var userWords = 150
        public var outputTokens = 16
        /// Mean of the exponential gaps between the starts of conversations.
        public var meanStartGapNanoseconds: UInt64 = 60_000_000
        /// Pause of the user between an answer and the next turn: between half and one and a half of it.
        public var thinkNanoseconds: UInt64 = 250_000_000
        public var model = "demo"
        public var seed: UInt64 = 1
        public init() {}
    }

    public struct Conversation: Sendable {
        /// Since the schedule's start.
        public var startNanoseconds: UInt64
        public var system: String
        public var userTurns: [String]
        public var thinkNanoseconds: [UInt64]
    }

    public let parameters: Parameters
    public let conversations: [Conversation]

    public init(_ parameters: Parameters) {
        self.parameters = parameters
        var generator = SeededGenerator(seed: parameters.seed)
        let systems = (0..<max(1, parameters.systems)).map { _ in Self.text(words: parameters.systemWords, &generator) }
        var start = 0.0
        conversations = (0..<parameters.conversations).map { index in
            start += -log(Double.random(in: Double.ulpOfOne..<1, using: &generator)) * Double(parameters.meanStartGapNanoseconds)
            return Conversation(
                startNanoseconds: UInt64(start), system: systems[index % systems.count],
                userTurns: (0..<parameters.turns).map { _ in Self.text(words: parameters.userWords, &generator) },
                thinkNanoseconds: (0..<parameters.turns).map { _ in
                    UInt64(Double(parameters.thinkNanoseconds) * Double.random(in: 0.5...1.5, using: &generator))
                })
        }
    }

    public var requestCount: Int { parameters.conversations * parameters.turns }

    private static func text(words: Int, _ generator: inout SeededGenerator) -> String {
        let letters = Array("etaoinshrdlucmfw")
        return (0..<words).map { _ in
            String((0..<Int.random(in: 4...7, using: &generator)).map { _ in letters[Int(truncatingIfNeeded: generator.next() & 15)] })
        }.joined(separator: " ")
    }
}
