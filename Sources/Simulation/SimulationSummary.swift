import Foundation

/// A mean over seeds with its 95 % interval (Student's t).
public struct Estimate: Sendable, Codable, Equatable {
    public var mean: Double
    /// Half the interval's width; 0 with one value, of which nothing is known.
    public var halfWidth: Double

    public init(_ values: [Double]) {
        let count = Double(values.count)
        mean = values.isEmpty ? 0 : values.reduce(0, +) / count
        guard values.count > 1 else {
            halfWidth = 0
            return
        }
        let center = mean
        let variance = values.reduce(0) { $0 + ($1 - center) * ($1 - center) } / (count - 1)
        halfWidth = Self.quantile(freedom: values.count - 1) * (variance / count).squareRoot()
    }

    /// The 97.5th percentile of Student's distribution.
    static func quantile(freedom: Int) -> Double {
        let table = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228]
        return freedom <= table.count ? table[max(freedom, 1) - 1] : 1.96 + 2.5 / Double(freedom)
    }
}

/// One rule on one row, over all seeds.
public struct SimulationSummary: Sendable, Codable {
    public var row: String
    public var rule: String
    public var requests: Int
    public var meanTTFT: Estimate
    public var p50TTFT: Estimate
    public var p90TTFT: Estimate
    public var p99TTFT: Estimate
    public var meanTPOT: Estimate
    public var p99TPOT: Estimate
    public var meanEndToEnd: Estimate
    public var outputTokensPerSecond: Estimate
    public var hitShare: Estimate
    public var overpredictedShare: Estimate
    public var failed: Int
    public var preemptions: Int
    /// By seed, for paired comparisons.
    public var meanTTFTBySeed: [Double]
    public var p99TTFTBySeed: [Double]
    public var outputBySeed: [Double]
    public var fingerprints: [UInt64]
    /// Of the first seed.
    public var shares: [[Float]]

    public init(row: String, rule: String, outcomes: [SimulationOutcome]) {
        func estimate(_ value: (SimulationOutcome) -> Double) -> Estimate { Estimate(outcomes.map(value)) }
        self.row = row
        self.rule = rule
        requests = outcomes.reduce(0) { $0 + $1.ttft.count }
        meanTTFT = estimate(\.meanTTFT)
        p50TTFT = estimate { $0.ttft(percentile: 50) }
        p90TTFT = estimate { $0.ttft(percentile: 90) }
        p99TTFT = estimate { $0.ttft(percentile: 99) }
        meanTPOT = estimate(\.meanTPOT)
        p99TPOT = estimate(\.p99TPOT)
        meanEndToEnd = estimate(\.meanEndToEnd)
        outputTokensPerSecond = estimate(\.outputTokensPerSecond)
        hitShare = estimate(\.hitShare)
        overpredictedShare = estimate(\.overpredictedShare)
        failed = outcomes.reduce(0) { $0 + $1.failed }
        preemptions = outcomes.reduce(0) { $0 + $1.preemptions }
        meanTTFTBySeed = outcomes.map(\.meanTTFT)
        p99TTFTBySeed = outcomes.map { $0.ttft(percentile: 99) }
        outputBySeed = outcomes.map(\.outputTokensPerSecond)
        fingerprints = outcomes.map(\.fingerprint)
        shares = outcomes.first?.shares ?? []
    }
}
