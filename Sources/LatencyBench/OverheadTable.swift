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
        ///   - direct: one histogram per run past the router; `via` has the run of the same turn through it.
        ///   - null: the null test's differences; nil for that row itself.
        public init(
            router: String, version: String, promptBytes: Int, direct: [LatencyHistogram], via: [LatencyHistogram],
            null: [LatencyDifference]?, failed: Int, lags: [LatencyHistogram]
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
            let differences = PairedComparison.differences(direct, via)
            added = null.map { PairedComparison.doubted(differences, by: $0) } ?? differences
        }
    }

    public static let schema = 3
    public var schema = OverheadTable.schema
    public var tool: String
    public var startedAt: String
    public var command: [String]
    /// Interrupted: of what came before.
    public var isPartial = false
    public var repeats: Int
    /// What was asked for, by the flags' names.
    public var parameters: [String: String]
    public var environment: RunEnvironment
    /// One per prompt size: what its first run sent.
    public var workloads: [RunReport.Workload] = []
    public var rows: [Row] = []
    public var invalidReasons: [String] = []
    /// Routers that did not start, and why; they have no rows.
    public var failures: [String: String] = [:]

    /// One turn of `routers`: which runs follow one another. Two routers stand between runs without one, so that each has such a neighbour; the
    /// next turn is the same backwards.
    public struct Turn: Sendable, Equatable {
        public enum Place: Sendable, Equatable {
            case direct(Int)
            case router(Int)
        }

        public let places: [Place]

        public init(routers: Int) {
            let directs = max(2, routers / 2 + 1)
            var places: [Place] = []
            for number in 0..<directs {
                places.append(.direct(number))
                for router in [2 * number, 2 * number + 1] where router < routers { places.append(.router(router)) }
            }
            self.places = places
        }

        /// The run without a router beside that of router `number`.
        public static func direct(beside number: Int) -> Int { (number + 1) / 2 }
    }

    public init(
        tool: String, startedAt: Date, command: [String], repeats: Int, parameters: [String: String], environment: RunEnvironment
    ) {
        self.tool = tool
        self.startedAt = ISO8601DateFormatter().string(from: startedAt)
        self.command = RecordedCommand.redacted(command)
        self.repeats = repeats
        self.parameters = parameters
        self.environment = environment
    }

    public var silent: [String] { failures.sorted { $0.key < $1.key }.map { "\($0.key) did not start: \($0.value)" } }

    public func json() throws -> Data {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
        return try encoder.encode(self)
    }

    /// Statistics in which the direct URL differs from itself, so that nothing is claimed of any router's; one line per size.
    public var failedNullTests: [String] {
        rows.filter { $0.router == "null test" }.compactMap { row in
            let names = row.added.filter(\.isClaimed).map(\.name)
            return names.isEmpty ? nil : "\(names.joined(separator: ", ")) at \(row.promptBytes) bytes: no claim"
        }
    }

    /// One table per prompt size: added microseconds, with their 95 % interval; in square brackets where
    /// nothing is claimed; a dash where there were too few requests.
    public var tables: [(promptBytes: Int, table: TextTable)] {
        Set(rows.map(\.promptBytes)).sorted().map { size in
            let these = rows.filter { $0.promptBytes == size }
            let names = PairedComparison.names
            return (
                size,
                TextTable(
                    header: ["added, µs"] + names + ["requests", "failed", "lag p99, ms"],
                    rows: these.map { row in
                        [row.router] + names.map { name in row.added.first { $0.name == name }.map(Self.cell) ?? "–" } + [
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
