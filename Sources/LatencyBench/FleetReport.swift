import Foundation
public import Reporting

/// What several routers did with one schedule before the same groups: one cell per router and rate, its runs taken together.
public struct FleetReport: Codable, Sendable {
    public struct Router: Codable, Sendable {
        public var name: String
        /// What the program says of itself; empty where it says nothing.
        public var version: String

        public init(name: String, version: String) {
            self.name = name
            self.version = version
        }
    }

    /// What one run came to, for how far runs of a cell lie apart.
    public struct Run: Codable, Sendable {
        public var ttftMean: Double
        public var ttftP99: UInt64
        /// The generator's own. Nanoseconds.
        public var lagP99: UInt64
        public var invalidReasons: [String]
    }

    public struct Cell: Codable, Sendable {
        public var router: String
        public var rate: Double
        public var runs: [Run]
        public var requests: Int
        public var failed: Int
        public var errors: [String: Int]
        /// Nanoseconds, from the schedule.
        public var ttft: Distribution
        public var endToEnd: Distribution
        public var generatorLag: Distribution
        public var promptTokens: Int
        public var cachedTokens: Int
        /// Requests that kept the goodput target, of all that were due; nil without one.
        public var goodRequests: Int?
        /// Groups by name, and the first run's requests of each by slices of its time.
        public var groups: [String]
        public var requestsByGroup: [[Int]]

        /// Nothing can be said of times then, nor of hits.
        public var hasAnswers: Bool { ttft.count > 0 }
        public var hitRate: Double { promptTokens == 0 ? 0 : Double(cachedTokens) / Double(promptTokens) }
        public var goodShare: Double? { goodRequests.map { requests == 0 ? 0 : Double($0) / Double(requests) } }
        var invalidRuns: Int { runs.count { !$0.invalidReasons.isEmpty } }

        /// - Parameters:
        ///   - reports: one per run; `measured` is what all of them measured.
        public init(router: String, rate: Double, reports: [RunReport], measured: RunMeasurements, goodput: GoodputTarget?) {
            self.router = router
            self.rate = rate
            runs = reports.map {
                Run(
                    ttftMean: $0.metrics["ttft"]?.mean ?? 0, ttftP99: $0.metrics["ttft"]?.p99 ?? 0,
                    lagP99: $0.metrics["generator_lag"]?.p99 ?? 0, invalidReasons: $0.invalidReasons)
            }
            requests = measured.finished
            failed = measured.finished - measured.good
            errors = Dictionary(uniqueKeysWithValues: measured.outcomes.filter { $0.key != .good }.map { ($0.key.name, $0.value) })
            ttft = Distribution(measured.timeToFirstToken)
            endToEnd = Distribution(measured.endToEnd)
            generatorLag = Distribution(measured.generatorLag)
            (promptTokens, cachedTokens) = (measured.promptTokens, measured.cachedTokens)
            goodRequests = goodput.map { target in measured.records.count { target.holds($0) } }
            let first = reports.first
            let names = first?.backends.map(\.name) ?? []
            let order = names.indices.sorted { names[$0].localizedStandardCompare(names[$1]) == .orderedAscending }
            groups = order.map { names[$0] }
            requestsByGroup = order.map { index in first?.timeline.map { $0.byBackend[index] } ?? [] }
        }
    }

    public static let schema = 1
    public var schema = FleetReport.schema
    public var tool: String
    public var startedAt: String
    public var command: [String]
    public var isPartial: Bool
    public var environment: RunEnvironment
    public var groups: Int
    public var stubFlags: [String]
    public var repeats: Int
    /// Of each router, which got requests in turns.
    public var replicas = 1
    public var goodput: GoodputTarget?
    /// As they were started, in this order.
    public var routers: [Router]
    /// One per rate: what was sent.
    public var workloads: [RunReport.Workload]
    /// Routers that did not start, and why; no more runs were tried of them.
    public var failures: [String: String] = [:]
    /// By rate, and within a rate in the order of `routers`.
    public var cells: [Cell]

    public init(
        tool: String, startedAt: Date, command: [String], isPartial: Bool, environment: RunEnvironment, groups: Int, stubFlags: [String],
        repeats: Int, goodput: GoodputTarget?, routers: [Router], workloads: [RunReport.Workload], cells: [Cell]
    ) {
        self.tool = tool
        self.startedAt = ISO8601DateFormatter().string(from: startedAt)
        self.command = RecordedCommand.redacted(command)
        self.isPartial = isPartial
        self.environment = environment
        self.groups = groups
        self.stubFlags = stubFlags
        self.repeats = repeats
        self.goodput = goodput
        self.routers = routers
        self.workloads = workloads
        self.cells = cells
    }

    /// One line per router and rate: how many of its runs, and what the one says whose generator was latest.
    public var invalidReasons: [String] {
        // Those that answered nothing are said as such.
        cells.filter(\.hasAnswers).compactMap { cell in
            let invalid = cell.runs.filter { !$0.invalidReasons.isEmpty }
            guard let worst = invalid.max(by: { $0.lagP99 < $1.lagP99 }) else { return nil }
            return "\(cell.router) at \(RunReport.number(cell.rate))/s, \(invalid.count) of \(cell.runs.count) runs, the worst: "
                + worst.invalidReasons.joined(separator: "; ")
        }
    }

    /// Routers that did not start or answered nothing at a rate, one line each.
    public var silent: [String] {
        failures.sorted { $0.key < $1.key }.map { "\($0.key) did not start: \($0.value)" }
            + cells.filter { !$0.hasAnswers }.map { cell in
                let kinds = cell.errors.sorted { $0.key < $1.key }.map { "\($0.key): \($0.value)" }.joined(separator: ", ")
                return "\(cell.router) answered none of \(cell.requests) requests at \(RunReport.number(cell.rate))/s (\(kinds))"
            }
    }

    public func json() throws -> Data {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
        return try encoder.encode(self)
    }
}
