import Foundation
import Histogram
public import Reporting

extension RunReport {
    /// The summary for a terminal: the lines that vLLM's bench prints, under their names, with a column for each clock.
    public var text: String {
        var lines: [String] = []
        func line(_ name: String, _ value: String) {
            lines.append(name + String(repeating: " ", count: max(1, 41 - name.count)) + value)
        }
        lines.append(
            isPartial ? "========= Serving Benchmark Result (partial) =========" : "============= Serving Benchmark Result ===============")
        line("Successful requests:", "\(completed)")
        line(
            "Failed requests:",
            failed == 0 ? "0" : "\(failed)  " + errors.sorted { $0.key < $1.key }.map { "\($0.key): \($0.value)" }.joined(separator: ", "))
        line("Benchmark duration (s):", Self.number(durationSeconds))
        if let sessions, offeredRate != nil {
            let rate = offeredRate.flatMap { $0 > 0 ? Self.number($0) : nil }
            line("Offered sessions (1/s):", "\(rate ?? "all at once")  \(sessions) in all, \(workload.process), \(mode)")
        } else if let offeredRate {
            line("Offered rate (req/s):", "\(Self.number(offeredRate))  \(workload.process), \(mode)")
        } else {
            line("Offered load:", "\(mode), each request sent when another has been answered")
        }
        if let warmUpSeconds, let warmUpRequests, warmUpSeconds > 0 {
            line("Warm-up, in no figure (requests):", "\(warmUpRequests)  due in the first \(Self.number(warmUpSeconds)) s")
        }
        line("Request throughput (req/s):", Self.number(requestRate))
        if api != "plain" {
            line("Total input tokens:", "\(promptTokens)")
            line("Total generated tokens:", "\(outputTokens)")
            line("Output token throughput (tok/s):", Self.number(outputTokenRate))
            line("Total token throughput (tok/s):", Self.number(totalTokenRate))
            line(
                "Prefix cache hit rate:",
                String(format: "%.1f %%", hitRate * 100)
                    + (workload.idealHitRate.map { String(format: "  (unbounded cache: %.1f %%)", $0 * 100) } ?? ""))
        }
        line("Peak requests under way:", "\(highestInFlight)")
        if let goodput {
            line(
                "Request goodput (req/s):",
                Self.number(goodput.requestsPerSecond)
                    + String(format: "  %.2f %% of all kept %@", goodput.share * 100, goodput.target.name))
        }
        lines.append("")
        lines.append(latencyTable.text)
        if let starNote { lines.append(starNote) }
        if stages.count > 1 { lines += ["", stageTable.text] }
        if !backends.isEmpty {
            lines += ["", "Requests per backend: " + backends.map { "\($0.name) \($0.requests)" }.joined(separator: ", ")]
        }
        lines += ["", "Workload \(workload.name), content \(workload.contentHash), schedule \(workload.scheduleHash)"]
        if let lag = metrics["generator_lag"] {
            lines.append(
                "Generator lag p50 \(Self.milliseconds(lag.p50)), p99 \(Self.milliseconds(lag.p99)), max \(Self.milliseconds(lag.maximum)) ms"
                    + (environment.generatorSchedule.map { "; its threads: \($0)" } ?? ""))
        }
        for note in notes { lines.append("NOTE: \(note)") }
        for reason in invalidReasons { lines.append("INVALID: \(reason)") }
        lines.append(String(repeating: "=", count: 54))
        return lines.joined(separator: "\n")
    }

    /// Latencies in milliseconds, one row each; what is counted from the schedule first.
    public var latencyTable: TextTable {
        let rows: [(String, String)] = [
            ("TTFT, from schedule", "ttft"), ("TTFT, from send", "ttft_from_send"), ("TPOT", "tpot"), ("ITL", "itl"),
            ("E2E, from schedule", "e2e"), ("E2E, from send", "e2e_from_send"), ("generator lag", "generator_lag"),
        ]
        return TextTable(
            header: ["ms", "Mean", "Median", "P90", "P99", "P99.9", "Max"],
            rows: rows.compactMap { name, key in
                guard let metric = metrics[key], metric.count > 0 else { return nil }
                func cell(_ value: UInt64, _ percentile: Double) -> String {
                    Self.milliseconds(value) + (isFailure(key, percentile: percentile) ? "*" : "")
                }
                return [
                    name, cell(UInt64(metric.mean), 100), cell(metric.p50, 50), cell(metric.p90, 90), cell(metric.p99, 99),
                    cell(metric.p999, 99.9), cell(metric.maximum, 100),
                ]
            })
    }

    /// What the stars say; nil where there is none.
    var starNote: String? {
        let unanswered = max(unanswered("ttft"), unanswered("e2e"))
        guard unanswered > 0, latencyTable.rows.joined().contains(where: { $0.hasSuffix("*") }) else { return nil }
        return
            "* of the answered alone: \(unanswered) of \(completed + failed) requests failed or had no token, and this percentile of all is one of them"
    }

    /// One row per stage of the schedule.
    public var stageTable: TextTable {
        TextTable(
            header: ["rate", "requests", "failed", "TTFT p50", "TTFT p99", "from send p99", "E2E p50", "tok/s", "goodput"],
            rows: stages.map { stage in
                func cell(_ value: UInt64, _ share: Double) -> String {
                    Self.milliseconds(value) + (Double(stage.requests - stage.failed) < share * Double(stage.requests) ? "*" : "")
                }
                return [
                    Self.number(stage.offeredRate), "\(stage.requests)", "\(stage.failed)", cell(stage.ttft.p50, 0.5),
                    cell(stage.ttft.p99, 0.99), cell(stage.ttftFromSend.p99, 0.99), cell(stage.endToEnd.p50, 0.5),
                    Self.number(stage.outputTokensPerSecond), stage.goodputShare.map { String(format: "%.1f %%", $0 * 100) } ?? "",
                ]
            })
    }

    static func number(_ value: Double) -> String { String(format: "%.2f", value) }
    static func milliseconds(_ nanoseconds: UInt64) -> String { String(format: "%.3f", Double(nanoseconds) / 1e6) }

    // MARK: Files

    public func json() throws -> Data {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
        return try encoder.encode(self)
    }

    /// HdrHistogram's percentile text of a metric, values in milliseconds, for the plotters that read it; what was sent stands in a line of
    /// the kind that they pass over.
    public func hgrm(_ metric: String) -> String {
        guard let histogram = metrics[metric]?.histogram else { return "" }
        var text = ""
        histogram.outputPercentileDistribution(to: &text, outputValueUnitScalingRatio: 1_000_000)
        let seed = workload.parameters["seed"].map { ", seed = \($0)" } ?? ""
        return text
            + "#[Workload = \(workload.name), content hash = \(workload.contentHash), schedule hash = \(workload.scheduleHash)\(seed)]\n"
    }

    /// One line per metric: count, mean and percentiles in milliseconds. CSV has no comments, so every line has the hashes of what was sent.
    public var csv: String {
        let header = "metric,count,mean_ms,p50_ms,p75_ms,p90_ms,p95_ms,p99_ms,p99.9_ms,p99.99_ms,max_ms,content_hash,schedule_hash\n"
        return header
            + metrics.sorted { $0.key < $1.key }.map { name, metric in
                let values = [metric.p50, metric.p75, metric.p90, metric.p95, metric.p99, metric.p999, metric.p9999, metric.maximum]
                return "\(name),\(metric.count),\(Self.milliseconds(UInt64(metric.mean))),"
                    + values.map(Self.milliseconds).joined(separator: ",") + ",\(workload.contentHash),\(workload.scheduleHash)"
            }.joined(separator: "\n") + "\n"
    }
}

extension RunMeasurements {
    /// One JSON object per request, in the order they were due.
    public var jsonLines: String {
        var text = ""
        for record in records {
            let backend = record.backend >= 0 ? backends[record.backend] : ""
            text +=
                "{\"index\":\(record.index),\"stage\":\(record.stage),\"due_ns\":\(record.dueNanoseconds),\"sent_ns\":\(record.sentNanoseconds),"
            text +=
                "\"first_token_ns\":\(record.firstTokenNanoseconds),\"last_token_ns\":\(record.lastTokenNanoseconds),\"end_ns\":\(record.endNanoseconds),"
            text +=
                "\"prompt_tokens\":\(record.promptTokens),\"cached_tokens\":\(record.cachedTokens),\"output_tokens\":\(record.outputTokens),"
            text += "\"backend\":\"\(String(decoding: JSONEscape.utf8(backend), as: UTF8.self))\",\"outcome\":\"\(record.outcome.name)\"}\n"
        }
        return text
    }
}
