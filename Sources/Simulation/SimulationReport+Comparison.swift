import Foundation
import Reporting

extension SimulationReport {
    /// The first rule against one other, over all rows.
    public struct Comparison: Sendable, Equatable {
        public var rule: String
        /// Geometric mean over the rows of first over other: below 1 the first is sooner, with the 95 % interval over seeds. No row counts
        /// for more because its seconds are longer.
        public var mean: Ratio
        public var p99: Ratio
        /// The same of output tokens per second: above 1 the first makes more.
        public var output: Ratio
        /// Sum over the rows of the first's mean TTFT over the other's sum: rows that collapse count for nearly everything.
        public var ratioOfSums: Double
        /// Rows whose mean TTFT is told apart, the interval of the paired difference lying on one side of 0.
        public var sooner: Int
        public var later: Int
    }

    /// A ratio with the ends of its interval.
    public struct Ratio: Sendable, Equatable {
        public var value: Double
        public var low: Double
        public var high: Double

        /// - Parameter logarithms: one per seed.
        init(logarithms: [Double]) {
            let estimate = Estimate(logarithms)
            value = exp(estimate.mean)
            low = exp(estimate.mean - estimate.halfWidth)
            high = exp(estimate.mean + estimate.halfWidth)
        }

        var text: String { "\(SimulationReport.text(value)) [\(SimulationReport.text(low)), \(SimulationReport.text(high))]" }
    }

    /// The first rule against each of the others that all rows have.
    public func comparisons() -> [Comparison] {
        guard let names = rows.first?.rules.map(\.rule) else { return [] }
        let common = rows.filter { $0.rules.map(\.rule) == names }
        return names.indices.dropFirst().map { index in
            let pairs = common.map { (own: $0.rules[0], other: $0.rules[index]) }
            func ratio(_ values: (SimulationSummary) -> [Double]) -> Ratio {
                Ratio(
                    logarithms: seeds.indices.map { seed in
                        let sum = pairs.reduce(0.0) {
                            $0 + log(max(values($1.own)[seed], 1e-6) / max(values($1.other)[seed], 1e-6))
                        }
                        return sum / Double(pairs.count)
                    })
            }
            let differences = pairs.map { Self.difference($0.own.meanTTFTBySeed, $0.other.meanTTFTBySeed) }
            return Comparison(
                rule: names[index], mean: ratio(\.meanTTFTBySeed), p99: ratio(\.p99TTFTBySeed), output: ratio(\.outputBySeed),
                ratioOfSums: pairs.reduce(0) { $0 + $1.own.meanTTFT.mean } / max(pairs.reduce(0) { $0 + $1.other.meanTTFT.mean }, 1e-9),
                sooner: differences.count { $0.mean + $0.halfWidth < 0 }, later: differences.count { $0.mean - $0.halfWidth > 0 })
        }.sorted { $0.mean.value > $1.mean.value }
    }

    static func difference(_ own: [Double], _ other: [Double]) -> Estimate { Estimate(zip(own, other).map { $0 - $1 }) }

    /// The strongest other stands first.
    public func comparisonTable() -> TextTable {
        TextTable(
            header: [
                "\(rows.first?.rules.first?.rule ?? "") over", "mean TTFT [95%]", "p99 TTFT [95%]", "tok/s [95%]", "sum of means",
                "rows sooner",
                "later",
            ],
            rows: comparisons().map {
                [$0.rule, $0.mean.text, $0.p99.text, $0.output.text, Self.text($0.ratioOfSums), "\($0.sooner)", "\($0.later)"]
            })
    }

    // MARK: Routers by age of reports

    /// The first rule's mean TTFT in milliseconds where many routers share a fleet: a line per number of routers, a column per age of the
    /// reports, each over what the first, which is one router, has with fresh ones. Nil without such rows.
    public func gridTable() -> TextTable? {
        let grid = rows.filter { $0.routers != nil }
        guard let first = grid.first(where: { $0.load == 0 }), let best = first.rules.first else { return nil }
        let ages = grid.map(\.load).reduce(into: [Double]()) { if !$0.contains($1) { $0.append($1) } }
        let routers = grid.compactMap(\.routers).reduce(into: [String]()) { if !$0.contains($1) { $0.append($1) } }
        return TextTable(
            header: ["\(best.rule), mean TTFT ms, of one fresh"] + ages.map { "\(SimulationSuite.text($0)) ms old" },
            rows: routers.map { routers in
                [routers]
                    + ages.map { age in
                        guard let cell = grid.first(where: { $0.routers == routers && $0.load == age })?.rules.first else { return "" }
                        let ratio = Ratio(logarithms: zip(cell.meanTTFTBySeed, best.meanTTFTBySeed).map { log($0 / $1) })
                        return "\(Self.text(cell.meanTTFT.mean * 1e3, 1)), \(ratio.text)"
                    }
            })
    }
}
