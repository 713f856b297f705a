import Foundation
import Histogram
import RegexBuilder
import Reporting
import Testing

@Suite struct ReportingTests {
    @Test(arguments: ["<a><b></b></a>", "<a x1=\"1\"/>"]) func theXMLCheckTakesWhatIsWellFormed(text: String) {
        #expect(isWellFormed(text))
    }
    @Test(arguments: ["<a><b></a></b>", "<a>", "<a x=1/>", "a < b <c/>"]) func theXMLCheckRefusesTheRest(text: String) {
        #expect(!isWellFormed(text))
    }

    @Test func aTableIsAligned() {
        let table = TextTable(header: ["a", "value"], rows: [["first", "1"], ["x"]])
        #expect(table.text == "a      value\n------------\nfirst      1\nx           ")
    }

    @Test func aChartHasItsLinesAndIsWellFormed() {
        let chart = SVGChart(
            title: "a < b & c", x: Axis("x"), y: Axis("y", isLogarithmic: true),
            series: [
                .init(name: "\"one\"", points: [(0, 1), (1, 100), (2, 0), (3, .nan)]),
                .init(name: "two", points: [(0, 5), (1, .nan), (2, 6), (3, 7)]),
                .init(name: "none", points: []),
            ])
        let isSound = isWellFormed(chart.svg)
        #expect(isSound)
        // A zero has no place on a logarithmic axis, and no number has one anywhere.
        let lines = chart.svg.matches(
            of: /<polyline points="([^"]*)" fill="none" stroke="[^"]*" stroke-width="2" stroke-dasharray="([^"]*)"/)
        // A line and one in the legend; a gap cuts the second in two; the third has the legend alone.
        #expect(lines.map { $0.1.split(separator: " ").count } == [2, 2, 1, 2, 2, 2])
        #expect(Set([0, 2, 5].map { String(lines[$0].2) }).count == 3, "series must differ without colour")
        #expect(lines[2].2 == lines[3].2)
        #expect(chart.svg.matches(of: #/<rect /#).count == 5, "a point that stands alone between gaps is still marked")
        #expect(!chart.svg.contains("nan"))
    }

    /// The plot makes room for what the legend has to say, and no two of its lines stand on one another.
    @Test func aLongNameTakesTwoLinesOfTheLegend() throws {
        func texts(_ names: [String]) -> [(x: Double, y: Double, text: String)] {
            let chart = SVGChart(
                title: "t", x: Axis("x"), y: Axis("y"), series: names.map { .init(name: $0, points: [(0, 1), (1, 2)]) })
            #expect(isWellFormed(chart.svg))
            return chart.svg.matches(of: /<text x="([0-9.]+)" y="([0-9.]+)">([^<]*)</).map {
                (Double($0.1) ?? 0, Double($0.2) ?? 0, String($0.3))
            }
        }
        let short = texts(["one", "two"])
        #expect(short.map(\.text) == ["one", "two"] && short[1].y - short[0].y == 20)
        let long = texts(["cache-aware:match=0.3:absolute=32:relative=1.5", "two", "words without an end"])
        #expect(long.map(\.text) == ["cache-aware:match=0.3", ":absolute=32:relative=1.5", "two", "words without", "an end"])
        #expect(zip(long, long.dropFirst()).allSatisfy { $1.y - $0.y >= 14 })
        #expect(Set(long.map(\.x)).count == 1 && long[0].x < short[0].x)
        #expect(long.allSatisfy { $0.x + 7.4 * Double($0.text.count) <= 860 })
        #expect(texts([String(repeating: "x", count: 40)]).map(\.text) == [String(repeating: "x", count: 40)])
    }

    /// Two decades have their twos and fives; many have powers of ten alone.
    @Test(arguments: [
        ([440.0, 3_200.0], ["200", "500", "1000", "2000", "5000"]), ([1, 2], ["1", "2"]), ([5, 5], ["5", "10", "20", "50"]),
        ([0.003, 2e6], ["0.01", "0.1", "1", "10", "100", "1000", "10000", "100000", "1M"]),
    ])
    func aLogarithmicAxisHasRoundTicks(values: [Double], ticks: [String]) {
        let chart = SVGChart(
            title: "t", x: Axis("x"), y: Axis("y", isLogarithmic: true),
            series: [.init(name: "s", points: values.enumerated().map { (Double($0), $1) })])
        #expect(chart.svg.matches(of: /text-anchor="end">([^<]*)</).map { String($0.1) } == ticks)
    }

    @Test func aHollowPointIsOneOfWhichNotAllIsKnown() {
        let chart = SVGChart(
            title: "t", x: Axis("x"), y: Axis("y"), series: [.init(name: "s", points: [(0, 1), (1, 2), (2, 3)], hollow: [1])])
        // The legend's two are whole.
        #expect(chart.svg.matches(of: #/<circle [^>]* fill="#/#).count == 4)
        #expect(chart.svg.matches(of: /<circle [^>]* fill="var\(--paper, #fff\)" stroke="/).count == 1)
    }

    /// A file has no page around it: it says itself what is light and what is dark.
    @Test func aPictureHasItsChartsAndColours() {
        let chart = SVGChart(title: "first & foremost", x: Axis("x"), y: Axis("y"), series: [.init(name: "s", points: [(0, 1), (1, 2)])])
        let picture = SVGPicture(title: "both", charts: [chart, chart], notes: ["one < two"])
        #expect(isWellFormed(picture.svg))
        #expect(picture.svg.hasPrefix("<svg xmlns=\"http://www.w3.org/2000/svg\"") && picture.svg.contains("prefers-color-scheme: dark"))
        #expect(picture.svg.matches(of: /class="heading"[^>]*>first &amp; foremost</).count == 2)
        #expect(picture.svg.contains("one &lt; two") && !picture.svg.contains("<script"))
        for name in ["--ink", "--paper", "--faint"] {
            #expect(
                picture.svg.matches(
                    of: Regex {
                        name; ": #"
                    }
                ).count == 2)
        }
    }

    @Test func anIntervalThatMayBeZeroIsHollowAndDashed() throws {
        let chart = IntervalChart(
            title: "t", label: "µs", kinds: ["p50", "p99"],
            rows: [
                (
                    "a",
                    [.init(value: 150, low: 100, high: 200, isClaimed: true), .init(value: 3_000, low: -50, high: 9_000, isClaimed: false)]
                ),
                ("b", [.init(value: -20, low: -40, high: 10, isClaimed: false), nil]),
                ("c", [.init(value: .nan, low: 0, high: 1, isClaimed: true), nil]),
            ], evenBelow: 100)
        #expect(isWellFormed(chart.svg) && !chart.svg.contains("nan"))
        let lines = chart.svg.matches(of: /x1="([0-9.]+)" x2="([0-9.]+)"[^>]*stroke-width="1.5"( stroke-dasharray="3 3")?\/>/)
        // Zero's own line is upright, the intervals lie flat.
        let intervals = lines.filter { $0.1 != $0.2 }
        #expect(intervals.map { $0.3 != nil } == [false, true, true])
        #expect(chart.svg.matches(of: /fill="var\(--paper, #fff\)"/).count == 2)
        let zero = try #require(lines.first { $0.1 == $0.2 }.flatMap { Double($0.1) })
        let places = intervals.map { (Double($0.1) ?? 0, Double($0.2) ?? 0) }
        #expect(places[0].0 > zero && places[1].0 < zero && places[1].1 > zero && places[2].0 < zero && places[2].1 > zero)
    }

    @Test func aHeatMapShadesAndNumbersItsCells() {
        let map = HeatMap(title: "t", rows: ["a", "b"], columnLabels: ("0 s", "9 s"), values: [[0, 5], [10, 2]])
        #expect(isWellFormed(map.svg))
        #expect(map.svg.contains("fill-opacity=\"0.95\""))
        #expect(map.svg.contains(">10</text>"))
    }

    /// A run's report has sixty slices; a picture has room for twenty numbers.
    @Test func everyCellOfAReportsHeatMapHasItsNumber() {
        func numbers(_ columns: Int, of values: [Double], merging: HeatMap.Merging = .sum) -> [String] {
            let map = HeatMap(
                title: "t", rows: ["a"], columnLabels: ("0 s", "9 s"), values: [(0..<columns).map { values[$0 % values.count] }],
                merging: merging)
            #expect(isWellFormed(map.svg))
            let cells = map.svg.matches(of: /<rect x="[^"]*" y="[^"]*" width="([0-9.]+)"/).map { Double($0.1) ?? 0 }
            let found = map.svg.matches(of: /text-anchor="middle"[^>]*>([^<]*)</).map { String($0.1) }
            #expect(cells.count == found.count && cells.allSatisfy { $0 >= 33 })
            return found
        }
        #expect(numbers(60, of: [1, 2, 4]) == Array(repeating: "7", count: 20))
        #expect(numbers(61, of: [1]).count == 16)
        #expect(numbers(60, of: [1, 2, 4], merging: .mean) == Array(repeating: "2.3", count: 20))
        #expect(numbers(6, of: [0, 999, 1_234, 56_789, 999_600, 3_400_000]) == ["0", "999", "1.2k", "57k", "1.0M", "3.4M"])
    }

    @Test func aPageEscapesWhatItShows() {
        var page = HTMLPage(title: "<b>")
        page.paragraph("1 < 2 & \"3\"\u{1}")
        #expect(page.html.contains("<title>&lt;b&gt;</title>"))
        #expect(page.html.contains("1 &lt; 2 &amp; &quot;3&quot;\u{fffd}"))
        #expect(!page.html.contains("<script"))
    }

    @Test func histogramsAddUpWithoutLossAndAreReadBack() throws {
        var (left, right, both) = (LatencyHistogram.latency(), LatencyHistogram.latency(), LatencyHistogram.latency())
        for value in stride(from: UInt64(1_500), to: 5_000_000_000, by: 1_234_567) {
            if value % 2 == 0 { left.note(value) } else { right.note(value) }
            both.note(value)
        }
        left.add(right)
        let isWhole = Distribution(left) == Distribution(both)
        #expect(isWhole)
        let written = try JSONEncoder().encode(Distribution(both))
        let read = try JSONDecoder().decode(Distribution.self, from: written)
        let isSame = Distribution(read.histogram).buckets == Distribution(both).buckets
        #expect(isSame)
        #expect(read.count == both.totalCount)
        #expect(abs(Double(read.p99) / (0.99 * 5e9) - 1) < 0.002)
    }
}
