import EventLoop
import HTTPTransport
import Wire

/// Answers requests in ways that their path chooses, and checks that the transport calls it as it says.
final class FuzzApplication: DownstreamApplication {
    /// All requests answered the same plain way, so that transcripts can be compared.
    let isPlain: Bool
    var transcript: [String] = []
    var finding: String?
    var connections = 0
    /// Exchanges with a head and neither an end nor a cancel.
    var open = 0
    var waiting: [FuzzExchange] = []

    init(isPlain: Bool) { self.isPlain = isPlain }

    override func makeExchange() -> DownstreamExchange { FuzzExchange(self) }
    override func connectionCountChanged(by change: Int) { connections += change }
    override func requestRefused(status: Int, client: SocketAddress) {
        if !(400...599).contains(status) { finding = "a refusal has an error's status" }
    }

    /// Goes on with exchanges that wait for a later turn. Whether there were any.
    func goOn() -> Bool {
        let exchanges = waiting
        waiting = []
        for exchange in exchanges { exchange.goOn() }
        return !exchanges.isEmpty
    }
}

final class FuzzExchange: DownstreamExchange {
    private enum Manner: UInt8 {
        case echo, stream, early, abort, paused, large, headOnly, later
    }
    private enum Phase { case new, head, ended, cancelled }

    private let application: FuzzApplication
    private var manner = Manner.echo
    private var phase = Phase.new
    private var body: [UInt8] = []
    private var leftToWrite = 0
    private var isAccounted = true

    init(_ application: FuzzApplication) { self.application = application }

    private func expect(_ condition: Bool, _ promise: String) {
        if !condition, application.finding == nil { application.finding = "\(promise) (in \(phase))" }
    }

    // MARK: From the transport

    override func headReceived() {
        expect(phase == .new, "a head comes once and first")
        phase = .head
        isAccounted = false
        application.open += 1
        let letter = request.target.count > 1 ? request.target[1] : 0
        manner = application.isPlain ? .echo : Manner(rawValue: letter & 7) ?? .echo
        switch manner {
        case .stream: answer(ended: false)
        case .early:
            answer(ended: false)
            finish()
        case .abort where letter & 8 == 0: abort()
        case .paused:
            pauseBody()
            application.waiting.append(self)
        default: break
        }
        account()
    }

    override func bodyReceived(_ bytes: UnsafeRawBufferPointer) {
        expect(phase == .head, "a body comes after its head and before its end")
        expect(bytes.count > 0, "pieces of a body are not empty")
        if body.count < 1 << 20 { body += bytes }
        switch manner {
        case .stream: write(bytes)
        case .abort: abort()
        default: break
        }
        account()
    }

    override func requestEnded() {
        expect(phase == .head, "a request ends once, after its head")
        phase = .ended
        if let declared = request.contentLength { expect(declared == body.count, "a body is as long as was declared") }
        application.transcript.append(
            "\(text(request.methodBytes)) \(text(request.target)) \(request.headers.count) \(request.hasTrailers) \(text(body.span.bytes))")
        switch manner {
        case .stream: finish(trailers: request.headers.count & 1 == 0 ? trailers() : nil)
        case .later: application.waiting.append(self)
        case .large:
            answer(ended: false)
            leftToWrite = 600 << 10
            writeMore()
        case .headOnly: answer(ended: true)
        default: reply()
        }
        account()
    }

    override func cancelled() {
        expect(phase == .head || phase == .ended, "what is cancelled had begun")
        phase = .cancelled
        account()
    }

    override func outputDrained() {
        expect(phase != .cancelled, "nothing drains after a cancel")
        writeMore()
    }

    // MARK: To the transport

    func goOn() {
        if phase == .head { resumeBody() } else if phase == .ended { reply() }
        account()
    }

    private func answer(ended: Bool) {
        let headers = HeaderBlock()
        headers.append("x-answer", "yes")
        headers.append("connection", "keep-alive")
        respond(status: ended ? 204 : 200, headers: headers, ended: ended)
    }

    private func reply() {
        let headers = HeaderBlock()
        headers.append("content-length", decimal: body.count)
        respond(status: 200, headers: headers)
        body.withUnsafeBytes { _ = write($0) }
        finish()
    }

    private func writeMore() {
        guard leftToWrite > 0 else { return }
        withUnsafeTemporaryAllocation(byteCount: 50 << 10, alignment: 1) { buffer in
            buffer.initializeMemory(as: UInt8.self, repeating: 120)
            while leftToWrite > 0, isOpen {
                leftToWrite -= buffer.count
                if !write(UnsafeRawBufferPointer(buffer)) { return }
            }
        }
        if leftToWrite <= 0 { finish() }
        account()
    }

    private func trailers() -> HeaderBlock {
        let trailers = HeaderBlock()
        trailers.append("x-checksum", "0")
        return trailers
    }

    /// Counts itself out once it is answered or cancelled.
    private func account() {
        guard !isAccounted, phase == .cancelled || isResponseFinished else { return }
        isAccounted = true
        application.open -= 1
    }
}

private func text(_ bytes: RawSpan) -> String { bytes.withUnsafeBytes { text($0) } }
