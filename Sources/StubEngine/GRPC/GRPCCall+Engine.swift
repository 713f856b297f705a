import EngineModel

/// vLLM's own service: tokens in, tokens out, and what a router wants to know of the engine. Texts of errors are vLLM's.
extension GRPCCall {
    func receiveEngine(_ method: GRPCMethod, _ message: UnsafeRawBufferPointer) {
        switch method {
        case .generate:
            guard generation == nil, let request = EngineRequest(message) else { return endMalformed() }
            begin { () throws(GRPCFailure) in try generate(request) }
        case .embed:
            guard generation == nil, let request = EmbedRequest(message) else { return endMalformed() }
            begin { () throws(GRPCFailure) in try embed(request) }
        case .engineHealth:
            let isHealthy = host.state != .dead
            answer(EngineMessages.health(isHealthy, message: isHealthy ? "Health" : "Engine is not alive"))
        case .flushCache:
            let isDone = host.resetPrefixCache()
            answer(
                EngineMessages.flushed(
                    isDone, message: isDone ? "Local KV prefix cache flushed successfully" : "KV blocks are in use"))
        case .abort:
            guard let ids = EngineMessages.requestIDs(message) else { return endMalformed() }
            host.abort(requestIDs: ids)
            answer([])
        case .modelInfo: answer(EngineMessages.modelInfo(host.configuration))
        case .serverInfo: answer(EngineMessages.serverInfo(host))
        default: answer(EngineMessages.loads(host))
        }
    }

    private func begin(_ start: () throws(GRPCFailure) -> Generation) {
        do throws(GRPCFailure) {
            generation = try start()
        } catch {
            end(error.status, error.message)
        }
    }

    private func generate(_ request: EngineRequest) throws(GRPCFailure) -> Generation {
        let configuration = host.configuration
        if let rank = request.rank, !(0..<configuration.dataParallelSize).contains(rank) {
            throw .invalid("data_parallel_rank \(rank) is out of range [0, \(configuration.dataParallelSize)).")
        }
        let prompt = try prompt(of: request.tokens)
        if request.n > 1, request.isGreedy { throw .invalid("n must be 1 when using greedy sampling, got \(request.n).") }
        guard request.n <= StubLimits.choices else { throw .invalid("n must be at most \(StubLimits.choices), got \(request.n).") }
        if let wanted = request.logprobs, wanted > StubLimits.logprobs {
            throw .invalid("Requested sample logprobs of \(wanted), which is greater than max allowed: \(StubLimits.logprobs)")
        }
        if request.maximumTokens == 0 { throw .invalid("max_tokens must be at least 1, got 0.") }
        guard !request.wishes.stop.exceedsLimits else { throw .invalid(StopMatch.Conditions.limitsMessage) }
        var wishes = request.wishes
        let room = configuration.maximumModelTokens - prompt.tokenCount
        wishes.maximumTokens = min(request.maximumTokens ?? room, room)
        wishes.content = configuration.replies.content(echoing: request.text, maximumTokens: wishes.maximumTokens)
        let choices = (0..<request.n).map { wishes.choice(of: prompt, index: $0, stubSeed: configuration.seed) }
        let generation = EngineGeneration(request: request, choices: choices, call: self)
        try submit(generation, promptTokens: prompt.tokenCount)
        host.accepted(n: request.n, maximumTokens: wishes.maximumTokens)
        return generation
    }

    private func embed(_ request: EmbedRequest) throws(GRPCFailure) -> Generation {
        let prompt = try prompt(of: request.tokens)
        let generation = EmbedGeneration(prompt: prompt, requestID: request.requestID, call: self)
        try submit(generation, promptTokens: prompt.tokenCount)
        return generation
    }

    private func prompt(of tokens: [UInt32]) throws(GRPCFailure) -> Prompt {
        let limit = host.configuration.maximumModelTokens
        guard !tokens.isEmpty else { throw .invalid("The decoder prompt cannot be empty") }
        guard tokens.count < limit else {
            throw .invalid(
                "The decoder prompt (length \(tokens.count)) is longer than the maximum model length of \(limit). Make sure that "
                    + "`max_model_len` is no smaller than the number of text tokens.")
        }
        return Prompt(tokens: tokens, blockSize: host.configuration.engine.blockSize, root: BlockHash.root())
    }
}

/// Tokens under way: one chunk each and a completion that repeats the last, or the completion alone.
final class EngineGeneration: Generation {
    private let request: EngineRequest
    private let call: GRPCCall
    private var replies: [EngineReply]

    init(request: EngineRequest, choices: [Choice], call: GRPCCall) {
        self.request = request
        self.call = call
        replies = choices.indices.map { EngineReply(index: $0, promptTokens: choices[0].request.prompt.tokenCount) }
        super.init(choices: choices, requestID: request.requestID)
    }

    override func tokenReceived(_ token: ReplyToken, choice: Int) {
        if request.isStream { replies[choice].forget() }
        let place = choices[choice].produced - 1
        let script = choices[choice].request.script
        replies[choice].append(
            token.id(of: script),
            logprobs: request.logprobs.map { TokenLogprobs(token: token, of: script, place: place, alternatives: max(1, $0)) })
        replies[choice].cachedTokens = cachedTokens / request.n
        if request.isStream { call.send(EngineMessages.chunk(replies[choice])) }
        guard choices[choice].isComplete else { return }
        call.send(
            EngineMessages.complete(
                replies[choice], reason: choices[choice].endsByStop ? "stop" : "length", stop: choices[choice].stop?.reason))
    }

    override func completed() { call.generationEnded() }

    override func aborted() {
        for choice in choices.indices where !choices[choice].isComplete {
            call.send(EngineMessages.complete(replies[choice], reason: "abort", stop: nil))
        }
        call.generationEnded()
    }

    override func engineDied() { call.endWithDeadEngine() }
}

/// What an answer to `Generate` tells of one reply: all of it, or in a stream its last token.
struct EngineReply {
    let index: Int
    let promptTokens: Int
    var cachedTokens = 0
    private(set) var tokens: [UInt32] = []
    private(set) var logprobs: [TokenLogprobs] = []

    init(index: Int, promptTokens: Int) {
        self.index = index
        self.promptTokens = promptTokens
    }

    mutating func append(_ token: UInt32, logprobs entry: TokenLogprobs?) {
        tokens.append(token)
        if let entry { logprobs.append(entry) }
    }

    mutating func forget() {
        tokens.removeAll(keepingCapacity: true)
        logprobs.removeAll(keepingCapacity: true)
    }
}

/// A prompt under way of which a vector is wanted.
final class EmbedGeneration: Generation {
    private let call: GRPCCall

    init(prompt: Prompt, requestID: String, call: GRPCCall) {
        self.call = call
        super.init(choices: [Choice(request: SequenceRequest(id: 0, prompt: prompt, outputTokens: 1))], requestID: requestID)
    }

    override func completed() {
        call.send(EngineMessages.embedding(of: choices[0].request.prompt))
        call.generationEnded()
    }

    override func aborted() { call.endWithDeadEngine() }
    override func engineDied() { call.endWithDeadEngine() }
}
