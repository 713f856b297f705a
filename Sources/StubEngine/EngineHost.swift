import EngineModel
import EventLoop

/// Runs one engine in real time: submits, sets the loop's timer for the end of each step, hands out what the step made.
final class EngineHost: EventHandler {
    let configuration: StubConfiguration
    /// Value of `x-served-by`.
    var name = ""
    private(set) var engine: Engine
    private(set) var metrics: EngineMetrics
    private var counters = StubCounters()
    private var owners: [SequenceID: Owner] = [:]
    private var events: [EngineEvent] = []
    private var watches: [ObjectIdentifier: GRPCCall] = [:]
    private var lastSequence: SequenceID = 0
    private var lastRequest: UInt64 = 0
    /// Generations under way: what `/load` says.
    private(set) var load = 0

    private struct Owner {
        let generation: Generation
        let choice: Int
        var lastTokenNanoseconds: UInt64 = 0
    }

    init(loop: EventLoop, configuration: StubConfiguration) {
        self.configuration = configuration
        engine = Engine(configuration: configuration.engine)
        metrics = EngineMetrics(createdNanoseconds: loop.wallClock())
        super.init(loop: loop)
    }

    var totals: StubCounters {
        var totals = counters
        totals.promptTokens = engine.counters.prefixQueryTokens
        totals.cachedTokens = engine.counters.prefixHitTokens
        totals.generatedTokens = engine.counters.generatedTokens
        totals.running = engine.runningCount
        totals.waiting = engine.waitingCount
        return totals
    }

    /// Unix time, for the `created` of answers.
    var wallSeconds: UInt64 { loop.wallClock() / 1_000_000_000 }

    /// Sixteen hexadecimal digits that no other request of this stub has.
    func makeRequestID() -> String {
        lastRequest &+= 1
        let mixed = (lastRequest &* 0x9e37_79b9_7f4a_7c15) ^ (loop.now &* 0xbf58_476d_1ce4_e5b9)
        let digits = String(mixed, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }

    // MARK: Generations

    /// Whether `count` more sequences may wait.
    func hasRoom(for count: Int) -> Bool { engine.waitingCount + count <= configuration.engine.maximumWaiting }

    /// Queues all sequences of a generation. They enter the batch together, at the end of this turn at the earliest.
    func start(_ generation: Generation) throws(SubmitError) {
        for index in generation.choices.indices {
            lastSequence &+= 1
            var request = generation.choices[index].request
            request.id = lastSequence
            do throws(SubmitError) {
                try engine.submit(request, now: loop.now)
            } catch {
                for started in generation.choices[..<index] { drop(started.request.id) }
                throw error
            }
            generation.choices[index].request = request
            owners[lastSequence] = Owner(generation: generation, choice: index)
        }
        counters.requests &+= 1
        load += 1
        callAtTurnEnd()
    }

    /// Books what a request asked for.
    func accepted(n: Int, maximumTokens: Int) { metrics.requestAccepted(n: n, maximumTokens: maximumTokens) }

    /// Stops a generation whose answer nobody waits for.
    func cancel(_ generation: Generation) {
        counters.abortedRequests &+= 1
        load -= 1
        for choice in generation.choices where !choice.isComplete { drop(choice.request.id) }
    }

    private func drop(_ id: SequenceID) {
        guard owners.removeValue(forKey: id) != nil else { return }
        engine.abort(id)
    }

    // MARK: Steps

    override func turnEnded() { pump() }

    override func deadlineReached() { pump() }

    private func pump() {
        var steps = 0
        while steps < StubLimits.stepsPerWake {
            let now = loop.clock()
            let end = engine.nextStepEnd
            if let end, end > now { break }
            engine.step(now: now, events: &events)
            deliver(at: end ?? now)
            guard engine.nextStepEnd != nil else { break }
            metrics.stepBegan(tokens: engine.load.tokens)
            steps += 1
        }
        setDeadline(engine.nextStepEnd)
    }

    private func deliver(at time: UInt64) {
        // What is delivered may start and cancel generations: the list is not read from the property meanwhile.
        var batch: [EngineEvent] = []
        swap(&batch, &events)
        for event in batch {
            switch event {
            case .scheduled(let id, let cachedTokens):
                owners[id]?.generation.cachedTokens += cachedTokens
            case .token(let id, let token):
                guard let owner = owners[id] else { continue }
                if owner.lastTokenNanoseconds > 0 { metrics.tokenFollowed(afterNanoseconds: time &- owner.lastTokenNanoseconds) }
                owners[id]?.lastTokenNanoseconds = time
                owner.generation.receive(token, choice: owner.choice)
            case .finished(let id, let summary):
                metrics.sequenceFinished(summary)
                guard let owner = owners.removeValue(forKey: id) else { continue }
                finish(owner.generation)
            case .firstToken, .preempted, .blockStored, .blockRemoved, .cacheCleared:
                break
            }
        }
        batch.removeAll(keepingCapacity: true)
        if events.isEmpty { swap(&batch, &events) }
    }

    private func finish(_ generation: Generation) {
        guard generation.isComplete else { return }
        load -= 1
        generation.completed()
    }

    // MARK: Health watchers

    func watch(_ call: GRPCCall) { watches[ObjectIdentifier(call)] = call }

    func unwatch(_ call: GRPCCall) { watches[ObjectIdentifier(call)] = nil }

    func endWatches() {
        let ended = watches.values
        watches = [:]
        for call in ended { call.endWatch() }
    }
}
