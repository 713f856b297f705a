public import Workload

/// What a calibration sends, one after the other: rounds of prompts that share nothing, of rising lengths, each round with an answer that is
/// long enough to tell a decode step. Rounds, so that what an engine does meanwhile falls on all lengths alike. Pure.
public struct CalibrationPlan: Sendable {
    public enum Purpose: Sendable, Equatable {
        /// It opens the connection, and is in no figure.
        case warmUp
        /// Number among `lengths`.
        case firstToken(length: Int)
        case steps
    }

    /// What is asked for.
    public struct Wishes: Sendable {
        /// Prompt tokens, ascending.
        public var lengths: [Int]
        public var rounds: Int
        public var answerTokens: Int
        /// Makes the text another one than that of former calibrations, which may be cached.
        public var salt: UInt64

        public init(lengths: [Int], rounds: Int, answerTokens: Int, salt: UInt64) {
            self.lengths = lengths
            self.rounds = rounds
            self.answerTokens = answerTokens
            self.salt = salt
        }
    }

    /// Doubled from 256 to 16,384.
    public static let usualLengths = (8...14).map { 1 << $0 }
    /// Of answers that are there for their first token: templates of some models begin with tokens that are no text.
    static let shortAnswerTokens = 8
    /// What a chat template may add.
    private static let templateTokens = 64

    public let lengths: [Int]
    public let rounds: Int
    public let answerTokens: Int
    /// By the request's index.
    public private(set) var purposes: [Purpose] = []
    public private(set) var load: LoadPlan

    /// Of `lengths` those that fit with an answer into `limit` tokens; of the usual ones an eighth, a quarter, half and all of a limit
    /// that leaves fewer than three.
    public static func lengths(_ lengths: [Int], limit: Int?, answerTokens: Int) -> [Int] {
        guard let limit else { return lengths }
        let room = limit - answerTokens - templateTokens
        let fitting = lengths.filter { $0 <= room }
        guard fitting.count < 3, lengths == usualLengths, room >= 64 else { return fitting }
        return [8, 4, 2, 1].map { room / $0 }
    }

    /// A look at the engine: two lengths, twice, so that neither its first request nor that of a length counts.
    public init(scoutFor wishes: Wishes) {
        // In words, of which some tokenisers make two or three tokens each.
        let short = max(1, min(wishes.lengths.first ?? 256, (wishes.lengths.last ?? 3_072) / 12))
        lengths = [short, 4 * short]
        rounds = 2
        answerTokens = Self.shortAnswerTokens
        load = LoadPlan(name: "calibration", parameters: [:], requests: [], stages: [], process: "closed")
        let ids = SeededGenerator.number(1, of: wishes.salt)
        for round in 0..<2 {
            for length in lengths.indices {
                append(round == 0 ? .warmUp : .firstToken(length: length), words: lengths[length], ids)
            }
        }
    }

    /// As many of the lengths, in as many rounds, as fit into `seconds` by what the look at the engine says.
    public init(_ wishes: Wishes, _ impression: EngineImpression, seconds: Double) throws(CalibrationFailure) {
        var lengths = wishes.lengths
        var fitting = 0
        while true {
            let round = Self.seconds(ofRound: lengths, wishes.answerTokens, impression)
            fitting = min(wishes.rounds, Int(max(0, min(seconds / max(round, 1e-6), 1e6))))
            if fitting >= Calibration.leastSamples { break }
            guard lengths.count > 2 else {
                throw CalibrationFailure(
                    "\(Calibration.leastSamples) rounds of prompts of \(lengths.map(String.init).joined(separator: " and ")) tokens, and of "
                        + "answers of \(wishes.answerTokens), would take \(CalibrationText.seconds(round * Double(Calibration.leastSamples))), "
                        + "and \(CalibrationText.seconds(seconds)) are left: a longer --seconds, or a smaller --answer-tokens, is needed")
            }
            lengths.removeLast()
        }
        self.lengths = lengths
        rounds = fitting
        answerTokens = wishes.answerTokens
        load = LoadPlan(
            name: "calibration",
            parameters: ["lengths": lengths.map(String.init).joined(separator: ","), "rounds": "\(fitting)", "salt": "\(wishes.salt)"],
            requests: [], stages: [], process: "closed")
        let ids = SeededGenerator.number(2, of: wishes.salt)
        append(.warmUp, words: impression.words(forTokens: lengths[0]), ids)
        for _ in 0..<rounds {
            for (number, length) in lengths.enumerated() {
                append(.firstToken(length: number), words: impression.words(forTokens: length), ids)
            }
            append(.steps, words: impression.words(forTokens: lengths[0]), ids)
        }
    }

    /// What it should take, by the look at the engine.
    public func expectedSeconds(_ impression: EngineImpression) -> Double {
        Double(rounds) * Self.seconds(ofRound: lengths, answerTokens, impression)
    }

    private static func seconds(ofRound lengths: [Int], _ answerTokens: Int, _ impression: EngineImpression) -> Double {
        lengths.reduce(impression.seconds(promptTokens: lengths[0], outputTokens: answerTokens)) {
            $0 + impression.seconds(promptTokens: $1, outputTokens: shortAnswerTokens)
        }
    }

    private mutating func append(_ purpose: Purpose, words: Int, _ firstID: UInt64) {
        let id = firstID &+ UInt64(purposes.count)
        purposes.append(purpose)
        load.requests.append(
            PlannedRequest(
                offsetNanoseconds: 0, user: [PromptBlock(id: id, tokens: words)],
                outputTokens: purpose == .steps ? answerTokens : Self.shortAnswerTokens))
    }
}

extension SeededGenerator {
    /// Number `count`, from 1, of those that a seed gives: far from all others, and from those of other seeds.
    fileprivate static func number(_ count: Int, of seed: UInt64) -> UInt64 {
        var generator = SeededGenerator(seed: seed)
        return (0..<count).reduce(0) { _, _ in generator.next() }
    }
}

/// What a first look says of an engine: enough to plan by.
public struct EngineImpression: Sendable {
    public var templateTokens: Double
    public var tokensPerWord: Double
    public var secondsPerToken: Double
    public var fixedSeconds: Double
    public var stepSeconds: Double

    public init(templateTokens: Double, tokensPerWord: Double, secondsPerToken: Double, fixedSeconds: Double, stepSeconds: Double) {
        self.templateTokens = templateTokens
        self.tokensPerWord = tokensPerWord
        self.secondsPerToken = secondsPerToken
        self.fixedSeconds = fixedSeconds
        self.stepSeconds = stepSeconds
    }

    /// From the scout's two prompts that count.
    public init(_ records: [RequestRecord], of plan: CalibrationPlan) throws(CalibrationFailure) {
        let samples = Calibration.Samples(records, of: plan)
        guard let short = samples.firstTokens.first(where: { $0.length == 0 }),
            let long = samples.firstTokens.first(where: { $0.length == 1 })
        else { throw CalibrationFailure("the engine answered without text, or all at once") }
        tokensPerWord = Double(long.promptTokens - short.promptTokens) / Double(plan.lengths[1] - plan.lengths[0])
        guard tokensPerWord > 0 else {
            throw CalibrationFailure("it counts \(long.promptTokens) tokens of a prompt that is longer than one of \(short.promptTokens)")
        }
        templateTokens = max(0, Double(short.promptTokens) - tokensPerWord * Double(plan.lengths[0]))
        secondsPerToken = max(0, (long.seconds - short.seconds) / Double(max(1, long.promptTokens - short.promptTokens)))
        fixedSeconds = max(0, short.seconds - secondsPerToken * Double(short.promptTokens))
        stepSeconds = Quantiles(records.compactMap { $0.timePerOutputToken.map { Double($0) / 1e9 } }).median
    }

    func words(forTokens tokens: Int) -> Int { max(1, Int((Double(tokens) - templateTokens) / tokensPerWord)) }

    func seconds(promptTokens: Int, outputTokens: Int) -> Double {
        fixedSeconds + secondsPerToken * Double(promptTokens) + stepSeconds * Double(outputTokens - 1)
    }
}

extension Calibration.Samples {
    /// Of good answers that came as a stream, with what they count.
    public init(_ records: [RequestRecord], of plan: CalibrationPlan) {
        self.init()
        for record in records where record.outcome == .good && record.isStreamed && record.firstTokenNanoseconds > record.sentNanoseconds {
            switch plan.purposes[record.index] {
            case .warmUp: break
            case .steps: if let step = record.timePerOutputToken { stepSeconds.append(Double(step) / 1e9) }
            case .firstToken(let length):
                guard record.promptTokens > 0 else { break }
                firstTokens.append(
                    .init(
                        length: length, promptTokens: record.promptTokens, cachedTokens: min(record.cachedTokens, record.promptTokens),
                        textBytes: plan.textBytes(record.index),
                        seconds: Double(record.firstTokenNanoseconds - record.sentNanoseconds) / 1e9))
            }
        }
    }
}

extension CalibrationPlan {
    func textBytes(_ index: Int) -> Int {
        var text: [UInt8] = []
        for block in load.requests[index].user { PromptText.append(id: block.id, tokens: block.tokens, to: &text) }
        return text.count
    }
}
