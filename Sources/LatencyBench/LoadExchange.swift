import EventLoop
import HTTPTransport
import Wire
import Workload

/// One request of a run and what its answer tells. Used again and again.
final class LoadExchange: UpstreamExchange {
    private unowned let generator: LoadGenerator
    private(set) var record = RequestRecord(index: 0, stage: 0, dueNanoseconds: 0, sentNanoseconds: 0)
    private var scanner = ResponseScanner(kind: .other)
    private var content: ContentReader
    private var isEventStream = false
    private var isDocument = false
    private var splitter = GRPCMessageSplitter(maximumMessageBytes: 64 << 20)
    private var messages = 0
    private var isMessageFresh = false
    private var firstBytesAt: UInt64 = 0
    private var document: [UInt8] = []
    private let isInference: Bool
    private let keepsAnswer: Bool

    init(generator: LoadGenerator) {
        self.generator = generator
        isInference = generator.settings.api == .infer
        keepsAnswer = generator.plan.requests.contains { $0.nextTurn >= 0 }
        content = ContentReader(keepsText: keepsAnswer)
    }

    var answer: [UInt8] { content.text }

    func begin(_ record: RequestRecord) {
        renew()
        self.record = record
        content.reset()
        isEventStream = false
        isDocument = false
        messages = 0
        firstBytesAt = 0
        document.removeAll(keepingCapacity: true)
        if isInference { splitter = GRPCMessageSplitter(maximumMessageBytes: 64 << 20) }
    }

    private var now: UInt64 { generator.loop.clock() &- generator.startNanoseconds }

    override func headReceived() {
        if let name = response.headers.value("x-served-by") { record.backend = generator.backend(named: name) }
        guard !isInference else { return }
        let type = response.headers.value(.contentType)
        isEventStream = type?.hasPrefixIgnoringCase("text/event-stream") ?? false
        isDocument = type?.hasPrefixIgnoringCase("application/json") ?? false
        scanner = ResponseScanner(kind: isEventStream ? .eventStream : isDocument ? .json : .other)
    }

    override func bodyReceived(_ bytes: UnsafeRawBufferPointer) {
        generator.noteBytes(bytes.count)
        if isInference { return countMessages(bytes) }
        if firstBytesAt == 0 { firstBytesAt = now }
        guard isEventStream else {
            if isDocument { scanner.consume(bytes) }
            if isDocument, keepsAnswer, document.count < 16 << 20 { document.append(contentsOf: bytes) }
            return
        }
        scanner.consume(bytes)
        let before = content.contentEvents
        content.consume(bytes)
        tokens(content.contentEvents - before)
    }

    private func countMessages(_ bytes: UnsafeRawBufferPointer) {
        var input = bytes
        let before = messages
        while true {
            switch splitter.next(&input) {
            case .message(let count, _):
                isMessageFresh = true
                if count == 0 { messages += 1 }
            case .payload(let piece, let isLast):
                // Field 1 of a streamed answer is its error; a serialised message has it first, and only when there is one.
                if isMessageFresh, generator.settings.streams, piece.first == 0x0a { record.outcome = .errorEvent }
                isMessageFresh = false
                if isLast { messages += 1 }
            case .needsMore: return tokens(messages - before)
            case .failed:
                record.outcome = .protocolError
                return
            }
        }
    }

    /// So many events with content have come in one read: one gap, and the rest at once.
    private func tokens(_ count: Int) {
        guard count > 0 else { return }
        let now = now
        if record.firstTokenNanoseconds == 0 {
            record.firstTokenNanoseconds = now
        } else {
            generator.noteGap(now &- record.lastTokenNanoseconds)
        }
        for _ in 1..<max(1, count) { generator.noteGap(0) }
        record.lastTokenNanoseconds = now
    }

    override func responseEnded(trailers: HeaderBlock?) {
        scanner.finish()
        let now = now
        record.endNanoseconds = now
        if record.outcome == .unfinished { record.outcome = outcome(trailers) }
        let usage = isInference ? nil : scanner.usage
        record.promptTokens = usage?.promptTokens ?? 0
        record.cachedTokens = usage?.cachedTokens ?? 0
        record.outputTokens = usage?.completionTokens ?? (isInference ? messages : content.contentEvents)
        if !isEventStream, !isInference {
            // Without a stream the first token is the answer.
            if isDocument || generator.settings.api == .plain { record.firstTokenNanoseconds = firstBytesAt == 0 ? now : firstBytesAt }
            record.lastTokenNanoseconds = record.firstTokenNanoseconds
            if keepsAnswer { document.withUnsafeBytes { content.readDocument($0) } }
        }
        generator.finished(self)
    }

    private func outcome(_ trailers: HeaderBlock?) -> RequestOutcome {
        if isInference {
            guard let text = trailers?.value("grpc-status") ?? response.headers.value("grpc-status") else {
                return response.status == 200 ? .truncated : .status(response.status)
            }
            guard let status = text.decimalValue else { return .protocolError }
            return status == 0 ? .good : .grpcStatus(status)
        }
        if !(200..<300).contains(response.status) { return .status(response.status) }
        if scanner.errorSeen { return .errorEvent }
        if isEventStream, !scanner.doneSeen { return .truncated }
        return .good
    }

    override func failed(_ failure: UpstreamFailure) {
        record.endNanoseconds = now
        switch failure {
        case .connectFailed: record.outcome = .connectFailed
        case .tlsFailed: record.outcome = .tlsFailed
        case .staleConnection, .reset: record.outcome = .reset
        case .refusedStream, .overloaded: record.outcome = .refused
        case .timeout: record.outcome = .timedOut
        case .protocolError: record.outcome = .protocolError
        case .outOfDescriptors: record.outcome = .outOfDescriptors
        }
        generator.finished(self)
    }

    /// The run is over.
    func giveUp() {
        record.endNanoseconds = now
        record.outcome = .unfinished
        generator.finished(self)
    }
}
