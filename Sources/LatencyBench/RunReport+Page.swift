import Foundation
import Histogram
import Reporting

extension RunReport {
    /// The run as a page in one file.
    public var html: String {
        var page = HTMLPage(title: "swiftlet bench: \(label)")
        for reason in invalidReasons { page.warning("Invalid run: \(reason).") }
        if isPartial { page.warning("Partial run: it was interrupted.") }
        page.paragraph(
            "\(completed) requests, \(failed) failed, \(Self.number(requestRate)) a second over \(Self.number(durationSeconds)) s; \(mode)\(offeredRate == nil ? "" : " (\(workload.process))"), \(url)."
        )
        for note in notes { page.paragraph("Note: \(note).") }
        page.table(headlines)
        page.paragraph(
            "Latencies count from the moment a request was due, unless it says that they count from the send. A run is invalid when the p99 of the generator's own lag is over 1 ms or over 1 % of the TTFT's p50, or when not all was sent."
        )
        page.table(latencyTable)
        if let starNote { page.paragraph(starNote) }
        page.heading("Latency by percentile")
        page.figure(
            percentileChart.svg, caption: "Logarithmic in what is beyond each percentile: half the way to the right is the worst 1 %.")
        if timeline.count > 1 {
            page.heading("Time to first token over time")
            page.figure(timeChart.svg, caption: "By when requests were due, \(timeline.count) slices.")
        }
        if stages.count > 1 {
            page.heading("Rate against latency")
            page.table(stageTable)
            page.figure(rateChart.svg, caption: "One point per stage.")
        }
        if !backends.isEmpty {
            page.heading("Requests by group")
            page.figure(backendMap.svg, caption: "In each cell the requests that were due in that slice; the darker the more.")
        }
        page.heading("How it was measured")
        page.facts(provenance)
        return page.html
    }

    /// What is asked first.
    private var headlines: TextTable {
        var rows = [["requests/s", Self.number(requestRate)]]
        if let sessions, let offeredRate {
            rows.append(["offered sessions/s", offeredRate > 0 ? Self.number(offeredRate) : "all \(sessions) at once"])
        } else if let offeredRate {
            rows.append(["offered requests/s", Self.number(offeredRate)])
        }
        if api != "plain" {
            rows += [
                ["output tokens/s", Self.number(outputTokenRate)], ["all tokens/s", Self.number(totalTokenRate)],
                [
                    "prefix cache hit rate",
                    String(format: "%.1f %%", hitRate * 100)
                        + (workload.idealHitRate.map { String(format: " (unbounded cache: %.1f %%)", $0 * 100) } ?? ""),
                ],
            ]
        }
        if let goodput {
            rows.append([
                "goodput (\(goodput.target.name))",
                String(format: "%.2f %%, ", goodput.share * 100) + Self.number(goodput.requestsPerSecond) + "/s",
            ])
        }
        return TextTable(header: ["", ""], rows: rows)
    }

    private static let ticks = [50.0, 75, 90, 99, 99.9, 99.99]

    /// Where a percentile stands on an axis of nines.
    private static func nines(_ percentile: Double) -> Double { -log10(1 - min(percentile, 99.999) / 100) }

    private var percentileChart: SVGChart {
        let shown = [
            ("TTFT from schedule", "ttft"), ("TTFT from send", "ttft_from_send"), ("E2E from schedule", "e2e"), ("gaps (ITL)", "itl"),
        ]
        return SVGChart(
            title: "Latency by percentile", x: Axis("percentile"), y: Axis("ms", isLogarithmic: true),
            series: shown.compactMap { name, key in
                guard let metric = metrics[key], metric.count > 0 else { return nil }
                let histogram = metric.histogram
                let steps = stride(from: 0.0, through: min(4, log10(Double(metric.count))), by: 0.1)
                return .init(
                    name: name, points: steps.map { ($0, Double(histogram.valueAtPercentile((1 - pow(10, -$0)) * 100)) / 1e6) })
            }, xTicks: Self.ticks.map { (Self.nines($0), String(format: "%g", $0)) })
    }

    private var timeChart: SVGChart {
        // A slice in which nothing was answered is a gap.
        func milliseconds(_ value: Double) -> Double { value > 0 ? value / 1e6 : .nan }
        return SVGChart(
            title: "Time to first token over time", x: Axis("seconds since the start"), y: Axis("TTFT, ms"),
            series: [
                .init(name: "p50", points: timeline.map { ($0.startSeconds, milliseconds($0.ttftP50)) }),
                .init(name: "p99", points: timeline.map { ($0.startSeconds, milliseconds($0.ttftP99)) }),
            ])
    }

    private var rateChart: SVGChart {
        SVGChart(
            title: "Rate against latency", x: Axis("offered requests per second"), y: Axis("ms", isLogarithmic: true),
            series: [
                .init(name: "TTFT p50", points: stages.map { ($0.offeredRate, Double($0.ttft.p50) / 1e6) }),
                .init(name: "TTFT p99", points: stages.map { ($0.offeredRate, Double($0.ttft.p99) / 1e6) }),
                .init(name: "E2E p50", points: stages.map { ($0.offeredRate, Double($0.endToEnd.p50) / 1e6) }),
            ])
    }

    private var backendMap: HeatMap {
        let order = backends.indices.sorted { backends[$0].name.localizedStandardCompare(backends[$1].name) == .orderedAscending }
        return HeatMap(
            title: "Requests by group", rows: order.map { "\(backends[$0].name) (\(backends[$0].requests))" },
            columnLabels: (Self.seconds(timeline.first), Self.seconds(timeline.last)),
            values: order.map { index in timeline.map { Double($0.byBackend[index]) } })
    }

    private static func seconds(_ bin: TimeBin?) -> String { String(format: "%.1f s", bin?.startSeconds ?? 0) }

    private var provenance: TextTable {
        var rows = [
            ["tool", tool], ["started", startedAt], ["command", command.joined(separator: " ")], ["workload", workload.name],
            ["content hash", workload.contentHash], ["schedule hash", workload.scheduleHash],
        ]
        rows += workload.parameters.sorted { $0.key < $1.key }.map { [$0.key, $0.value] }
        rows += environment.rows
        rows += [
            ["TTFT", "first event with content − due"], ["TPOT", "(last content − first content) / (output tokens − 1), per request"],
            ["ITL", "gaps between events with content, all requests together"], ["E2E", "end of the answer − due"],
        ]
        return TextTable(header: ["", ""], rows: rows)
    }
}
