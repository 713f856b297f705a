/// A table of counts as shades, with the number in every cell that has room for it.
public struct HeatMap: Sendable {
    public var title: String
    /// Names of the rows.
    public var rows: [String]
    /// What stands below the first and the last column.
    public var columnLabels: (first: String, last: String)
    /// One array per row, all of one length.
    public var values: [[Double]]

    public init(title: String, rows: [String], columnLabels: (first: String, last: String), values: [[Double]]) {
        self.title = title
        self.rows = rows
        self.columnLabels = columnLabels
        self.values = values
    }

    /// A whole `<svg>` element.
    public var svg: String {
        let (left, top, rowHeight) = (150.0, 8.0, 24.0)
        let plotWidth = SVGChart.width - left - 16
        let columns = values.map(\.count).max() ?? 0
        let cell = plotWidth / Double(max(1, columns))
        let height = top + rowHeight * Double(rows.count) + 24
        let highest = max(values.flatMap { $0 }.max() ?? 0, .leastNormalMagnitude)
        var out = SVGChart.open(title: title, width: SVGChart.width, height: height)
        for (row, name) in rows.enumerated() where row < values.count {
            let y = top + rowHeight * Double(row)
            out += "<text x=\"\(n(left - 8))\" y=\"\(n(y + 16))\" text-anchor=\"end\">\(HTMLPage.escape(name))</text>\n"
            for (column, value) in values[row].enumerated() {
                let x = left + cell * Double(column)
                // One hue from nothing to full: the shade alone carries the value.
                out +=
                    "<rect x=\"\(n(x))\" y=\"\(n(y))\" width=\"\(n(max(0.5, cell - 0.5)))\" height=\"\(n(rowHeight - 1))\" fill=\"#0072b2\" fill-opacity=\"\(n(0.05 + 0.9 * max(0, value) / highest))\"/>"
                if cell >= 26 {
                    out +=
                        "<text x=\"\(n(x + cell / 2))\" y=\"\(n(y + 16))\" text-anchor=\"middle\">\(FittedAxis.text(value.rounded()))</text>"
                }
            }
            out += "\n"
        }
        let y = top + rowHeight * Double(rows.count) + 16
        out += "<text x=\"\(n(left))\" y=\"\(n(y))\">\(HTMLPage.escape(columnLabels.first))</text>"
        out += "<text x=\"\(n(left + plotWidth))\" y=\"\(n(y))\" text-anchor=\"end\">\(HTMLPage.escape(columnLabels.last))</text>\n"
        return out + "</svg>"
    }
}
