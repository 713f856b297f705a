import EventLoop
import HTTPTransport
import Wire

/// One question to a leader, and what came of it.
final class LeaderQuery: UpstreamExchange {
    enum Kind {
        case metrics, serverLoad
        /// SGLang's `/v1/loads`.
        case loads
    }

    enum Answer {
        case metrics(EngineReading)
        case serverLoad(Int)
        case loads(EngineReading)
        case failure(ScrapeOutcome)
    }

    let kind: Kind
    let askedAt: UInt64
    /// When the head was here: the figures were taken before.
    private(set) var answeredAt: UInt64 = 0
    private(set) var bytes = 0
    private weak var scrape: LeaderScrape?
    private var scanner = MetricsTextScanner()
    private var reading = EngineReading()
    private var body: [UInt8] = []

    init(_ kind: Kind, scrape: LeaderScrape) {
        self.kind = kind
        self.scrape = scrape
        askedAt = scrape.loop.now
    }

    override func headReceived() { answeredAt = scrape?.loop.now ?? 0 }

    override func bodyReceived(_ piece: UnsafeRawBufferPointer) {
        bytes += piece.count
        guard bytes <= LoadSignalSettings.answerBytes else {
            cancel()
            scrape?.answered(self, .failure(.tooLarge))
            return
        }
        guard response.status == 200 else { return }
        switch kind {
        case .metrics, .loads: scanner.consume(piece, into: &reading)
        case .serverLoad: if body.count + piece.count <= 4 << 10 { body.append(contentsOf: piece) }
        }
    }

    override func responseEnded(trailers: HeaderBlock?) { scrape?.answered(self, answer) }

    override func failed(_ failure: UpstreamFailure) { scrape?.answered(self, .failure(failure == .timeout ? .timeout : .unreachable)) }

    private var answer: Answer {
        switch response.status {
        case 200: break
        case 404, 405, 410, 501: return .failure(.missing)
        case 401, 403: return .failure(.refused)
        default: return .failure(.error)
        }
        switch kind {
        case .metrics:
            scanner.finish()
            return reading.engine == nil ? .failure(.unknown) : .metrics(reading)
        case .loads:
            scanner.finish()
            return reading.waiting == nil ? .failure(.unknown) : .loads(reading)
        case .serverLoad: return serverLoad.map { .serverLoad($0) } ?? .failure(.unknown)
        }
    }

    /// vLLM: `{"server_load":3}`.
    private var serverLoad: Int? {
        body.withUnsafeBytes { body in
            guard body.starts(with: #"{"server_load":"#), body.last == UInt8(ascii: "}") else { return nil }
            return UnsafeRawBufferPointer(rebasing: body[15..<(body.count - 1)]).decimalValue
        }
    }
}

/// What came of a question.
public enum ScrapeOutcome: String, CaseIterable, Sendable {
    case ok
    /// A busy engine said what it had said before, its counters included.
    case stale
    case timeout
    /// No connection, or none that held until the answer was whole.
    case unreachable
    /// There is no such path.
    case missing
    /// It wants a key.
    case refused
    case error
    /// The answer is none that is understood.
    case unknown
    case tooLarge = "too_large"
}
