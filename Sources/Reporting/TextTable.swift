/// Rows of text, aligned: the first column to the left, the others to the right.
///
/// This target's story: what a run or a simulation came to is shown by the same kit everywhere: `Distribution` (percentiles of a
/// histogram), `TextTable` (terminal), `SVGChart` and `HeatMap` (pictures that are readable without colour), `HTMLPage` (one file with
/// all of it, that loads nothing from anywhere).
public struct TextTable: Sendable {
    public var header: [String]
    public var rows: [[String]]

    public init(header: [String], rows: [[String]] = []) {
        self.header = header
        self.rows = rows
    }

    /// Lines without a line end behind the last; short rows are filled with nothing.
    public var text: String {
        let columns = ([header] + rows).map(\.count).max() ?? 0
        let widths = (0..<columns).map { column in ([header] + rows).map { column < $0.count ? $0[column].count : 0 }.max() ?? 0 }
        let lines = ([header] + rows).map { row in
            (0..<columns).map { column in
                let cell = column < row.count ? row[column] : ""
                let blanks = String(repeating: " ", count: widths[column] - cell.count)
                return column == 0 ? cell + blanks : blanks + cell
            }.joined(separator: "  ")
        }
        let rule = String(repeating: "-", count: widths.reduce(0, +) + 2 * max(0, columns - 1))
        return ([lines[0], rule] + lines.dropFirst()).joined(separator: "\n")
    }

    /// The same for a page.
    public var html: String {
        func row(_ cells: [String], _ tag: String) -> String {
            "<tr>" + cells.map { "<\(tag)>\(HTMLPage.escape($0))</\(tag)>" }.joined() + "</tr>"
        }
        return "<table><thead>\(row(header, "th"))</thead><tbody>\n" + rows.map { row($0, "td") }.joined(separator: "\n")
            + "\n</tbody></table>"
    }
}
