import Foundation

extension RunReport {
    /// What stands beside the figures since it makes them mean something else than it seems.
    public var notes: [String] {
        var notes: [String] = []
        if let idealHitRate = workload.idealHitRate, hitRate > idealHitRate + Self.hitRateMargin {
            notes.append(
                String(
                    format:
                        "%.1f %% of prompt tokens came from a cache, of which this workload shares %.1f %%: the server knew the text before. "
                        + "--salt with a new number changes all of it", hitRate * 100, idealHitRate * 100))
        }
        if let excessCachedCounts, excessCachedCounts > 0 {
            notes.append(
                "\(excessCachedCounts) answers told of more cached tokens than their prompts had; the hit rate counts no more than these")
        }
        return notes
    }

    /// What a chat template brings to short prompts is shared, and in no plan.
    private static let hitRateMargin = 0.2

    /// Cached tokens beyond a prompt's own, and how many answers told of them.
    static func excessCached(_ measured: RunMeasurements) -> (tokens: Int, answers: Int) {
        let odd = measured.records.filter { $0.outcome == .good && $0.cachedTokens > $0.promptTokens }
        return (odd.reduce(0) { $0 + $1.cachedTokens - $1.promptTokens }, odd.count)
    }
}
