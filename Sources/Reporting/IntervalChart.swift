import Foundation

/// Values with their intervals, one row for each name, about a zero line. What may be zero is hollow and dashed. The axis is an inverse hyperbolic
/// sine: even about zero, logarithmic far from it, so that microseconds and milliseconds stand side by side.
public struct IntervalChart: Sendable {
    public struct Mark: Sendable {
        public var value: Double
        public var low: Double
        public var high: Double
        public var isClaimed: Bool

        public init(value: Double, low: Double, high: Double, isClaimed: Bool) {
            self.value = value
            self.low = low
            self.high = high
            self.isClaimed = isClaimed
        }
    }

    public var title: String
    public var label: String
    /// Names of each row's marks, in order; told apart by their shapes.
    public var kinds: [String]
    /// `marks` has one for each of `kinds`; nil: nothing was measured.
    public var rows: [(name: String, marks: [Mark?])]
    /// Below it the axis is even.
    public var evenBelow: Double

    public init(title: String, label: String, kinds: [String], rows: [(name: String, marks: [Mark?])], evenBelow: Double) {
        self.title = title
        self.label = label
        self.kinds = kinds
        self.rows = rows
        self.evenBelow = evenBelow
    }

    private static let left = 130.0
    private static let right = 130.0
    private static let top = 12.0
    private static let markHeight = 13.0

    /// A whole `<svg>` element.
    public var svg: String {
        let rowHeight = Self.markHeight * Double(kinds.count) + 8
        let bottom = Self.top + rowHeight * Double(rows.count)
        let plotWidth = SVGChart.width - Self.left - Self.right
        let values = rows.flatMap { $0.marks.compactMap { $0 }.flatMap { [$0.low, $0.value, $0.high] } }.filter(\.isFinite) + [0]
        let (low, high) = (min(values.min() ?? 0, -evenBelow / 2), max(values.max() ?? 0, evenBelow))
        func scaled(_ value: Double) -> Double { asinh(value / evenBelow) }
        func x(_ value: Double) -> Double {
            Self.left + (scaled(value) - scaled(low)) / (scaled(high) - scaled(low)) * plotWidth
        }
        var out = SVGChart.open(title: title, width: SVGChart.width, height: bottom + 46)
        for tick in ticks(low, high) {
            let at = n(x(tick))
            let stroke = tick == 0 ? "currentColor\" stroke-width=\"1.5" : "var(--faint, #ccc)"
            out += "<line x1=\"\(at)\" x2=\"\(at)\" y1=\"\(n(Self.top))\" y2=\"\(n(bottom))\" stroke=\"\(stroke)\"/>"
            out += "<text x=\"\(at)\" y=\"\(n(bottom + 18))\" text-anchor=\"middle\">\(FittedAxis.text(tick))</text>\n"
        }
        out +=
            "<text x=\"\(n(Self.left + plotWidth / 2))\" y=\"\(n(bottom + 38))\" text-anchor=\"middle\">\(HTMLPage.escape(label))</text>\n"
        for (index, row) in rows.enumerated() {
            let middle = Self.top + rowHeight * (Double(index) + 0.5)
            out += "<text x=\"\(n(Self.left - 8))\" y=\"\(n(middle + 4))\" text-anchor=\"end\">\(HTMLPage.escape(row.name))</text>\n"
            for (kind, mark) in row.marks.enumerated() {
                guard let mark, mark.value.isFinite, mark.low.isFinite, mark.high.isFinite else { continue }
                let y = middle + Self.markHeight * (Double(kind) - Double(row.marks.count - 1) / 2)
                let dash = mark.isClaimed ? "" : " stroke-dasharray=\"3 3\""
                out +=
                    "<line x1=\"\(n(x(mark.low)))\" x2=\"\(n(x(mark.high)))\" y1=\"\(n(y))\" y2=\"\(n(y))\" stroke=\"currentColor\" stroke-width=\"1.5\"\(dash)/>"
                out += SVGChart.marker(kind, at: (x(mark.value), y), isHollow: !mark.isClaimed) + "\n"
            }
        }
        for (kind, name) in kinds.enumerated() {
            let (at, y) = (SVGChart.width - Self.right + 20, Self.top + 12 + 20 * Double(kind))
            out += SVGChart.marker(kind, at: (at, y), isHollow: false)
            out += "<text x=\"\(n(at + 12))\" y=\"\(n(y + 4))\">\(HTMLPage.escape(name))</text>\n"
        }
        return out + "</svg>"
    }

    /// Zero, and powers of ten from the even part on, on either side.
    private func ticks(_ low: Double, _ high: Double) -> [Double] {
        let first = floor(log10(evenBelow))
        let powers = (0..<12).map { pow(10, first + Double($0)) }
        return powers.reversed().map { -$0 }.filter { $0 >= low } + [0] + powers.filter { $0 <= high }
    }
}
