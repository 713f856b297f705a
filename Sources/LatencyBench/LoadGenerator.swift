public import EventLoop
public import HTTPTransport
import Reporting
import Wire
import Workload

/// Sends one loop's share of a plan and measures what comes back. Confined to its loop.
///
/// Budget per small request: one write and one read on HTTP/1.1, less on HTTP/2; exchanges are used again; no allocation beside the body.
public final class LoadGenerator: EventHandler {
    let plan: LoadPlan
    let settings: LoadSettings
    /// HTTP/2: as many as connections are asked for, in turns, so that streams are spread over them; each opens more as its requests need.
    private let pools: [UpstreamPool]
    private var nextPool = 0
    let speaksHTTP2: Bool
    private var writer: RequestWriter
    private var pacer: RequestPacer
    private let head = RequestHead()
    let startNanoseconds: UInt64
    /// Whether some answer is a part of its session's next prompt.
    let hasSessions: Bool
    /// A run is over so long after the last request that is known was due.
    private var endNanoseconds: UInt64 { pacer.lastDueNanoseconds &+ settings.drainNanoseconds }
    private var bodies = PreparedBodies()
    private var spare: [LoadExchange] = []
    private var underWay: [ObjectIdentifier: LoadExchange] = [:]
    public private(set) var measurements = RunMeasurements()
    private let completion: (RunMeasurements) -> Void
    private var hasCompleted = false
    private var isSending = false
    /// When a place below the limit last came free: before that a request could not be sent, and its wait is not the generator's fault.
    private var placeFreeAt: UInt64 = 0

    /// - Parameters:
    ///   - startNanoseconds: of the loop's clock; the schedule counts from it.
    ///   - indices: this loop's requests, whole sessions, by time.
    ///   - completion: called once, on the loop.
    public init(
        loop: EventLoop, plan: LoadPlan, indices: [Int32], target: LoadTarget, settings: LoadSettings, tls: UpstreamTLS?,
        startNanoseconds: UInt64, completion: @escaping (RunMeasurements) -> Void
    ) {
        self.plan = plan
        self.settings = settings
        self.startNanoseconds = startNanoseconds
        self.completion = completion
        hasSessions = plan.requests.contains { $0.nextTurn >= 0 }
        writer = RequestWriter(settings)
        pacer = RequestPacer(
            mode: settings.mode, startNanoseconds: startNanoseconds, offsets: plan.requests.map(\.offsetNanoseconds),
            nextTurn: plan.requests.map(\.nextTurn), thinkNanoseconds: plan.requests.map(\.thinkNanoseconds), indices: indices)
        speaksHTTP2 = target.speaksHTTP2
        let limits = Self.limits(settings)
        pools = (0..<(target.speaksHTTP2 ? max(1, settings.connections) : 1)).flatMap { _ in
            ([target.address] + target.replicas).map { address in
                UpstreamPool(
                    loop: loop, address: address, authority: target.authority, speaksHTTP2: target.speaksHTTP2, tls: tls, limits: limits)
            }
        }
        super.init(loop: loop)
        Self.write(head, target, settings)
        makeRoom()
        prepareAhead()
        arm()
    }

    private static func limits(_ settings: LoadSettings) -> TransportLimits {
        var limits = TransportLimits()
        limits.idleUpstreamConnections = 65_536
        limits.upstreamIdleTimeoutNanoseconds = 4_000_000_000
        limits.connectTimeoutNanoseconds = 10_000_000_000
        limits.upstreamSilenceTimeoutNanoseconds = settings.timeoutNanoseconds
        limits.http2UpstreamConnections = 65_536
        limits.streamsPerConnection = 1_000_000
        limits.queuedUpstreamRequests = 1_000_000
        limits.upstreamQueueTimeoutNanoseconds = settings.timeoutNanoseconds
        return limits
    }

    private static func write(_ head: RequestHead, _ target: LoadTarget, _ settings: LoadSettings) {
        func bytes(_ text: String, _ body: (UnsafeRawBufferPointer) -> Void) {
            var text = text
            text.withUTF8 { body(UnsafeRawBufferPointer($0)) }
        }
        bytes(settings.api == .plain ? settings.method : "POST") { head.setMethod($0) }
        bytes(path(target, settings)) { head.setTarget($0) }
        bytes(target.authority) { head.setAuthority($0) }
        switch settings.api {
        case .chat, .text: head.headers.append("content-type", "application/json")
        case .infer:
            head.headers.append("content-type", "application/grpc")
        case .plain: break
        }
        for header in settings.headers { head.headers.append(header.name.lowercased(), header.value) }
    }

    private static func path(_ target: LoadTarget, _ settings: LoadSettings) -> String {
        if settings.api == .plain { return target.path.isEmpty ? "/" : target.path }
        if !target.path.isEmpty, target.path != "/" { return target.path }
        switch settings.api {
        case .chat: return "/v1/chat/completions"
        case .text: return "/v1/completions"
        default: return "/inference.GRPCInferenceService/" + (settings.streams ? "ModelStreamInfer" : "ModelInfer")
        }
    }

    // MARK: Sending

    public override func deadlineReached() {
        let isOver = loop.now >= endNanoseconds
        sendDue()
        if isOver { stop() }
    }

    private func sendDue() {
        // What a finished request frees is taken by the loop below, not by a call inside a call.
        guard !isSending, !hasCompleted else { return }
        isSending = true
        if turn != loop.now { (turn, sentInTurn) = (loop.now, 0) }
        while sentInTurn < Self.sendsPerTurn, let issue = pacer.take(at: loop.clock()) {
            send(issue)
            sentInTurn += 1
        }
        isSending = false
        makeRoom()
        prepare()
        arm()
        if pacer.remaining == 0, pacer.inFlight == 0 { complete() }
    }

    /// Then answers, and whoever ends the run, have their turn, however far behind the schedule the generator is.
    private static let sendsPerTurn = 64
    private var turn: UInt64 = 0
    private var sentInTurn = 0

    /// HTTP/2: room for requests that may be due before another connection could stand, lest they wait for it.
    private func makeRoom() {
        guard speaksHTTP2 else { return }
        let coming = min(freePlaces, max(Self.leastRoom, pacer.inFlight / 8))
        let each = (coming + pools.count - 1) / pools.count
        for pool in pools { pool.makeRoom(forStreams: each) }
    }

    /// Streams: what a core sends in half a millisecond, which is what a connection takes to come about.
    private static let leastRoom = 32

    /// Before the start: as many bodies as there is room and time for.
    private func prepareAhead() {
        while loop.clock() &+ Self.reserveNanoseconds < startNanoseconds, prepareNext() {}
    }

    /// What stays free before the first request is due.
    private static let reserveNanoseconds: UInt64 = 20_000_000
    /// Writing more than this holds up answers that come meanwhile.
    private static let unnoticedBytes = 8 << 10

    /// While it runs: one for one that was sent, where nobody waits for it, or nothing is ready for what comes next.
    private func prepare() {
        guard pacer.inFlight == 0 || bodies.count == 0 || bodies.current.count <= Self.unnoticedBytes else { return }
        _ = prepareNext()
    }

    /// Whether there was anything to write, and room for it.
    private func prepareNext() -> Bool {
        guard settings.api != .plain, !bodies.isFull, let next = pacer.scheduledIndex(ahead: bodies.count) else { return false }
        bodies.prepare(next, of: plan, by: writer)
        return true
    }

    private func arm() {
        // Also of a schedule without requests.
        if pacer.remaining == 0 { return setDeadline(startNanoseconds) }
        // What is overdue is sent in the next turn, not in this one for ever.
        let next = max(pacer.nextDueNanoseconds ?? .max, loop.now &+ 1)
        let room = speaksHTTP2 ? pools.lazy.compactMap(\.nextRoomNanoseconds).min() ?? .max : .max
        setDeadline(min(isFull ? .max : next, room, endNanoseconds))
    }

    /// Requests that may yet go under way.
    private var freePlaces: Int {
        settings.mode.limit.map { max(0, $0 - pacer.inFlight) } ?? .max
    }

    private var isFull: Bool { freePlaces == 0 }

    private func send(_ issue: RequestPacer.Issue) {
        if settings.api != .plain { bodies.take(issue.index, of: plan, by: writer) }
        let exchange = spare.popLast() ?? LoadExchange(generator: self)
        let now = loop.clock()
        var record = RequestRecord(
            index: issue.index, stage: plan.requests[issue.index].stage, dueNanoseconds: issue.dueNanoseconds &- startNanoseconds,
            sentNanoseconds: now &- startNanoseconds)
        record.readyNanoseconds = max(issue.dueNanoseconds, placeFreeAt) &- startNanoseconds
        exchange.begin(record)
        if isCounted(record) {
            measurements.sent += 1
            measurements.highestInFlight = max(measurements.highestInFlight, pacer.inFlight)
        } else {
            measurements.warmUpSent += 1
        }
        measurements.underWay = pacer.inFlight
        underWay[ObjectIdentifier(exchange)] = exchange
        let body = settings.api == .plain ? settings.body : bodies.current
        let hasBody = !body.isEmpty
        let pool = pools[nextPool]
        nextPool = (nextPool + 1) % pools.count
        pool.start(
            exchange,
            UpstreamRequest(
                head: head, bodyLength: hasBody && settings.api != .infer ? body.count : nil, hasBody: hasBody,
                acceptsTrailers: settings.api == .infer))
        guard hasBody, !exchange.isFinished else { return }
        body.withUnsafeBytes { _ = exchange.send($0) }
        exchange.finishRequest()
    }

    // MARK: Answers

    /// What is due in the warm-up is sent, and in no figure.
    private func isCounted(_ record: RequestRecord) -> Bool { record.dueNanoseconds >= settings.warmUpNanoseconds }

    func backend(named name: UnsafeRawBufferPointer) -> Int { measurements.backend(named: name) }

    func keep(_ document: [UInt8]) { measurements.lastDocument = document }

    func finished(_ exchange: LoadExchange) {
        underWay[ObjectIdentifier(exchange)] = nil
        let record = exchange.record
        let now = loop.clock()
        let isGood = record.outcome == .good
        if isCounted(record) {
            measurements.add(record, recordLimit: settings.recordLimit)
            if isGood { exchange.noteGaps(in: &measurements.interTokenLatency) }
        } else {
            measurements.warmUpFinished += 1
        }
        if isGood {
            writer.remember(record.index, of: plan, answer: exchange.answer)
        } else {
            writer.forget(record.index)
        }
        if isFull { placeFreeAt = now }
        pacer.finished(record.index, at: now, endsSession: !isGood)
        measurements.underWay = pacer.inFlight
        guard !hasCompleted else { return }
        // The transport still holds the exchange; at the turn's end it has let go.
        retired.append(exchange)
        callAtTurnEnd()
    }

    private var retired: [LoadExchange] = []

    public override func turnEnded() {
        for exchange in retired where exchange.isFinished && spare.count < 4_096 { spare.append(exchange) }
        retired.removeAll(keepingCapacity: true)
        sendDue()
    }

    // MARK: Ends

    /// Ends the run: what is under way counts as unfinished.
    public func stop() {
        guard !hasCompleted else { return }
        let rest = Array(underWay.values)
        hasCompleted = true
        // Those first that wait for a stream: each that is freed would send one of them.
        for exchange in rest.filter({ !$0.isHandedOver }) + rest.filter({ $0.isHandedOver }) {
            exchange.cancel()
            exchange.giveUp()
        }
        hasCompleted = false
        complete()
    }

    private func complete() {
        guard !hasCompleted else { return }
        hasCompleted = true
        detach()
        for pool in pools { pool.closeAll() }
        completion(measurements)
    }
}
