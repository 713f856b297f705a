import EngineModel
import EventLoop
import Glibc

/// Runs one engine in real time: submits, sets the loop's timer for the end of each step, hands out what the step made.
final class EngineHost: EventHandler {
    /// What the engine core does beside computing.
    enum State {
        case serving
        /// Paused or asleep: requests are taken and wait.
        case resting
        /// A collective operation waits for a member that is gone. Nothing will ever move again.
        case hanging
        case dead
    }

    /// Of the vLLM that is imitated.
    static let version = "0.32.0"

    let configuration: StubConfiguration
    /// Data-parallel rank: the `engine` label of the metrics.
    let rank: Int
    /// Value of `x-served-by`.
    var name = ""
    var catalogue: ModelCatalogue
    private(set) var engine: Engine
    var metrics: EngineMetrics
    private(set) var state = State.serving
    private var counters = StubCounters()
    private var owners: [SequenceID: Owner] = [:]
    private var events: [EngineEvent] = []
    private var watches: [ObjectIdentifier: GRPCCall] = [:]
    private var named: [String: [Generation]] = [:]
    private var lastSequence: SequenceID = 0
    private var lastRequest: UInt64 = 0
    /// Prompt tokens of requests that have no token yet.
    private(set) var queuedTokens = 0
    /// Generations under way: what `/load` says.
    private(set) var load = 0
    /// The engine's clock stands still while it rests: this far behind the loop's, ns.
    private var clockLag: UInt64 = 0
    private var restBegan: UInt64 = 0
    /// The latest instant of its clock that the engine has been told.
    private var lastToldNanoseconds: UInt64 = 0
    private var tokensPerSecond = ThroughputMeter()
    private var httpDate = HTTPDate()
    private let beginNanoseconds: UInt64
    private var isPumping = false
    /// Work came while the pump was at work.
    private var wantsPump = false
    /// Gaps between tokens that are equal, as those of one step mostly are, and not yet in the metrics.
    private var gaps: (nanoseconds: UInt64, count: UInt64) = (0, 0)
    /// The adapters that `vllm:lora_requests_info` told last.
    private var runningAdapters: [AdapterID] = []
    private var waitingAdapters: [AdapterID] = []

    private struct Owner {
        let generation: Generation
        let choice: Int
        let arrivalNanoseconds: UInt64
        var lastTokenNanoseconds: UInt64 = 0
    }

    init(loop: EventLoop, configuration: StubConfiguration, rank: Int) {
        self.configuration = configuration
        self.rank = rank
        beginNanoseconds = loop.now
        engine = Engine(configuration: configuration.engine)
        metrics = EngineMetrics(
            createdNanoseconds: loop.wallClock(), maximumModelTokens: configuration.maximumModelTokens,
            maximumAdapters: configuration.maximumAdapters)
        catalogue = ModelCatalogue(
            names: configuration.models, adapters: configuration.adapters.map { ModelCatalogue.Adapter(name: $0.name, path: $0.path) })
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

    /// Now, as HTTP writes it.
    var date: String { httpDate.text(at: wallSeconds) }

    /// Since the engine's process began.
    var uptimeSeconds: Double { Double(loop.now &- beginNanoseconds) / 1e9 }

    /// Tokens generated per second, over the last seconds.
    var throughput: Double { tokensPerSecond.rate(at: loop.now) }

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
            let arrival = arrivalTime()
            do throws(SubmitError) {
                try engine.submit(request, now: arrival)
            } catch {
                for started in generation.choices[..<index] { drop(started.request.id) }
                throw error
            }
            generation.choices[index].setID(request.id)
            owners[lastSequence] = Owner(generation: generation, choice: index, arrivalNanoseconds: arrival)
        }
        counters.requests &+= 1
        load += 1
        queuedTokens += generation.choices.reduce(0) { $0 + $1.request.prompt.tokenCount }
        if !generation.requestID.isEmpty { named[generation.requestID, default: []].append(generation) }
        callAtTurnEnd()
    }

    /// Books what a request asked for.
    func accepted(n: Int, maximumTokens: Int) { metrics.requestAccepted(n: n, maximumTokens: maximumTokens) }

    /// Stops a generation whose answer nobody waits for.
    func cancel(_ generation: Generation) {
        counters.abortedRequests &+= 1
        for choice in generation.choices where !choice.isComplete { drop(choice.request.id) }
        retire(generation)
    }

    /// Stops what bears one of these ids, and tells those who wait. Returns how many requests that were.
    @discardableResult
    func abort(requestIDs: [String]) -> Int {
        var count = 0
        for id in requestIDs {
            for generation in named[id] ?? [] where !generation.isComplete {
                cancel(generation)
                generation.aborted()
                count += 1
            }
        }
        return count
    }

    private func drop(_ id: SequenceID) {
        guard let owner = owners.removeValue(forKey: id) else { return }
        if owner.lastTokenNanoseconds == 0 { queuedTokens -= owner.generation.choices[owner.choice].request.prompt.tokenCount }
        engine.abort(id)
    }

    private func retire(_ generation: Generation) {
        load -= 1
        guard !generation.requestID.isEmpty else { return }
        named[generation.requestID]?.removeAll { $0 === generation }
        if named[generation.requestID]?.isEmpty == true { named[generation.requestID] = nil }
    }

    /// Forgets all cached content, unless a sequence uses some. Returns whether it was done.
    @discardableResult
    func resetPrefixCache() -> Bool { engine.resetPrefixCache(events: &events) }

    /// Takes a LoRA adapter away. Sequences that use it run to their end.
    func unloadAdapter(named name: String) throws(WireError) {
        try catalogue.unload(name)
        engine.forgetAdapter(BlockHash.adapter(named: name))
    }

    private func noteAdapters() {
        let running = engine.runningAdapters
        let waiting = engine.waitingAdapters
        guard running != runningAdapters || waiting != waitingAdapters else { return }
        runningAdapters = running
        waitingAdapters = waiting
        metrics.adaptersChanged(
            running: running.compactMap { catalogue.name(of: $0) }, waiting: waiting.compactMap { catalogue.name(of: $0) },
            nowNanoseconds: loop.wallClock())
    }

    func resetMetrics() { metrics.reset(counters: engine.counters, nowNanoseconds: loop.wallClock()) }

    // MARK: Rest and death

    /// The value of vLLM's `sleep_state` that holds.
    private(set) var sleepState = "awake"
    private(set) var isPaused = false

    /// When the weights are back, by the loop's clock.
    private var wakeEnd: UInt64?

    /// Level 1 keeps the weights in memory, level 2 drops them; either forgets the cache.
    func sleep(level: Int) {
        wakeEnd = nil
        sleepState = level >= 2 ? "discard_all" : "weights_offloaded"
        resetPrefixCache()
        restOrWake()
    }

    /// Begins to wake up. Returns when that will be done, by the loop's clock; nil: the engine is awake.
    func wakeUp() -> UInt64? {
        guard sleepState != "awake" else { return nil }
        let times = configuration.wakeNanoseconds
        let end = wakeEnd ?? loop.clock() &+ (sleepState == "discard_all" ? times.fromStorage : times.fromHost)
        wakeEnd = end
        endWaking()
        guard wakeEnd != nil else { return nil }
        if state == .resting { setDeadline(end) }
        return end
    }

    private func endWaking() {
        guard let end = wakeEnd, end <= loop.clock() else { return }
        wakeEnd = nil
        sleepState = "awake"
        restOrWake()
    }

    func pause() {
        isPaused = true
        restOrWake()
    }

    func resume() {
        isPaused = false
        restOrWake()
    }

    /// While it rests the engine's clock stands still, and requests wait.
    private func restOrWake() {
        let rests = isPaused || sleepState != "awake"
        if rests, state == .serving {
            state = .resting
            restBegan = loop.clock()
            setDeadline(nil)
        } else if !rests, state == .resting {
            state = .serving
            clockLag &+= loop.clock() &- restBegan
            callAtTurnEnd()
        }
    }

    /// A member is gone in the middle of a step.
    func hang() {
        guard state != .dead else { return }
        state = .hanging
        setDeadline(nil)
    }

    /// The engine core is gone: every answer under way ends with an error.
    func die() {
        guard state != .dead else { return }
        state = .dead
        setDeadline(nil)
        var dying: [ObjectIdentifier: Generation] = [:]
        for owner in owners.values { dying[ObjectIdentifier(owner.generation)] = owner.generation }
        owners = [:]
        for generation in dying.values {
            retire(generation)
            generation.engineDied()
        }
        endWatches()
    }

    // MARK: Steps

    private var engineNow: UInt64 { (state == .resting ? restBegan : loop.clock()) &- clockLag }

    /// When what is being served came in, by the engine's clock: computing begins then, and what this program itself needs to read a request
    /// passes meanwhile, as on a device of its own. Never before an instant that the engine has been told.
    private func arrivalTime() -> UInt64 {
        lastToldNanoseconds = max(lastToldNanoseconds, min(engineNow, loop.now &- clockLag))
        return lastToldNanoseconds
    }

    override func turnEnded() { pump() }

    override func deadlineReached() {
        endWaking()
        pump()
    }

    private func pump() {
        guard !isPumping else {
            wantsPump = true
            return
        }
        isPumping = true
        defer { isPumping = false }
        takeSteps()
        guard wantsPump else { return }
        wantsPump = false
        callAtTurnEnd()
    }

    private func takeSteps() {
        guard state == .serving else { return }
        var steps = 0
        while steps < StubLimits.stepsPerWake {
            let end = engine.nextStepEnd
            let now = end == nil ? arrivalTime() : engineNow
            if let end {
                if end > now { break }
                metrics.hostWasLate(nanoseconds: now &- end)
                lastToldNanoseconds = max(lastToldNanoseconds, end)
            }
            engine.step(now: now, events: &events)
            deliver(at: end ?? now)
            if configuration.maximumAdapters > 0 { noteAdapters() }
            guard engine.nextStepEnd != nil else { break }
            metrics.stepBegan(tokens: engine.load.tokens)
            steps += 1
        }
        // What was just delivered may have ended the engine.
        guard state == .serving else { return }
        setDeadline(engine.nextStepEnd.map { $0 &+ clockLag })
    }

    private func deliver(at time: UInt64) {
        // What is delivered may start and cancel generations: the list is not read from the property meanwhile.
        var batch: [EngineEvent] = []
        swap(&batch, &events)
        var unwritten = 0
        for event in batch {
            switch event {
            case .scheduled(let id, let cachedTokens):
                owners[id]?.generation.cachedTokens += cachedTokens
            case .token(let id, let token):
                deliver(token, of: id, at: time)
                unwritten += 1
                if unwritten == StubLimits.tokensPerWrite { writeOut(&unwritten, dueAt: time) }
            case .finished(let id, let summary):
                guard let owner = owners.removeValue(forKey: id) else { continue }
                metrics.sequenceFinished(summary, endsByStop: owner.generation.choices[owner.choice].endsByStop)
                finish(owner.generation)
            case .firstToken, .progressed, .preempted, .blockStored, .blockRemoved, .cacheCleared:
                break
            }
        }
        if unwritten > 0 { writeOut(&unwritten, dueAt: time) }
        noteGaps()
        batch.removeAll(keepingCapacity: true)
        if events.isEmpty { swap(&batch, &events) }
    }

    /// Hands what connections hold to the kernel, and looks at the clock then. A step's first tokens do not wait for its last, nor those
    /// of an engine for another's that is due later.
    private func writeOut(_ tokens: inout Int, dueAt due: UInt64) {
        loop.finishBatch()
        let now = engineNow
        metrics.tokensWritten(UInt64(tokens), lateByNanoseconds: now &- min(due, now))
        tokensPerSecond.count(tokens, at: loop.now)
        tokens = 0
    }

    private func noteGap(nanoseconds: UInt64) {
        if nanoseconds != gaps.nanoseconds { noteGaps() }
        gaps = (nanoseconds, gaps.count &+ 1)
    }

    private func noteGaps() {
        if gaps.count > 0 { metrics.tokensFollowed(gaps.count, afterNanoseconds: gaps.nanoseconds) }
        gaps.count = 0
    }

    private func deliver(_ token: ReplyToken, of id: SequenceID, at time: UInt64) {
        guard let index = owners.index(forKey: id) else { return }
        let owner = owners.values[index]
        if owner.lastTokenNanoseconds > 0 {
            noteGap(nanoseconds: time &- owner.lastTokenNanoseconds)
        } else {
            queuedTokens -= owner.generation.choices[owner.choice].request.prompt.tokenCount
            metrics.firstTokenCame(afterNanoseconds: time &- min(owner.arrivalNanoseconds, time))
        }
        owners.values[index].lastTokenNanoseconds = max(1, time)
        if let end = owner.generation.receive(token, choice: owner.choice) { engine.shorten(id, to: end) }
    }

    private func finish(_ generation: Generation) {
        guard generation.isComplete else { return }
        retire(generation)
        generation.completed()
    }

    // MARK: Health watchers

    func watch(_ call: GRPCCall) { watches[ObjectIdentifier(call)] = call }

    func unwatch(_ call: GRPCCall) { watches[ObjectIdentifier(call)] = nil }

    /// Tells all who watch that the engine no longer serves.
    func endWatches() {
        let ending = Array(watches.values)
        watches = [:]
        for call in ending { call.endWatch() }
    }
}

/// Counts over the last full seconds.
private struct ThroughputMeter {
    private var second: UInt64 = 0
    private var current = 0
    private var previous = 0

    mutating func count(_ tokens: Int, at now: UInt64) {
        advance(to: now)
        current += tokens
    }

    private mutating func advance(to now: UInt64) {
        let present = now / 1_000_000_000
        guard present != second else { return }
        previous = present == second &+ 1 ? current : 0
        current = 0
        second = present
    }

    func rate(at now: UInt64) -> Double {
        var meter = self
        meter.advance(to: now)
        return Double(meter.previous)
    }
}

/// The text of a second (RFC 9110, section 5.6.7), written once.
private struct HTTPDate {
    private var second: UInt64 = .max
    private var text = ""

    /// - Parameter seconds: since 1970, UTC.
    mutating func text(at seconds: UInt64) -> String {
        guard seconds != second else { return text }
        second = seconds
        var time = time_t(seconds)
        var parts = tm()
        gmtime_r(&time, &parts)
        // Nobody sets a locale here, so names are English.
        text = withUnsafeTemporaryAllocation(of: CChar.self, capacity: 32) { buffer in
            let count = strftime(buffer.baseAddress!, buffer.count, "%a, %d %b %Y %H:%M:%S GMT", &parts)
            return String(decoding: UnsafeRawBufferPointer(buffer)[..<count], as: UTF8.self)
        }
        return text
    }
}
