import EventLoop
import HTTPTransport
import Routing
import Wire

/// One try of an exchange at one backend. Hands all on to its exchange, unless that has moved to another try.
final class Attempt: UpstreamExchange {
    /// Unchecked: an exchange cancels its attempt before it goes, and a cancelled one gets no calls.
    private unowned(unsafe) let exchange: Exchange

    init(exchange: Exchange) { self.exchange = exchange }

    private var isCurrent: Bool { exchange.attempt.map { uncounted($0).toOpaque() } == uncounted(self).toOpaque() }

    override var client: DownstreamExchange? { exchange }
    override func informationalReceived() { if isCurrent { exchange.upstreamInformed(response) } }
    override func tunnelOpened() { if isCurrent { exchange.tunnelOpened(response) } }
    override func headReceived() { if isCurrent { exchange.upstreamHeadReceived(response) } }
    override func bodyReceived(_ bytes: UnsafeRawBufferPointer) { if isCurrent { exchange.upstreamBodyReceived(bytes) } }
    override func responseEnded(trailers: HeaderBlock?) { if isCurrent { exchange.upstreamResponseEnded(trailers: trailers) } }
    override func failed(_ failure: UpstreamFailure) { if isCurrent { exchange.upstreamFailed(failure) } }
    override func requestDrained() { if isCurrent { exchange.upstreamDrained() } }
}
