import Foundation
public import Reporting

extension OverheadTable {
    /// The table as a page in one file.
    public var html: String {
        var page = HTMLPage(title: "swiftlet bench overhead: what routers add")
        if isPartial { page.warning("Partial: it was interrupted.") }
        for line in silent { page.warning(line + ".") }
        for line in failedNullTests { page.warning("Null test failed: \(line).") }
        for reason in invalidReasons { page.warning("Invalid runs: \(reason).") }
        page.paragraph(
            "Added to the time to first token over asking the same group directly, counted from when each request was due: means of \(repeats) pairs of neighbouring runs, the order reversed from turn to turn, and 95 % intervals of Student's t over the pairs. Nothing is claimed of what stands in square brackets or is drawn hollow and dashed: its interval contains zero, or the null test's does not. A dash: too few requests."
        )
        for (size, table) in tables {
            page.heading("Prompts of \(size) bytes")
            page.table(table)
            page.figure(
                chart(size).svg, caption: "Even up to \(Int(Self.evenMicroseconds)) µs about zero, logarithmic beyond, on either side.")
        }
        page.heading("How it was measured")
        page.facts(provenance)
        return page.html
    }

    private static let evenMicroseconds = 100.0

    private func chart(_ size: Int) -> IntervalChart {
        // As many as have a shape of their own.
        let kinds = PairedComparison.names.prefix(4).filter { name in
            rows.contains { $0.promptBytes == size && $0.added.contains { $0.name == name } }
        }
        return IntervalChart(
            title: "Added at \(size) bytes", label: "added, µs", kinds: kinds,
            rows: rows.filter { $0.promptBytes == size }.map { row in
                let marks = kinds.map { name in row.added.first { $0.name == name }.map(IntervalChart.Mark.init) }
                return (row.router, marks)
            }, evenBelow: Self.evenMicroseconds)
    }

    private var provenance: TextTable {
        var facts = [["tool", tool], ["started", startedAt], ["command", command.joined(separator: " ")]]
        var seen: Set<String> = ["null test"]
        facts += rows.filter { seen.insert($0.router).inserted }.map { [$0.router, $0.version] }
        facts += workloads.map {
            [$0.name, "\($0.requests) requests a run, \($0.process), content \($0.contentHash), schedule \($0.scheduleHash)"]
        }
        facts += parameters.sorted { $0.key < $1.key }.map { [$0.key, $0.value] }
        return TextTable(header: ["", ""], rows: facts + environment.rows)
    }
}

extension IntervalChart.Mark {
    /// In microseconds.
    public init(_ difference: LatencyDifference) {
        self.init(
            value: difference.difference / 1e3, low: difference.low / 1e3, high: difference.high / 1e3, isClaimed: difference.isClaimed)
    }
}
