import EngineModel
import Foundation
import HTTPTransport
import Wire

extension StubExchange {
    /// Answers the request, which is here as a whole.
    func serve() {
        guard hasKey else {
            return send(status: 401, headers: makeHeaders(passesCORS: false), type: "application/json", body: Self.unauthorized)
        }
        guard let route else { return redirectOrMiss() }
        guard takesMethod(of: route) else {
            let headers = makeHeaders()
            headers.append("allow", UnsafeRawBufferPointer(start: route.allow.utf8Start, count: route.allow.utf8CodeUnitCount))
            return send(status: 405, headers: headers, type: "application/json", body: "{\"detail\":\"Method Not Allowed\"}")
        }
        do throws(WireError) {
            try serve(route)
        } catch {
            answer(status: error.status, json: body(of: error))
        }
    }

    private static let unauthorized = "{\"error\":\"Unauthorized\"}"

    /// The request shows a key, or asks for nothing that a key guards.
    private var hasKey: Bool {
        let keys = host.configuration.apiKeys
        guard !keys.isEmpty, !isFaultless, request.method != .options else { return true }
        let path = String(decoding: request.path, as: UTF8.self)
        guard ["/v1", "/v2", "/inference", "/cohere"].contains(where: { path.hasPrefix($0) }) else { return true }
        guard let shown = request.headers.value("authorization").map({ String(decoding: $0, as: UTF8.self) }) else { return false }
        let parts = shown.split(separator: " ", maxSplits: 1)
        return parts.count == 2 && parts[0].lowercased() == "bearer" && keys.contains(String(parts[1]))
    }

    private func takesMethod(of route: Route) -> Bool {
        // `/metrics` alone answers HEAD: it is an application of its own inside vLLM's.
        if request.method == .head { return route == .metrics }
        let name = String(decoding: request.methodBytes, as: UTF8.self)
        return route.allow.description.split(separator: ", ").contains { $0 == name }
    }

    private func serve(_ route: Route) throws(WireError) {
        switch route {
        case .chat: try complete(.chat)
        case .text: try complete(.text)
        case .responses: try complete(.responses)
        case .messages: try complete(.messages)
        case .embeddings: try embed()
        case .countTokens: try countTokens()
        case .tokenize:
            let limit = host.configuration.maximumModelTokens
            answer(status: 200, json: try stub.vocabulary.tokenize(Data(body), catalog: host.catalogue, maximumTokens: limit))
        case .detokenize: answer(status: 200, json: try stub.vocabulary.detokenize(Data(body), catalog: host.catalogue))
        case .models: answer(status: 200, json: modelList)
        case .health, .ping: answer(status: host.state == .dead ? 503 : 200, json: nil)
        case .version: answer(status: 200, json: "{\"version\":\"\(EngineHost.version)\"}")
        case .load: answer(status: 200, json: "{\"server_load\":\(host.load)}")
        case .metrics:
            send(
                status: 200, headers: makeHeaders(), type: "text/plain; version=1.0.0; charset=utf-8",
                body: stub.metricsText(isStale: servesStaleMetrics))
        case .loadAdapter, .unloadAdapter: try changeAdapters(route)
        case .sleep, .wakeUp, .isSleeping, .pause, .resume, .isPaused, .resetPrefixCache, .abortRequests: try operate(route)
        case .adminConfiguration: configure()
        }
    }

    /// Starlette sends a path with a slash too many to the one without.
    private func redirectOrMiss() {
        let path = String(decoding: request.path, as: UTF8.self)
        if let id = storedResponse(of: path) { return answer(status: 404, json: WireError.unknownResponse(id).body) }
        guard path.count > 1, path.hasSuffix("/"), Route(rawValue: String(path.dropLast())) != nil else {
            return answer(status: 404, json: "{\"detail\":\"Not Found\"}")
        }
        let headers = makeHeaders()
        headers.append("location", "http://\(String(decoding: request.authority, as: UTF8.self))\(path.dropLast())")
        headers.append("content-length", decimal: 0)
        begin(status: 307, headers: headers, ended: true)
    }

    /// The id in `GET /v1/responses/ID` or `POST /v1/responses/ID/cancel`. No answer is kept, as by a vLLM without a store.
    private func storedResponse(of path: String) -> String? {
        let prefix = Route.responses.rawValue + "/"
        guard path.hasPrefix(prefix) else { return nil }
        let parts = path.dropFirst(prefix.count).split(separator: "/", omittingEmptySubsequences: false)
        let fits = parts.count == 1 ? request.method == .get : parts.count == 2 && parts[1] == "cancel" && request.method == .post
        return fits && !parts[0].isEmpty ? String(parts[0]) : nil
    }

    private var modelList: String {
        let now = host.wallSeconds
        func entry(_ name: String, root: String, parent: String?, limit: String) -> String {
            "{\"id\":\(JSONText.string(name)),\"object\":\"model\",\"created\":\(now),\"owned_by\":\"vllm\","
                + "\"root\":\(JSONText.string(root)),\"parent\":\(JSONText.string(parent)),"
                + "\"max_model_len\":\(limit),\"permission\":[{\"id\":\"modelperm-"
                + "\(host.makeRequestID())\",\"object\":\"model_permission\",\"created\":\(now),\"allow_create_engine\":false,"
                + "\"allow_sampling\":true,\"allow_logprobs\":true,\"allow_search_indices\":false,\"allow_view\":true,"
                + "\"allow_fine_tuning\":false,\"organization\":\"*\",\"group\":null,\"is_blocking\":false}]}"
        }
        let base = host.configuration.model
        let models = host.catalogue.names.map {
            entry($0, root: base, parent: nil, limit: "\(host.configuration.maximumModelTokens)")
        }
        let adapters = host.catalogue.adapters.map { entry($0.name, root: $0.path, parent: base, limit: "null") }
        return "{\"object\":\"list\",\"data\":[\((models + adapters).joined(separator: ","))]}"
    }

    // MARK: Work for the engine

    /// What must hold before the engine is asked: it lives, it takes work, the body says that it is JSON.
    private func checkWork() throws(WireError) {
        if stub.isShuttingDown { throw .shutDown }
        if host.state == .dead { throw .deadEngine }
        guard request.headers.value(.contentType)?.hasPrefixIgnoringCase("application/json") == true else {
            throw .unsupportedMediaType
        }
        if let rank = request.headers.value("x-data-parallel-rank")?.decimalValue, rank >= host.configuration.dataParallelSize {
            throw WireError(
                status: 400, message: "data_parallel_rank \(rank) is out of range [0, \(host.configuration.dataParallelSize)).",
                type: "BadRequestError", param: nil)
        }
    }

    private func complete(_ kind: CompletionRequest.Kind) throws(WireError) {
        try checkWork()
        let completion = try CompletionRequest(
            kind: kind, json: Data(body), catalog: host.catalogue, configuration: host.configuration)
        // The head of a stream goes out before the engine has a word; from then on there is no status to refuse with.
        try stub.admit(sequences: completion.choices.count, promptTokens: completion.promptTokens)
        let id = clientRequestID ?? completion.requestID ?? host.makeRequestID()
        try start(CompletionGeneration.make(for: completion, exchange: self, id: id))
        host.accepted(n: completion.n, maximumTokens: completion.maximumTokens)
        guard completion.isStream else { return }
        let headers = makeHeaders()
        headers.append("content-type", "text/event-stream; charset=utf-8")
        begin(status: 200, headers: headers)
    }

    private func embed() throws(WireError) {
        try checkWork()
        let embedding = try EmbeddingRequest(json: Data(body), catalog: host.catalogue, configuration: host.configuration)
        try stub.admit(
            sequences: embedding.prompts.count, promptTokens: embedding.prompts.reduce(0) { $0 + $1.tokenCount })
        let id = clientRequestID ?? host.makeRequestID()
        try start(EmbeddingGeneration(request: embedding, exchange: self, id: id))
    }

    private func start(_ generation: Generation) throws(WireError) {
        do throws(SubmitError) {
            try host.start(generation)
        } catch {
            throw .busy(status: 503)
        }
        works(on: generation)
    }

    private func countTokens() throws(WireError) {
        let messages = try JSONBody.decode(CompletionBody.self, from: Data(body))
        _ = try host.catalogue.resolve(messages.model)
        let count = try PromptTokens.lists(of: messages, kind: .messages)[0].count
        answer(status: 200, json: "{\"input_tokens\":\(count),\"context_management\":{\"original_input_tokens\":\(count)}}")
    }
}
