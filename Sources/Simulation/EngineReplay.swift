import EngineModel
import Reporting
import Workload

/// A plan played on simulated engines on a virtual clock, each request on the next engine in turn: no router, only the model.
///
/// What it shows is the engine model itself: the same plan gives the same times, token for token, in a fraction of their duration.
public struct EngineReplay {
    /// What became of a plan.
    public struct Outcome {
        public internal(set) var completed = 0
        /// Requests that no engine took: empty, or longer than the KV cache.
        public internal(set) var refused = 0
        public internal(set) var promptTokens = 0
        public internal(set) var cachedTokens = 0
        public internal(set) var outputTokens = 0
        public internal(set) var steps: UInt64 = 0
        public internal(set) var preemptions: UInt64 = 0
        /// From the first arrival to the last token, ns.
        public internal(set) var nanoseconds: UInt64 = 0
        public internal(set) var timeToFirstToken = LatencyHistogram.latency()
        /// Mean time between the tokens of a reply.
        public internal(set) var timePerOutputToken = LatencyHistogram.latency()
        /// Names all times of all requests: equal for equal plans and engines.
        public internal(set) var fingerprint: UInt64 = 0
    }

    private var engines: [Engine]
    private var events: [EngineEvent] = []
    private var outcome = Outcome()

    /// `engine`: as the server would have it; what it reports is chosen here.
    public init(groups: Int, engine: EngineConfiguration) {
        var configuration = engine
        configuration.reportsTokens = false
        configuration.reportsBlocks = false
        engines = (0..<max(1, groups)).map { _ in Engine(configuration: configuration) }
    }

    /// Plays all requests at their offsets. Later turns of a session wait for nobody here: they come at the offset of the first.
    public static func play(_ plan: LoadPlan, groups: Int, engine: EngineConfiguration) -> Outcome {
        var replay = EngineReplay(groups: groups, engine: engine)
        for (index, request) in plan.requests.enumerated() { replay.submit(request, id: SequenceID(index)) }
        return replay.finish()
    }

    private mutating func submit(_ request: PlannedRequest, id: SequenceID) {
        let place = Int(id % UInt64(engines.count))
        let now = request.offsetNanoseconds
        engines[place].advance(to: now, events: &events)
        let prompt = Prompt(
            pieces: (request.system + request.user).map { (id: $0.id, tokens: $0.tokens) },
            blockSize: engines[place].configuration.blockSize, uniqueness: id)
        do throws(SubmitError) {
            try engines[place].submit(SequenceRequest(id: id, prompt: prompt, outputTokens: max(1, request.outputTokens)), now: now)
        } catch {
            outcome.refused += 1
            return
        }
        if engines[place].nextStepEnd == nil { engines[place].step(now: now, events: &events) }
        collect()
    }

    private mutating func finish() -> Outcome {
        for place in engines.indices {
            engines[place].advance(to: .max, events: &events)
            outcome.steps &+= engines[place].counters.steps
            outcome.preemptions &+= engines[place].counters.preemptions
            collect()
        }
        return outcome
    }

    private mutating func collect() {
        for case .finished(let id, let summary) in events {
            outcome.completed += 1
            outcome.promptTokens += summary.promptTokens
            outcome.cachedTokens += summary.cachedTokens
            outcome.outputTokens += summary.outputTokens
            outcome.nanoseconds = max(outcome.nanoseconds, summary.endNanoseconds)
            outcome.timeToFirstToken.note(summary.firstTokenNanoseconds - summary.arrivalNanoseconds)
            if summary.outputTokens > 1 {
                outcome.timePerOutputToken.note(
                    (summary.endNanoseconds - summary.firstTokenNanoseconds) / UInt64(summary.outputTokens - 1))
            }
            // A sum, so that the order in which engines are asked does not matter.
            outcome.fingerprint &+= Self.mix(id &+ 1, summary.firstTokenNanoseconds, summary.endNanoseconds)
        }
        events.removeAll(keepingCapacity: true)
    }

    private static func mix(_ values: UInt64...) -> UInt64 {
        values.reduce(0x9e37_79b9_7f4a_7c15) { hash, value in
            var mixed = (hash ^ value) &* 0xbf58_476d_1ce4_e5b9
            mixed ^= mixed >> 29
            return mixed
        }
    }
}
