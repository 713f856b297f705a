import CLinux
import Glibc

/// What a read or a write came to.
public enum TransferResult {
    /// Bytes moved. `drained` on a read: the kernel has no more for now, so the next edge will tell; on a write: it has room for more,
    /// else the next writable edge will tell.
    case moved(Int, drained: Bool)
    case wouldBlock
    /// The peer has ended its side in good order.
    case endOfStream
    case failed(CInt)
}

/// A connected stream socket, plain or under TLS. Owns the descriptor and the TLS session.
public struct ByteSocket: ~Copyable {
    public let descriptor: CInt
    private let tls: TLSSession?
    private var leavesUnannounced = false

    /// Takes over `descriptor`.
    public init(descriptor: CInt) {
        self.descriptor = descriptor
        tls = nil
    }

    /// Takes over `descriptor`; TLS as the server, the handshake runs inside the first reads. Nil, with the descriptor closed, when no
    /// session can be made.
    public init?(descriptor: CInt, tls context: TLSServerContext, channel: TLSChannel) {
        guard let session = context.makeSession(channel: channel) else {
            close(descriptor)
            return nil
        }
        self.descriptor = descriptor
        tls = session
    }

    /// Takes over `descriptor`; TLS as the client, the handshake begins with the first write and runs inside reads. Nil, with the
    /// descriptor closed, when no session can be made.
    ///
    /// - Parameters:
    ///   - serverName: the name or address that the server's certificate must be for.
    ///   - protocol: what the endpoint is to speak, offered by ALPN.
    ///   - memory: where a session of an earlier connection is found, and the next one is left.
    public init?(
        descriptor: CInt, tls context: TLSClientContext, serverName: String, protocol: ApplicationProtocol, memory: TLSSessionMemory,
        channel: TLSChannel
    ) {
        let made = context.makeSession(serverName: serverName, protocol: `protocol`, memory: memory, channel: channel)
        guard let session = made else {
            close(descriptor)
            return nil
        }
        self.descriptor = descriptor
        tls = session
    }

    deinit {
        // After a goodbye the peer would take what it has for all there is.
        if let tls, !leavesUnannounced { tls.sayGoodbye(descriptor) }
        close(descriptor)
    }

    public var isTLS: Bool { tls != nil }

    // MARK: TLS

    /// Both sides have finished their handshake; always true without TLS.
    public var isEstablished: Bool { tls?.isEstablished ?? true }
    /// Bytes that must be sent though nobody wrote any, or that the kernel did not take: `write` sends them first.
    public var hasPendingOutput: Bool { tls?.hasPendingOutput ?? false }
    /// What ALPN agreed on; nil when nothing was.
    public var applicationProtocol: ApplicationProtocol? { tls?.applicationProtocol }
    /// Subject of the peer's verified certificate; nil when it showed none.
    public var peerSubject: String? { tls?.peerSubject }
    /// The class of the error that ended the handshake.
    public var handshakeFailure: TLSHandshakeFailure { tls?.failure ?? .other }
    /// The same in words, for a log.
    public var tlsFailureText: String { tls?.failureText ?? "" }
    /// Whether the peer ended the TLS session with an alert.
    public var wasRefusedByPeer: Bool { tls?.wasRefusedByPeer ?? false }

    // MARK: Bytes

    /// One read of at most `buffer.count` bytes; under TLS as many records as came.
    public func read(into buffer: UnsafeMutableRawBufferPointer) -> TransferResult {
        if let tls { return tls.read(descriptor, into: buffer) }
        while true {
            let count = recv(descriptor, buffer.baseAddress, buffer.count, 0)
            if count > 0 { return .moved(count, drained: count < buffer.count) }
            if count == 0 { return .endOfStream }
            switch errno {
            case EINTR: continue
            case EAGAIN: return .wouldBlock
            case let code: return .failed(code)
            }
        }
    }

    /// One write of what the kernel takes; under TLS of up to 64 KiB, of which all is taken and what the kernel leaves is kept.
    public func write(_ bytes: UnsafeRawBufferPointer) -> TransferResult {
        if let tls { return tls.write(descriptor, bytes) }
        while true {
            let count = send(descriptor, bytes.baseAddress, bytes.count, CInt(MSG_NOSIGNAL))
            if count >= 0 { return .moved(count, drained: count == bytes.count) }
            switch errno {
            case EINTR: continue
            case EAGAIN: return .wouldBlock
            case let code: return .failed(code)
            }
        }
    }

    /// Two pieces in one call, so that a large body need not be copied behind its head. Without TLS only.
    public func write(_ first: UnsafeRawBufferPointer, _ second: UnsafeRawBufferPointer) -> TransferResult {
        if tls != nil { return first.isEmpty ? write(second) : write(first) }
        var pieces = (
            iovec(iov_base: UnsafeMutableRawPointer(mutating: first.baseAddress), iov_len: first.count),
            iovec(iov_base: UnsafeMutableRawPointer(mutating: second.baseAddress), iov_len: second.count)
        )
        return withUnsafeMutablePointer(to: &pieces) { pointer in
            pointer.withMemoryRebound(to: iovec.self, capacity: 2) { vector in
                var message = msghdr()
                message.msg_iov = vector
                message.msg_iovlen = 2
                while true {
                    let count = sendmsg(descriptor, &message, CInt(MSG_NOSIGNAL))
                    if count >= 0 { return .moved(count, drained: count == first.count &+ second.count) }
                    switch errno {
                    case EINTR: continue
                    case EAGAIN: return .wouldBlock
                    case let code: return .failed(code)
                    }
                }
            }
        }
    }

    /// Bytes taken by `write` that the peer's kernel has not acknowledged; under TLS of ciphertext, those included that still wait here.
    public var unacknowledgedBytes: Int { (tls?.pendingOutputBytes ?? 0) &+ Int(swl_unacknowledged(descriptor)) }

    /// Whether the peer has closed or spoken out of turn: either way an idle connection must not be used again.
    public func isStale() -> Bool {
        var byte: UInt8 = 0
        let count = recv(descriptor, &byte, 1, CInt(MSG_PEEK) | CInt(MSG_DONTWAIT))
        return count >= 0 || errno != EAGAIN
    }

    /// The pending error of a connect that has come back: 0 when it succeeded.
    public func pendingError() -> CInt {
        var code: CInt = 0
        var length = socklen_t(MemoryLayout<CInt>.size)
        return getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &code, &length) == 0 ? code : errno
    }

    /// Ends our side of the stream (under TLS after a close_notify); the peer may go on sending.
    public func shutdownSending() {
        tls?.sayGoodbye(descriptor)
        shutdown(descriptor, CInt(SHUT_WR))
    }

    /// Makes the close that follows one without close_notify: what was written still arrives, but under TLS the peer cannot take it for all
    /// there is (RFC 8446, 6.1). Without TLS the end of the stream says nothing either way.
    public mutating func closeUnannounced() { leavesUnannounced = true }

    /// Makes the close that follows a reset (RST), so that the peer cannot take what it got for a complete message.
    public mutating func resetOnClose() {
        leavesUnannounced = true
        var linger = linger(l_onoff: 1, l_linger: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &linger, socklen_t(MemoryLayout.size(ofValue: linger)))
    }
}

/// Starts a non-blocking connection with TCP_NODELAY. The descriptor becomes writable when it stands or has failed.
public func startConnecting(to address: SocketAddress) throws(SocketError) -> CInt {
    let descriptor = swl_stream_socket(address.family)
    guard descriptor >= 0 else { throw SocketError(call: "socket", code: errno) }
    _ = swl_no_delay(descriptor)
    let result = address.withSockaddr { connect(descriptor, $0, $1) }
    if result != 0, errno != EINPROGRESS {
        let code = errno
        close(descriptor)
        throw SocketError(call: "connect", code: code)
    }
    return descriptor
}
