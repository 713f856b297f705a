import Histogram
public import Reporting

/// How one request ended.
public enum RequestOutcome: Sendable, Equatable, Hashable {
    case good
    case connectFailed, tlsFailed, reset, timedOut, protocolError, refused, outOfDescriptors
    /// The answer's HTTP status, not 200.
    case status(Int)
    /// gRPC's status, not 0.
    case grpcStatus(Int)
    /// An error inside an answer that had begun well.
    case errorEvent
    /// An event stream that ended without `[DONE]`.
    case truncated
    /// A success of a chat or text completion in which there is neither text nor a count of tokens: another server's answer, perhaps.
    case noContent
    /// Still under way when the run ended.
    case unfinished

    public var name: String {
        switch self {
        case .good: "good"
        case .connectFailed: "connect failed"
        case .tlsFailed: "TLS failed"
        case .reset: "connection reset"
        case .timedOut: "timeout"
        case .protocolError: "protocol error"
        case .refused: "refused stream"
        case .outOfDescriptors: "out of descriptors"
        case .status(let code): "HTTP \(code)"
        case .grpcStatus(let code): "gRPC status \(code)"
        case .errorEvent: "error event"
        case .truncated: "truncated stream"
        case .noContent: "no content"
        case .unfinished: "unfinished"
        }
    }
}

/// One request, as it went. Times are nanoseconds since the run's start; 0 where nothing of the kind came.
public struct RequestRecord: Sendable {
    public var index: Int
    public var stage: Int
    public var dueNanoseconds: UInt64
    /// When its head was handed to a connection with room for it; what never was, when it ended.
    public var sentNanoseconds: UInt64
    /// When it could have been sent: due, and below the limit on what is under way.
    public var readyNanoseconds: UInt64
    public var firstTokenNanoseconds: UInt64 = 0
    /// The last token; the answer's end may come later.
    public var lastTokenNanoseconds: UInt64 = 0
    public var endNanoseconds: UInt64 = 0
    public var promptTokens = 0
    public var cachedTokens = 0
    public var outputTokens = 0
    /// Tokens came as they were made.
    public var isStreamed = true
    /// Index into `RunMeasurements.backends`; -1 when the answer named none.
    public var backend = -1
    public var outcome = RequestOutcome.unfinished

    init(index: Int, stage: Int, dueNanoseconds: UInt64, sentNanoseconds: UInt64) {
        self.index = index
        self.stage = stage
        self.dueNanoseconds = dueNanoseconds
        self.sentNanoseconds = sentNanoseconds
        readyNanoseconds = dueNanoseconds
    }

    /// Time to first token from when the request was due.
    public var timeToFirstToken: UInt64 { firstTokenNanoseconds &- dueNanoseconds }
    public var endToEnd: UInt64 { endNanoseconds &- dueNanoseconds }
    /// Mean time per output token after the first; nil below two tokens, and where the answer came whole.
    public var timePerOutputToken: UInt64? {
        isStreamed && outputTokens > 1 && lastTokenNanoseconds >= firstTokenNanoseconds
            ? (lastTokenNanoseconds &- firstTokenNanoseconds) / UInt64(outputTokens - 1) : nil
    }
}

/// What a run measured; that of several loops adds up without loss. Latencies in nanoseconds.
public struct RunMeasurements: Sendable {
    /// From when a request was due: the headline.
    public var timeToFirstToken = LatencyHistogram.latency()
    public var endToEnd = LatencyHistogram.latency()
    /// From when the generator sent it, as other tools count.
    public var timeToFirstTokenFromSend = LatencyHistogram.latency()
    public var endToEndFromSend = LatencyHistogram.latency()
    public var timePerOutputToken = LatencyHistogram.latency()
    /// Gaps between events with content, of all good requests together.
    public var interTokenLatency = LatencyHistogram.latency()
    /// How late the generator itself sent: from when it could have (due, and below the limit) to when it did, its wait for a connection included.
    public var generatorLag = LatencyHistogram.latency()

    public var outcomes: [RequestOutcome: Int] = [:]
    public var promptTokens = 0
    public var cachedTokens = 0
    public var outputTokens = 0
    /// Without the warm-up, as all else here; what the warm-up sent and what of that has ended stands beside it.
    public var sent = 0
    public var warmUpSent = 0
    public var warmUpFinished = 0
    /// Now, the warm-up's included.
    public var underWay = 0
    /// Names from `x-served-by`, in the order they came, and requests of each.
    public var backends: [String] = []
    public var requestsByBackend: [Int] = []
    public var records: [RequestRecord] = []
    public var recordsLeftOut = 0
    public var highestInFlight = 0
    /// The last answer that was no stream, where `LoadSettings.keepsDocuments`.
    public var lastDocument: [UInt8] = []
    /// From the first request that counts to the end of the last answer.
    public var firstDueNanoseconds = UInt64.max
    public var lastEndNanoseconds: UInt64 = 0

    public init() {}

    public var finished: Int { outcomes.values.reduce(0, +) }
    public var good: Int { outcomes[.good] ?? 0 }
    public var durationNanoseconds: UInt64 { lastEndNanoseconds > firstDueNanoseconds ? lastEndNanoseconds &- firstDueNanoseconds : 0 }

    mutating func add(_ record: RequestRecord, recordLimit: Int) {
        outcomes[record.outcome, default: 0] += 1
        firstDueNanoseconds = min(firstDueNanoseconds, record.dueNanoseconds)
        lastEndNanoseconds = max(lastEndNanoseconds, record.endNanoseconds)
        generatorLag.note(record.sentNanoseconds > record.readyNanoseconds ? record.sentNanoseconds &- record.readyNanoseconds : 0)
        if record.backend >= 0 { requestsByBackend[record.backend] += 1 }
        if record.outcome == .good {
            promptTokens += record.promptTokens
            cachedTokens += record.cachedTokens
            outputTokens += record.outputTokens
            endToEnd.note(record.endToEnd)
            endToEndFromSend.note(record.endNanoseconds &- record.sentNanoseconds)
            if record.firstTokenNanoseconds > 0 {
                timeToFirstToken.note(record.timeToFirstToken)
                timeToFirstTokenFromSend.note(record.firstTokenNanoseconds &- record.sentNanoseconds)
            }
            if let perToken = record.timePerOutputToken { timePerOutputToken.note(perToken) }
        }
        if records.count < recordLimit { records.append(record) } else { recordsLeftOut += 1 }
    }

    /// The number of the backend with this name.
    mutating func backend(named name: UnsafeRawBufferPointer) -> Int {
        for (index, known) in backends.enumerated() where known.utf8.elementsEqual(name) { return index }
        // A hostile server may invent names.
        guard backends.count < 1_024 else { return -1 }
        backends.append(String(decoding: name, as: UTF8.self))
        requestsByBackend.append(0)
        return backends.count - 1
    }

    /// Adds what another loop measured.
    public mutating func add(_ other: RunMeasurements) {
        timeToFirstToken.add(other.timeToFirstToken)
        endToEnd.add(other.endToEnd)
        timeToFirstTokenFromSend.add(other.timeToFirstTokenFromSend)
        endToEndFromSend.add(other.endToEndFromSend)
        timePerOutputToken.add(other.timePerOutputToken)
        interTokenLatency.add(other.interTokenLatency)
        generatorLag.add(other.generatorLag)
        outcomes.merge(other.outcomes, uniquingKeysWith: +)
        promptTokens += other.promptTokens
        cachedTokens += other.cachedTokens
        outputTokens += other.outputTokens
        sent += other.sent
        warmUpSent += other.warmUpSent
        warmUpFinished += other.warmUpFinished
        underWay += other.underWay
        highestInFlight += other.highestInFlight
        recordsLeftOut += other.recordsLeftOut
        if !other.lastDocument.isEmpty { lastDocument = other.lastDocument }
        firstDueNanoseconds = min(firstDueNanoseconds, other.firstDueNanoseconds)
        lastEndNanoseconds = max(lastEndNanoseconds, other.lastEndNanoseconds)
        let numbers = other.backends.map { name in
            var name = name
            return name.withUTF8 { backend(named: UnsafeRawBufferPointer($0)) }
        }
        for (index, number) in numbers.enumerated() where number >= 0 { requestsByBackend[number] += other.requestsByBackend[index] }
        records.reserveCapacity(records.count + other.records.count)
        for var record in other.records {
            if record.backend >= 0 { record.backend = numbers[record.backend] }
            records.append(record)
        }
    }
}
