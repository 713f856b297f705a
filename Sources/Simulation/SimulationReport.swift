import Foundation
import Reporting

/// Rules on rows, and what is shown of them.
public struct SimulationReport: Sendable, Codable {
    public struct Row: Sendable, Codable {
        public var name: String
        public var family: String
        public var load: Double
        /// What `load` is, with its unit.
        public var loadLabel: String
        /// In a row of the grid of routers and ages of reports: how many there are, and whether they tell one another.
        public var routers: String?
        public var rules: [SimulationSummary]
    }

    public var seeds: [UInt64]
    public private(set) var rows: [Row] = []

    public init(seeds: [UInt64]) { self.seeds = seeds }

    public mutating func add(_ row: SimulationRow, _ summaries: [SimulationSummary]) {
        rows.append(
            Row(
                name: row.name, family: row.family, load: row.load, loadLabel: row.loadLabel,
                routers: row.isOfGrid ? row.routersText : nil, rules: summaries))
    }

    /// Who did best of a row's rules, in mean TTFT, p99 TTFT and output tokens per second: whom another run, with other seeds, is to beat there. The best
    /// of fifty in the very run that judges is partly the luckiest of fifty.
    /// - Parameter own: rules that are no rivals. Forms of the product's rule are none either, nor is what sees the future.
    /// - Returns: at most three rules; none without such a row.
    public func rivals(ofRow name: String, but own: [String]) -> [String] {
        let others = rows.first { $0.name == name }?.rules.filter { !own.contains($0.rule) && RoutingRule.isRival($0.rule) } ?? []
        let best = [
            others.min { $0.meanTTFT.mean < $1.meanTTFT.mean }, others.min { $0.p99TTFT.mean < $1.p99TTFT.mean },
            others.max { $0.outputTokensPerSecond.mean < $1.outputTokensPerSecond.mean },
        ]
        return best.compactMap { $0?.rule }.reduce(into: []) { if !$0.contains($1) { $0.append($1) } }
    }

    // MARK: Tables

    /// One row of the suite, a line per rule.
    public static func table(_ rules: [SimulationSummary]) -> TextTable {
        var table = TextTable(header: [
            "rule", "TTFT mean s", "±95%", "p50", "p90", "p99", "±95%", "TPOT ms", "p99", "e2e s", "tok/s", "hit %", "failed", "preempted",
        ])
        for rule in rules {
            table.rows.append([
                rule.rule, text(rule.meanTTFT.mean), text(rule.meanTTFT.halfWidth), text(rule.p50TTFT.mean), text(rule.p90TTFT.mean),
                text(rule.p99TTFT.mean), text(rule.p99TTFT.halfWidth), text(rule.meanTPOT.mean * 1e3, 1), text(rule.p99TPOT.mean * 1e3, 1),
                text(rule.meanEndToEnd.mean, 2), text(rule.outputTokensPerSecond.mean, 0), text(rule.hitShare.mean * 100, 1),
                "\(rule.failed)", "\(rule.preemptions)",
            ])
        }
        return table
    }

    static func text(_ value: Double, _ digits: Int = 3) -> String { String(format: "%.\(digits)f", value) }

    // MARK: Judgement

    /// The first rule of a row against the best of the others.
    public struct Verdict: Sendable, Equatable {
        public var row: String
        public var bestMean: String
        public var bestP99: String
        /// First rule minus best other, paired by seed.
        public var mean: Estimate
        public var p99: Estimate
        /// First rule over best other.
        public var ratioOfMeans: Double
        public var ratioOfP99: Double
        /// Output tokens per second over the most that another has.
        public var ratioOfOutput: Double

        /// Below the best, or not told apart from it.
        public static func isReached(_ difference: Estimate) -> Bool { difference.mean - difference.halfWidth <= 0 }
    }

    public func verdicts() -> [Verdict] {
        rows.compactMap { row in
            guard let own = row.rules.first else { return nil }
            let others = row.rules.dropFirst()
            guard let mean = others.min(by: { $0.meanTTFT.mean < $1.meanTTFT.mean }),
                let p99 = others.min(by: { $0.p99TTFT.mean < $1.p99TTFT.mean }),
                let output = others.map(\.outputTokensPerSecond.mean).max()
            else { return nil }
            return Verdict(
                row: row.name, bestMean: mean.rule, bestP99: p99.rule,
                mean: Self.difference(own.meanTTFTBySeed, mean.meanTTFTBySeed),
                p99: Self.difference(own.p99TTFTBySeed, p99.p99TTFTBySeed),
                ratioOfMeans: own.meanTTFT.mean / max(mean.meanTTFT.mean, 1e-9),
                ratioOfP99: own.p99TTFT.mean / max(p99.p99TTFT.mean, 1e-9),
                ratioOfOutput: own.outputTokensPerSecond.mean / max(output, 1e-9))
        }
    }

    /// Rules that all rows have in order of the geometric mean of their mean TTFT: no row counts for more because its seconds are longer.
    public func ranking() -> [(rule: String, seconds: Double)] {
        (rows.first?.rules.map(\.rule) ?? []).compactMap { name in
            let logarithms = rows.compactMap { row in row.rules.first { $0.rule == name }.map { log(max($0.meanTTFT.mean, 1e-6)) } }
            guard logarithms.count == rows.count else { return nil }
            return (name, exp(logarithms.reduce(0, +) / Double(rows.count)))
        }.sorted { $0.seconds < $1.seconds }
    }

    public func verdictTable() -> TextTable {
        var table = TextTable(header: [
            "row", "mean s", "of best", "less best s", "±95%", "best by mean", "", "p99 of best", "less best s", "±95%", "best by p99", "",
            "tok/s of most",
        ])
        for (row, verdict) in zip(rows.filter { $0.rules.count > 1 }, verdicts()) {
            table.rows.append([
                verdict.row, Self.text(row.rules[0].meanTTFT.mean), Self.text(verdict.ratioOfMeans, 2), Self.text(verdict.mean.mean),
                Self.text(verdict.mean.halfWidth), verdict.bestMean, Verdict.isReached(verdict.mean) ? "holds" : "LOSES",
                Self.text(verdict.ratioOfP99, 2), Self.text(verdict.p99.mean), Self.text(verdict.p99.halfWidth), verdict.bestP99,
                Verdict.isReached(verdict.p99) ? "holds" : "LOSES", Self.text(verdict.ratioOfOutput, 3),
            ])
        }
        return table
    }

    public func rankingTable() -> TextTable {
        TextTable(
            header: ["rule", "geometric mean of mean TTFT, s"], rows: ranking().map { [$0.rule, Self.text($0.seconds, 4)] })
    }

    /// What all rows together say: tables and what they are of.
    public func conclusions() -> [(heading: String, table: TextTable)] {
        guard rows.count > 1, let rules = rows.first?.rules, rules.count > 1 || gridTable() != nil else { return [] }
        var tables: [(String, TextTable)] = []
        if rules.count > 1 {
            let verdicts = verdicts()
            let (means, p99s) = (verdicts.count { Verdict.isReached($0.mean) }, verdicts.count { Verdict.isReached($0.p99) })
            tables.append(
                (
                    "\(rules[0].rule) against the best of the others on each row: holds on \(means) of \(verdicts.count) in mean, \(p99s) in p99",
                    verdictTable()
                ))
        }
        if rules.count > 1, rows.allSatisfy({ $0.rules.map(\.rule) == rules.map(\.rule) }) {
            tables.append(("\(rules[0].rule) against each of the others over all rows", comparisonTable()))
            tables.append(("All rules by the geometric mean of their mean TTFT", rankingTable()))
        }
        if let grid = gridTable() { tables.append(("Routers by the age of reports", grid)) }
        return tables
    }

    // MARK: Files

    public func json() throws -> Data {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
        return try encoder.encode(self)
    }

    public func csv() -> String {
        var lines = [
            "row,family,load,rule,requests,mean_ttft_s,mean_ttft_ci95_s,p50_ttft_s,p90_ttft_s,p99_ttft_s,p99_ttft_ci95_s,mean_tpot_s,p99_tpot_s,mean_e2e_s,output_tokens_per_s,hit_share,failed,preemptions"
        ]
        for row in rows {
            for rule in row.rules {
                let fields: [String] =
                    ["\"\(row.name)\"", "\"\(row.family)\"", "\(row.load)", "\"\(rule.rule)\"", "\(rule.requests)"]
                    + [
                        rule.meanTTFT.mean, rule.meanTTFT.halfWidth, rule.p50TTFT.mean, rule.p90TTFT.mean, rule.p99TTFT.mean,
                        rule.p99TTFT.halfWidth, rule.meanTPOT.mean, rule.p99TPOT.mean, rule.meanEndToEnd.mean,
                        rule.outputTokensPerSecond.mean, rule.hitShare.mean,
                    ].map { Self.text($0, 6) } + ["\(rule.failed)", "\(rule.preemptions)"]
                lines.append(fields.joined(separator: ","))
            }
        }
        return lines.joined(separator: "\n") + "\n"
    }

    /// One page with everything on it.
    public func html(title: String) -> String {
        var page = HTMLPage(title: title)
        page.paragraph("Simulated on a virtual clock; seeds \(seeds.map(String.init).joined(separator: ", ")); intervals of 95 %.")
        for (heading, table) in conclusions() {
            page.heading(heading)
            page.table(table)
        }
        var families: [String] = []
        for row in rows where !families.contains(row.family) { families.append(row.family) }
        for family in families { addFamily(family, to: &page) }
        return page.html
    }

    private func addFamily(_ family: String, to page: inout HTMLPage) {
        let members = rows.filter { $0.family == family }
        page.heading(family)
        if members.count > 1 {
            let names = members[0].rules.map(\.rule).filter { name in members.allSatisfy { $0.rules.contains { $0.rule == name } } }
            let loadLabel = members[0].loadLabel
            for (label, value) in [
                ("TTFT mean", { $0.meanTTFT.mean }), ("TTFT p50", { $0.p50TTFT.mean }), ("TTFT p90", { $0.p90TTFT.mean }),
                ("TTFT p99", { $0.p99TTFT.mean }), ("hit share", { $0.hitShare.mean }),
            ] as [(String, (SimulationSummary) -> Double)] {
                let isShare = label == "hit share"
                // More lines than colours would tell nothing: the first rule, and those that come next to it.
                let last = members.last?.rules.filter { names.contains($0.rule) } ?? []
                let order = names.prefix(1) + last.sorted { $0.meanTTFT.mean < $1.meanTTFT.mean }.map(\.rule).filter { $0 != names.first }
                let series = order.prefix(8).map { name in
                    SVGChart.Series(
                        name: name,
                        points: members.compactMap { row in row.rules.first { $0.rule == name }.map { (x: row.load, y: value($0)) } })
                }
                let chart = SVGChart(
                    title: "\(family): \(label)", x: Axis(loadLabel), y: Axis(isShare ? label : "\(label), s", isLogarithmic: !isShare),
                    series: series)
                page.figure(chart.svg, caption: "\(label) by \(loadLabel)")
            }
        }
        for row in members {
            page.table(Self.table(row.rules))
            for rule in row.rules.prefix(2) where !rule.shares.isEmpty {
                let map = HeatMap(
                    title: "\(row.name), \(rule.rule)", rows: rule.shares.indices.map { "group \($0)" },
                    columnLabels: ("first measured arrival", "last"),
                    values: rule.shares.map { $0.map(Double.init) }, merging: .mean)
                page.figure(map.svg, caption: "\(row.name), \(rule.rule): sequences in flight by group over time")
            }
        }
    }
}
