import EventLoop
import HTTPTransport
import Wire

/// One question to a leader, and what came of it.
final class LeaderQuery: UpstreamExchange {
    enum Kind {
        /// Prometheus' text at that path.
        case metrics(path: String)
        /// vLLM's `/load`.
        case serverLoad
        /// SGLang's `/v1/loads`.
        case sglangLoads
        /// gRPC's `GetLoads`.
        case loads(LoadService)

        /// Bytes of an answer at most.
        var mostBytes: Int {
            switch self {
            case .metrics, .serverLoad, .sglangLoads: LoadSignalSettings.answerBytes
            case .loads: LoadSignalSettings.loadsAnswerBytes
            }
        }
    }

    enum Answer {
        case reading(EngineReading)
        case serverLoad(Int)
        case sglangLoads(EngineReading)
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

    func start(on pool: UpstreamPool, timeoutNanoseconds: UInt64) {
        switch kind {
        case .metrics(var path): get(&path, accept: "text/plain", pool)
        case .serverLoad:
            var path = "/load"
            get(&path, accept: "application/json", pool)
        case .sglangLoads:
            var path = LoadSignalSettings.sglangLoadsTarget
            get(&path, accept: "text/plain", pool)
        case .loads(let service):
            pool.start(self, service.request(timeoutNanoseconds: timeoutNanoseconds))
            LoadService.question.withUnsafeBytes { _ = send($0) }
            finishRequest()
        }
    }

    private func get(_ target: inout String, accept: StaticString, _ pool: UpstreamPool) {
        let head = RequestHead()
        head.setMethod("GET")
        target.withUTF8 { head.setTarget(UnsafeRawBufferPointer($0)) }
        head.headers.append("accept", accept)
        pool.start(self, UpstreamRequest(head: head, bodyLength: nil, hasBody: false))
    }

    override func headReceived() { answeredAt = scrape?.loop.now ?? 0 }

    override func bodyReceived(_ piece: UnsafeRawBufferPointer) {
        bytes += piece.count
        guard bytes <= kind.mostBytes else {
            cancel()
            scrape?.answered(self, .failure(.tooLarge))
            return
        }
        guard response.status == 200 else { return }
        switch kind {
        case .metrics, .sglangLoads: scanner.consume(piece, into: &reading)
        case .serverLoad: if body.count + piece.count <= 4 << 10 { body.append(contentsOf: piece) }
        case .loads: body.append(contentsOf: piece)
        }
    }

    override func responseEnded(trailers: HeaderBlock?) { scrape?.answered(self, answer(trailers)) }

    override func failed(_ failure: UpstreamFailure) { scrape?.answered(self, .failure(failure == .timeout ? .timeout : .unreachable)) }

    private func answer(_ trailers: HeaderBlock?) -> Answer {
        switch response.status {
        case 200: break
        case 404, 405, 410, 501: return .failure(.missing)
        case 401, 403: return .failure(.refused)
        default: return .failure(.error)
        }
        switch kind {
        case .metrics:
            scanner.finish()
            return reading.engine == nil ? .failure(.unknown) : .reading(reading)
        case .sglangLoads:
            scanner.finish()
            return reading.waiting == nil ? .failure(.unknown) : .sglangLoads(reading)
        case .serverLoad: return serverLoad.map { .serverLoad($0) } ?? .failure(.unknown)
        case .loads(let service):
            // A call that failed has its status in the head, which is all there is of it.
            if let failure = LoadService.failure(status: (trailers ?? response.headers).value("grpc-status")) { return .failure(failure) }
            let reading = body.withUnsafeBytes { EngineReading(loads: $0, engine: service.engine) }
            return reading.map { .reading($0) } ?? .failure(.unknown)
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
    /// There is no such path, or no such call.
    case missing
    /// It wants a key.
    case refused
    case error
    /// The answer is none that is understood.
    case unknown
    case tooLarge = "too_large"
}
