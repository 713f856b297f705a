import Foundation

/// Lines over two axes. Series differ in dash and marker as well as in colour, and each is named at its end of the legend.
public struct SVGChart: Sendable {
    public struct Series: Sendable {
        public var name: String
        /// A point that has no place (not a number, or not above zero on a logarithmic axis) is a gap in the line.
        public var points: [(x: Double, y: Double)]
        /// Points, by their index, of which not all is known: their markers are hollow.
        public var hollow: Set<Int>
        public init(name: String, points: [(x: Double, y: Double)], hollow: Set<Int> = []) {
            self.name = name
            self.points = points
            self.hollow = hollow
        }
    }

    public var title: String
    public var x: Axis
    public var y: Axis
    public var series: [Series]
    /// Values of x that stand for others, as 1, 2, 3 do for percentiles of 90, 99 and 99.9; nil: round numbers.
    public var xTicks: [(x: Double, label: String)]?

    public init(title: String, x: Axis, y: Axis, series: [Series], xTicks: [(x: Double, label: String)]? = nil) {
        self.title = title
        self.x = x
        self.y = y
        self.series = series
        self.xTicks = xTicks
    }

    static let width = 860.0
    static let height = 340.0
    private static let left = 66.0
    /// Room for the legend: more when a name needs it.
    private static let leastRight = 176.0
    private static let legendLine = 26.0
    /// A wide letter of the pages' fonts.
    private static let letter = 7.4
    /// Letters from which on a name takes two lines of the legend.
    private static let longName = 20
    private static let top = 16.0
    private static let bottom = 46.0
    // Okabe and Ito's colours, which the colour-blind can tell apart.
    private static let colours = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#b8a800"]
    private static let dashes = ["", "7 4", "2 3", "10 3 2 3", "1 4", "12 4", "5 2 1 2", "3 6"]

    /// A whole `<svg>` element.
    public var svg: String {
        let points = series.flatMap(\.points)
        let horizontal = x.fitted(to: points.map(\.x) + (xTicks ?? []).map(\.x))
        let vertical = y.fitted(to: points.map(\.y))
        let names = series.map { Self.lines(of: $0.name) }
        let right = max(Self.leastRight, Self.legendLine + 24 + Self.letter * Double(names.joined().map(\.count).max() ?? 0))
        let (plotWidth, plotHeight) = (Self.width - Self.left - right, Self.height - Self.top - Self.bottom)
        func place(_ point: (x: Double, y: Double)) -> (Double, Double)? {
            guard let across = horizontal.position(point.x), let up = vertical.position(point.y) else { return nil }
            return (Self.left + across * plotWidth, Self.top + (1 - up) * plotHeight)
        }
        var out = Self.open(title: title, width: Self.width, height: Self.height)
        for tick in vertical.ticks {
            guard let up = vertical.position(tick) else { continue }
            let at = Self.top + (1 - up) * plotHeight
            out +=
                "<line x1=\"\(n(Self.left))\" x2=\"\(n(Self.left + plotWidth))\" y1=\"\(n(at))\" y2=\"\(n(at))\" stroke=\"var(--faint, #ccc)\"/>"
            out += "<text x=\"\(n(Self.left - 6))\" y=\"\(n(at + 4))\" text-anchor=\"end\">\(FittedAxis.text(tick))</text>\n"
        }
        for tick in xTicks ?? horizontal.ticks.map({ ($0, FittedAxis.text($0)) }) {
            guard let across = horizontal.position(tick.x) else { continue }
            let at = Self.left + across * plotWidth
            out +=
                "<line x1=\"\(n(at))\" x2=\"\(n(at))\" y1=\"\(n(Self.top + plotHeight))\" y2=\"\(n(Self.top + plotHeight + 5))\" stroke=\"currentColor\"/>"
            out +=
                "<text x=\"\(n(at))\" y=\"\(n(Self.top + plotHeight + 18))\" text-anchor=\"middle\">\(HTMLPage.escape(tick.label))</text>\n"
        }
        out +=
            "<text x=\"\(n(Self.left + plotWidth / 2))\" y=\"\(n(Self.height - 8))\" text-anchor=\"middle\">\(HTMLPage.escape(x.label))</text>\n"
        out +=
            "<text transform=\"translate(14 \(n(Self.top + plotHeight / 2))) rotate(-90)\" text-anchor=\"middle\">\(HTMLPage.escape(y.label))</text>\n"
        var legendTop = Self.top + 10
        for (index, entry) in series.enumerated() {
            out += line(entry.points.map(place), index: index, hollow: entry.hollow)
            out += legend(names[index], index: index, at: (Self.width - right + 12, legendTop))
            legendTop += 6 + 14 * Double(names[index].count)
        }
        return out + "</svg>"
    }

    private func line(_ places: [(Double, Double)?], index: Int, hollow: Set<Int> = []) -> String {
        let colour = Self.colours[index % Self.colours.count]
        var out = ""
        for stretch in places.split(whereSeparator: { $0 == nil }) {
            let path = stretch.compactMap { $0 }.map { "\(n($0.0)),\(n($0.1))" }.joined(separator: " ")
            out +=
                "<polyline points=\"\(path)\" fill=\"none\" stroke=\"\(colour)\" stroke-width=\"2\" stroke-dasharray=\"\(Self.dashes[index % Self.dashes.count])\"/>"
        }
        // Markers on all points of a short line, and on about a dozen of a long one.
        let stride = max(1, places.count / 12)
        for (number, place) in places.enumerated() {
            guard let place else { continue }
            let standsAtGap = number == places.count - 1 || places[number + 1] == nil || number == 0 || places[number - 1] == nil
            if number % stride == 0 || standsAtGap { out += Self.marker(index, at: place, isHollow: hollow.contains(number)) }
        }
        return out + "\n"
    }

    /// In the colour of series `index`, of which every one of four neighbours has a shape of its own.
    static func marker(_ index: Int, at place: (Double, Double), isHollow: Bool) -> String {
        let (x, y) = place
        let colour = colours[index % colours.count]
        let paint = isHollow ? "fill=\"var(--paper, #fff)\" stroke=\"\(colour)\" stroke-width=\"1.5\"" : "fill=\"\(colour)\""
        switch index % 4 {
        case 0: return "<circle cx=\"\(n(x))\" cy=\"\(n(y))\" r=\"3.5\" \(paint)/>"
        case 1: return "<rect x=\"\(n(x - 3.2))\" y=\"\(n(y - 3.2))\" width=\"6.4\" height=\"6.4\" \(paint)/>"
        case 2: return "<path d=\"M\(n(x)) \(n(y - 4.5))l4.5 8h-9z\" \(paint)/>"
        default: return "<path d=\"M\(n(x)) \(n(y - 4.5))l4.5 4.5l-4.5 4.5l-4.5 -4.5z\" \(paint)/>"
        }
    }

    private func legend(_ lines: [String], index: Int, at place: (x: Double, y: Double)) -> String {
        let sample = line([place, (place.x + Self.legendLine, place.y)], index: index)
        return lines.enumerated().reduce(sample) { drawn, line in
            let y = place.y + 4 + 14 * Double(line.offset)
            return drawn + "<text x=\"\(n(place.x + Self.legendLine + 8))\" y=\"\(n(y))\">\(HTMLPage.escape(line.element))</text>\n"
        }
    }

    /// A long name in two, parted where one of its words or parameters begins, as near to the middle as may be.
    private static func lines(of name: String) -> [String] {
        guard name.count >= longName else { return [name] }
        let middle = name.index(name.startIndex, offsetBy: name.count / 2)
        func distance(_ place: String.Index) -> Int { abs(name.distance(from: middle, to: place)) }
        let places = name.indices.filter { $0 > name.startIndex && ": ".contains(name[$0]) }
        guard let place = places.min(by: { distance($0) < distance($1) }) else { return [name] }
        return [String(name[..<place]), String(name[place...].drop { $0 == " " })]
    }

    /// The opening of a picture, with its title for those who do not see it.
    static func open(title: String, width: Double, height: Double) -> String {
        "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" viewBox=\"0 0 \(n(width)) \(n(height))\" width=\"\(n(width))\" height=\"\(n(height))\">"
            + "<title>\(HTMLPage.escape(title))</title>\n"
    }
}

/// A coordinate: two decimals are finer than a pixel.
func n(_ value: Double) -> String { String(format: "%g", (value * 100).rounded() / 100) }
