import EngineModel
import EventLoop
import HTTPTransport
import Wire

/// Codes of the gRPC specification that the stub uses.
enum GRPCStatus: Int {
    case ok = 0
    case invalidArgument = 3
    case deadlineExceeded = 4
    case notFound = 5
    case resourceExhausted = 8
    case unimplemented = 12
    case internalError = 13
    case unavailable = 14
}

/// One gRPC call: the Open Inference Protocol's methods and health checking.
final class GRPCCall {
    private enum Method {
        case serverLive, serverReady, serverMetadata, modelReady, modelInfer, modelStreamInfer, healthCheck, healthWatch

        init?(_ path: String) {
            switch path {
            case "/inference.GRPCInferenceService/ServerLive": self = .serverLive
            case "/inference.GRPCInferenceService/ServerReady": self = .serverReady
            case "/inference.GRPCInferenceService/ServerMetadata": self = .serverMetadata
            case "/inference.GRPCInferenceService/ModelReady": self = .modelReady
            case "/inference.GRPCInferenceService/ModelInfer": self = .modelInfer
            case "/inference.GRPCInferenceService/ModelStreamInfer": self = .modelStreamInfer
            case "/grpc.health.v1.Health/Check": self = .healthCheck
            case "/grpc.health.v1.Health/Watch": self = .healthWatch
            default: return nil
            }
        }
    }

    /// The exchange owns the call. It is weak here because the host keeps calls that watch.
    private weak var exchange: StubExchange?
    private let host: EngineHost
    private var method: Method?
    private var deadline: CallDeadline?
    private var input: [UInt8] = []
    private var generation: InferenceGeneration?
    /// Requests of a streaming call that wait for the one before them.
    private var queue: [InferenceRequest] = []
    private var requestHasEnded = false
    private var responseHasBegun = false
    private var isDone = false

    init(exchange: StubExchange, path: String) {
        self.exchange = exchange
        host = exchange.host
        method = Method(path)
    }

    /// Whether a path asks for work of the engine.
    static func generates(_ path: String) -> Bool {
        switch Method(path) {
        case .modelInfer, .modelStreamInfer: true
        default: false
        }
    }

    var model: String { host.configuration.model }

    // MARK: The request

    func headReceived() {
        guard let exchange else { return }
        guard method != nil else { return end(.unimplemented, "unknown method") }
        if let timeout = exchange.request.headers.value("grpc-timeout").flatMap(Self.nanoseconds) {
            deadline = CallDeadline(loop: host.loop, call: self)
            deadline?.setDeadline(host.loop.now &+ timeout)
        }
    }

    func bodyReceived(_ bytes: UnsafeRawBufferPointer) {
        guard !isDone else { return }
        guard input.count + bytes.count <= StubLimits.bodyBytes + 5 else { return end(.resourceExhausted, "message too large") }
        input.append(contentsOf: bytes)
        // Only the streaming call answers before its client has said everything.
        if method == .modelStreamInfer { takeMessages() }
    }

    func requestEnded() {
        guard !isDone else { return }
        requestHasEnded = true
        takeMessages()
        guard !isDone else { return }
        if method == .modelStreamInfer {
            if !input.isEmpty { return end(.invalidArgument, "truncated message") }
            endIfAnswered()
        } else if !responseHasBegun, generation == nil {
            end(.invalidArgument, "expected one message")
        }
    }

    /// The client is gone.
    func cancelled() {
        isDone = true
        dropWork()
    }

    func endWithDeadEngine() { end(.internalError, "the engine is dead") }

    func expire() { end(.deadlineExceeded, "deadline exceeded") }

    /// Each message is preceded by a flag, compressed or not, and its length in four bytes, big-endian.
    private func takeMessages() {
        var start = 0
        while !isDone, input.count - start >= 5 {
            guard input[start] == 0 else { return end(.unimplemented, "compression is not supported") }
            let length = input[(start + 1)..<(start + 5)].reduce(0) { $0 << 8 | Int($1) }
            guard length <= StubLimits.bodyBytes else { return end(.resourceExhausted, "message too large") }
            guard input.count - start - 5 >= length else { break }
            let range = (start + 5)..<(start + 5 + length)
            let message = Array(input[range])
            start = range.upperBound
            message.withUnsafeBytes(receive)
        }
        if start > 0 { input.removeFirst(min(start, input.count)) }
    }

    private func receive(_ message: UnsafeRawBufferPointer) {
        switch method {
        case .serverLive, .serverReady: answer(InferenceMessages.boolean(true))
        case .serverMetadata: answer(InferenceMessages.serverMetadata())
        case .modelReady:
            guard let name = InferenceMessages.modelName(message) else { return end(.invalidArgument, "malformed message") }
            answer(InferenceMessages.boolean(host.configuration.models.contains(name)))
        case .modelInfer:
            guard generation == nil, let request = InferenceRequest(message) else {
                return end(.invalidArgument, "malformed message")
            }
            infer(request)
        case .modelStreamInfer:
            guard let request = InferenceRequest(message) else { return end(.invalidArgument, "malformed message") }
            guard queue.count < StubLimits.queuedMessages else { return end(.resourceExhausted, "too many requests are waiting") }
            queue.append(request)
            inferNext()
        case .healthCheck:
            guard let service = InferenceMessages.healthService(message) else { return end(.invalidArgument, "malformed message") }
            guard Self.services.contains(service) else { return end(.notFound, "unknown service") }
            answer(InferenceMessages.health(.serving))
        case .healthWatch:
            guard let service = InferenceMessages.healthService(message) else { return end(.invalidArgument, "malformed message") }
            send(InferenceMessages.health(Self.services.contains(service) ? .serving : .serviceUnknown))
            host.watch(self)
        case nil: break
        }
    }

    private static let services: Set<String> = ["", "inference.GRPCInferenceService", "grpc.health.v1.Health"]

    /// The engine shuts down: a watcher hears it, and its call ends.
    func endWatch() {
        send(InferenceMessages.health(.notServing))
        end(.ok)
    }

    // MARK: Inference

    private func infer(_ request: InferenceRequest) {
        do throws(GRPCFailure) {
            generation = try start(request, isStreamed: method == .modelStreamInfer)
        } catch {
            // One bad request does not end a stream that others may share.
            if method == .modelStreamInfer {
                send(InferenceMessages.failure(of: request, error.message))
            } else {
                end(error.status, error.message)
            }
        }
    }

    private func inferNext() {
        while generation == nil, !isDone, !queue.isEmpty { infer(queue.removeFirst()) }
        endIfAnswered()
    }

    private func endIfAnswered() {
        if requestHasEnded, generation == nil, queue.isEmpty { end(.ok) }
    }

    private func start(_ request: InferenceRequest, isStreamed: Bool) throws(GRPCFailure) -> InferenceGeneration {
        let configuration = host.configuration
        guard request.model.isEmpty || configuration.models.contains(request.model) else {
            throw GRPCFailure(status: .notFound, message: "unknown model '\(request.model)'")
        }
        guard let text = request.text, !text.isEmpty else {
            throw GRPCFailure(status: .invalidArgument, message: "expected a BYTES tensor 'text_input' or 'prompt'")
        }
        var tokens: [UInt32] = []
        text.withUnsafeBytes { Tokeniser.append($0, to: &tokens) }
        guard tokens.count < configuration.maximumModelTokens else {
            throw GRPCFailure(status: .invalidArgument, message: "the prompt is longer than the model's context")
        }
        let prompt = Prompt(tokens: tokens, blockSize: configuration.engine.blockSize, root: BlockHash.root())
        let maximum = min(max(1, request.maximumTokens ?? 16), configuration.maximumModelTokens - tokens.count)
        let seed = ReplyLength.seed(of: prompt, requestSeed: request.seed, stubSeed: configuration.seed, choice: 0)
        let length = ReplyLength.decide(seed: seed, maximum: maximum, minimum: 0, ignoresEnd: request.ignoresEnd)
        let sequence = SequenceRequest(
            id: 0, prompt: prompt, replySeed: seed, continuesText: true, outputTokens: length.tokens, endsTurn: length.endsTurn)
        let generation = InferenceGeneration(request: request, sequence: sequence, call: self, isStreamed: isStreamed)
        guard host.state != .dead else { throw GRPCFailure(status: .unavailable, message: "the engine is dead") }
        do throws(WireError) {
            try exchange?.stub.admit(sequences: 1, promptTokens: tokens.count)
        } catch {
            throw GRPCFailure(status: .unavailable, message: "the engine is busy")
        }
        do throws(SubmitError) {
            try host.start(generation)
        } catch {
            throw GRPCFailure(status: .unavailable, message: "the engine is busy")
        }
        host.accepted(n: 1, maximumTokens: maximum)
        return generation
    }

    /// A generation has a message for the client.
    func generated(_ message: [UInt8]) { send(message) }

    /// A generation has said all it has to say.
    func generationEnded() {
        generation = nil
        if method == .modelStreamInfer { inferNext() } else { end(.ok) }
    }

    // MARK: The response

    private func answer(_ message: [UInt8]) {
        send(message)
        end(.ok)
    }

    private func send(_ message: [UInt8]) {
        guard let exchange, !isDone else { return }
        if !responseHasBegun {
            responseHasBegun = true
            let headers = exchange.makeHeaders()
            headers.append("content-type", "application/grpc")
            exchange.begin(status: 200, headers: headers)
        }
        var frame: [UInt8] = [0]
        withUnsafeBytes(of: UInt32(truncatingIfNeeded: message.count).bigEndian) { frame.append(contentsOf: $0) }
        frame.append(contentsOf: message)
        frame.withUnsafeBytes { exchange.emit($0) }
    }

    /// Ends the call with its status: in the trailers, or in a head that is all there is when nothing was sent before.
    private func end(_ status: GRPCStatus, _ message: String = "") {
        guard let exchange, !isDone else { return }
        isDone = true
        dropWork()
        let fields = responseHasBegun ? HeaderBlock() : exchange.makeHeaders()
        if !responseHasBegun { fields.append("content-type", "application/grpc") }
        fields.append("grpc-status", decimal: status.rawValue)
        if !message.isEmpty { fields.append("grpc-message", Self.percentEncoded(message)) }
        if responseHasBegun {
            exchange.conclude(trailers: fields)
        } else {
            exchange.begin(status: 200, headers: fields, ended: true)
        }
    }

    private func dropWork() {
        deadline?.setDeadline(nil)
        deadline = nil
        queue = []
        input = []
        if let generation, !generation.isComplete { host.cancel(generation) }
        generation = nil
        host.unwatch(self)
    }

    /// The gRPC specification's `Timeout`: up to eight digits and a unit.
    static func nanoseconds(_ text: UnsafeRawBufferPointer) -> UInt64? {
        guard let unit = text.last, (2...9).contains(text.count) else { return nil }
        var value: UInt64 = 0
        for digit in text.dropLast() {
            guard (48...57).contains(digit) else { return nil }
            value = value * 10 + UInt64(digit - 48)
        }
        let scale: UInt64
        switch unit {
        case UInt8(ascii: "H"): scale = 3_600_000_000_000
        case UInt8(ascii: "M"): scale = 60_000_000_000
        case UInt8(ascii: "S"): scale = 1_000_000_000
        case UInt8(ascii: "m"): scale = 1_000_000
        case UInt8(ascii: "u"): scale = 1_000
        case UInt8(ascii: "n"): scale = 1
        default: return nil
        }
        // A century of hours does not fit: half of the clock's range is as good as for ever.
        let (product, overflow) = value.multipliedReportingOverflow(by: scale)
        return overflow ? .max / 2 : min(product, .max / 2)
    }

    /// The specification's `Status-Message`: everything but printable ASCII is escaped, and the escape itself.
    private static func percentEncoded(_ text: String) -> String {
        let digits = Array("0123456789ABCDEF".utf8)
        var encoded: [UInt8] = []
        for byte in text.utf8 {
            if (0x20...0x7e).contains(byte), byte != 0x25 {
                encoded.append(byte)
            } else {
                encoded.append(contentsOf: [0x25, digits[Int(byte >> 4)], digits[Int(byte & 15)]])
            }
        }
        return String(decoding: encoded, as: UTF8.self)
    }
}

private struct GRPCFailure: Error {
    let status: GRPCStatus
    let message: String
}

/// Ends a call when its client's deadline has passed, so that the engine does not work for nobody.
final class CallDeadline: EventHandler {
    private weak var call: GRPCCall?

    init(loop: EventLoop, call: GRPCCall) {
        self.call = call
        super.init(loop: loop)
    }

    override func deadlineReached() { call?.expire() }
}

/// An inference under way: answers with one message at the end, or with one per token.
final class InferenceGeneration: Generation {
    private let request: InferenceRequest
    private let call: GRPCCall
    private let isStreamed: Bool
    private let model: String
    private var text: [UInt8] = []

    init(request: InferenceRequest, sequence: SequenceRequest, call: GRPCCall, isStreamed: Bool) {
        self.request = request
        self.call = call
        self.isStreamed = isStreamed
        model = call.model
        super.init(choices: [Choice(request: sequence)])
    }

    override func tokenReceived(_ token: ReplyToken, choice: Int) {
        if isStreamed {
            call.generated(InferenceMessages.response(to: request, model: model, text: token.text, isStreamed: true))
        } else {
            text.append(contentsOf: token.text)
        }
    }

    override func completed() {
        if !isStreamed {
            call.generated(InferenceMessages.response(to: request, model: model, text: text, isStreamed: false))
        }
        call.generationEnded()
    }

    override func engineDied() { call.endWithDeadEngine() }
}
