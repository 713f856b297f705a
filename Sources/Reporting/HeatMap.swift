import Foundation

/// A table of values as shades, with the number in every cell: columns that are too many for that are merged.
public struct HeatMap: Sendable {
    /// What merged columns come to.
    public enum Merging: Sendable {
        case sum, mean
    }

    public var title: String
    /// Names of the rows.
    public var rows: [String]
    /// What stands below the first and the last column.
    public var columnLabels: (first: String, last: String)
    /// One array per row, all of one length.
    public var values: [[Double]]
    public var merging: Merging

    public init(
        title: String, rows: [String], columnLabels: (first: String, last: String), values: [[Double]], merging: Merging = .sum
    ) {
        self.title = title
        self.rows = rows
        self.columnLabels = columnLabels
        self.values = values
        self.merging = merging
    }

    private static let left = 150.0
    private static let plotWidth = SVGChart.width - left - 16
    /// Cells at least 34 wide, so that five characters stand in one.
    private static let mostColumns = Int(plotWidth / 34)

    /// `values` with neighbouring columns merged, evenly, until all have room.
    private var shown: [[Double]] {
        let columns = values.map(\.count).max() ?? 0
        let width = max(1, (columns + Self.mostColumns - 1) / Self.mostColumns)
        return values.map { row in
            stride(from: 0, to: row.count, by: width).map { start in
                let part = row[start..<min(row.count, start + width)]
                return part.reduce(0, +) / (merging == .mean ? Double(part.count) : 1)
            }
        }
    }

    /// A whole `<svg>` element.
    public var svg: String {
        let (left, top, rowHeight) = (Self.left, 8.0, 24.0)
        let shown = shown
        let cell = Self.plotWidth / Double(max(1, shown.map(\.count).max() ?? 0))
        let height = top + rowHeight * Double(rows.count) + 24
        let highest = max(shown.flatMap { $0 }.max() ?? 0, .leastNormalMagnitude)
        var out = SVGChart.open(title: title, width: SVGChart.width, height: height)
        for (row, name) in rows.enumerated() where row < shown.count {
            let y = top + rowHeight * Double(row)
            out += "<text x=\"\(n(left - 8))\" y=\"\(n(y + 16))\" text-anchor=\"end\">\(HTMLPage.escape(name))</text>\n"
            for (column, value) in shown[row].enumerated() {
                let x = left + cell * Double(column)
                // One hue from nothing to full; the number says the same without it, white where the shade is dark.
                let shade = max(0, value) / highest
                out +=
                    "<rect x=\"\(n(x))\" y=\"\(n(y))\" width=\"\(n(max(0.5, cell - 0.5)))\" height=\"\(n(rowHeight - 1))\" fill=\"#0072b2\" fill-opacity=\"\(n(0.05 + 0.9 * shade))\"/>"
                out +=
                    "<text x=\"\(n(x + cell / 2))\" y=\"\(n(y + 16))\" text-anchor=\"middle\"\(shade > 0.6 ? " style=\"fill:#fff\"" : "")>\(Self.text(value))</text>"
            }
            out += "\n"
        }
        let y = top + rowHeight * Double(rows.count) + 16
        out += "<text x=\"\(n(left))\" y=\"\(n(y))\">\(HTMLPage.escape(columnLabels.first))</text>"
        out += "<text x=\"\(n(left + Self.plotWidth))\" y=\"\(n(y))\" text-anchor=\"end\">\(HTMLPage.escape(columnLabels.last))</text>\n"
        return out + "</svg>"
    }

    /// In at most five characters up to a thousand million: 999, 1.2k, 57k, 3.4M.
    private static func text(_ value: Double) -> String {
        let whole = value.rounded()
        // A mean may lie between.
        if value != whole, value < 100 { return String(format: "%.1f", value) }
        if whole < 1_000 { return String(format: "%.0f", whole) }
        let (scaled, unit) = whole < 999_500 ? (whole / 1_000, "k") : (whole / 1e6, "M")
        return String(format: scaled < 9.95 ? "%.1f%@" : "%.0f%@", scaled, unit)
    }
}
