import EventLoop
import Wire

/// A request that waits for a stream: a HTTP/2 backend allows so many at once, and none before its SETTINGS are here.
final class WaitingRequest {
    let exchange: UpstreamExchange
    let request: UpstreamRequest
    let deadline: UInt64
    /// What of the body has been sent so far.
    var body: ByteBuffer
    var hasStalledSource = false
    /// Fields behind the body.
    var trailers: HeaderBlock?
    fileprivate var next: WaitingRequest?
    /// Unchecked: the list holds everything in it strongly, from the first on.
    fileprivate unowned(unsafe) var previous: WaitingRequest?
    private unowned let list: WaitingRequests

    fileprivate init(_ exchange: UpstreamExchange, _ request: UpstreamRequest, deadline: UInt64, list: WaitingRequests) {
        self.exchange = exchange
        self.request = request
        self.deadline = deadline
        self.list = list
        body = ByteBuffer(pool: list.loop.chunks)
    }

    func keep(_ bytes: UnsafeRawBufferPointer) -> Bool {
        body.append(bytes)
        if body.count > list.highWaterBytes { hasStalledSource = true }
        return !hasStalledSource
    }

    func leave() { list.remove(self) }
}

/// Requests that wait, first come first served: one time limit for all, so they are due in their order and one timer does.
final class WaitingRequests: EventHandler {
    private let limits: TransportLimits
    private let nanoseconds: UInt64
    private(set) var count = 0
    var isEmpty: Bool { count == 0 }
    private(set) var first: WaitingRequest?
    private unowned(unsafe) var last: WaitingRequest?

    init(loop: EventLoop, limits: TransportLimits) {
        self.limits = limits
        nanoseconds = limits.upstreamQueueTimeoutNanoseconds
        super.init(loop: loop)
    }

    /// What each may keep before its source is stopped: it counts as other buffers of the loop do.
    var highWaterBytes: Int {
        loop.chunks.lentBytes > limits.connectionBufferBytes / 2 ? TransportLimits.leastQueuedBytesPerStream : limits.outputHighWaterBytes
    }

    func append(_ exchange: UpstreamExchange, _ request: UpstreamRequest) {
        let entry = WaitingRequest(exchange, request, deadline: loop.now &+ nanoseconds, list: self)
        exchange.waiting = entry
        exchange.isRequestSent = !request.hasBody
        entry.previous = last
        if let last { last.next = entry } else { first = entry }
        last = entry
        count &+= 1
        if count == 1 { setDeadline(entry.deadline) }
    }

    func remove(_ entry: WaitingRequest) {
        guard entry.exchange.waiting === entry else { return }
        entry.exchange.waiting = nil
        let (previous, next) = (entry.previous, entry.next)
        if let next { next.previous = previous } else { last = previous }
        if let previous { previous.next = next } else { first = next }
        entry.next = nil
        count &-= 1
    }

    /// Those who wait now have waited in vain.
    func failAll(_ failure: UpstreamFailure) {
        for _ in 0..<count {
            guard let entry = first else { return }
            fail(entry, failure)
        }
    }

    private func fail(_ entry: WaitingRequest, _ failure: UpstreamFailure) {
        remove(entry)
        entry.exchange.isFinished = true
        entry.exchange.failed(failure)
    }

    override func deadlineReached() {
        while let entry = first, entry.deadline <= loop.now { fail(entry, .overloaded) }
        if let first { setDeadline(first.deadline) }
    }
}
