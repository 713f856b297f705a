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
    }

    let worker: ProxyWorker
    let startedAt: UInt64
    var mode = Mode.local
    var isGRPC = false
    var acceptsTrailers = false

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
    var attempt: Attempt?
    var tried = TriedGroups()
    var attemptsMade = 0

    // Its answer
    var isHeadHeld = false {
        didSet {
            guard isHeadHeld != oldValue else { return }
            if isHeadHeld { worker.holds.add(self) } else { worker.holds.remove(self) }
        }
    }
    var headHold = HeadHold()
    /// Bytes that came before the first event, or a 500's body that is being looked at.
    var heldBytes: ByteBuffer
    var isInspecting = false
    var scanner = ResponseScanner(kind: .other)
    var isEventStream = false
    var responseStatus = 0
    var responseBytes = 0
    var firstTokenAt: UInt64 = 0
    var lastByte: UInt8 = 10
    var failureKind: FailureKind?
    var series: SeriesIndex?
    var isSettled = false

    init(worker: ProxyWorker) {
        self.worker = worker
        startedAt = worker.loop.now
        body = ByteBuffer(pool: worker.loop.chunks)
        heldBytes = ByteBuffer(pool: worker.loop.chunks)
        super.init()
        worker.exchangesInFlight += 1
    }

    deinit {
        // An attempt does not keep its exchange, so none may outlive it.
        attempt?.cancel()
        // A request whose head was refused never began, so nothing settled it.
        if !isSettled { worker.exchangesInFlight -= 1 }
    }

    // MARK: Head

    override func headReceived() {
        let headers = request.headers
        isGRPC = request.isGRPC
        acceptsTrailers = headers.value(.te)?.containsListItem("trailers") ?? false
        removeConnectionFields(headers)
        settleRequestID()
        if request.path.starts(with: "/openai/v1/") { request.dropTargetPrefix(7) }
        if let declared = request.contentLength, declared > worker.settings.bodyBytes { return fail(.bodyTooLarge) }
        if answersLocally() { return }
        if isGRPC {
            mode = .forwarded
            dispatch()
        } else {
            mode = hasProbedBody ? .collected : .forwarded
        }
    }

    /// JSON that came as it is: what routing can read.
    private var hasProbedBody: Bool {
        guard request.method == .post else { return false }
        let headers = request.headers
        if let coding = headers.value(.contentEncoding), !coding.equalsIgnoringCase("identity") { return false }
        guard let type = headers.value(.contentType) else { return true }
        return type.hasPrefixIgnoringCase("application/json")
    }

    /// The id is the client's, under the first of the names in use, or made here; it goes on and back as `x-request-id`.
    private func settleRequestID() {
        let headers = request.headers
        let given =
            headers.value(.requestID) ?? headers.value("x-correlation-id") ?? headers.value("x-trace-id") ?? headers.value("request-id")
        if let given, !given.isEmpty, given.count <= 256 {
            if headers.value(.requestID) != nil, headers.occurrences(of: .requestID) == 1 { return }
            withUnsafeTemporaryAllocation(byteCount: given.count, alignment: 1) { copy in
                copy.copyMemory(from: given)
                headers.remove(.requestID)
                headers.append("x-request-id", UnsafeRawBufferPointer(copy))
            }
        } else {
            headers.remove(.requestID)
            withUnsafeTemporaryAllocation(byteCount: RequestIDGenerator.byteCount, alignment: 1) { id in
                worker.requestIDs.write(into: id)
                headers.append("x-request-id", UnsafeRawBufferPointer(id))
            }
        }
    }

    var requestID: UnsafeRawBufferPointer { request.headers.value(.requestID) ?? UnsafeRawBufferPointer(start: nil, count: 0) }

    // MARK: Body

    override func bodyReceived(_ bytes: UnsafeRawBufferPointer) {
        guard isOpen, !isSettled else { return }
        bodyBytesReceived &+= bytes.count
        guard bodyBytesReceived <= worker.settings.bodyBytes else { return fail(.bodyTooLarge) }
        switch mode {
        case .collected:
            // One allocation for a body whose length is known, but not more at once than a liar may ask for.
            if body.isEmpty, let declared = request.contentLength {
                _ = body.reserve(min(declared, 1 << 20) &+ RequestProbe.padding)
            }
            body.append(bytes)
        case .forwarded:
            forward(bytes)
        case .local: break
        }
    }

    override func requestEnded() {
        guard isOpen, !isSettled else { return }
        switch mode {
        case .collected:
            dispatch()
        case .forwarded:
            if attempt == nil, decision == nil { dispatch() }
            attempt?.finishRequest()
        case .local: break
        }
    }

    /// Reads the collected body for what routing needs.
    func probeBody() {
        guard mode == .collected, !body.isEmpty else { return worker.probe.clear() }
        _ = body.reserve(RequestProbe.padding)
        worker.probe.probe(body.readable, seed: worker.settings.hashSeed)
        isStreamRequested = worker.probe.stream
    }

    override func outputDrained() { attempt?.resumeResponse() }

    override func cancelled() {
        attempt?.cancel()
        attempt = nil
        settle(.clientGone)
    }
}

/// Drops the fields of one connection: the known ones, and those that `Connection` names (RFC 9110, 7.6.1).
func removeConnectionFields(_ headers: HeaderBlock) {
    var hasHopFields = false
    var nominated: [UInt8] = []
    for index in 0..<headers.count {
        let known = headers.known(at: index)
        if known.isHopByHop { hasHopFields = true }
        guard known == .connection else { continue }
        let value = headers.value(at: index)
        if !value.equalsIgnoringCase("close"), !value.equalsIgnoringCase("keep-alive") {
            nominated.append(contentsOf: value)
            nominated.append(44)
        }
    }
    guard hasHopFields else { return }
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
