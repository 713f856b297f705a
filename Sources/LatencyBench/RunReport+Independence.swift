import Reporting

extension RunReport {
    private static let batches = 20

    /// What `designEffects` holds, of records in the order they were due.
    static func designEffects(_ records: [RequestRecord], _ metrics: [String: Distribution]) -> [String: [String: Double]] {
        let good = records.filter { $0.outcome == .good }
        let perToken = good.compactMap(\.timePerOutputToken)
        var all = [
            "ttft": effects(good.filter { $0.firstTokenNanoseconds > 0 }.map(\.timeToFirstToken), metrics["ttft"]),
            "e2e": effects(good.map(\.endToEnd), metrics["e2e"]), "tpot": effects(perToken, metrics["tpot"]),
        ]
        // Gaps are in no record; those of one request are one observation, and requests hang together as their means do.
        let gaps = Double(metrics["itl"]?.count ?? 0) / Double(max(1, perToken.count))
        all["itl"] = all["tpot"]?.mapValues { $0 * max(1, gaps) }
        return all
    }

    /// One for each of the mean and the percentiles.
    private static func effects(_ values: [UInt64], _ metric: Distribution?) -> [String: Double] {
        guard let metric else { return [:] }
        let bounds: [Double?] = [nil] + [metric.p50, metric.p90, metric.p99, metric.p999].map { Optional(Double($0)) }
        return Dictionary(
            uniqueKeysWithValues: zip(PairedComparison.names, bounds).map { name, bound in
                // A percentile is as certain as the share beyond it.
                (name, designEffect(values.map { value in bound.map { Double(value) > $0 ? 1.0 : 0.0 } ?? Double(value) }))
            })
    }

    /// The variance of the means of batches of neighbours, against what independent values would give (batch means; Kish's design effect).
    /// It sees what hangs together over up to a batch, a twentieth of the run. At least 1; 1 where there are too few values to tell.
    static func designEffect(_ values: [Double]) -> Double {
        let size = values.count / batches
        guard size > 1 else { return 1 }
        let used = values.prefix(size * batches)
        let mean = used.reduce(0, +) / Double(used.count)
        func squares(_ values: some Sequence<Double>) -> Double { values.reduce(0) { sum, one in sum + (one - mean) * (one - mean) } }
        let variance = squares(used) / Double(used.count - 1)
        guard variance > 0 else { return 1 }
        let means = (0..<batches).map { batch in used[batch * size..<(batch + 1) * size].reduce(0, +) / Double(size) }
        return max(1, squares(means) / Double(batches - 1) * Double(size) / variance)
    }
}
