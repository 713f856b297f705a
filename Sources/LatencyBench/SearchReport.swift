import Foundation
public import Reporting

/// What a search for the highest rate that keeps a target came to.
public struct SearchReport: Codable, Sendable {
    /// One rate that was tried.
    public struct Step: Codable, Sendable {
        /// Requests per second.
        public var rate: Double
        public var requests: Int
        public var failed: Int
        /// Of all requests that were due, 0...1.
        public var goodShare: Double
        public var holds: Bool
        /// Nanoseconds, from the schedule.
        public var ttft: Distribution
        public var generatorLag: Distribution
        public var invalidReasons: [String]
        public var contentHash: String
        public var scheduleHash: String

        /// Of a run that is invalid nothing is known, neither that the target holds nor that it does not.
        public var isValid: Bool { invalidReasons.isEmpty }

        public init(rate: Double, _ report: RunReport, share: Double, target: GoodputTarget) {
            self.rate = rate
            (requests, failed) = (report.sent, report.failed)
            goodShare = report.goodput?.share ?? 0
            let nothing = Distribution(LatencyHistogram.latency())
            ttft = report.metrics["ttft"] ?? nothing
            generatorLag = report.metrics["generator_lag"] ?? nothing
            invalidReasons = report.invalidReasons(for: target)
            holds = goodShare >= share && invalidReasons.isEmpty
            (contentHash, scheduleHash) = (report.workload.contentHash, report.workload.scheduleHash)
        }
    }

    public static let schema = 1
    public var schema = SearchReport.schema
    public var tool: String
    public var startedAt: String
    public var command: [String]
    public var isPartial = false
    public var url: String
    public var target: GoodputTarget
    /// Of requests that must be good, 0...1.
    public var share: Double
    /// What every step sent, each at its rate.
    public var workload: RunReport.Workload?
    public var environment: RunEnvironment
    /// In the order they were tried.
    public var steps: [Step] = []
    /// Why it ended before it knew, in a sentence; nil when it knows.
    public var inconclusive: String?

    public init(tool: String, startedAt: Date, command: [String], url: String, target: GoodputTarget, share: Double) {
        self.tool = tool
        self.startedAt = ISO8601DateFormatter().string(from: startedAt)
        self.command = RecordedCommand.redacted(command)
        self.url = url
        self.target = target
        self.share = share
        environment = RunEnvironment(since: .init())
    }

    /// Requests per second; nil where the target held at none.
    public var highest: Double? { steps.filter(\.holds).map(\.rate).max() }

    public func json() throws -> Data {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
        return try encoder.encode(self)
    }

    /// One row for each rate, in the order they were tried.
    public var table: TextTable {
        TextTable(
            header: ["rate", "goodput", "TTFT p50 ms", "TTFT p99 ms", "failed", "lag p99 ms", ""],
            rows: steps.map { step in
                func milliseconds(_ value: UInt64) -> String { step.ttft.count > 0 ? String(format: "%.2f", Double(value) / 1e6) : "–" }
                return [
                    RunReport.number(step.rate), String(format: "%.2f %%", step.goodShare * 100), milliseconds(step.ttft.p50),
                    milliseconds(step.ttft.p99), "\(step.failed)", String(format: "%.3f", Double(step.generatorLag.p99) / 1e6),
                    !step.isValid ? "invalid" : step.holds ? "holds" : "missed",
                ]
            })
    }

    /// In one sentence.
    public var answer: String {
        let held = highest.map(RunReport.number)
        if isPartial {
            return "Interrupted: no answer yet. "
                + (held.map { "It held at \($0) requests/s and lower rates tried." } ?? "It held at no rate tried so far.")
        }
        if let inconclusive {
            return "No answer: \(inconclusive)" + (held.map { " The target held at \($0) requests/s." } ?? "")
        }
        return held.map { String(format: "Highest rate with %.1f %% good: ", share * 100) + $0 + " requests/s" }
            ?? "The target holds at no rate tried."
    }

    /// Why no rate could be answered any better; nil where fewer requests might be.
    public static func hopelessness(_ report: RunReport) -> String? {
        guard report.completed == 0, !report.errors.isEmpty, report.errors.keys.allSatisfy(isOfNoLoad) else { return nil }
        let kinds = report.errors.sorted { $0.key < $1.key }.map { "\($0.key): \($0.value)" }.joined(separator: ", ")
        return "Not one of \(report.failed) requests to \(report.url) was answered well (\(kinds)), which no lower rate would change."
    }

    /// Whether an error says nothing of how much was asked: nobody there, no understanding, or a request that is refused for what it is.
    private static func isOfNoLoad(_ kind: String) -> Bool {
        if ["connect failed", "TLS failed", "protocol error", "no content"].contains(kind) { return true }
        guard kind.hasPrefix("HTTP "), let status = Int(kind.dropFirst(5)) else { return false }
        return (300..<500).contains(status) && status != 408 && status != 429
    }

    /// The search as a page in one file.
    public var html: String {
        var page = HTMLPage(title: "swiftlet bench search: \(target.name)")
        if isPartial { page.warning("Partial: it was interrupted.") }
        for step in steps {
            for reason in step.invalidReasons { page.warning("Invalid at \(RunReport.number(step.rate))/s: \(reason).") }
        }
        page.paragraph("\(answer) (\(target.name), \(url))")
        page.table(table)
        let tried = steps.sorted { $0.rate < $1.rate }
        page.heading("Rate against goodput")
        page.figure(
            SVGChart(
                title: "Goodput by rate", x: Axis("requests per second", isLogarithmic: true), y: Axis("requests that kept the target, %"),
                series: [
                    .init(
                        name: "goodput", points: tried.map { ($0.rate, $0.goodShare * 100) },
                        hollow: Set(tried.indices.filter { !tried[$0].holds })),
                    .init(name: "wanted", points: [tried.first, tried.last].compactMap { $0.map { ($0.rate, share * 100) } }),
                ]
            ).svg, caption: "Hollow where the target was missed, or the run was invalid.")
        page.heading("Rate against time to first token")
        func points(_ value: (Distribution) -> UInt64) -> [(x: Double, y: Double)] {
            tried.map { ($0.rate, $0.ttft.count > 0 ? Double(value($0.ttft)) / 1e6 : .nan) }
        }
        page.figure(
            SVGChart(
                title: "Time to first token by rate", x: Axis("requests per second", isLogarithmic: true),
                y: Axis("TTFT, ms", isLogarithmic: true),
                series: [.init(name: "p50", points: points(\.p50)), .init(name: "p99", points: points(\.p99))]
            ).svg, caption: "From when each request was due.")
        page.heading("How it was measured")
        page.facts(provenance)
        return page.html
    }

    private var provenance: TextTable {
        var rows = [["tool", tool], ["started", startedAt], ["command", command.joined(separator: " ")]]
        if let workload {
            rows.append(["workload", "\(workload.name), \(workload.process)"])
            rows += workload.parameters.sorted { $0.key < $1.key }.map { [$0.key, $0.value] }
        }
        rows += steps.map { ["\(RunReport.number($0.rate))/s", "content \($0.contentHash), schedule \($0.scheduleHash)"] }
        return TextTable(header: ["", ""], rows: rows + environment.rows)
    }
}
