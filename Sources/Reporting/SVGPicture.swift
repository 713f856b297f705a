/// Charts one above the other as a file of their own: a page brings its fonts and colours, a file must have them. Light or dark as the reader's
/// system is, on a ground of its own, since it may be shown on either.
public struct SVGPicture: Sendable {
    /// For those who do not see it.
    public var title: String
    public var charts: [SVGChart]
    /// What stands below the last chart, a line each.
    public var notes: [String]

    public init(title: String, charts: [SVGChart], notes: [String] = []) {
        self.title = title
        self.charts = charts
        self.notes = notes
    }

    private static let headingHeight = 34.0
    private static let noteHeight = 18.0

    private static let style = """
        <style>svg { --ink: #1b1f24; --paper: #ffffff; --faint: #d5d9de; color: var(--ink) }
        @media (prefers-color-scheme: dark) { svg { --ink: #e6e8ea; --paper: #15181c; --faint: #3a4048 } }
        text { fill: var(--ink); font: 13px system-ui, sans-serif } .heading { font-weight: 600; font-size: 14px } .note { font-size: 12px }</style>
        <rect width="100%" height="100%" style="fill: var(--paper)"/>

        """

    /// A whole `<svg>` element.
    public var svg: String {
        let each = Self.headingHeight + SVGChart.height
        let height = each * Double(charts.count) + (notes.isEmpty ? 8 : Self.noteHeight * Double(notes.count) + 16)
        var out = SVGChart.open(title: title, width: SVGChart.width, height: height) + Self.style
        for (index, chart) in charts.enumerated() {
            let top = each * Double(index)
            out += "<text class=\"heading\" x=\"16\" y=\"\(n(top + 24))\">\(HTMLPage.escape(chart.title))</text>\n"
            out += "<g transform=\"translate(0 \(n(top + Self.headingHeight)))\">\n\(chart.svg)\n</g>\n"
        }
        for (index, note) in notes.enumerated() {
            let y = each * Double(charts.count) + Self.noteHeight * Double(index + 1)
            out += "<text class=\"note\" x=\"16\" y=\"\(n(y))\">\(HTMLPage.escape(note))</text>\n"
        }
        return out + "</svg>\n"
    }
}
