import EngineModel
import EventLoop
import HTTPTransport
import Wire

/// One gRPC call: takes messages out of their frames, hands them to the service that they are for, and ends with a status.
///
/// `GRPCCall+Inference` is the Open Inference Protocol, `GRPCCall+Engine` vLLM's own service; health checking is here.
final class GRPCCall {
    /// The exchange owns the call. It is weak here because the host keeps calls that watch.
    private(set) weak var exchange: StubExchange?
    let host: EngineHost
    let method: GRPCMethod?
    var generation: Generation?
    /// Requests of a streaming call that wait for the one before them.
    var queue: [InferenceRequest] = []
    private(set) var requestHasEnded = false
    private(set) var isDone = false
    private var deadline: CallDeadline?
    private var input: [UInt8] = []
    private var responseHasBegun = false

    init(exchange: StubExchange, path: String) {
        self.exchange = exchange
        host = exchange.host
        method = GRPCMethod(rawValue: path)
    }

    /// Whether a path asks for work of the engine.
    static func generates(_ path: String) -> Bool { GRPCMethod(rawValue: path)?.generates ?? false }

    // MARK: The request

    func headReceived() {
        guard let exchange else { return }
        guard method != nil else { return end(.unimplemented, "Method not found!") }
        if let timeout = exchange.request.headers.value("grpc-timeout").flatMap(GRPCText.nanoseconds) {
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

    func endMalformed() { end(.invalidArgument, "malformed message") }

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
        guard let method else { return }
        switch method {
        case .serverLive, .serverReady, .serverMetadata, .modelMetadata, .modelReady, .modelInfer, .modelStreamInfer:
            receiveInference(method, message)
        case .generate, .embed, .engineHealth, .flushCache, .abort, .modelInfo, .serverInfo, .loads:
            receiveEngine(method, message)
        case .healthCheck, .healthWatch:
            guard let service = InferenceMessages.healthService(message) else { return endMalformed() }
            receiveHealth(method, service: service)
        }
    }

    // MARK: Health

    private func receiveHealth(_ method: GRPCMethod, service: String) {
        let isKnown = GRPCMethod.services.contains(service)
        let status: InferenceMessages.Health = host.state == .dead ? .notServing : .serving
        if method == .healthCheck {
            guard isKnown else { return end(.notFound, "Unknown service: \(service)") }
            answer(InferenceMessages.health(status))
        } else {
            send(InferenceMessages.health(isKnown ? status : .serviceUnknown))
            host.watch(self)
        }
    }

    /// The engine shuts down: a watcher hears it, and its call ends.
    func endWatch() {
        send(InferenceMessages.health(.notServing))
        end(.ok)
    }

    // MARK: Work

    /// Gives a generation to the engine. Throws what a call gets whose work finds no room, or no engine.
    func submit(_ generation: Generation, promptTokens: Int) throws(GRPCFailure) {
        guard let stub = exchange?.stub, host.state != .dead else {
            throw GRPCFailure(status: .unavailable, message: "the engine is dead")
        }
        guard !stub.isShuttingDown else { throw GRPCFailure(status: .unavailable, message: WireError.shutDown.message) }
        do throws(WireError) {
            try stub.admit(sequences: generation.choices.count, promptTokens: promptTokens)
        } catch {
            throw GRPCFailure(status: GRPCStatus(httpStatus: error.status), message: error.message)
        }
        do throws(SubmitError) {
            try host.start(generation)
        } catch {
            throw GRPCFailure(status: .unavailable, message: WireError.busy(status: 503).message)
        }
    }

    /// A generation has said all it has to say.
    func generationEnded() {
        generation = nil
        if method == .modelStreamInfer { inferNext() } else { end(.ok) }
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

    // MARK: The response

    /// The one message of a call that has no more to say.
    func answer(_ message: [UInt8]) {
        send(message)
        end(.ok)
    }

    func send(_ message: [UInt8]) {
        guard let exchange, !isDone else { return }
        if !responseHasBegun {
            responseHasBegun = true
            let headers = exchange.makeHeaders()
            headers.append("content-type", "application/grpc")
            exchange.begin(status: 200, headers: headers)
        }
        var frame: [UInt8] = [0]
        frame.reserveCapacity(5 + message.count)
        withUnsafeBytes(of: UInt32(truncatingIfNeeded: message.count).bigEndian) { frame.append(contentsOf: $0) }
        frame.append(contentsOf: message)
        frame.withUnsafeBytes { exchange.emit($0) }
    }

    /// Ends the call with its status: in the trailers, or in a head that is all there is when nothing was sent before.
    func end(_ status: GRPCStatus, _ message: String = "") {
        guard let exchange, !isDone else { return }
        isDone = true
        dropWork()
        let fields = responseHasBegun ? HeaderBlock() : exchange.makeHeaders()
        if !responseHasBegun { fields.append("content-type", "application/grpc") }
        fields.append("grpc-status", decimal: status.rawValue)
        if !message.isEmpty { fields.append("grpc-message", GRPCText.percentEncoded(message)) }
        if responseHasBegun {
            exchange.conclude(trailers: fields)
        } else {
            exchange.begin(status: 200, headers: fields, ended: true)
        }
    }
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
