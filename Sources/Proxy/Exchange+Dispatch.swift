import EventLoop
import HTTPTransport
import Routing
import Telemetry
import Wire

extension Exchange {
    /// Bytes of a collected body handed to the transport at once.
    private static let sliceBytes = 256 << 10

    // MARK: Choice

    /// Picks a group, books the request on it and sends it there.
    func dispatch() {
        let routing = readRequest()
        askForLoadMetrics()
        if mayWait { return admit(routing) }
        go(asksForWebSocket ? pickByQuery(routing) : call != nil ? pickForCall(routing) : pick(routing))
    }

    /// The request as the table takes it, for as long as the probe reads no other.
    private func readRequest() -> RoutingRequest {
        probeBody()
        var routing = uncounted(worker.probe).use { probe in
            uncounted(request.headers).use { worker.settings.reading.routingRequest(probe, $0) }
        }
        routing.needsHTTP1 = asksForWebSocket
        routing.needsHTTP2 = isGRPC
        return routing
    }

    /// Whether a group that has not been tried could take the request: else what this one answered is the answer.
    func hasOtherGroup() -> Bool {
        guard hasUntriedGroup else { return false }
        var routing = readRequest()
        let (tried, now) = (triedWithPresent, worker.loop.now)
        func isReady(_ routing: RoutingRequest) -> Bool? { worker.table.hasReadyGroup(for: routing, excluding: tried, now: now) }
        if let isReady = asksForWebSocket ? withModelOfQuery(routing, isReady) : isReady(routing) { return isReady }
        // As in `pickForCall`.
        guard call != nil else { return false }
        routing.model = nil
        return isReady(routing) ?? false
    }

    /// The same without a look at the request, which may be long: whether there is one at all.
    var hasUntriedGroup: Bool { pinnedGroup.isEmpty && worker.table.hasReadyGroup(excluding: triedWithPresent, now: worker.loop.now) }

    private func go(_ result: Result<Decision, RoutingFailure>) {
        switch result {
        case .success(let decision):
            self.decision = decision
            record(decision)
            send(to: decision)
            let nanoseconds = uncounted(worker.loop).use { $0.clock() &- $0.now }
            uncounted(worker.metrics).use { $0.overheadMeasured(nanoseconds: nanoseconds) }
        case .failure(let failure):
            fail(after: failure)
        }
    }

    func pick(_ request: RoutingRequest) -> Result<Decision, RoutingFailure> {
        guard !pinnedGroup.isEmpty else { return uncounted(worker.table).use { $0.pick(request, excluding: tried, now: worker.loop.now) } }
        var request = request
        return pinnedGroup.withUnsafeBytes { name in
            request.pinnedGroup = name
            return worker.table.pick(request, excluding: tried, now: worker.loop.now)
        }
    }

    // MARK: Waiting

    /// Whoever has waited at a group, or been sent to one, waits no more.
    private var mayWait: Bool { !goesAtOnce && attemptsMade == 0 && tried.count == 0 && pinnedGroup.isEmpty && !asksForWebSocket }

    private func admit(_ routing: RoutingRequest) {
        let ticket = worker.held.makeTicket()
        var admission = uncounted(worker.table).use { $0.admit(routing, ticket: ticket, now: worker.loop.now) }
        // A model that nobody lists is for the engines to refuse, as in `pickForCall`.
        if call != nil, case .refused(.modelNotFound) = admission {
            worker.probe.forgetModel()
            var routing = routing
            routing.model = nil
            admission = uncounted(worker.table).use { $0.admit(routing, ticket: ticket, now: worker.loop.now) }
        }
        switch admission {
        case .placed(let decision): go(.success(decision))
        case .refused(let failure): go(.failure(failure))
        case .held:
            heldSince = worker.loop.now
            // The probe will have read others' requests by then.
            modelLabel = worker.probe.model.map { worker.metrics.models.intern($0) } ?? LabelTable.other
            worker.held.add(self, ticket)
        }
    }

    /// It has waited long enough.
    func waitEnded(_ result: Result<Decision, RoutingFailure>) {
        ticket = nil
        noteWait()
        if call != nil, case .failure(.modelNotFound) = result { return dispatch() }
        go(result)
    }

    func noteWait() {
        goesAtOnce = true
        heldNanoseconds = max(worker.loop.now &- heldSince, 1)
        worker.metrics.waited(nanoseconds: heldNanoseconds)
    }

    /// Goes now, wherever that is.
    private func stopWaiting() {
        guard let ticket else { return }
        self.ticket = nil
        worker.held.withdraw(ticket)
        noteWait()
        dispatch()
    }

    private func fail(after failure: RoutingFailure) {
        switch failure {
        case .modelNotFound: fail(.modelNotFound)
        // Every group that there was has been tried: what the last one did is the truer answer.
        case .noReadyGroup: fail(failureKind ?? .noReadyGroup)
        case .leasesExhausted: fail(.queueFull)
        }
    }

    private func send(to decision: Decision, freshConnection: Bool = false) {
        guard let pool = uncounted(worker).use({ $0.pool(for: decision) }) else { return upstreamFailed(.connectFailed) }
        attemptsMade &+= 1
        if isGRPC, attemptsMade > 1 || heldNanoseconds > 0 { shortenTimeout() }
        bodyBytesSent = 0
        let attempt = makeAttempt()
        self.attempt = attempt
        let isComplete = isRequestComplete
        let upstream = UpstreamRequest(
            head: request, bodyLength: mode == .collected || isComplete ? declaredLength : request.contentLength,
            hasBody: hasBody, acceptsTrailers: acceptsTrailers || isGRPC, asksForWebSocket: asksForWebSocket)
        pool.start(attempt, upstream, freshConnection: freshConnection || asksForWebSocket)
        feed(attempt)
    }

    private var hasBody: Bool {
        (mode == .collected ? !body.isEmpty : bodyBytesReceived > 0 || !isRequestComplete) || request.hasTrailers
    }

    /// The length to declare; nil for none, as on a request whose method has no body, or whose body has trailers behind it.
    private var declaredLength: Int? {
        if request.hasTrailers { return nil }
        if !body.isEmpty { return body.count }
        return request.method == .get || request.method == .head ? nil : request.contentLength == nil ? nil : 0
    }

    // MARK: Body

    /// Gives the attempt what it has not had of the body, until it is full.
    private func feed(_ attempt: Attempt) {
        while self.attempt === attempt, bodyBytesSent < body.count {
            let end = min(body.count, bodyBytesSent &+ Self.sliceBytes)
            let slice = UnsafeRawBufferPointer(rebasing: body.readable[bodyBytesSent..<end])
            bodyBytesSent = end
            guard attempt.send(slice) else { return }
        }
        guard self.attempt === attempt else { return }
        if !isReplayable { discardBody() }
        if isRequestComplete { attempt.finishRequest(trailers: trailers) }
        guard self.attempt === attempt else { return }
        // It may have been an earlier attempt that was full: this one is not, and will not call when it has room.
        resumeBody()
    }

    /// The present attempt was full before it had all that is kept.
    var hasUnsentBody: Bool { attempt != nil && bodyBytesSent < body.count }

    /// Bytes of a body that is not collected.
    func forward(_ bytes: UnsafeRawBufferPointer) {
        if isMessageAwaited {
            guard !keepsForMessage(bytes), isOpen, !isSettled else { return }
        }
        if ticket != nil {
            if mayKeep(bytes.count) { return collect(bytes) }
            // Its client has more to say than is kept here.
            stopWaiting()
            guard isOpen, !isSettled else { return }
        }
        let waits = hasUnsentBody
        if isReplayable, !mayKeep(bytes.count) {
            isReplayable = false
            // All of it that the present attempt has not had is in these bytes.
            if attempt != nil, !waits { discardBody() }
        }
        if isReplayable || waits {
            collect(bytes)
            guard isOpen, !isSettled else { return }
        }
        // Behind what it has not had yet; no more than was on its way here.
        if waits { return pauseBody() }
        if attempt == nil, decision == nil {
            dispatch()
            if isReplayable { return }
        }
        guard let attempt else { return }
        if isReplayable { bodyBytesSent &+= bytes.count }
        if !attempt.send(bytes) { pauseBody() }
    }

    func upstreamDrained() {
        guard let attempt else { return }
        feed(attempt)
    }

    // MARK: Failure

    func upstreamFailed(_ failure: HTTPTransport.UpstreamFailure) {
        let now = worker.loop.now
        let resetCode = attempt?.resetCode
        attempt = nil
        guard let decision else { return }
        failureKind = FailureKind(failure)
        // Ours alone, and the same whichever backend is tried.
        if failure == .outOfDescriptors { return fail(.overloaded) }
        record(failure, in: decision.group)
        if isResponseStarted { return endBrokenResponse(resetCode: resetCode) }
        isHeadHeld = false
        isInspecting = false
        heldBytes.removeAll()
        if failure == .connectFailed || failure == .tlsFailed { worker.table.reportUnreachable(decision.group, now: now) }
        if failure == .overloaded { worker.table.reportSaturated(decision.group, now: now) }
        guard isReplayable, failure != .timeout, attemptsMade < worker.settings.attempts else { return fail(failureKind ?? .upstreamReset) }
        worker.metrics.counters.retries &+= 1
        if failure == .staleConnection || failure == .refusedStream && !hasOtherGroup() {
            // The group is well; the connection was not. The booking stands.
            return send(to: decision, freshConnection: true)
        }
        retryElsewhere(isServerError: failure == .reset || failure == .protocolError)
    }

    /// The groups tried, that of the present attempt among them.
    var triedWithPresent: TriedGroups {
        var groups = tried
        if let decision { groups.insert(decision.group) }
        return groups
    }

    /// Gives the booking back and chooses again among the groups not tried.
    /// - Parameter isServerError: as in `RoutingTable.cancel`.
    func retryElsewhere(isServerError: Bool = false) {
        guard let decision else { return }
        worker.table.cancel(decision.lease, now: worker.loop.now, isServerError: isServerError)
        tried.insert(decision.group)
        self.decision = nil
        dispatch()
    }
}
