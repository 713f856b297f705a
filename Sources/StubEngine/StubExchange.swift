import EngineModel
import EventLoop
import Foundation
import HTTPTransport
import Wire

/// One request to a stub: collects the body, lets the faults that were asked for strike, then answers by its route.
///
/// All that is sent passes `begin`, `emit` and `conclude`, and through a ``FaultedOutput`` when something is to go wrong on the way.
final class StubExchange: DownstreamExchange {
    let stub: Stub
    var host: EngineHost { stub.host }
    private(set) var body: [UInt8] = []
    private(set) var route: Route?
    private var generation: Generation?
    private var call: GRPCCall?
    private var plan = FaultPlan()
    private var output: FaultedOutput?
    private var delay: Delay?
    private var requestHasEnded = false
    /// The answer is on its way already, or never comes; what still comes of the request is dropped.
    private var isSettled = false
    private(set) var servesStaleMetrics = false
    private var beginNanoseconds: UInt64 = 0
    private var status = 0
    private var responseBytes = 0
    private var events = 0
    private var bodyBytes = 0

    /// Came over the administration port, where nothing goes wrong.
    let isFaultless: Bool

    init(stub: Stub, isFaultless: Bool) {
        self.stub = stub
        self.isFaultless = isFaultless
    }

    /// The client's own name for the request.
    var clientRequestID: String? { request.headers.value(.requestID).map { String(decoding: $0, as: UTF8.self) } }

    // MARK: The request

    override func headReceived() {
        beginNanoseconds = host.loop.now
        let path = String(decoding: request.path, as: UTF8.self)
        route = Route(rawValue: path)
        guard planFaults(path: path, generates: isCall ? GRPCCall.generates(path) : route?.generates ?? false) else { return }
        if isCall {
            proceed()
        } else if let length = request.contentLength, length > StubLimits.bodyBytes {
            refuseBody()
        } else if let length = request.contentLength {
            body.reserveCapacity(length)
        }
    }

    override func bodyReceived(_ bytes: UnsafeRawBufferPointer) {
        bodyBytes += bytes.count
        guard !isSettled else { return }
        if let call { return call.bodyReceived(bytes) }
        guard body.count + bytes.count <= StubLimits.bodyBytes else { return refuseBody() }
        body.append(contentsOf: bytes)
    }

    override func requestEnded() {
        requestHasEnded = true
        guard !isSettled else { return }
        if let call { return call.requestEnded() }
        if delay == nil { proceed() }
    }

    private var isCall: Bool { request.version == .http2 && request.isGRPC }

    /// Makes the call, and gives it what came while it was held up.
    private func beginCall() {
        let call = GRPCCall(exchange: self, path: String(decoding: request.path, as: UTF8.self))
        self.call = call
        call.headReceived()
        let early = body
        body = []
        early.withUnsafeBytes(call.bodyReceived)
        if requestHasEnded { call.requestEnded() }
    }

    override func cancelled() {
        isSettled = true
        body = []
        delay?.stop()
        output?.stop()
        dropWork()
        call?.cancelled()
        call = nil
    }

    private func refuseBody() {
        answer(
            status: 413,
            json: body(of: WireError(status: 413, message: "The request body is too large.", type: "BadRequestError", param: nil)))
    }

    // MARK: Faults

    /// Returns false when the request's own faults cannot be read, and says so.
    private func planFaults(path: String, generates: Bool) -> Bool {
        guard route != .adminConfiguration, !isFaultless else { return true }
        plan = stub.planFaults(path: path, generates: generates)
        if let header = request.headers.value("x-stub-fault") {
            do throws(FaultError) {
                for fault in try Fault.parse(header: String(decoding: header, as: UTF8.self)) { plan.add(fault) }
            } catch {
                answer(status: 400, json: body(of: .invalid(error.message, param: "x-stub-fault")))
                return false
            }
        }
        if plan.changesOutput { output = FaultedOutput(exchange: self, plan: plan, loop: host.loop) }
        return true
    }

    /// Goes on with the faults that strike before the request is looked at, then with the request.
    func proceed() {
        delay = nil
        guard strikeBefore() else { return }
        if isCall { beginCall() } else { serve() }
    }

    /// Returns whether the request is to be served now.
    private func strikeBefore() -> Bool {
        while !plan.before.isEmpty {
            let action = plan.before.removeFirst()
            switch action {
            case .stall(let milliseconds):
                guard let milliseconds else { return hold() }
                wait(until: host.loop.now &+ milliseconds &* 1_000_000)
                return false
            case .blackHole: return hold()
            case .close, .reset: return breakOff(resets: action == .reset)
            case .closeOnReuse(let resets): if requestsBefore > 0 { return breakOff(resets: resets) }
            case .error(let status, let retryAfter, let grpcStatus):
                return refuse(status: status, retryAfterSeconds: retryAfter, grpcStatus: grpcStatus)
            case .errorBody:
                answer(status: 200, json: body(of: .deadEngine))
                return false
            case .errorEvent:
                endWithDeadEngine()
                return false
            case .refuseStream:
                isSettled = true
                abort(errorCode: StubLimits.refusedStream)
                return false
            case .goAway(let abruptly):
                goAway(abruptly: abruptly)
                if abruptly { return hold() }
            case .staleMetrics: servesStaleMetrics = true
            case .resetMetrics: host.resetMetrics()
            case .refuse, .acceptClose, .streamLimit, .truncate, .trickle, .garbage, .hugeHeader: break
            }
        }
        return true
    }

    /// Looks at the request, again or for the first time, when that time of the loop's clock has come.
    func wait(until nanoseconds: UInt64) {
        delay = Delay(exchange: self, loop: host.loop)
        delay?.setDeadline(nanoseconds)
    }

    private func hold() -> Bool {
        isSettled = true
        return false
    }

    private func breakOff(resets: Bool) -> Bool {
        isSettled = true
        breakConnection(resets: resets)
        return false
    }

    private func refuse(status: Int, retryAfterSeconds: Int?, grpcStatus: Int) -> Bool {
        let headers = makeHeaders()
        if let retryAfterSeconds { headers.append("retry-after", decimal: retryAfterSeconds) }
        if request.isGRPC {
            isSettled = true
            headers.append("content-type", "application/grpc")
            headers.append("grpc-status", decimal: grpcStatus)
            headers.append("grpc-message", "fault")
            begin(status: 200, headers: headers, ended: true)
        } else {
            send(status: status, headers: headers, type: "application/json", body: body(of: .fault(status)))
        }
        return false
    }

    // MARK: Work

    /// Binds the exchange to work of the engine, so that a client's leaving ends it.
    func works(on generation: Generation) { self.generation = generation }

    /// The generation has nothing more to say to its exchange; the two let go of each other.
    func generationEnded() { generation = nil }

    /// Ends the engine's work for this request, and what was to go wrong with it.
    func dropWork() {
        if let generation { host.cancel(generation) }
        generation = nil
        output = nil
    }

    // MARK: The response

    /// - Parameter passesCORS: the answer comes from behind the web server's CORS layer, which adds `vary`.
    func makeHeaders(passesCORS: Bool = true) -> HeaderBlock {
        let headers = HeaderBlock()
        if host.configuration.resemblesUvicorn {
            headers.append("date", host.date)
            headers.append("server", "uvicorn")
            if passesCORS { headers.append("vary", "Origin") }
        } else {
            headers.append("server", "swiftlet-stub")
        }
        headers.append("x-served-by", host.name)
        if host.configuration.echoesRequestID {
            headers.append("x-request-id", clientRequestID ?? host.makeRequestID() + host.makeRequestID())
        }
        return headers
    }

    func begin(status: Int, headers: HeaderBlock, ended: Bool = false) {
        self.status = status
        if ended { answered() }
        if let output {
            output.head(status: status, headers: headers, ended: ended)
        } else {
            respond(status: status, headers: headers, ended: ended)
        }
    }

    /// One event, one gRPC message, or a whole body.
    func emit(_ bytes: UnsafeRawBufferPointer) {
        responseBytes += bytes.count
        events += 1
        if let output { output.body(bytes) } else { write(bytes) }
    }

    func emit(_ text: String) {
        var text = text
        text.withUTF8 { emit(UnsafeRawBufferPointer($0)) }
    }

    func conclude(trailers: HeaderBlock? = nil) {
        answered()
        if let output { output.finish(trailers: trailers) } else { finish(trailers: trailers) }
    }

    /// The event that ends a stream, and the end.
    func endStream(with event: String = "data: [DONE]\n\n") {
        var event = event
        responseBytes += event.utf8.count
        event.withUTF8 { bytes in
            if let output { output.last(UnsafeRawBufferPointer(bytes)) } else { write(UnsafeRawBufferPointer(bytes)) }
        }
        conclude()
    }

    /// What an engine whose core has died says: an error, and in a stream of completions `[DONE]` after it, as if all were well.
    /// `afterEvents` have gone out.
    func endWithDeadEngine(afterEvents count: Int? = nil) {
        isSettled = true
        output = nil
        if let call { return call.endWithDeadEngine() }
        guard isResponseStarted else { return answer(status: 500, json: body(of: .deadEngine)) }
        let error = WireError.deadEngine
        switch route {
        case .messages: endStream(with: "event: error\ndata: \(error.anthropicBody)\n\n")
        case .responses: endStream(with: "event: error\ndata: \(error.responsesEvent(number: count ?? events))\n\n")
        default:
            emit("data: \(error.body)\n\n")
            endStream()
        }
    }

    /// An error as the API of the request's path words it.
    func body(of error: WireError) -> String { route == .messages ? error.anthropicBody : error.body }

    func answer(status: Int, json: String?, reportsLoad: Bool = false) {
        let headers = makeHeaders()
        if reportsLoad { appendLoadReport(to: headers) }
        guard let json else {
            isSettled = true
            headers.append("content-length", decimal: 0)
            return begin(status: status, headers: headers, ended: true)
        }
        send(status: status, headers: headers, type: "application/json", body: json)
    }

    func send(status: Int, headers: HeaderBlock, type: StaticString?, body: String) {
        isSettled = true
        if plan.breaksWholeAnswers {
            // An answer in one piece has no event to put the error into: the engine died before it was there.
            plan.during = []
            return endWithDeadEngine()
        }
        headers.append("content-length", decimal: body.utf8.count)
        if let type { headers.append("content-type", type) }
        begin(status: status, headers: headers)
        emit(body)
        conclude()
    }

    func writeUnframed(_ text: StaticString) {
        writeUnframed(UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }

    private func answered() {
        stub.httpMetrics.answered(
            handler: route?.rawValue ?? "none", method: request.methodName, status: status, requestBytes: bodyBytes,
            responseBytes: responseBytes, nanoseconds: host.loop.now &- beginNanoseconds)
    }

    /// ORCA's load report, which vLLM gives on demand and only with answers that are no streams.
    private func appendLoadReport(to headers: HeaderBlock) {
        guard let format = request.headers.value("endpoint-load-metrics-format") else { return }
        let waiting = Double(host.engine.waitingCount)
        let usage = host.engine.cacheUsage
        if format.equalsIgnoringCase("json") {
            headers.append(
                "endpoint-load-metrics",
                "JSON {\"named_metrics\": {\"num_requests_waiting\": \(waiting), \"kv_cache_usage_perc\": \(usage)}}")
        } else if format.equalsIgnoringCase("text") {
            headers.append(
                "endpoint-load-metrics",
                "TEXT named_metrics.num_requests_waiting=\(waiting), named_metrics.kv_cache_usage_perc=\(usage)")
        }
    }
}

/// Wakes an exchange that was told to wait before it looks at its request.
private final class Delay: EventHandler {
    private weak var exchange: StubExchange?

    init(exchange: StubExchange, loop: EventLoop) {
        self.exchange = exchange
        super.init(loop: loop)
    }

    func stop() { detach() }

    override func deadlineReached() {
        detach()
        exchange?.proceed()
    }
}

extension RequestHead {
    /// One of HTTP's own methods, so that labels stay bounded.
    fileprivate var methodName: String { method == .other ? "OTHER" : String(decoding: methodBytes, as: UTF8.self) }
}
