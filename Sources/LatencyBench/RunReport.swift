import Foundation
import Histogram
public import Reporting
import Workload

/// What a run came to: written as JSON, read back for comparison, shown as a table or a page.
public struct RunReport: Codable, Sendable {
    public struct Workload: Codable, Sendable {
        public var name: String
        public var parameters: [String: String]
        public var requests: Int
        public var process: String
        /// Of what is sent, and of when.
        public var contentHash: String
        public var scheduleHash: String
        /// Share of prompt tokens that a cache without bounds would give; nil for sessions, where the answers decide.
        public var idealHitRate: Double?
    }

    public struct Stage: Codable, Sendable {
        public var offeredRate: Double
        public var requests: Int
        public var failed: Int
        public var ttft: Distribution
        public var ttftFromSend: Distribution
        public var endToEnd: Distribution
        public var outputTokensPerSecond: Double
        public var goodputShare: Double?
    }

    public struct Backend: Codable, Sendable {
        public var name: String
        public var requests: Int
    }

    /// A slice of the run by when requests were due.
    public struct TimeBin: Codable, Sendable {
        public var startSeconds: Double
        public var requests: Int
        public var ttftP50: Double
        public var ttftP99: Double
        /// Requests of each of `backends`.
        public var byBackend: [Int]
    }

    public struct Goodput: Codable, Sendable {
        public var target: GoodputTarget
        public var requests: Int
        /// Of all requests that were due, 0...1.
        public var share: Double
        public var requestsPerSecond: Double
    }

    public static let schema = 1
    public var schema = RunReport.schema
    public var tool: String
    public var label: String
    public var startedAt: String
    public var command: [String]
    public var isPartial: Bool
    /// Why the figures must not be used; empty when they may.
    public var invalidReasons: [String]
    public var environment: RunEnvironment
    public var url: String
    public var api: String
    public var streams: Bool
    /// `open`, `open, at most N under way` or `closed loop of N`.
    public var mode: String
    /// How requests were made, by the options' names; nil in reports that do not tell.
    public var conditions: [String: String]?
    public var workload: Workload
    /// Of the schedule; none in a closed loop.
    public var stages: [Stage]
    public var durationSeconds: Double
    /// Requests a second by the schedule, of sessions their first ones alone: the others come as they are answered. Nil in a closed loop.
    public var offeredRate: Double?
    /// Nil where every request is by itself.
    public var sessions: Int?
    /// Without the warm-up, like all figures.
    public var sent: Int
    /// Requests that were due in the first so many seconds and are in no figure; nil in reports that do not tell.
    public var warmUpSeconds: Double?
    public var warmUpRequests: Int?
    public var completed: Int
    public var failed: Int
    public var errors: [String: Int]
    public var promptTokens: Int
    /// Up to the prompt's of each request.
    public var cachedTokens: Int
    /// Answers that told of more cached tokens than the prompt had; nil in reports that do not tell.
    public var excessCachedCounts: Int?
    public var outputTokens: Int
    public var highestInFlight: Int
    public var requestRate: Double
    public var outputTokenRate: Double
    public var totalTokenRate: Double
    /// All in nanoseconds: `ttft`, `e2e` (from the schedule), `ttft_from_send`, `e2e_from_send`, `tpot`, `itl`, `generator_lag`.
    public var metrics: [String: Distribution]
    public var goodput: Goodput?
    public var backends: [Backend]
    public var timeline: [TimeBin]
    public var recordsLeftOut: Int
    /// By metric and statistic: so many requests, which came one after another, tell as much as one would that has nothing to do with the
    /// others. 1 in an idle system, far more in a queue. Nil in reports that do not tell.
    public var designEffects: [String: [String: Double]]?

    public var isValid: Bool { invalidReasons.isEmpty }

    /// Requests that ended without the figure `metric`, of those that every request should have: as failures they are slower than any other.
    public func unanswered(_ metric: String) -> Int {
        guard metric.hasPrefix("ttft") || metric.hasPrefix("e2e") else { return 0 }
        return max(0, completed + failed - Int(metrics[metric]?.count ?? 0))
    }

    /// Whether the percentile of all requests is a failure, so that the one of the answered says nothing about it.
    public func isFailure(_ metric: String, percentile: Double) -> Bool {
        let unanswered = unanswered(metric)
        return unanswered > 0 && Double(completed + failed - unanswered) < percentile / 100 * Double(completed + failed)
    }
    /// Of the prompt tokens that engines counted.
    public var hitRate: Double { promptTokens == 0 ? 0 : Double(cachedTokens) / Double(promptTokens) }

    /// What is not in the measurements.
    public struct Context: Sendable {
        public var tool: String
        public var label: String
        public var startedAt: Date
        public var command: [String]
        public var goodput: GoodputTarget?

        public init(tool: String, label: String, startedAt: Date, command: [String], goodput: GoodputTarget?) {
            self.tool = tool
            self.label = label
            self.startedAt = startedAt
            self.command = command
            self.goodput = goodput
        }
    }

    public init(_ run: LoadRun, _ measured: RunMeasurements, environment: RunEnvironment, context: Context) {
        tool = context.tool
        label = context.label
        startedAt = ISO8601DateFormatter().string(from: context.startedAt)
        command = RecordedCommand.redacted(context.command)
        isPartial = run.isPartial
        self.environment = environment
        url = run.target.url
        conditions = run.conditions
        api = run.settings.api.rawValue
        streams = run.settings.streams && run.settings.api != .plain
        let plan = run.plan
        let hasSessions = plan.requests.contains { $0.nextTurn >= 0 }
        workload = Workload(
            name: plan.name, parameters: plan.parameters, requests: plan.requests.count, process: plan.process,
            contentHash: ContentHash.text(plan.contentHash), scheduleHash: ContentHash.text(plan.scheduleHash),
            idealHitRate: hasSessions ? nil : plan.idealHitRate)
        switch run.settings.mode {
        case .open(limit: nil): mode = "open"
        case .open(limit: .some(let limit)): mode = "open, at most \(limit) under way"
        case .closed(let concurrency): mode = "closed loop of \(concurrency)"
        }
        let seconds = Double(measured.durationNanoseconds) / 1e9
        func rate(_ count: Int) -> Double { seconds > 0 ? Double(count) / seconds : 0 }
        durationSeconds = seconds
        let active = Self.countedSeconds(plan.stages, run.settings).reduce(0, +)
        let followUps = Set(plan.requests.lazy.map(\.nextTurn).filter { $0 >= 0 })
        let counted = plan.requests.indices.count {
            plan.requests[$0].offsetNanoseconds >= run.settings.warmUpNanoseconds && !followUps.contains(Int32($0))
        }
        sessions = hasSessions ? plan.requests.count - followUps.count : nil
        let isOpen = Self.isOpen(run.settings.mode)
        offeredRate = isOpen ? (active > 0 ? Double(counted) / active : 0) : nil
        sent = measured.sent
        (warmUpSeconds, warmUpRequests) = (Double(run.settings.warmUpNanoseconds) / 1e9, measured.warmUpSent)
        completed = measured.good
        failed = measured.finished - measured.good
        errors = Dictionary(uniqueKeysWithValues: measured.outcomes.filter { $0.key != .good }.map { ($0.key.name, $0.value) })
        let excess = Self.excessCached(measured)
        (promptTokens, cachedTokens, outputTokens) = (measured.promptTokens, measured.cachedTokens - excess.tokens, measured.outputTokens)
        excessCachedCounts = excess.answers
        highestInFlight = measured.highestInFlight
        requestRate = rate(measured.good)
        outputTokenRate = rate(measured.outputTokens)
        totalTokenRate = rate(measured.outputTokens + measured.promptTokens)
        metrics = [
            "ttft": Distribution(measured.timeToFirstToken), "ttft_from_send": Distribution(measured.timeToFirstTokenFromSend),
            "e2e": Distribution(measured.endToEnd), "e2e_from_send": Distribution(measured.endToEndFromSend),
            "tpot": Distribution(measured.timePerOutputToken), "itl": Distribution(measured.interTokenLatency),
            "generator_lag": Distribution(measured.generatorLag),
        ]
        backends = zip(measured.backends, measured.requestsByBackend).map { Backend(name: $0, requests: $1) }
        recordsLeftOut = measured.recordsLeftOut
        stages = isOpen ? Self.stages(run, measured, context.goodput) : []
        timeline = Self.timeline(measured)
        designEffects = Self.designEffects(measured.records, metrics)
        if let target = context.goodput {
            let good = measured.records.count { target.holds($0) }
            goodput = Goodput(
                target: target, requests: good, share: measured.records.isEmpty ? 0 : Double(good) / Double(measured.records.count),
                requestsPerSecond: rate(good))
        }
        invalidReasons = []
        invalidReasons = reasons(planned: plan.requests.count, isOpen: isOpen)
    }

    /// Of each stage what lies behind the warm-up.
    private static func countedSeconds(_ stages: [ArrivalSchedule.Stage], _ settings: LoadSettings) -> [Double] {
        let warmUp = Double(settings.warmUpNanoseconds) / 1e9
        var start = 0.0
        return stages.map { stage in
            defer { start += stage.seconds + stage.gapSeconds }
            return max(0, stage.seconds - max(0, warmUp - start))
        }
    }

    private static func isOpen(_ mode: RequestPacer.Mode) -> Bool { if case .open = mode { true } else { false } }

    /// The rule: a late generator measures itself. Lag p99 up to a millisecond and up to a hundredth of the TTFT's p50, and all sent.
    private func reasons(planned: Int, isOpen: Bool) -> [String] {
        var reasons: [String] = []
        let lag = metrics["generator_lag"]
        if isOpen, let lag, lag.count > 0 {
            func milliseconds(_ value: UInt64) -> String { String(format: "%.3f ms", Double(value) / 1e6) }
            if lag.p99 > 1_000_000 { reasons.append("the generator's own lag has a p99 of \(milliseconds(lag.p99)), over 1 ms") }
            if let relative = relativeLagReason { reasons.append(relative) }
        }
        let all = sent + (warmUpRequests ?? 0)
        if !isPartial, all * 100 < planned * 99 { reasons.append("only \(all) of \(planned) \(Self.wereSent)") }
        if completed == 0 { reasons.append(Self.nothingSucceeded) }
        return reasons
    }

    private static func stages(_ run: LoadRun, _ measured: RunMeasurements, _ goodput: GoodputTarget?) -> [Stage] {
        zip(run.plan.stages, countedSeconds(run.plan.stages, run.settings)).enumerated().map { index, one in
            var (ttft, fromSend, endToEnd) = (LatencyHistogram.latency(), LatencyHistogram.latency(), LatencyHistogram.latency())
            var (requests, failed, tokens, good) = (0, 0, 0, 0)
            for record in measured.records where record.stage == index {
                requests += 1
                guard record.outcome == .good else {
                    failed += 1
                    continue
                }
                tokens += record.outputTokens
                if record.firstTokenNanoseconds > 0 {
                    ttft.note(record.timeToFirstToken)
                    fromSend.note(record.firstTokenNanoseconds &- record.sentNanoseconds)
                }
                endToEnd.note(record.endToEnd)
                if let goodput, goodput.holds(record) { good += 1 }
            }
            let (stage, seconds) = one
            return Stage(
                offeredRate: stage.meanRate, requests: requests, failed: failed, ttft: Distribution(ttft),
                ttftFromSend: Distribution(fromSend), endToEnd: Distribution(endToEnd),
                outputTokensPerSecond: seconds > 0 ? Double(tokens) / seconds : 0,
                goodputShare: goodput.map { _ in requests == 0 ? 0 : Double(good) / Double(requests) })
        }
    }

    private static let bins = 60

    private static func timeline(_ measured: RunMeasurements) -> [TimeBin] {
        guard let last = measured.records.map(\.dueNanoseconds).max(), let first = measured.records.map(\.dueNanoseconds).min() else {
            return []
        }
        let width = max(1, (last - first) / UInt64(bins) + 1)
        var latencies = [[UInt64]](repeating: [], count: bins)
        var counts = [Int](repeating: 0, count: bins)
        var byBackend = [[Int]](repeating: Array(repeating: 0, count: measured.backends.count), count: bins)
        for record in measured.records {
            let bin = Int((record.dueNanoseconds - first) / width)
            counts[bin] += 1
            if record.backend >= 0 { byBackend[bin][record.backend] += 1 }
            if record.outcome == .good, record.firstTokenNanoseconds > 0 { latencies[bin].append(record.timeToFirstToken) }
        }
        return (0..<bins).map { bin in
            let sorted = latencies[bin].sorted()
            func at(_ share: Double) -> Double {
                sorted.isEmpty ? .zero : Double(sorted[min(sorted.count - 1, Int(Double(sorted.count) * share))])
            }
            return TimeBin(
                startSeconds: Double(first + UInt64(bin) * width) / 1e9, requests: counts[bin], ttftP50: at(0.5), ttftP99: at(0.99),
                byBackend: byBackend[bin])
        }
    }
}
