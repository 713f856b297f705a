import Workload

/// One question to a server beside a run: a GET by the run's own client, with its fields, certificates and protocol.
public struct EngineInquiry: Sendable {
    public struct Answer: Sendable {
        public let outcome: RequestOutcome
        public let body: [UInt8]
    }

    private let run: LoadRun

    /// - Parameters:
    ///   - path: in place of the target's.
    ///   - seconds: after which it is given up.
    public init(_ path: String, of target: LoadTarget, _ settings: LoadSettings, seconds: Double) {
        var target = target
        target.path = path
        var settings = settings
        settings.api = .plain
        settings.method = "GET"
        settings.body = []
        settings.mode = .closed(concurrency: 1)
        settings.loops = 1
        settings.keepsDocuments = true
        settings.timeoutNanoseconds = UInt64(seconds * 1e9)
        settings.drainNanoseconds = settings.timeoutNanoseconds
        let request = PlannedRequest(offsetNanoseconds: 0, user: [], outputTokens: 0)
        let plan = LoadPlan(name: "inquiry", parameters: [:], requests: [request], stages: [], process: "closed")
        run = LoadRun(plan: plan, target: target, settings: settings)
    }

    /// Blocks until it is answered, given up or stopped. Once only; throws when a loop or TLS cannot be set up.
    public func answer() throws -> Answer {
        let measured = try run.run()
        return Answer(outcome: measured.records.first?.outcome ?? .unfinished, body: measured.lastDocument)
    }

    public func stop() { run.stop() }
}
