import EventLoop
import HTTPTransport
import Wire

/// The way out of an answer with which something is to go wrong: counts events and bytes, and at its points stalls, breaks, trickles.
/// What the engine says meanwhile waits here; the engine itself notices nothing, as with a slow client of the real one.
final class FaultedOutput: EventHandler {
    private enum Piece {
        case head(status: Int, HeaderBlock, ended: Bool)
        case body([UInt8])
        /// The event that ends a stream.
        case last([UInt8])
        case finish(trailers: HeaderBlock?)
    }

    private unowned let exchange: StubExchange
    private var steps: [FaultPlan.Step]
    private let bytesPerSecond: Int?
    private let hugeHeaderBytes: Int?
    private var pieces: [Piece] = []
    private var headIsOut = false
    private var events = 0
    private var bytes = 0
    private var isWaiting = false
    private var isOver = false
    /// What a slow line may still take before its next turn.
    private var credit = 0

    static let turnNanoseconds: UInt64 = 20_000_000

    init(exchange: StubExchange, plan: FaultPlan, loop: EventLoop) {
        self.exchange = exchange
        steps = plan.during
        bytesPerSecond = plan.bytesPerSecond
        hugeHeaderBytes = plan.hugeHeaderBytes
        super.init(loop: loop)
    }

    func head(status: Int, headers: HeaderBlock, ended: Bool) {
        if let hugeHeaderBytes { headers.append("x-stub-filler", String(repeating: "x", count: hugeHeaderBytes)) }
        add(.head(status: status, headers, ended: ended))
    }

    func body(_ bytes: UnsafeRawBufferPointer) { add(.body(Array(bytes))) }
    func last(_ bytes: UnsafeRawBufferPointer) { add(.last(Array(bytes))) }
    func finish(trailers: HeaderBlock?) { add(.finish(trailers: trailers)) }

    /// Nobody listens any more.
    func stop() {
        isOver = true
        pieces = []
        detach()
    }

    private func add(_ piece: Piece) {
        guard !isOver else { return }
        pieces.append(piece)
        pump()
    }

    override func deadlineReached() {
        isWaiting = false
        if let bytesPerSecond { credit = max(1, Int(UInt64(bytesPerSecond) * Self.turnNanoseconds / 1_000_000_000)) }
        pump()
    }

    private func pump() {
        while !isOver, !isWaiting {
            if let index = steps.firstIndex(where: { isDue($0.point) }) {
                perform(steps.remove(at: index).action)
            } else if !pieces.isEmpty {
                write()
            } else {
                return
            }
        }
    }

    private func isDue(_ point: Fault.Point) -> Bool {
        switch point {
        case .request: true
        case .head: headIsOut
        case .events(let count): headIsOut && events >= count
        case .bytes(let count): headIsOut && bytes >= count
        case .end:
            switch pieces.first {
            case .last, .finish: true
            default: false
            }
        }
    }

    private func wait(_ nanoseconds: UInt64?) {
        isWaiting = true
        setDeadline(nanoseconds.map { loop.now &+ $0 })
    }

    private func perform(_ action: Fault.Action) {
        switch action {
        case .stall(let milliseconds): wait(milliseconds.map { $0 &* 1_000_000 })
        case .close, .reset:
            stop()
            exchange.dropWork()
            exchange.breakConnection(resets: action == .reset)
        case .truncate:
            stop()
            exchange.dropWork()
            exchange.finish()
        case .garbage:
            exchange.writeUnframed("zz\r\ngarbage\r\n")
        case .errorEvent:
            stop()
            exchange.dropWork()
            exchange.endWithDeadEngine(afterEvents: events)
        case .goAway(let abruptly): exchange.goAway(abruptly: abruptly)
        case .refuseStream: exchange.abort(errorCode: StubLimits.refusedStream)
        case .refuse, .acceptClose, .streamLimit, .blackHole, .trickle, .error, .errorBody, .closeOnReuse, .hugeHeader, .staleMetrics,
            .resetMetrics:
            break
        }
    }

    private func write() {
        switch pieces[0] {
        case .head(let status, let headers, let ended):
            pieces.removeFirst()
            headIsOut = true
            exchange.respond(status: status, headers: headers, ended: ended)
        case .body(let content), .last(let content):
            write(content)
        case .finish(let trailers):
            pieces.removeFirst()
            exchange.finish(trailers: trailers)
        }
    }

    /// Writes as much of the first piece as the next point and the slow line allow.
    private func write(_ content: [UInt8]) {
        var count = content.count
        for case .bytes(let bound) in steps.map(\.point) where bound > bytes { count = min(count, bound - bytes) }
        if bytesPerSecond != nil {
            guard credit > 0 else { return wait(Self.turnNanoseconds) }
            count = min(count, credit)
            credit -= count
        }
        content.withUnsafeBytes { _ = exchange.write(UnsafeRawBufferPointer(rebasing: $0[..<count])) }
        bytes += count
        if count < content.count {
            pieces[0] = .body(Array(content[count...]))
        } else {
            pieces.removeFirst()
            events += 1
        }
    }
}
