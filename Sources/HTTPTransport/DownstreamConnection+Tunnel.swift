import EventLoop
import Wire

/// A connection that carries a WebSocket: no messages any more, but bytes, with flow control and an end of its own for each direction.
extension DownstreamConnection {
    func openTunnel(headers: HeaderBlock) {
        writeStatusLine(101)
        output.append("connection: upgrade\r\nupgrade: websocket\r\n")
        writeFields(headers)
        output.append("\r\n")
        sendsEachEvent = true
        flushLater()
        phase = .tunnel
        response = HTTP1Response()
        setDeadline(loop.now &+ limits.tunnelIdleTimeoutNanoseconds)
        // What the client sent behind its request is the tunnel's first.
        resumeInput()
    }

    var wantsTunnelInput: Bool {
        guard let exchange else { return false }
        return !exchange.isBodyPaused && !exchange.isRequestComplete
    }

    func processTunnel(_ bytes: UnsafeRawBufferPointer) {
        setDeadline(loop.now &+ limits.tunnelIdleTimeoutNanoseconds)
        exchange?.bodyReceived(bytes)
    }

    /// The client has ended its side, or will have once what waits in the kernel is read.
    func tunnelInputEnded() {
        guard let exchange, !exchange.isRequestComplete, !hasUnreadInput else { return }
        if !input.isEmpty {
            exchange.bodyReceived(input.readable)
            input.removeAll()
        }
        exchange.isRequestComplete = true
        exchange.requestEnded()
        if exchange.isResponseFinished { finishTunnel() }
    }

    /// Ends our side once all is written, and the connection when the client has ended its own.
    func finishTunnel() {
        closesAfterFlush = true
        flushLater()
    }

    var isTunnelOver: Bool { exchange.map { $0.isRequestComplete && $0.isResponseFinished } ?? true }

    func tunnelDeadlineReached() {
        // The client's bytes move the deadline; what it has taken of the backend's is looked at only here.
        let limit = limits.tunnelIdleTimeoutNanoseconds
        if standstill() >= limit { close() } else { setDeadline(loop.now &+ limit) }
    }
}
