import ArgumentParser
import Configuration
import Dispatch
import EngineModel
import EventLoop
import Foundation
import HTTPTransport
import LatencyBench
import Logging
import Routing
import StubEngine

struct DemoCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "demo", abstract: "Show what routing gains: conversations over four simulated groups, round robin against least cost.")

    @Flag(name: .long, help: "End after the table, instead of leaving the router running.")
    var exit = false
    @Option(name: .long, help: "Conversations to play.")
    var conversations = 48
    @Option(name: .long, help: "Seed of the workload.")
    var seed: UInt64 = 1

    private static let groups = 4

    func validate() throws {
        guard (1...10_000).contains(conversations) else {
            throw ValidationError("--conversations: expected 1 to 10000, found \(conversations)")
        }
    }

    func run() throws {
        signal(SIGPIPE, SIG_IGN)
        let workload = ConversationWorkload(parameters)
        let logger = makeLogger(.warning)
        print(
            """
            Swiftlet demo: \(Self.groups) simulated groups, \(workload.parameters.conversations) conversations of \
            \(workload.parameters.turns) turns, \(workload.requestCount) streamed requests per policy.
            Latencies count from the moment the schedule wanted the request sent.

            """)
        let roundRobin = try play(workload, policy: .roundRobin, logger: logger)
        let leastCost = try play(workload, policy: .leastCost, logger: logger)
        print("\n" + table([roundRobin, leastCost]))
        if let gain = gain(roundRobin.report, leastCost.report) { print(gain) }
        guard !exit else { return }
        try leaveRunning(logger)
    }

    private var parameters: ConversationWorkload.Parameters {
        var parameters = ConversationWorkload.Parameters()
        parameters.conversations = conversations
        parameters.seed = seed
        return parameters
    }

    /// A small engine: 10,000 tokens a second of prefill, 2 ms a token of decode, a cache that holds a quarter of the conversations.
    private var engine: StubConfiguration {
        StubConfiguration(
            models: [parameters.model],
            engine: EngineConfiguration(
                blockSize: 16, blockCount: 2_048, maximumSequences: 64,
                stepTime: StepTimeModel(
                    prefillNanosecondsPerToken: 100_000, decodeNanosecondsPerStep: 2_000_000, decodeNanosecondsPerSequence: 50_000,
                    overheadNanoseconds: 300_000)))
    }

    // MARK: One policy

    private struct Outcome {
        var policy: Policy
        var report: LatencyReport
        var names: [String]
    }

    private func play(_ workload: ConversationWorkload, policy: Policy, logger: Logger) throws -> Outcome {
        let fleet = try DemoFleet(engine: engine, count: Self.groups)
        defer { fleet.stop() }
        let router = try Router(configuration(policy, fleet), accessLogDescriptor: nil, logger: logger)
        defer { router.drain() }
        let progress = ProgressLine(label: policy.rawValue, total: workload.requestCount)
        let finished = DispatchSemaphore(value: 0)
        let result = ReportBox()
        let address = router.addresses[0]
        let generator = try LoopThread.start(label: "swiftlet.demo.load") { loop in
            loop.addService(
                ConversationPlayer(
                    loop: loop, workload: workload, address: address, progress: { progress.show($0.requests, errors: $0.errors) },
                    completion: { report in
                        result.report = report
                        finished.signal()
                    }))
        }
        finished.wait()
        generator.stopAndWait()
        progress.finish()
        return Outcome(policy: policy, report: result.report, names: fleet.ports.map { "stub-\($0)" })
    }

    private func configuration(_ policy: Policy, _ fleet: DemoFleet) throws -> SwiftletConfiguration {
        var flags = FlagOverrides()
        flags.listen = ["127.0.0.1:0"]
        flags.backends = fleet.ports.map { "http://127.0.0.1:\($0)" }
        flags.policy = policy.rawValue
        flags.loops = 1
        var configuration = try SwiftletConfiguration().applying(flags)
        // What an operator knows of the engine; the router learns the rest.
        for index in configuration.groups.indices {
            configuration.groups[index].prefillTokensPerSecond = 10_000
            configuration.groups[index].kvCapacityTokens = 2_048 * 16
            configuration.groups[index].decodeStepSeconds = 0.002
        }
        return configuration
    }

    // MARK: The table

    private func table(_ outcomes: [Outcome]) -> String {
        var rows = [["policy", "TTFT p50", "TTFT p99", "prefix hits", "requests per group", "errors"]]
        for outcome in outcomes {
            let report = outcome.report
            rows.append([
                outcome.policy.rawValue, milliseconds(report, 50), milliseconds(report, 99),
                String(format: "%.1f %%", report.hitRate * 100),
                outcome.names.map { String(report.requestsByBackend[$0] ?? 0) }.joined(separator: " "), String(report.errors),
            ])
        }
        let widths = rows[0].indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
        return rows.enumerated().map { index, row in
            let line = row.indices.map { row[$0].padding(toLength: widths[$0], withPad: " ", startingAt: 0) }.joined(separator: "   ")
            return index == 0 ? line + "\n" + String(repeating: "-", count: line.count) : line
        }.joined(separator: "\n")
    }

    private func milliseconds(_ report: LatencyReport, _ percentile: Double) -> String {
        String(format: "%.1f ms", report.timeToFirstTokenMilliseconds(percentile: percentile))
    }

    private func gain(_ before: LatencyReport, _ after: LatencyReport) -> String? {
        let median = (before.timeToFirstTokenMilliseconds(percentile: 50), after.timeToFirstTokenMilliseconds(percentile: 50))
        let tail = (before.timeToFirstTokenMilliseconds(percentile: 99), after.timeToFirstTokenMilliseconds(percentile: 99))
        guard median.1 > 0, tail.1 > 0 else { return nil }
        return String(
            format: "\nleast-cost against round-robin: TTFT p50 %.1f times, p99 %.1f times as fast.", median.0 / median.1, tail.0 / tail.1)
    }

    // MARK: Afterwards

    private func leaveRunning(_ logger: Logger) throws {
        let fleet = try DemoFleet(engine: engine, count: Self.groups)
        var configuration = try configuration(.leastCost, fleet)
        configuration.admin = SocketAddressText("127.0.0.1:0")
        let signals = TerminationSignals()
        let router = try Router(configuration, accessLogDescriptor: nil, logger: logger)
        print(
            """

            The router is running on http://\(router.addresses[0]). Try it:

              curl -N http://\(router.addresses[0])/v1/chat/completions -H 'content-type: application/json' \\
                -d '{"model":"\(parameters.model)","stream":true,"max_tokens":16,"messages":[{"role":"user","content":"Hello"}]}'
              curl http://\(router.adminAddress.map(String.init(describing:)) ?? "")/groups

            Ctrl-C ends it.
            """)
        signals.wait()
        router.drain()
        fleet.stop()
    }
}

/// Stub engines on a loop of their own.
private struct DemoFleet {
    let ports: [UInt16]
    private let thread: LoopThread

    init(engine: StubConfiguration, count: Int) throws {
        guard let anyPort = SocketAddress("127.0.0.1:0") else { throw SocketError(call: "address", code: EINVAL) }
        let bound = Answer<[UInt16]>([])
        thread = try LoopThread.start(label: "swiftlet.demo.stubs") { loop in
            let fleet = try StubFleet(loop: loop, address: anyPort, replicas: count, configuration: engine)
            loop.addService(fleet)
            bound.give(fleet.ports)
        }
        ports = bound.wait()
    }

    func stop() {
        thread.mailbox.post { $0.service(StubFleet.self)?.close() }
        thread.stopAndWait()
    }
}

/// Hands the report from the generator's loop to the command.
// @unchecked: written before the semaphore is signalled, read after it was waited for.
private final class ReportBox: @unchecked Sendable {
    var report = LatencyReport()
}

/// A progress bar where a person looks, a few plain lines elsewhere. Used by one thread at a time.
// @unchecked: shown by the generator's loop until that has stopped, finished by the command after that.
private final class ProgressLine: @unchecked Sendable {
    private let label: String
    private let total: Int
    private let isTerminal = isatty(STDOUT_FILENO) == 1
    private var lastTenth = -1
    private var errors = 0

    init(label: String, total: Int) {
        self.label = label.padding(toLength: 12, withPad: " ", startingAt: 0)
        self.total = max(1, total)
    }

    func show(_ done: Int, errors: Int) {
        self.errors = errors
        let tenth = done * 10 / total
        if isTerminal {
            let filled = done * 40 / total
            let bar = String(repeating: "█", count: filled) + String(repeating: "░", count: 40 - filled)
            print("\r\(label) \(bar) \(done)/\(total)\(errors > 0 ? ", \(errors) errors" : "")", terminator: "")
            fflush(nil)
        } else if tenth / 2 != lastTenth / 2 || lastTenth < 0 {
            print("\(label) \(done)/\(total)")
            fflush(nil)
        }
        lastTenth = tenth
    }

    func finish() { if isTerminal { print("") } }
}
