import EventLoop
import Glibc
import Wire

/// What a downstream and an upstream connection have in common: a socket, what waits to be written and what waits to be parsed.
///
/// Budget per event: one read, one write, no allocation, no `epoll_ctl`. Output of one event leaves in one write at the event's end.
open class TransportConnection: EventHandler {
    final var socket: ByteSocket?
    final var output: ByteBuffer
    /// The start of a message that has not wholly come.
    final var input: ByteBuffer
    final var http2: HTTP2Session?
    final var isTLS = false
    /// TLS is being set up: nothing else can be read or written.
    final var isHandshaking = false
    final let limits: TransportLimits

    /// The kernel's send buffer is full; the next writable edge goes on.
    final var isWriteBlocked = false
    /// Bytes may wait in the kernel that we were told of and did not read.
    final var hasUnreadInput = false
    /// `input` may hold a whole message.
    private final var hasUnparsedInput = false
    final var peerHasClosed = false
    /// The connection is broken: nothing more comes, and nothing that is sent arrives.
    final var peerHasReset = false
    final var isClosed = false
    /// Close once the output is written.
    final var closesAfterFlush = false
    private final var closesWhenOutsideHTTP2 = false
    /// What is read for this connection leaves before the next event of the wake is looked at: a token of a stream does not wait until those
    /// of all other streams are read.
    final var sendsEachEvent = false
    /// Bytes that the socket has taken.
    final var bytesSent = 0
    /// Of which the peer had acknowledged so many when a deadline looked last, and since when.
    private(set) final var bytesAcknowledged = -1
    private final var acknowledgedSince: UInt64 = 0
    /// Of the windows that backends have been given for answers to this connection's requests.
    final lazy var windowShare = WindowShare()
    /// Output went above the high-water mark; a source waits for the low-water mark.
    final var hasStalledSource = false

    init(loop: EventLoop, limits: TransportLimits) {
        output = ByteBuffer(pool: loop.chunks)
        input = ByteBuffer(pool: loop.chunks)
        self.limits = limits
        super.init(loop: loop)
    }

    // MARK: What the sides differ in

    /// Parses what came; returns the bytes taken. `bytes` may be overwritten.
    func process(_ bytes: UnsafeMutableRawBufferPointer) -> Int { bytes.count }
    /// Whether bytes may be read now. False stops the peer by its own flow control.
    var wantsInput: Bool { true }
    /// The peer has ended its stream; nothing more can be read.
    func peerClosed() {}
    /// A read or write failed.
    func transportFailed() {}
    /// A write failed; what the peer said before may still wait to be read.
    func sendingFailed() { transportFailed() }
    /// The first writable edge: a connect came back. Returns false when it failed.
    func connected() -> Bool { true }
    /// The TLS handshake is done.
    func handshakeFinished() {}
    /// The TLS handshake came to nothing; the connection is closed next.
    func handshakeFailed(_ failure: TLSHandshakeFailure) {}
    /// Output fell below the low-water mark after a source was stalled.
    func outputDrained() {}
    /// A HTTP/2 request begins; nil refuses it.
    func makeStream(in session: HTTP2Session, id: Int32) -> HTTP2Stream? { nil }
    /// HTTP/2: the peer has told what it allows, for the first time or anew.
    func peerSettingsReceived() {}
    /// HTTP/2: an answer to a PING of ours.
    func pingAnswered() {}
    /// HTTP/2: the peer takes no new streams on this connection.
    func peerGoingAway(errorCode: UInt32) {}
    /// Others want what an idle connection has.
    func endIfIdle() {}
    /// The connection is closed and forgotten.
    func closed() {}

    // MARK: Reading

    public final override func socketReady(_ readiness: Readiness) {
        guard !isClosed else { return }
        if readiness.contains(.writable) {
            guard connected() else { return }
            if isWriteBlocked {
                isWriteBlocked = false
                flushLater()
            }
        }
        if !readiness.intersection([.peerClosed, .hungUp, .failed]).isEmpty { peerHasClosed = true }
        if readiness.contains(.failed) { peerHasReset = true }
        if readiness.contains(.readable) || peerHasClosed { readInput() }
    }

    private func readInput() {
        for _ in 0..<TransportLimits.readsPerWake {
            guard !isClosed else { return }
            guard wantsInput else {
                hasUnreadInput = true
                if peerHasClosed { peerClosed() }
                return
            }
            hasUnreadInput = false
            let pending = input.count
            if pending > 0 { memcpy(loop.readBuffer.baseAddress!, input.readable.baseAddress!, pending) }
            let most =
                isShortOfRoom ? min(pending &+ TransportLimits.readBytesWhenShort, EventLoop.readBufferBytes) : EventLoop.readBufferBytes
            let room = UnsafeMutableRawBufferPointer(rebasing: loop.readBuffer[pending..<most])
            let result = socket!.read(into: room)
            if isTLS {
                advanceTLS(result)
                guard !isClosed else { return }
            }
            switch result {
            case .moved(let count, let drained):
                processInput(pending &+ count, pending: pending)
                if drained && !peerHasClosed { return }
            case .wouldBlock:
                // Nothing new, but what was left over may be a whole message that had to wait for its turn.
                if hasUnparsedInput { processInput(pending, pending: pending) }
                return
            case .endOfStream:
                peerHasClosed = true
                peerClosed()
                return
            case .failed:
                transportFailed()
                return
            }
        }
        if !isClosed { callAgain() }
    }

    /// What a read may have done besides reading: ended the handshake, or left bytes to send.
    private func advanceTLS(_ result: TransferResult) {
        // At the end of this event, not of all: the handshakes of others take their time.
        if holdsCiphertext { callAtTurnEnd() }
        guard isHandshaking else { return }
        if socket?.isEstablished ?? false {
            isHandshaking = false
            handshakeFinished()
            return
        }
        switch result {
        case .endOfStream, .failed: handshakeFailed(socket?.handshakeFailure ?? .other)
        case .moved, .wouldBlock: break
        }
    }

    private func processInput(_ count: Int, pending: Int) {
        hasUnparsedInput = false
        guard count > 0 else { return }
        if pending > 0 { input.removeAll() }
        let taken = process(UnsafeMutableRawBufferPointer(rebasing: loop.readBuffer[..<count]))
        guard !isClosed, taken < count else { return }
        // Thousands of connections may each hold the first byte of a head.
        input.keep(UnsafeRawBufferPointer(rebasing: loop.readBuffer[taken..<count]))
    }

    /// Looks again at bytes that were left when `wantsInput` was false. In a turn of its own, so that no parser is entered twice.
    final func resumeInput() {
        hasUnparsedInput = !input.isEmpty
        if hasUnreadInput || peerHasClosed || hasUnparsedInput { callAgain() }
    }

    // MARK: Writing

    public final override func turnEnded() { flush() }

    /// Has the output written at the end of the wake: what all its events caused leaves together, and peers that sleep are woken
    /// once for it (10 % less CPU per request at 32 connections than a write per event; alone, an event waits for nothing).
    final func flushLater() {
        if sendsEachEvent { callAtTurnEnd() } else { callAtBatchEnd() }
    }

    /// Writes what waits. Called once per event at its end, through `flushLater()`.
    final func flush() {
        guard !isClosed, !isInsideHTTP2 else { return }
        if closesWhenOutsideHTTP2 { return close() }
        http2?.pullOutput()
        while !isWriteBlocked, hasBytesToSend {
            let bytes = isHandshaking ? UnsafeRawBufferPointer(start: nil, count: 0) : output.readable
            switch socket!.write(bytes) {
            case .moved(let count, let all):
                bytesSent &+= count
                output.consume(count)
                if !all { isWriteBlocked = true }
                if output.count < limits.outputLowWaterBytes { http2?.pullOutput() }
            case .wouldBlock:
                isWriteBlocked = true
            case .endOfStream, .failed:
                if isHandshaking { handshakeFailed(.closed) }
                if !isClosed { sendingFailed() }
                return
            }
        }
        if hasStalledSource, output.count <= lowWaterBytes {
            hasStalledSource = false
            outputDrained()
        }
        guard output.isEmpty, !isClosed, !holdsCiphertext else { return }
        if closesAfterFlush || http2?.isFinished ?? false { finishClosing() }
    }

    private final var holdsCiphertext: Bool { isTLS && (socket?.hasPendingOutput ?? false) }
    private final var hasBytesToSend: Bool { (!output.isEmpty && !isHandshaking) || holdsCiphertext }

    /// Called when the last output has left and `closesAfterFlush` was set.
    func finishClosing() { close() }

    /// Appends to the output, or, for a large piece behind little, hands both to the kernel and keeps what it does not take.
    final func write(_ bytes: UnsafeRawBufferPointer) {
        if bytes.count >= ChunkPool.chunkBytes / 2, !isWriteBlocked, !isTLS, output.count < ChunkPool.chunkBytes,
            isReadyToWrite
        {
            if case .moved(let count, let all) = socket!.write(output.readable, bytes) {
                if !all { isWriteBlocked = true }
                bytesSent &+= count
                let ofOutput = min(count, output.count)
                output.consume(ofOutput)
                output.append(UnsafeRawBufferPointer(rebasing: bytes[(count &- ofOutput)...]))
                flushLater()
                return
            }
        }
        output.append(bytes)
        flushLater()
    }

    /// For how many nanoseconds the peer has acknowledged nothing more, as far as deadlines have looked; 0 when it has since the last look, or
    /// this is the first. Our own kernel tells nothing of a slow reader: it takes megabytes for it, and then nothing until a third of them
    /// is gone. A system call: for deadlines. Under TLS the figure is of ciphertext, a little less than what has arrived.
    final func standstill() -> UInt64 {
        let acknowledged = bytesSent &- (socket?.unacknowledgedBytes ?? 0)
        if bytesAcknowledged != acknowledged {
            bytesAcknowledged = acknowledged
            acknowledgedSince = loop.now
        }
        return loop.now &- acknowledgedSince
    }

    /// What has been sent and what waits, together.
    final var outputEnd: Int { bytesSent &+ output.count }

    private final var isInsideHTTP2: Bool { http2?.isInsideLibrary ?? false }

    /// False while a connect is under way.
    var isReadyToWrite: Bool { true }

    final var isAboveHighWater: Bool {
        guard output.count > TransportLimits.leastQueuedBytesPerStream, output.count > highWaterBytes else { return false }
        hasStalledSource = true
        return true
    }

    /// Half of what the connections of this loop may hold is taken: each gets by with the least from here on.
    final var isShortOfRoom: Bool { uncounted(loop).use { uncounted($0.chunks).use { $0.lentBytes } } > limits.connectionBufferBytes / 2 }
    /// Output that may wait before its source is stopped, and what may be left of it when the source goes on.
    final var highWaterBytes: Int { isShortOfRoom ? TransportLimits.leastQueuedBytesPerStream : limits.outputHighWaterBytes }
    private final var lowWaterBytes: Int { isShortOfRoom ? TransportLimits.leastQueuedBytesPerStream / 4 : limits.outputLowWaterBytes }

    // MARK: Closing

    final func close() {
        guard !isClosed else { return }
        guard !isInsideHTTP2 else {
            // nghttp2 must not lose its session under its feet: the turn's end closes.
            closesWhenOutsideHTTP2 = true
            flushLater()
            return
        }
        isClosed = true
        detach()
        socket = nil
        output.removeAll()
        input.removeAll()
        http2?.invalidate()
        http2 = nil
        closed()
    }
}
