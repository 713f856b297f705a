import EventLoop
import HTTPTransport
import Routing
import Wire

/// Asks one group's leader for its load, again and again, one question at a time.
final class LeaderScrape: EventHandler {
    private enum Counting {
        case unknown(zeros: Int)
        case yes, no
    }

    let group: String
    private let table: RoutingTable
    private let settings: LoadSignalSettings
    private let pace: ScrapePace
    private let pool: UpstreamPool
    /// Where a reading may be had; those that say nothing take turns.
    private let sources: [LeaderQuery.Kind]
    private var sourceIndex = 0
    private var query: LeaderQuery?
    private var readingDueAt: UInt64
    private var loadDueAt = UInt64.max
    /// When it is to be seen whether a mute leader has come back.
    private var lookDueAt = UInt64.max
    private var failuresInRow: UInt64 = 0
    private var loadsFailuresInRow: UInt64 = 0
    /// Whether vLLM's `/load` counts, for which it needs a flag; of SGLang, whether it has `/v1/loads`.
    private var counting = Counting.unknown(zeros: 0)
    /// Whether an engine that says it is busy does nothing, as far as its last `/metrics` tell.
    private var isFrozen = false
    /// Seconds that an answer takes, smoothed.
    private var answerSeconds = 0.0
    private var loadCost = AnswerCost()
    private var muteness: Muteness
    private let tellers: LoadTellers
    private var blankness = Blankness()
    private var history = ReadingHistory()
    private var backlog = FirstTokenBacklog()
    private(set) var state: LeaderState

    init(
        loop: EventLoop, group: String, table: RoutingTable, pool: UpstreamPool, settings: LoadSignalSettings, pace: ScrapePace,
        tellers: LoadTellers
    ) {
        self.group = group
        self.table = table
        self.pool = pool
        self.settings = settings
        self.pace = pace
        self.tellers = tellers
        if pool.speaksHTTP2 {
            sources = LoadService.allCases.map { .loads($0) }
        } else {
            sources = (settings.path.isEmpty ? ["/metrics", "/prometheus/metrics"] : [settings.path]).map { .metrics(path: $0) }
        }
        state = LeaderState(group: group)
        muteness = Muteness(pause: settings.longestPauseNanoseconds)
        // Many groups are found at once; the first answer brings the size of the cache, so it should not be long in coming.
        let latest = max(min(settings.intervalNanoseconds, 1_000_000_000), pace.leastPauseNanoseconds)
        readingDueAt = loop.now &+ UInt64(Double.random(in: 0...1) * Double(latest))
        super.init(loop: loop)
        setDeadline(readingDueAt)
    }

    func stop() {
        query?.cancel()
        query = nil
        detach()
    }

    override func deadlineReached() {
        if let query {
            query.cancel()
            return answered(query, .failure(.timeout))
        }
        if lookDueAt <= loop.now { lookForReturn() }
        guard min(readingDueAt, loadDueAt) <= loop.now else { return waitUntilDue() }
        ask(readingDueAt <= loop.now ? sources[sourceIndex] : state.engine == .sglang ? .sglangLoads : .serverLoad)
    }

    private func waitUntilDue() { setDeadline(max(min(readingDueAt, loadDueAt, lookDueAt), loop.now &+ 1_000_000)) }

    /// Requests learn first that the process is gone, and that there is one again.
    private func lookForReturn() {
        lookDueAt = loop.now &+ lookPause()
        guard let known = table.group(named: group) else { return }
        if known.inFlight > 0 { readingDueAt = min(readingDueAt, muteness.dueAtWithRequests) }
        if muteness.hasComeBack(failures: known.failures) { readingDueAt = loop.now }
    }

    private func ask(_ kind: LeaderQuery.Kind) {
        let query = LeaderQuery(kind, scrape: self)
        self.query = query
        setDeadline(loop.now &+ settings.timeoutNanoseconds)
        query.start(on: pool, timeoutNanoseconds: settings.timeoutNanoseconds)
    }

    // MARK: Answers

    func answered(_ query: LeaderQuery, _ answer: LeaderQuery.Answer) {
        guard self.query === query else { return }
        self.query = nil
        let seconds = Double(loop.now &- query.askedAt) * 1e-9
        state.scrapeSeconds += seconds
        state.scrapeBytes &+= UInt64(query.bytes)
        switch answer {
        case .reading(let reading):
            answerSeconds += (answerSeconds == 0 ? 1 : 0.3) * (seconds - answerSeconds)
            take(reading, query)
        case .serverLoad(let inFlight):
            loadCost.observe(seconds: seconds)
            take(inFlight: inFlight, query)
        case .sglangLoads(let reading):
            loadCost.observe(seconds: seconds)
            take(loads: reading, query)
        case .failure(let outcome):
            // Over HTTP/2 a question that is given up leaves its connection, which may lead nowhere any more.
            if outcome == .timeout, query.answeredAt == 0 { pool.closeAll() }
            fail(outcome, query.kind)
        }
        waitUntilDue()
    }

    private func take(_ reading: EngineReading, _ query: LeaderQuery) {
        failuresInRow = 0
        muteness.end()
        lookDueAt = .max
        readingDueAt = loop.now &+ readingPause()
        let verdict = history.judge(reading)
        isFrozen = verdict == .frozen
        state.take(reading, history)
        guard let known = table.group(named: group) else { return }
        let id = known.id
        if let tokens = reading.capacityTokens { table.updateKVCapacity(tokens: tokens, of: id) }
        if let adapters = reading.adapters, verdict != .frozen {
            table.reportAdapters(adapters.running + adapters.waiting, capacity: adapters.limit, of: id, now: loop.now)
        }
        if verdict == .restarted {
            table.reportRestarted(id, now: loop.now)
            counting = .unknown(zeros: 0)
            backlog = FirstTokenBacklog()
        }
        // Nothing that it is sent comes to anything until it is woken.
        if reading.isAsleep { table.reportSaturated(id, retryAfterSeconds: 10, now: loop.now) }
        guard verdict != .frozen else { return state.count(.stale) }
        state.count(.ok)
        var isBelieved = true
        if case .loads(let service) = query.kind {
            isBelieved = blankness.believes(reading, of: service, ownRequests: known.inFlight, tellers)
        }
        if reading.hasLoad, isBelieved, !loadsAreTold {
            let prefill = history.isOfSeveral ? nil : reading.backlogCounts.map { backlog.observe($0, at: query.answeredAt) }
            report(
                LoadReport(
                    running: reading.running, waiting: reading.waiting, awaitingFirstToken: prefill?.awaiting,
                    prefillTokens: prefill?.prefillTokens, queuedTokens: reading.queuedTokens, kvUsage: reading.kvUsage,
                    notBefore: query.askedAt &- min(query.askedAt, LoadReport.gaugeLagNanoseconds), madeAt: query.answeredAt), id)
        }
        tryServerLoad(reading)
    }

    private func take(inFlight: Int, _ query: LeaderQuery) {
        failuresInRow = 0
        loadDueAt = loop.now &+ loadPause()
        switch counting {
        case .unknown(let zeros) where inFlight == 0:
            counting = zeros + 1 >= LoadSignalSettings.zerosOfADeadCounter ? .no : .unknown(zeros: zeros + 1)
            loadDueAt = .max
            return
        case .unknown: counting = .yes
        case .yes: break
        case .no: loadDueAt = .max
        }
        state.count(.ok)
        guard let id = table.group(named: group)?.id else { return }
        report(LoadReport(inFlight: Double(inFlight), notBefore: query.askedAt, madeAt: query.answeredAt), id)
    }

    // MARK: SGLang's loads

    /// SGLang sets its gauges every 40 decode steps, and these figures with every step: what tells both is not believed twice.
    private var loadsAreTold: Bool {
        guard case .yes = counting, state.engine == .sglang else { return false }
        return true
    }

    private func take(loads reading: EngineReading, _ query: LeaderQuery) {
        loadsFailuresInRow = 0
        loadDueAt = loop.now &+ loadPause()
        counting = .yes
        // Of a scheduler that hangs the server goes on telling what it told last.
        guard !isFrozen else { return state.count(.stale) }
        state.count(.ok)
        guard let id = table.group(named: group)?.id else { return }
        report(
            LoadReport(
                running: reading.running, waiting: reading.waiting, queuedTokens: reading.queuedTokens, kvUsage: reading.kvUsage,
                notBefore: query.askedAt &- min(query.askedAt, LoadReport.gaugeLagNanoseconds), madeAt: query.answeredAt), id)
    }

    /// Until it tells them again, `/metrics` counts.
    private func failLoads(_ outcome: ScrapeOutcome) {
        counting = .no
        readingDueAt = min(readingDueAt, loop.now &+ pace.jittered(settings.intervalNanoseconds))
        if outcome == .timeout || outcome == .unreachable {
            loadsFailuresInRow += 1
            loadDueAt = loop.now &+ pauseAfterFailure(settings.loadIntervalNanoseconds, loadsFailuresInRow)
        } else {
            loadDueAt = loop.now &+ pace.jittered(settings.longestPauseNanoseconds)
        }
    }

    private func report(_ report: LoadReport, _ id: GroupID) { table.reportLoad(report, of: id, now: loop.now) }

    /// Busy vLLM whose `/load` says more than nothing counts its requests; SGLang has `/v1/loads` since January 2026.
    private func tryServerLoad(_ reading: EngineReading) {
        guard case .unknown = counting, !pool.speaksHTTP2, settings.loadIntervalNanoseconds > 0,
            reading.engine == .sglang || reading.engine == .vllm && reading.isBusy
        else { return }
        loadDueAt = loop.now
    }

    private func fail(_ outcome: ScrapeOutcome, _ kind: LeaderQuery.Kind) {
        state.count(outcome)
        if case .sglangLoads = kind { return failLoads(outcome) }
        if case .serverLoad = kind {
            loadDueAt = .max
            // One that counted may be slow for once; one that is not there stays away.
            if case .yes = counting, outcome == .timeout || outcome == .unreachable {
                failuresInRow += 1
                loadDueAt = loop.now &+ pauseAfterFailure(settings.loadIntervalNanoseconds, failuresInRow)
            } else {
                counting = .no
            }
            return
        }
        isFrozen = false
        lookDueAt = .max
        if outcome == .unreachable { muteness.end() }
        failuresInRow += 1
        readingDueAt = loop.now &+ pauseAfterFailure(settings.intervalNanoseconds, failuresInRow)
        guard outcome == .missing || outcome == .unknown || outcome == .refused else { return }
        // Each source has its turn before the engine counts as one that says nothing.
        sourceIndex = (sourceIndex + 1) % sources.count
        guard sourceIndex == 0 else { return readingDueAt = loop.now &+ pace.jittered(100_000_000) }
        readingDueAt = loop.now &+ pace.jittered(muteness.nextPause(now: loop.now, interval: settings.intervalNanoseconds))
        lookDueAt = loop.now &+ lookPause()
    }

    // MARK: Pauses

    private func readingPause() -> UInt64 {
        var pause = settings.intervalNanoseconds
        if case .yes = counting { pause &*= LoadSignalSettings.metricsPauseWithLoad }
        return pace.jittered(
            ScrapePace.affordable(
                pause, answerSeconds: answerSeconds, share: settings.greatestShare, configured: settings.intervalNanoseconds))
    }

    /// What tells more than `/metrics` is asked for no more seldom.
    private func loadPause() -> UInt64 {
        let interval = settings.loadIntervalNanoseconds
        let affordable = ScrapePace.affordable(
            interval, answerSeconds: loadCost.seconds, share: settings.greatestShare, configured: interval)
        return pace.jittered(min(affordable, max(interval, settings.intervalNanoseconds)))
    }

    private func lookPause() -> UInt64 { pace.jittered(min(settings.intervalNanoseconds, 1_000_000_000)) }

    private func pauseAfterFailure(_ interval: UInt64, _ failures: UInt64) -> UInt64 {
        let pause = interval << min(failures, 8)
        return pace.jittered(max(min(pause, settings.longestPauseNanoseconds), interval))
    }
}
