import EngineModel
import Foundation
import HTTPTransport
import Wire

/// One request to the stub: collects the body, answers the small things itself, and makes a generation of the rest.
final class StubExchange: DownstreamExchange {
    let host: EngineHost
    private var body: [UInt8] = []
    private var generation: Generation?
    private var call: GRPCCall?
    /// The answer is on its way already; what still comes of the request is dropped.
    private var isSettled = false

    init(host: EngineHost) { self.host = host }

    override func headReceived() {
        if request.version == .http2, request.isGRPC {
            call = GRPCCall(exchange: self)
            call?.headReceived()
        } else if let length = request.contentLength, length > StubLimits.bodyBytes {
            refuseBody()
        } else if let length = request.contentLength {
            body.reserveCapacity(length)
        }
    }

    override func bodyReceived(_ bytes: UnsafeRawBufferPointer) {
        guard !isSettled else { return }
        if let call { return call.bodyReceived(bytes) }
        guard body.count + bytes.count <= StubLimits.bodyBytes else { return refuseBody() }
        body.append(contentsOf: bytes)
    }

    override func requestEnded() {
        guard !isSettled else { return }
        if let call { return call.requestEnded() }
        route()
    }

    override func cancelled() {
        isSettled = true
        body = []
        if let generation { host.cancel(generation) }
        generation = nil
        call?.cancelled()
        call = nil
    }

    // MARK: Routes

    private func route() {
        let path = request.path
        switch path.count {
        case 20 where path.equals("/v1/chat/completions"): only(.post) { complete(.chat) }
        case 15 where path.equals("/v1/completions"): only(.post) { complete(.text) }
        case 10 where path.equals("/v1/models"): only(.get) { answer(status: 200, json: modelList) }
        case 7 where path.equals("/health"): only(.get) { answer(status: 200, json: nil) }
        case 5 where path.equals("/ping"):
            if request.method == .post { answer(status: 200, json: nil) } else { only(.get) { answer(status: 200, json: nil) } }
        case 8 where path.equals("/version"): only(.get) { answer(status: 200, json: "{\"version\":\"0.32.0\"}") }
        case 5 where path.equals("/load"): only(.get) { answer(status: 200, json: "{\"server_load\":\(host.load)}") }
        case 8 where path.equals("/metrics"): answerMetrics()
        default: answer(status: 404, json: "{\"detail\":\"Not Found\"}")
        }
    }

    private func only(_ method: HTTPMethod, _ respond: () -> Void) {
        if request.method == method { return respond() }
        let headers = makeHeaders()
        headers.append("allow", method == .get ? "GET" : "POST")
        send(status: 405, headers: headers, type: "application/json", body: "{\"detail\":\"Method Not Allowed\"}")
    }

    private var modelList: String {
        let now = host.wallSeconds
        let models = host.configuration.models.map { model in
            "{\"id\":\(JSONText.string(model)),\"object\":\"model\",\"created\":\(now),\"owned_by\":\"vllm\","
                + "\"root\":\(JSONText.string(host.configuration.model)),\"parent\":null,"
                + "\"max_model_len\":\(host.configuration.maximumModelTokens),\"permission\":[{\"id\":\"modelperm-"
                + "\(host.makeRequestID())\",\"object\":\"model_permission\",\"created\":\(now),\"allow_create_engine\":false,"
                + "\"allow_sampling\":true,\"allow_logprobs\":true,\"allow_search_indices\":false,\"allow_view\":true,"
                + "\"allow_fine_tuning\":false,\"organization\":\"*\",\"group\":null,\"is_blocking\":false}]}"
        }
        return "{\"object\":\"list\",\"data\":[\(models.joined(separator: ","))]}"
    }

    private func answerMetrics() {
        guard request.method == .get || request.method == .head else { return only(.get) {} }
        send(
            status: 200, headers: makeHeaders(), type: "text/plain; version=1.0.0; charset=utf-8",
            body: host.metrics.text(of: host.engine, model: host.configuration.model))
    }

    // MARK: Completions

    private func complete(_ kind: CompletionRequest.Kind) {
        do throws(WireError) {
            guard request.headers.value(.contentType)?.hasPrefixIgnoringCase("application/json") == true else {
                throw .unsupportedMediaType
            }
            let completion = try CompletionRequest(kind: kind, json: Data(body), configuration: host.configuration)
            body = []
            // The head of a stream goes out before the engine has a word; from then on there is no status to refuse with.
            guard host.hasRoom(for: completion.choices.count) else { throw .busy }
            let id = request.headers.value(.requestID).map { String(decoding: $0, as: UTF8.self) } ?? completion.requestID
            try start(completion, id: id ?? host.makeRequestID())
        } catch {
            answer(status: error.status, json: error.body)
        }
    }

    private func start(_ completion: CompletionRequest, id: String) throws(WireError) {
        let generation =
            completion.isStream
            ? StreamedCompletion(request: completion, exchange: self, id: id)
            : WholeCompletion(request: completion, exchange: self, id: id)
        do throws(SubmitError) {
            try host.start(generation)
        } catch {
            throw .busy
        }
        self.generation = generation
        host.accepted(n: completion.n, maximumTokens: completion.maximumTokens)
        guard completion.isStream else { return }
        let headers = makeHeaders()
        headers.append("content-type", "text/event-stream; charset=utf-8")
        respond(status: 200, headers: headers)
    }

    /// The generation has nothing more to say to its exchange; the two let go of each other.
    func generationEnded() { generation = nil }

    // MARK: Answers

    func makeHeaders() -> HeaderBlock {
        let headers = HeaderBlock()
        headers.append("server", "swiftlet-stub")
        headers.append("x-served-by", host.name)
        return headers
    }

    func answer(status: Int, json: String?, reportsLoad: Bool = false) {
        let headers = makeHeaders()
        if reportsLoad { appendLoadReport(to: headers) }
        guard let json else {
            isSettled = true
            headers.append("content-length", decimal: 0)
            return respond(status: status, headers: headers, ended: true)
        }
        send(status: status, headers: headers, type: "application/json", body: json)
    }

    private func send(status: Int, headers: HeaderBlock, type: StaticString, body: String) {
        isSettled = true
        headers.append("content-length", decimal: body.utf8.count)
        headers.append("content-type", type)
        respond(status: status, headers: headers)
        var body = body
        body.withUTF8 { _ = write(UnsafeRawBufferPointer($0)) }
        finish()
    }

    private func refuseBody() {
        answer(
            status: 413,
            json: WireError(status: 413, message: "The request body is too large.", type: "BadRequestError", param: nil).body)
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
