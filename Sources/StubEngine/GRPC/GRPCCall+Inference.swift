import EngineModel

/// The Open Inference Protocol: text in, text out.
extension GRPCCall {
    func receiveInference(_ method: GRPCMethod, _ message: UnsafeRawBufferPointer) {
        switch method {
        case .serverLive, .serverReady: answer(InferenceMessages.boolean(host.state != .dead))
        case .serverMetadata: answer(InferenceMessages.serverMetadata())
        case .modelReady:
            guard let name = InferenceMessages.modelName(message) else { return endMalformed() }
            answer(InferenceMessages.boolean(host.state != .dead && host.configuration.models.contains(name)))
        case .modelMetadata:
            guard let name = InferenceMessages.metadataName(message) else { return endMalformed() }
            guard host.configuration.models.contains(name) else { return end(.notFound, "unknown model '\(name)'") }
            answer(InferenceMessages.modelMetadata(name: name))
        case .modelInfer:
            guard generation == nil, let request = InferenceRequest(message) else { return endMalformed() }
            infer(request)
        default:
            guard let request = InferenceRequest(message) else { return endMalformed() }
            guard queue.count < StubLimits.queuedMessages else { return end(.resourceExhausted, "too many requests are waiting") }
            queue.append(request)
            inferNext()
        }
    }

    private func infer(_ request: InferenceRequest) {
        do throws(GRPCFailure) {
            generation = try start(request)
        } catch {
            // One bad request does not end a stream that others may share.
            if method == .modelStreamInfer {
                send(InferenceMessages.failure(of: request, error.message))
            } else {
                end(error.status, error.message)
            }
        }
    }

    /// Goes on with the next request of a streaming call; ends the call after the last.
    func inferNext() {
        while generation == nil, !isDone, !queue.isEmpty { infer(queue.removeFirst()) }
        endIfAnswered()
    }

    func endIfAnswered() {
        if requestHasEnded, generation == nil, queue.isEmpty { end(.ok) }
    }

    private func start(_ request: InferenceRequest) throws(GRPCFailure) -> InferenceGeneration {
        let configuration = host.configuration
        guard request.model.isEmpty || configuration.models.contains(request.model) else {
            throw GRPCFailure(status: .notFound, message: "unknown model '\(request.model)'")
        }
        guard let text = request.text, !text.isEmpty else {
            throw .invalid("expected a BYTES tensor 'text_input' or 'prompt'")
        }
        var tokens: [UInt32] = []
        text.withUnsafeBytes { Tokeniser.append($0, to: &tokens) }
        guard tokens.count < configuration.maximumModelTokens else {
            throw .invalid("the prompt is longer than the model's context")
        }
        let prompt = Prompt(tokens: tokens, blockSize: configuration.engine.blockSize, root: BlockHash.root())
        var wishes = ReplyWishes()
        wishes.requestSeed = request.seed
        wishes.maximumTokens = min(max(1, request.maximumTokens ?? 16), configuration.maximumModelTokens - tokens.count)
        wishes.ignoresEnd = request.ignoresEnd
        wishes.continuesText = true
        wishes.content = configuration.replies.content(
            echoing: String(decoding: text, as: UTF8.self), maximumTokens: wishes.maximumTokens)
        let choice = wishes.choice(of: prompt, index: 0, stubSeed: configuration.seed)
        let generation = InferenceGeneration(
            request: request, choice: choice, call: self, isStreamed: method == .modelStreamInfer)
        try submit(generation, promptTokens: tokens.count)
        host.accepted(n: 1, maximumTokens: wishes.maximumTokens)
        return generation
    }
}

/// An inference under way: answers with one message at the end, or with one per token.
final class InferenceGeneration: Generation {
    private let request: InferenceRequest
    private let call: GRPCCall
    private let isStreamed: Bool
    private let model: String
    private var text: [UInt8] = []

    init(request: InferenceRequest, choice: Choice, call: GRPCCall, isStreamed: Bool) {
        self.request = request
        self.call = call
        self.isStreamed = isStreamed
        model = call.host.configuration.model
        super.init(choices: [choice], requestID: request.id)
    }

    override func tokenReceived(_ token: ReplyToken, choice: Int) {
        let piece = token.text(of: choices[choice].request.script)
        if isStreamed {
            call.send(InferenceMessages.response(to: request, model: model, text: piece, isStreamed: true))
        } else {
            text.append(contentsOf: piece)
        }
    }

    override func completed() {
        if !isStreamed {
            call.send(InferenceMessages.response(to: request, model: model, text: text, isStreamed: false))
        }
        call.generationEnded()
    }

    override func aborted() { call.endWithDeadEngine() }
    override func engineDied() { call.endWithDeadEngine() }
}
