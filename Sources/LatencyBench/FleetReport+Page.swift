import Foundation
public import Reporting

extension FleetReport {
    private var replicasText: String { replicas > 1 ? ", \(replicas) replicas of each," : "" }

    /// One row per cell. Times in milliseconds from the schedule; `runs` is how far the means of single runs lie apart, `lag` the generator's own.
    public var table: TextTable {
        TextTable(
            header: ["rate", "router", "TTFT mean", "runs", "p50", "p99", "E2E p50", "hits", "goodput", "failed", "lag p99", ""],
            rows: cells.map { cell in
                // A run without an answer has no mean.
                let means = cell.runs.map { $0.ttftMean / 1e6 }.filter { $0 > 0 }
                let times: [String] =
                    cell.hasAnswers
                    ? [
                        Self.milliseconds(cell.ttft.mean), String(format: "%.0f–%.0f", means.min() ?? 0, means.max() ?? 0),
                        Self.milliseconds(Double(cell.ttft.p50)), Self.milliseconds(Double(cell.ttft.p99)),
                        Self.milliseconds(Double(cell.endToEnd.p50)), String(format: "%.1f %%", cell.hitRate * 100),
                    ] : Array(repeating: "–", count: 6)
                return [String(format: "%g", cell.rate), cell.router] + times + [
                    cell.goodShare.map { String(format: "%.1f %%", $0 * 100) } ?? "",
                    "\(cell.failed)", String(format: "%.2f", Double(cell.generatorLag.p99) / 1e6),
                    !cell.hasAnswers ? "no answer" : cell.invalidRuns == 0 ? "" : "\(cell.invalidRuns) of \(cell.runs.count) invalid",
                ]
            })
    }

    private static func milliseconds(_ nanoseconds: Double) -> String { String(format: "%.1f", nanoseconds / 1e6) }

    /// The comparison as a page in one file.
    public var html: String {
        var page = HTMLPage(title: "swiftlet bench fleet: \(workloads.first?.name ?? "")")
        if isPartial { page.warning("Partial run: it was interrupted.") }
        let reasons = invalidReasons
        for reason in reasons.prefix(5) { page.warning("Invalid run: \(reason).") }
        if reasons.count > 5 { page.warning("And \(reasons.count - 5) more.") }
        for line in silent { page.warning(line + ".") }
        page.paragraph(
            "\(routers.count) routers\(replicasText) before \(groups) simulated groups, the same schedule through each, \(repeats) runs of each at each rate in turns, every run with fresh groups and a fresh router."
        )
        page.paragraph("Milliseconds, counted from the moment a request was due.")
        page.table(table)
        page.heading("Rate against time to first token")
        page.figure(
            meanChart.svg, caption: "Mean over all requests of a rate. Hollow: some were not answered in time, and only the others count.")
        page.figure(
            chart("TTFT p99 by rate", "TTFT p99, ms", isLogarithmic: true) { Double($0.ttft.p99) / 1e6 }.svg, caption: "The worst 1 %.")
        page.heading("What the caches gave")
        page.figure(
            chart("Hit rate by rate", "cached share of prompt tokens, %") { $0.hitRate * 100 }.svg, caption: "As the groups counted.")
        if goodput != nil {
            page.heading("Goodput")
            page.figure(
                // Where nothing was answered, none kept it: that is a zero, and no gap.
                chart("Goodput by rate", "requests that kept the target, %", needsAnswers: false) { ($0.goodShare ?? 0) * 100 }.svg,
                caption: "Target: \(goodput?.name ?? "").")
        }
        page.heading("Requests by group, at the highest rate")
        for router in routers {
            guard let map = heatMap(of: router.name) else { continue }
            page.figure(
                map.svg, caption: "\(router.name): in each cell the requests that were due in that slice, the darker the more (first run).")
        }
        page.heading("How it was measured")
        page.facts(provenance)
        return page.html
    }

    /// Mean TTFT by rate, one line per router.
    public var meanChart: SVGChart { chart("TTFT mean by rate", "TTFT mean, ms", isLogarithmic: true) { $0.ttft.mean / 1e6 } }

    /// Both plots of the time to first token as one file.
    public var picture: String {
        let name = workloads.first?.name ?? ""
        return SVGPicture(
            title: "\(name): time to first token by rate, \(routers.map(\.name).joined(separator: ", "))",
            charts: [
                chart(
                    "Mean time to first token: \(name)\(replicasText) before \(groups) simulated groups", "TTFT mean, ms",
                    isLogarithmic: true
                ) {
                    $0.ttft.mean / 1e6
                },
                chart("The worst of a hundred (p99)", "TTFT p99, ms", isLogarithmic: true) { Double($0.ttft.p99) / 1e6 },
            ],
            notes: [
                "Counted from when each request was due. Hollow: some requests were not answered in time, and only the others count.",
                "A line ends where none was answered. Lower is better.",
            ]
        ).svg
    }

    private func chart(_ title: String, _ unit: String, isLogarithmic: Bool = false, needsAnswers: Bool = true, _ value: (Cell) -> Double)
        -> SVGChart
    {
        let rates = Set(cells.map(\.rate)).sorted()
        return SVGChart(
            title: title, x: Axis("requests per second"), y: Axis(unit, isLogarithmic: isLogarithmic),
            series: routers.map { router in
                let found = rates.map { rate in cells.first { $0.router == router.name && $0.rate == rate } }
                return .init(
                    name: router.name,
                    // Where nothing was answered, or nothing was run, the line has a gap.
                    points: zip(rates, found).map { rate, cell in
                        (rate, cell.flatMap { $0.hasAnswers || !needsAnswers ? value($0) : nil } ?? .nan)
                    },
                    hollow: Set(found.indices.filter { (found[$0]?.failed ?? 0) > 0 }))
            }, xTicks: rates.count <= 8 ? rates.map { ($0, String(format: "%g", $0)) } : nil)
    }

    private func heatMap(of router: String) -> HeatMap? {
        guard let cell = cells.last(where: { $0.router == router }), !cell.groups.isEmpty else { return nil }
        return HeatMap(
            title: "Requests by group, \(router)", rows: zip(cell.groups, cell.requestsByGroup).map { "\($0) (\($1.reduce(0, +)))" },
            columnLabels: ("start", "end"), values: cell.requestsByGroup.map { $0.map(Double.init) })
    }

    private var provenance: TextTable {
        var rows = [
            ["tool", tool], ["started", startedAt], ["command", command.joined(separator: " ")],
            ["groups", "\(groups), swiftlet stub \(stubFlags.joined(separator: " "))"],
        ]
        rows += routers.map { [$0.name, $0.version] }
        for (rate, workload) in zip(Set(cells.map(\.rate)).sorted(), workloads) {
            rows.append([
                String(format: "%g/s", rate),
                "\(workload.name), \(workload.requests) requests, \(workload.process), content \(workload.contentHash), schedule \(workload.scheduleHash)",
            ])
        }
        rows += (workloads.first?.parameters ?? [:]).sorted { $0.key < $1.key }.map { [$0.key, $0.value] }
        rows += environment.rows
        return TextTable(header: ["", ""], rows: rows)
    }
}
