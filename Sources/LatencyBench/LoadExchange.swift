import EventLoop
import HTTPTransport
import Histogram
import Reporting
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
    private let keepsDocument: Bool
    /// A connection with room has the request's head. Of HTTP/1.1 that is a new one's, however long its connect takes: that is the server's.
    private(set) var isHandedOver = false
    /// Between reads with content; single precision is finer than the histogram, in half the room.
    private var gaps: [Float] = []
    /// Events that came together with the one before.
    private var gaplessEvents: UInt64 = 0
    /// gRPC: the message under way, and the answer's text so far; kept only for a session's next turn.
    private var message: [UInt8] = []
    private var inferredText: [UInt8] = []

    init(generator: LoadGenerator) {
        self.generator = generator
        isInference = generator.settings.api == .infer
        keepsAnswer = generator.hasSessions
        keepsDocument = generator.settings.keepsDocuments
        content = ContentReader(keepsText: keepsAnswer)
    }

    /// For the session's next turn: escaped as in JSON, of gRPC as it is.
    var answer: [UInt8] { isInference ? inferredText : content.text }

    func begin(_ record: RequestRecord) {
        renew()
        self.record = record
        content.reset()
        isEventStream = false
        isDocument = false
        messages = 0
        firstBytesAt = 0
        document.removeAll(keepingCapacity: true)
        isHandedOver = !generator.speaksHTTP2
        gaps.removeAll(keepingCapacity: true)
        gaplessEvents = 0
        message.removeAll(keepingCapacity: true)
        inferredText.removeAll(keepingCapacity: true)
        if isInference { splitter = GRPCMessageSplitter(maximumMessageBytes: 64 << 20) }
    }

    private var now: UInt64 { generator.loop.clock() &- generator.startNanoseconds }

    /// HTTP/2: until now it may have waited for a stream, which is the generator's queue and no part of what follows the send.
    override func requestStarted() {
        guard !isHandedOver else { return }
        isHandedOver = true
        record.sentNanoseconds = now
    }

    override func headReceived() {
        if let name = response.headers.value("x-served-by") { record.backend = generator.backend(named: name) }
        guard !isInference else { return }
        let type = response.headers.value(.contentType)
        isEventStream = type?.hasPrefixIgnoringCase("text/event-stream") ?? false
        isDocument = type?.hasPrefixIgnoringCase("application/json") ?? false
        scanner = ResponseScanner(kind: isEventStream ? .eventStream : isDocument ? .json : .other)
    }

    override func bodyReceived(_ bytes: UnsafeRawBufferPointer) {
        if isInference { return countMessages(bytes) }
        if firstBytesAt == 0 { firstBytesAt = now }
        guard isEventStream else {
            guard keepsDocument || (isDocument && generator.settings.api != .plain) else { return }
            scanner.consume(bytes)
            if document.count < Self.longestAnswer { document.append(contentsOf: bytes) }
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
                message.removeAll(keepingCapacity: true)
                if count == 0 { messages += 1 }
            case .payload(let piece, let isLast):
                // Field 1 of a streamed answer is its error; a serialised message has it first, and only when there is one.
                if isMessageFresh, generator.settings.streams, piece.first == 0x0a { record.outcome = .errorEvent }
                isMessageFresh = false
                if keepsAnswer, inferredText.count < Self.longestAnswer { message.append(contentsOf: piece) }
                if isLast {
                    messages += 1
                    if keepsAnswer { keepText() }
                }
            case .needsMore: return tokens(messages - before)
            case .failed:
                record.outcome = .protocolError
                return
            }
        }
    }

    /// What is kept of an answer, to be looked at and for the next turn.
    private static let longestAnswer = 16 << 20

    private func keepText() {
        let text = message.withUnsafeBytes { InferenceResponseMessage.text(in: $0, isStreamed: generator.settings.streams) }
        if let text { inferredText.append(contentsOf: text) }
    }

    /// So many events with content have come in one read: one gap, and the rest at once.
    private func tokens(_ count: Int) {
        guard count > 0 else { return }
        let now = now
        if record.firstTokenNanoseconds == 0 {
            record.firstTokenNanoseconds = now
        } else {
            gaps.append(Float(now &- record.lastTokenNanoseconds))
        }
        gaplessEvents &+= UInt64(count &- 1)
        record.lastTokenNanoseconds = now
    }

    func noteGaps(in histogram: inout LatencyHistogram) {
        for gap in gaps { histogram.note(UInt64(gap)) }
        if gaplessEvents > 0 { histogram.record(0, count: gaplessEvents) }
    }

    override func responseEnded(trailers: HeaderBlock?) {
        scanner.finish()
        let now = now
        record.endNanoseconds = now
        if keepsDocument, !document.isEmpty { generator.keep(document) }
        if isDocument { document.withUnsafeBytes { content.readDocument($0) } }
        if record.outcome == .unfinished { record.outcome = outcome(trailers) }
        let usage = isInference ? nil : scanner.usage
        record.promptTokens = usage?.promptTokens ?? 0
        record.cachedTokens = usage?.cachedTokens ?? 0
        record.outputTokens = usage?.completionTokens ?? (isInference ? messages : content.contentEvents)
        if !isEventStream, !isInference {
            // Without a stream the first token is the answer.
            if isDocument || generator.settings.api == .plain { record.firstTokenNanoseconds = firstBytesAt == 0 ? now : firstBytesAt }
            record.lastTokenNanoseconds = record.firstTokenNanoseconds
            record.isStreamed = false
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
        guard generator.settings.api == .plain || hasContent else { return .noContent }
        return .good
    }

    /// A model may say nothing at all and count that; a page of a wrong address says neither.
    private var hasContent: Bool { content.contentEvents > 0 || (scanner.usage?.completionTokens ?? 0) > 0 }

    override func failed(_ failure: UpstreamFailure) {
        record.endNanoseconds = now
        switch failure {
        // Whoever could not connect waited for the server.
        case .connectFailed, .tlsFailed: break
        default: noteNeverSent()
        }
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

    /// It waited for a stream until now: all of that is the generator's lag.
    private func noteNeverSent() { if !isHandedOver { record.sentNanoseconds = record.endNanoseconds } }

    /// The run is over.
    func giveUp() {
        record.endNanoseconds = now
        record.outcome = .unfinished
        noteNeverSent()
        generator.finished(self)
    }
}
