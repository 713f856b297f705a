import Foundation
import Histogram
public import Reporting

/// What several routers add, by the size of the prompt.
public struct OverheadTable: Codable, Sendable {
    /// One router and one size, or the null test: the same URL against itself. Nanoseconds.
    public struct Row: Codable, Sendable {
        public var router: String
        public var version: String
        public var promptBytes: Int
        public var runs: Int
        public var requests: Int
        public var failed: Int
        /// The generator's own, over all runs through this router. Nanoseconds.
        public var lagP99: UInt64
        public var added: [LatencyDifference]

        /// - Parameters:
        ///   - direct: one histogram per run past the router; `via` likewise through it.
        public init(
            router: String, version: String, promptBytes: Int, direct: [LatencyHistogram], via: [LatencyHistogram], failed: Int,
            lags: [LatencyHistogram]
        ) {
            self.router = router
            self.version = version
            self.promptBytes = promptBytes
            self.failed = failed
            var lag = LatencyHistogram.latency()
            for one in lags { lag.add(one) }
            lagP99 = Distribution(lag).p99
            runs = via.count
            requests = via.reduce(0) { $0 + Int($1.totalCount) }
            added = PairedComparison.differences(direct, via)
        }
    }

    public var tool: String
    public var command: [String]
    public var environment: RunEnvironment
    public var rows: [Row]
    public var invalidReasons: [String]

    public init(tool: String, command: [String], environment: RunEnvironment, rows: [Row], invalidReasons: [String]) {
        self.tool = tool
        self.command = RecordedCommand.redacted(command)
        self.environment = environment
        self.rows = rows
        self.invalidReasons = invalidReasons
    }

    /// One table per prompt size: added microseconds, with their 95 % interval; in brackets where the interval contains zero, so that nothing
    /// is claimed.
    public var tables: [(promptBytes: Int, table: TextTable)] {
        Set(rows.map(\.promptBytes)).sorted().map { size in
            let these = rows.filter { $0.promptBytes == size }
            let names = these.first?.added.map(\.name) ?? []
            return (
                size,
                TextTable(
                    header: ["added, µs"] + names + ["requests", "failed", "lag p99, ms"],
                    rows: these.map { row in
                        [row.router] + row.added.map(Self.cell) + [
                            "\(row.requests)", "\(row.failed)", String(format: "%.2f", Double(row.lagP99) / 1e6),
                        ]
                    })
            )
        }
    }

    private static func cell(_ one: LatencyDifference) -> String {
        func text(_ nanoseconds: Double) -> String { "\(Int((nanoseconds / 1_000).rounded()))" }
        let value = "\(text(one.difference)) (\(text(one.low)) to \(text(one.high)))"
        return one.isClaimed ? value : "[\(value)]"
    }
}
