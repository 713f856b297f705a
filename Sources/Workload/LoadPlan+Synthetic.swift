import Foundation

/// The shape of a synthetic workload: groups of prompts that share their beginning. Sizes in tokens.
public struct SyntheticShape: Sendable, Equatable {
    /// Different shared beginnings, and prompts of each; requests draw from all pairs at random.
    public var groups: Int
    public var promptsPerGroup: Int
    public var systemTokens: Int
    public var questionTokens: Int
    public var outputTokens: Int
    /// Standard deviations, normal, cut at one and at ten times the mean.
    public var questionDeviation = 0.0
    public var outputDeviation = 0.0
    /// Turns of a session; the pause before each is exponential about its mean.
    public var turns = 1
    public var thinkSeconds = 0.0

    public init(groups: Int, promptsPerGroup: Int, systemTokens: Int, questionTokens: Int, outputTokens: Int) {
        self.groups = groups
        self.promptsPerGroup = promptsPerGroup
        self.systemTokens = systemTokens
        self.questionTokens = questionTokens
        self.outputTokens = outputTokens
    }

    private func with(_ change: (inout SyntheticShape) -> Void) -> SyntheticShape {
        var copy = self
        change(&copy)
        return copy
    }

    /// Workloads that others publish figures on, by the names they go by.
    public static let named: [String: SyntheticShape] = [
        // llm-d-benchmark, profile guide_precise-prefix-cache-routing.
        "b2b-saas": .init(groups: 150, promptsPerGroup: 5, systemTokens: 6_000, questionTokens: 1_200, outputTokens: 1_000),
        // llm-d-benchmark, shared_prefix_synthetic and its heavy form.
        "shared-prefix": .init(groups: 32, promptsPerGroup: 32, systemTokens: 2_048, questionTokens: 256, outputTokens: 256),
        "shared-prefix-heavy": .init(groups: 32, promptsPerGroup: 32, systemTokens: 4_000, questionTokens: 256, outputTokens: 256),
        // llm-d-benchmark, shared_prefix_multi_turn_chat.
        "multi-turn-chat": Self.init(groups: 1, promptsPerGroup: 20, systemTokens: 1_000, questionTokens: 200, outputTokens: 200).with {
            $0.turns = 5
            $0.thinkSeconds = 1
        },
        // SGLang's generated-shared-prefix, default sizes.
        "sglang-generated-shared-prefix": .init(
            groups: 64, promptsPerGroup: 16, systemTokens: 2_048, questionTokens: 128, outputTokens: 256),
        // vLLM bench's prefix_repetition and random, default sizes.
        "vllm-prefix-repetition": .init(groups: 10, promptsPerGroup: 1_000_000, systemTokens: 256, questionTokens: 256, outputTokens: 128),
        "vllm-random": .init(groups: 1, promptsPerGroup: 1_000_000, systemTokens: 0, questionTokens: 1_024, outputTokens: 128),
        // inference-sim's presets.
        "chatbot": .init(groups: 1, promptsPerGroup: 1_000_000, systemTokens: 0, questionTokens: 256, outputTokens: 256),
        "summarization": .init(groups: 1, promptsPerGroup: 1_000_000, systemTokens: 0, questionTokens: 4_096, outputTokens: 512),
    ]

    var parameters: [String: String] {
        [
            "groups": "\(groups)", "prompts_per_group": "\(promptsPerGroup)", "system_tokens": "\(systemTokens)",
            "question_tokens": "\(questionTokens)", "question_deviation": "\(questionDeviation)", "output_tokens": "\(outputTokens)",
            "output_deviation": "\(outputDeviation)", "turns": "\(turns)", "think_seconds": "\(thinkSeconds)",
        ]
    }
}

extension LoadPlan {
    /// A synthetic workload on a schedule: one session (of one turn, mostly) begins at each arrival.
    /// - Parameter salt: changes all text, so that no cache of an earlier run holds any.
    public init(name: String, shape: SyntheticShape, schedule: ArrivalSchedule, process: String, seed: UInt64, salt: UInt64 = 0) {
        var generator = SeededGenerator(seed: seed ^ 0x776f_726b)
        func drawn(_ mean: Int, _ deviation: Double) -> Int {
            guard deviation > 0 else { return mean }
            let (first, second) = (1 - Double.random(in: 0..<1, using: &generator), Double.random(in: 0..<1, using: &generator))
            let value = Double(mean) + deviation * (-2 * log(first)).squareRoot() * cos(2 * .pi * second)
            return Int(min(max(1, value.rounded()), Double(mean) * 10))
        }
        var requests: [PlannedRequest] = []
        for arrival in schedule.arrivals {
            let group = UInt64(Int.random(in: 0..<max(1, shape.groups), using: &generator))
            let prompt = UInt64(Int.random(in: 0..<max(1, shape.promptsPerGroup), using: &generator))
            for turn in 0..<max(1, shape.turns) {
                let id = salt &* 0x9e37_79b9_7f4a_7c15 ^ (group << 40 | prompt << 8 | UInt64(turn))
                var request = PlannedRequest(
                    offsetNanoseconds: arrival.offsetNanoseconds,
                    system: turn == 0 && shape.systemTokens > 0
                        ? [PromptBlock(id: salt &* 0x9e37_79b9_7f4a_7c15 ^ (group << 40 | 1 << 63), tokens: shape.systemTokens)] : [],
                    user: [PromptBlock(id: id, tokens: drawn(shape.questionTokens, shape.questionDeviation))],
                    outputTokens: drawn(shape.outputTokens, shape.outputDeviation))
                request.stage = arrival.stage
                if turn > 0 {
                    request.thinkNanoseconds = UInt64(-log(1 - Double.random(in: 0..<1, using: &generator)) * shape.thinkSeconds * 1e9)
                }
                if turn + 1 < shape.turns { request.nextTurn = Int32(requests.count + 1) }
                requests.append(request)
            }
        }
        self.init(
            name: name, parameters: shape.parameters.merging(["seed": "\(seed)", "salt": "\(salt)"]) { $1 }, requests: requests,
            stages: schedule.stages, process: process)
    }
}
