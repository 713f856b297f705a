/// The shape of conversations as catalogues publish them: what all share, what each brings, and what every turn adds. Sizes in tokens.
public struct ConversationShape: Sendable, Equatable {
    public enum Size: Sendable, Equatable, CustomStringConvertible {
        case fixed(Int)
        case uniform(Int, Int)
        /// Mean and standard deviation of the values themselves, then the least and the greatest.
        case normal(Double, Double, Int, Int)
        case logNormal(Double, Double, Int, Int)
        /// A share of the one, the rest of the other.
        indirect case mixed(Double, Size, Size)

        public var description: String {
            switch self {
            case .fixed(let value): "\(value)"
            case .uniform(let least, let most): "uniform \(least) to \(most)"
            case .normal(let mean, let deviation, let least, let most): "normal \(mean) +- \(deviation), \(least) to \(most)"
            case .logNormal(let mean, let deviation, let least, let most): "log-normal \(mean) +- \(deviation), \(least) to \(most)"
            case .mixed(let share, let one, let other): "\(share): \(one); else \(other)"
            }
        }
    }

    /// Different beginnings that conversations share, and how long they are.
    public var groups = 1
    public var shared: Int
    /// Conversations of a group that come again and again, each with its own text; 0: every one is new.
    public var conversations = 0
    /// What a conversation brings at its start: a document, a repository.
    public var own = Size.fixed(0)
    public var turns = Size.fixed(1)
    public var input: Size
    public var output: Size
    /// Milliseconds before each turn but the first.
    public var pause = Size.fixed(0)
    /// Prompt tokens, answers before included, beyond which a conversation ends; 0: never.
    public var longestContext = 0
    /// Chance of ending before a turn for an empty context, which grows evenly to `resetGrowth` times it at the longest: the user begins anew.
    public var resetShare = 0.0
    public var resetGrowth = 1.0

    /// By the names they go by. Where a study says "multi-turn" without a number, five turns with a second between them are played.
    public static let catalogue: [String: ConversationShape] = [
        // The predicted-latency study (llm-d, March 2026).
        "predicted-latency-a": study(groups: 6, of: 1_000, shared: 1_000, input: .normal(30, 9, 1, 300)),
        "predicted-latency-b": study(groups: 6, of: 1_000, shared: 1_000, input: .normal(3_000, 900, 1, 30_000)),
        "predicted-latency-c": study(groups: 150, of: 5, shared: 6_000, input: .normal(1_200, 360, 1, 12_000)),
        "predicted-latency-d": study(groups: 150, of: 5, shared: 1_000, input: .normal(6_200, 1_860, 1, 62_000)),
        "prod-realistic": .init(
            shared: 1_000, turns: .fixed(5), input: .logNormal(729, 13_550, 1, 120_000), output: .logNormal(300, 2_213, 1, 32_000),
            pause: .fixed(1_000)),
        // inference-perf's catalogue (August 2026).
        "interactive-chat": .init(
            shared: 1_000, conversations: 50, own: .logNormal(4_000, 2_500, 500, 15_000), turns: .logNormal(4, 2.5, 1, 15),
            input: .logNormal(50, 40, 1, 1_000), output: .logNormal(300, 150, 1, 4_000), pause: .logNormal(45_000, 40_000, 0, 600_000)),
        "code-generation": .init(
            shared: 3_000, conversations: 40, own: .logNormal(160_000, 233_600, 10_000, 990_000), turns: .logNormal(540, 540, 1, 3_000),
            input: .logNormal(1_500, 1_200, 1, 50_000), output: .logNormal(425, 825, 1, 32_000),
            pause: .logNormal(15_000, 55_000, 0, 3_600_000)),
        // The same name in the announcement of August 2026: an agent's instructions of its own, fewer turns; bounds and means are theirs.
        "code-generation-blog": .init(
            shared: 0, own: .normal(55_000, 25_000, 3_000, 100_000), turns: .logNormal(6, 4, 2, 20),
            input: .logNormal(1_500, 1_500, 100, 10_000), output: .logNormal(800, 700, 50, 4_000), pause: .fixed(1_000)),
        "deep-research": .init(
            shared: 2_000, own: .logNormal(45_000, 35_000, 1_000, 500_000), turns: .logNormal(15, 8.5, 1, 100),
            input: .logNormal(3_000, 2_500, 1, 50_000), output: .logNormal(300, 850, 1, 32_000),
            pause: .logNormal(25_000, 12_000, 0, 600_000)),
        "batch-summarization-rag": .init(
            shared: 500, input: .normal(15_000, 22_000, 1_000, 80_000), output: .logNormal(500, 300, 1, 8_000)),
        "synthetic-data-gen": .init(shared: 2_000, input: .logNormal(500, 1_200, 1, 50_000), output: .uniform(500, 8_000)),
        // AIPerf's agentic default (0.13): new tokens a turn up to 10,000; 7 of 10 pauses an agent's (mean 2.5 s, median 1.8), the others a
        // human's (40 s, 25); a reset of 1 % that grows with the context to 1.5 times that, of at most 167,000 tokens.
        "aiperf-agentic": .init(
            groups: 4, shared: 32_000, own: .logNormal(15_000, 10_000, 1_000, 100_000), turns: .logNormal(12, 8, 1, 100),
            input: .logNormal(6_000, 4_000, 1, 10_000), output: .logNormal(1_000, 800, 1, 8_000),
            pause: .mixed(0.7, .logNormal(2_500, 2_410, 0, 60_000), .logNormal(40_000, 50_000, 0, 600_000)),
            longestContext: 167_000, resetShare: 0.01, resetGrowth: 1.5),
        // inference-sim's preset.
        "contentgen": .init(shared: 0, input: .fixed(1_024), output: .fixed(1_024)),
    ]

    private static func study(groups: Int, of conversations: Int, shared: Int, input: Size) -> ConversationShape {
        .init(
            groups: groups, shared: shared, conversations: conversations, turns: .fixed(5), input: input,
            output: .normal(1_000, 300, 1, 10_000),
            pause: .fixed(1_000))
    }

    var parameters: [String: String] {
        var result = [
            "groups": "\(groups)", "shared_tokens": "\(shared)",
            "conversations_per_group": conversations == 0 ? "all new" : "\(conversations)",
            "own_tokens": "\(own)", "turns": "\(turns)", "input_tokens": "\(input)", "output_tokens": "\(output)", "pause_ms": "\(pause)",
        ]
        if longestContext > 0 {
            result["longest_context_tokens"] = "\(longestContext)"
            result["reset"] = "\(resetShare) before each turn, growing to \(resetGrowth) times that at the longest context"
        }
        return result
    }

    /// Chance that a conversation of so many tokens ends before its next turn; 1 beyond the longest.
    func resetChance(context: Int) -> Double {
        guard longestContext > 0 else { return 0 }
        guard context <= longestContext else { return 1 }
        return resetShare * (1 + (resetGrowth - 1) * Double(context) / Double(longestContext))
    }
}

extension LoadPlan {
    /// A conversation of this shape begins at each arrival.
    init(name: String, conversations shape: ConversationShape, schedule: ArrivalSchedule, process: String, seed: UInt64) {
        var draw = Draw(seed: seed)
        var requests: [PlannedRequest] = []
        for (index, arrival) in schedule.arrivals.enumerated() {
            let group = UInt64(draw.unit() * Double(shape.groups))
            let conversation = shape.conversations == 0 ? UInt64(index) : UInt64(draw.unit() * Double(shape.conversations))
            let identity = 1 << 62 | group << 48 | conversation << 16
            let turns = max(1, draw.size(shape.turns))
            var context = 0
            for turn in 0..<turns {
                var request = PlannedRequest(
                    offsetNanoseconds: arrival.offsetNanoseconds,
                    user: [PromptBlock(id: identity | UInt64(turn & 0xFFFF), tokens: max(1, draw.size(shape.input)))],
                    outputTokens: max(1, draw.size(shape.output)))
                if turn == 0 {
                    if shape.shared > 0 { request.system.append(PromptBlock(id: 1 << 63 | group, tokens: shape.shared)) }
                    let own = draw.size(shape.own)
                    if own > 0 { request.system.append(PromptBlock(id: 1 << 61 | identity, tokens: own)) }
                } else {
                    request.thinkNanoseconds = UInt64(max(0, draw.size(shape.pause))) * 1_000_000
                }
                request.stage = arrival.stage
                context += request.plannedTokens
                // What would grow beyond the longest is never asked.
                if turn > 0, shape.longestContext > 0, context > shape.longestContext { break }
                if turn > 0 { requests[requests.count - 1].nextTurn = Int32(requests.count) }
                requests.append(request)
                context += request.outputTokens
                if shape.longestContext > 0, draw.unit() < shape.resetChance(context: context) { break }
            }
        }
        self.init(
            name: name, parameters: shape.parameters.merging(["seed": "\(seed)"]) { $1 }, requests: requests, stages: schedule.stages,
            process: process)
    }

    /// Changes all text, so that no cache of an earlier run holds any; 0 changes nothing.
    public mutating func salt(_ salt: UInt64) {
        guard salt != 0 else { return }
        func salted(_ block: PromptBlock) -> PromptBlock { PromptBlock(id: block.id ^ salt &* 0x9e37_79b9_7f4a_7c15, tokens: block.tokens) }
        for index in requests.indices {
            requests[index].system = requests[index].system.map(salted)
            requests[index].user = requests[index].user.map(salted)
        }
        parameters["salt"] = "\(salt)"
    }
}

extension Draw {
    mutating func size(_ size: ConversationShape.Size) -> Int {
        switch size {
        case .fixed(let value): value
        case .uniform(let least, let most): least + Int(unit() * Double(most - least + 1))
        case .normal(let mean, let deviation, let least, let most):
            Int(min(max((mean + deviation * normal()).rounded(), Double(least)), Double(most)))
        case .logNormal(let mean, let deviation, let least, let most):
            Int(min(max(logNormalValue(mean: mean, deviation: deviation).rounded(), Double(least)), Double(most)))
        case .mixed(let share, let one, let other): self.size(unit() < share ? one : other)
        }
    }
}
