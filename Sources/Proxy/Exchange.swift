import EventLoop
import HTTPTransport
import Routing
import Telemetry
import Wire

/// One client's request with its response, from head to settlement. Lives on one loop.
///
/// Budget on a warm connection, HTTP/1.1 both ways: two reads and two writes, one copy of the request's body (kept for another try),
/// one probe, one routing decision.
final class Exchange: DownstreamExchange {
    enum Mode {
        /// The body is collected, probed and can be sent again.
        case collected
        /// The body is forwarded as it comes.
        case forwarded
        /// Answered here.
        case local
        /// A WebSocket: bytes pass in both directions until both have ended.
        case tunnel
        /// A call of `grpc.health.v1`, answered here once its message is whole.
        case health
    }

    /// Unchecked: a worker outlives the connections of its loop, and they their exchanges.
    unowned(unsafe) let worker: ProxyWorker
    var startedAt: UInt64
    var mode = Mode.local
    var isGRPC = false
    /// gRPC: the method, when it is one whose messages are read.
    var call: InferenceCall?
    /// The first message of such a call is not here yet, and no group is chosen before it is.
    var isMessageAwaited = false {
        didSet {
            guard isMessageAwaited != oldValue else { return }
            uncounted(worker.messageWaits).use { if isMessageAwaited { $0.add(self) } else { $0.remove(self) } }
        }
    }
    /// Where in the body the first message of such a call ends.
    var firstMessageEnd = 0
    var callEnd = CallEnd.ok
    var acceptsTrailers = false
    var asksForWebSocket = false
    /// The router, not the client, asks the engine for its load.
    var asksForLoadMetrics = false

    // The request
    var body: ByteBuffer
    var bodyBytesReceived = 0
    /// What of `body` the present attempt has been given.
    var bodyBytesSent = 0
    /// `body` holds all that was received, so the request can be sent again.
    var isReplayable = true
    var isStreamRequested = false
    var modelLabel: UInt16?

    // Its way
    var decision: Decision?
    var attempt: Attempt? {
        didSet { if let oldValue, attempt !== oldValue { spareAttempt = oldValue } }
    }
    private var spareAttempt: Attempt?
    var tried = TriedGroups()
    var attemptsMade = 0
    /// While it waits in the router; nil: it does not.
    var ticket: AdmissionTicket? {
        didSet {
            guard (ticket == nil) != (oldValue == nil) else { return }
            uncounted(worker.waits).use { if ticket != nil { $0.add(self) } else { $0.remove(self) } }
        }
    }
    /// It is not to wait in the router, or not again.
    var goesAtOnce = false
    var heldSince: UInt64 = 0
    var heldNanoseconds: UInt64 = 0
    /// Where its operator's word has sent it; empty: nowhere.
    var pinnedGroup: [UInt8] = []
    var wantsExplanation = false

    // Its answer
    var isHeadHeld = false {
        didSet {
            guard isHeadHeld != oldValue else { return }
            uncounted(worker.holds).use { if isHeadHeld { $0.add(self) } else { $0.remove(self) } }
        }
    }
    /// Of the message that is awaited, of the wait in the router, or of the head that is held: one comes after the other.
    var grace = Grace()
    /// gRPC's `grpc-timeout`.
    var callDeadline = CallDeadline()
    /// Bytes that came before the first event, or a 500's body that is being looked at.
    var heldBytes: ByteBuffer
    var isInspecting = false
    var scanner = ResponseScanner(kind: .other)
    var isEventStream = false
    /// Events after which routing is told of the stream's progress next.
    var nextProgress = RoutingTable.progressMark(after: 0)
    var responseStatus = 0
    var responseBytes = 0
    var firstTokenAt: UInt64 = 0
    var lastByte: UInt8 = 10
    /// Its client took the answer slower than it came, so that the times of its parts tell of the client.
    var isHeldBack = false
    var failureKind: FailureKind?
    var series: SeriesIndex?
    var isSettled = false
    private var isReleased = false

    init(worker: ProxyWorker) {
        self.worker = worker
        startedAt = worker.loop.now
        body = ByteBuffer(pool: worker.bodyChunks)
        heldBytes = ByteBuffer(pool: worker.loop.chunks)
        super.init()
    }

    /// An attempt does not keep its exchange, so none may outlive it.
    deinit {
        attempt?.cancel()
        worker.bufferedBodyBytes &-= body.count
    }

    // MARK: Reuse

    /// Settled and released by the transport, in whichever order: may carry another request once nobody holds it.
    func recycleIfEnded() {
        guard isSettled, isReleased else { return }
        attempt?.cancel()
        attempt = nil
        forgetOrigin()
        uncounted(worker).use { $0.spareExchanges.keep(self) }
    }

    override func released() {
        isReleased = true
        recycleIfEnded()
    }

    /// Begins anew, as an exchange just made would.
    func restart() {
        renew()
        startedAt = worker.loop.now
        mode = .local
        isGRPC = false
        call = nil
        firstMessageEnd = 0
        callEnd = .ok
        acceptsTrailers = false
        asksForWebSocket = false
        asksForLoadMetrics = false
        bodyBytesReceived = 0
        bodyBytesSent = 0
        isReplayable = true
        isStreamRequested = false
        modelLabel = nil
        decision = nil
        tried = TriedGroups()
        attemptsMade = 0
        goesAtOnce = false
        heldNanoseconds = 0
        isInspecting = false
        scanner = ResponseScanner(kind: .other)
        isEventStream = false
        nextProgress = RoutingTable.progressMark(after: 0)
        responseStatus = 0
        responseBytes = 0
        firstTokenAt = 0
        lastByte = 10
        isHeldBack = false
        failureKind = nil
        series = nil
        isSettled = false
        isReleased = false
        callDeadline = CallDeadline()
        pinnedGroup = []
        wantsExplanation = false
    }

    /// A try at a backend: the object of an earlier one when that has been let go of.
    func makeAttempt() -> Attempt {
        if var spare = spareAttempt.take(), isKnownUniquelyReferenced(&spare) {
            spare.renew()
            return spare
        }
        return Attempt(exchange: self)
    }

    // MARK: Head

    override func headReceived() { uncounted(request.headers).use { headReceived(with: $0) } }

    private func headReceived(with headers: HeaderBlock) {
        isGRPC = request.version == .http2 && request.isGRPC
        acceptsTrailers = headers.value(.te)?.containsListItem("trailers") ?? false
        asksForWebSocket = isRequestComplete && request.asksForWebSocket
        removeConnectionFields(headers)
        settleRequestID()
        if request.path.starts(with: "/openai/v1/") { request.dropTargetPrefix(7) }
        if let declared = request.contentLength, declared > worker.settings.bodyBytes { return fail(.bodyTooLarge) }
        guard readsOperatorFields(headers) else { return fail(.pinRefused) }
        if isGRPC { return callReceived() }
        if let expectation = headers.value(.expect), !expectation.equalsIgnoringCase("100-continue") { return fail(.expectationFailed) }
        if answersLocally() { return }
        mode = hasProbedBody ? .collected : .forwarded
    }

    /// JSON that came as it is: what routing can read.
    private var hasProbedBody: Bool {
        guard request.method == .post else { return false }
        return uncounted(request.headers).use { headers in
            if let coding = headers.value(.contentEncoding), !coding.equalsIgnoringCase("identity") { return false }
            guard let type = headers.value(.contentType) else { return true }
            return type.hasPrefixIgnoringCase("application/json")
        }
    }

    /// The id is the client's, under the first of the names in use, or made here; it goes on and back as `x-request-id`.
    private func settleRequestID() {
        uncounted(request.headers).use { settleRequestID(in: $0) }
    }

    private func settleRequestID(in headers: HeaderBlock) {
        let given =
            headers.value(.requestID) ?? headers.value(.correlationID) ?? headers.value(.traceID) ?? headers.value(.bareRequestID)
        if let given, !given.isEmpty, given.count <= 256 {
            if headers.value(.requestID) != nil, headers.occurrences(of: .requestID) == 1 { return }
            withUnsafeTemporaryAllocation(byteCount: given.count, alignment: 1) { copy in
                copy.copyMemory(from: given)
                headers.remove(.requestID)
                headers.append("x-request-id", UnsafeRawBufferPointer(copy), known: .requestID)
            }
        } else {
            headers.remove(.requestID)
            withUnsafeTemporaryAllocation(byteCount: RequestIDGenerator.byteCount, alignment: 1) { id in
                uncounted(worker).use { $0.requestIDs.write(into: id) }
                headers.append("x-request-id", UnsafeRawBufferPointer(id), known: .requestID)
            }
        }
    }

    var requestID: UnsafeRawBufferPointer {
        uncounted(request.headers).use { $0.value(.requestID) } ?? UnsafeRawBufferPointer(start: nil, count: 0)
    }

    // MARK: Body

    override func bodyReceived(_ bytes: UnsafeRawBufferPointer) {
        if mode == .tunnel { return tunnelReceived(bytes) }
        guard isOpen, !isSettled else { return }
        bodyBytesReceived &+= bytes.count
        guard bodyBytesReceived <= worker.settings.bodyBytes else { return fail(.bodyTooLarge) }
        switch mode {
        case .collected:
            // One allocation for a body whose length is known, but not more at once than a liar may ask for.
            if body.isEmpty, let declared = request.contentLength {
                _ = body.reserve(min(declared, 1 << 20) &+ RequestProbe.padding)
            }
            collect(bytes)
        case .forwarded:
            forward(bytes)
        case .health:
            worker.health.messageReceived(bytes, for: self)
        case .local, .tunnel: break
        }
    }

    /// Keeps bytes of the body; the loop's share of memory is bounded for all its exchanges together.
    func collect(_ bytes: UnsafeRawBufferPointer) {
        guard worker.bufferedBodyBytes &+ bytes.count <= worker.settings.bufferedBodyBytes else { return fail(.overloaded) }
        worker.bufferedBodyBytes &+= bytes.count
        body.append(bytes)
    }

    /// Whether so much more of a body that is forwarded as it comes can be kept for another try.
    func mayKeep(_ count: Int) -> Bool {
        body.count &+ count <= worker.settings.replayBytes && worker.bufferedBodyBytes &+ count <= worker.settings.bufferedBodyBytes
    }

    func discardBody() {
        worker.bufferedBodyBytes &-= body.count
        body.removeAll()
    }

    override func requestEnded() {
        if mode == .tunnel { return tunnelRequestEnded() }
        guard isOpen, !isSettled else { return }
        if request.hasTrailers { adoptTrailers() }
        switch mode {
        case .collected:
            dispatch()
        case .forwarded:
            // A message that ends before its end is none.
            if isMessageAwaited { call = nil }
            isMessageAwaited = false
            if attempt == nil, decision == nil, ticket == nil { dispatch() }
            if !hasUnsentBody { attempt?.finishRequest(trailers: trailers) }
        case .health:
            worker.health.answer(self)
        case .local, .tunnel: break
        }
    }

    private func adoptTrailers() {
        cleanTrailers(request.trailers)
        request.hasTrailers = request.trailers.count > 0
    }

    /// Drops what must not go on of trailing fields, in either direction.
    func cleanTrailers(_ trailers: HeaderBlock) {
        removeConnectionFields(trailers)
        if isGRPC { trailers.removeFieldsForbiddenInTrailingMetadata() } else { trailers.removeFieldsForbiddenInTrailers() }
    }

    /// The request's trailing fields, to be sent behind its body.
    var trailers: HeaderBlock? { request.hasTrailers ? request.trailers : nil }

    /// Reads the collected body, or the first message of a call, for what routing needs.
    func probeBody() {
        guard mode == .collected || call != nil, !body.isEmpty else { return worker.probe.clear() }
        let seed = uncounted(request.headers).use { worker.settings.reading.chainSeed($0) }
        if let call {
            firstMessageEnd = GRPCFraming.firstMessageEnd(body.readable) ?? 0
            uncounted(worker.probe).use { $0.probe(body.readable, of: call, seed: seed) }
        } else {
            _ = body.reserve(RequestProbe.padding)
            uncounted(worker.probe).use { $0.probe(body.readable, seed: seed) }
        }
        isStreamRequested = worker.probe.stream
    }

    /// What was waited for did not come in its time.
    func graceEnded() {
        if isMessageAwaited {
            messageIsLate()
        } else if ticket != nil {
            fail(.queueTimeout)
        } else {
            releaseHead()
        }
    }

    override func outputDrained() { attempt?.resumeResponse() }

    override func stayedIdle() { fail(.callIdle) }

    override func cancelled() {
        attempt?.cancel()
        attempt = nil
        settle(.clientGone)
    }
}

private let mostNominatedBytes = 512

/// Drops the fields of one connection: the known ones, and those that `Connection` names (RFC 9110, 7.6.1).
///
/// Of the `Connection` fields the first 512 bytes count; what is named behind them is passed on.
func removeConnectionFields(_ headers: HeaderBlock) {
    guard headers.hasHopByHop else { return }
    guard headers.has(.connection) else { return headers.removeFields { headers.known(at: $0).isHopByHop } }
    var nominated: [UInt8] = []
    for index in 0..<headers.count where headers.known(at: index) == .connection {
        let value = headers.value(at: index)
        if value.equalsIgnoringCase("close") || value.equalsIgnoringCase("keep-alive") { continue }
        // Every field is looked for in the list, and a list may be as long as a head.
        nominated.append(contentsOf: value.prefix(max(0, mostNominatedBytes - nominated.count)))
        nominated.append(44)
    }
    nominated.withUnsafeBytes { nominated in
        headers.removeFields { index in
            let known = headers.known(at: index)
            if known.isHopByHop { return true }
            // Content-Length and Host frame and address the message; a Connection field cannot take them away.
            guard !nominated.isEmpty, known != .contentLength, known != .host else { return false }
            return nominated.containsListItem(headers.name(at: index))
        }
    }
}
