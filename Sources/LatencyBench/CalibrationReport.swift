import Foundation
import Reporting

/// What `swiftlet calibrate` found, for people, as JSON, and as a part of the router's configuration.
public struct CalibrationReport: Codable, Sendable {
    public static let schema = 1
    public var schema = CalibrationReport.schema
    public var tool: String
    public var startedAt: String
    public var command: [String]
    public var url: String
    public var model: String
    public var durationSeconds: Double
    /// Requests that were answered well, and others by kind.
    public var completed: Int
    public var errors: [String: Int]
    public var figures: Calibration
    /// Tokens that the engine's KV cache holds; nil: it does not tell.
    public var kvCapacityTokens: Int?
    /// What is worth knowing of figures that may be used.
    public var notes: [String]
    /// Why the figures must not be used; empty when they may.
    public var invalidReasons: [String]

    public var isValid: Bool { invalidReasons.isEmpty }

    public init(
        tool: String, startedAt: Date, command: [String], target: LoadTarget, model: String, measured: RunMeasurements,
        figures: Calibration,
        kvCapacityTokens: Int?, notes: [String], invalidReasons: [String]
    ) {
        self.tool = tool
        self.startedAt = ISO8601DateFormatter().string(from: startedAt)
        self.command = RecordedCommand.redacted(command)
        url = target.groupURL
        self.model = model
        durationSeconds = Double(measured.durationNanoseconds) / 1e9
        completed = measured.good
        errors = Dictionary(uniqueKeysWithValues: measured.outcomes.filter { $0.key != .good }.map { ($0.key.name, $0.value) })
        self.figures = figures
        self.kvCapacityTokens = kvCapacityTokens
        self.notes = notes
        self.invalidReasons = figures.invalidReasons + invalidReasons
    }

    public func json() throws -> Data {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
        return try encoder.encode(self)
    }

    // MARK: Text

    /// All but the snippet.
    public var text: String {
        let lengths = TextTable(
            header: ["prompt tokens", "samples", "first token ms", "quartiles", "off the line"],
            rows: figures.lengths.map { length in
                [
                    CalibrationText.number(length.tokens), "\(length.samples)", CalibrationText.milliseconds(length.medianSeconds),
                    "\(CalibrationText.milliseconds(length.lowerQuartileSeconds)) to \(CalibrationText.milliseconds(length.upperQuartileSeconds))",
                    String(format: "%+.1f %%", length.offTheLine * 100),
                ]
            })
        func row(_ name: String, _ estimate: Calibration.Estimate, _ text: (Double) -> String) -> [String] {
            [name, text(estimate.value), "\(text(estimate.low)) to \(text(estimate.high))"]
        }
        let found = TextTable(
            header: ["", "", "95 % interval"],
            rows: [
                row("prefill, tokens/s", figures.prefillTokensPerSecond, CalibrationText.number),
                row("fixed time to a first token, ms", figures.fixedSeconds, CalibrationText.milliseconds),
                row("decode step, ms", figures.decodeStepSeconds, CalibrationText.milliseconds),
                row("bytes per token, of random words", figures.bytesPerToken, CalibrationText.number),
            ])
        return [lengths.text, found.text].joined(separator: "\n\n") + notes.map { "\nNote: \($0)" }.joined()
    }

    /// YAML for `groups` of the router's configuration, or the file of `--groups-file`. The fixed time and the bytes per token have no key: the
    /// router learns them within a few answers, and they are alike for all groups.
    public var snippet: String {
        var lines = [
            "groups:", "  - leader: \(url)",
            "    prefill_tokens_per_second: \(CalibrationText.number(figures.prefillTokensPerSecond.value))",
            "    decode_step_ms: \(CalibrationText.number(figures.decodeStepSeconds.value * 1_000))",
        ]
        if let kvCapacityTokens { lines.append("    kv_capacity_tokens: \(kvCapacityTokens)") }
        return lines.joined(separator: "\n")
    }
}

extension LoadTarget {
    /// As the router's configuration names a group's leader.
    var groupURL: String {
        let scheme = speaksHTTP2 ? (isTLS ? "h2" : "h2c") : isTLS ? "https" : "http"
        return "\(scheme)://\(host.contains(":") ? "[\(host)]" : host):\(port)"
    }
}

/// Figures as they stand in tables and configurations: decimal, to four digits.
enum CalibrationText {
    static func number(_ value: Double) -> String {
        guard value.isFinite, value > 0 else { return "0" }
        let decimals = max(0, 3 - Int(log10(value).rounded(.down)))
        guard decimals > 0 else { return String(format: "%.0f", value) }
        var text = String(format: "%.\(min(decimals, 9))f", value)
        while text.hasSuffix("0") { text.removeLast() }
        return text.hasSuffix(".") ? String(text.dropLast()) : text
    }

    static func milliseconds(_ seconds: Double) -> String { String(format: "%.2f", seconds * 1_000) }

    static func seconds(_ seconds: Double) -> String { String(format: seconds < 10 ? "%.1f s" : "%.0f s", seconds) }
}
