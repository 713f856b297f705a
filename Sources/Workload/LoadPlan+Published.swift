/// The loads that workloads are published with.
public struct PublishedLoad: Sendable, Equatable {
    /// Requests or sessions per second, stage after stage.
    public var rates: [Double]
    /// Seconds, one for all stages or one for each; nil where none are published.
    public var seconds: [Double]?
    public var gapSeconds = 0.0
    /// Requests that may be under way; nil: any number.
    public var concurrency: Int?
}

extension LoadPlan {
    /// By the workloads' names.
    public static let publishedLoads: [String: PublishedLoad] = [
        // llm-d-benchmark's profile: a warm-up, then the ladder.
        "b2b-saas": .init(
            rates: [15, 3, 10, 15, 20, 22, 25, 30, 35, 40, 43, 46, 49, 52, 55, 57, 60],
            seconds: [50, 20, 20, 20, 38, 34, 30, 25, 21, 38, 36, 33, 30, 29, 27, 26, 25], gapSeconds: 30),
        "shared-prefix": .init(rates: [2, 5, 8, 10, 12, 15, 20], seconds: [50]),
        "multi-turn-chat": .init(rates: [2, 3, 4, 5], seconds: [60]),
        "prod-realistic": .init(rates: [1, 5, 1, 5, 1, 5, 1, 5], concurrency: 1_000),
    ]
}
