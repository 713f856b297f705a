import EventLoop
import Wire

/// What no well-behaved server does. For test servers, so that a client's or a proxy's answer to it can be shown.
extension DownstreamExchange {
    /// Requests that came over the connection before this one: above 0 the client has reused it.
    public final var requestsBefore: Int { connection?.requestsBefore ?? 0 }

    /// Bytes put between those that the transport writes, outside all framing. HTTP/1 only; without effect elsewhere.
    public final func writeUnframed(_ bytes: UnsafeRawBufferPointer) {
        guard let connection, stream == nil else { return }
        connection.output.append(bytes)
        connection.flushLater()
    }

    /// Ends the whole connection, other streams of it included, once what was written has left: in good order (FIN) or with a
    /// reset (RST).
    public final func breakConnection(resets: Bool) {
        guard let connection else { return }
        isResponseFinished = true
        connection.breakOff(resets: resets)
    }

    /// HTTP/2: GOAWAY. Gracefully (NO_ERROR, with the last stream that was taken), after which streams under way go on; or with
    /// INTERNAL_ERROR and stream 0, as if nothing had been processed, after which the connection closes. HTTP/1: without effect.
    public final func goAway(abruptly: Bool) {
        guard let connection, let http2 = connection.http2 else { return }
        if abruptly {
            isResponseFinished = true
            http2.abandon()
            connection.closesAfterFlush = true
            connection.flushLater()
        } else {
            http2.refuseNewStreams()
        }
    }
}

extension DownstreamConnection {
    fileprivate func breakOff(resets: Bool) {
        flush()
        guard !isClosed else { return }
        if resets { socket?.resetOnClose() }
        close()
    }
}
