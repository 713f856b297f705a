import CLinux
import COpenSSL
import Glibc

/// What a read or a write came to.
public enum TransferResult {
    /// Bytes moved. `drained` on a read: the kernel has no more for now, so the next edge will tell.
    case moved(Int, drained: Bool)
    case wouldBlock
    /// The peer has ended its side in good order.
    case endOfStream
    case failed(CInt)
}

/// A connected stream socket, plain or under TLS. Owns the descriptor and the TLS session.
public struct ByteSocket: ~Copyable {
    public let descriptor: CInt
    private let tls: OpaquePointer?

    /// Takes over `descriptor`.
    public init(descriptor: CInt) {
        self.descriptor = descriptor
        tls = nil
    }

    /// Takes over `descriptor`; TLS as the server, the handshake runs inside the first reads.
    public init(descriptor: CInt, tls context: TLSServerContext) {
        self.descriptor = descriptor
        tls = context.makeSession(descriptor: descriptor)
    }

    deinit {
        if let tls {
            SSL_shutdown(tls)
            SSL_free(tls)
        }
        close(descriptor)
    }

    public var isTLS: Bool { tls != nil }

    /// One read of at most `buffer.count` bytes; under TLS as many records as fit.
    public func read(into buffer: UnsafeMutableRawBufferPointer) -> TransferResult {
        if let tls { return readTLS(tls, into: buffer) }
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

    /// One write of what the kernel takes.
    public func write(_ bytes: UnsafeRawBufferPointer) -> TransferResult {
        if let tls { return writeTLS(tls, bytes) }
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

    /// Ends our side of the stream (FIN, under TLS close_notify); the peer may go on sending.
    public func shutdownSending() {
        if let tls { SSL_shutdown(tls) } else { shutdown(descriptor, CInt(SHUT_WR)) }
    }

    /// Makes the close that follows a reset (RST), so that the peer cannot take what it got for a complete message.
    public func resetOnClose() {
        var linger = linger(l_onoff: 1, l_linger: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &linger, socklen_t(MemoryLayout.size(ofValue: linger)))
    }

    private func readTLS(_ tls: OpaquePointer, into buffer: UnsafeMutableRawBufferPointer) -> TransferResult {
        var total = 0
        while total < buffer.count {
            ERR_clear_error()
            let count = SSL_read(tls, buffer.baseAddress! + total, CInt(clamping: buffer.count &- total))
            if count > 0 {
                total &+= Int(count)
                continue
            }
            let result = classify(tls, count)
            if total > 0 {
                // What stopped us comes again with the next read; only "nothing more for now" may wait for an edge.
                if case .wouldBlock = result { return .moved(total, drained: true) }
                return .moved(total, drained: false)
            }
            return result
        }
        return .moved(total, drained: false)
    }

    private func writeTLS(_ tls: OpaquePointer, _ bytes: UnsafeRawBufferPointer) -> TransferResult {
        ERR_clear_error()
        let count = SSL_write(tls, bytes.baseAddress, CInt(clamping: bytes.count))
        return count > 0 ? .moved(Int(count), drained: Int(count) == bytes.count) : classify(tls, count)
    }

    private func classify(_ tls: OpaquePointer, _ result: CInt) -> TransferResult {
        let system = errno
        switch SSL_get_error(tls, result) {
        case SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE: return .wouldBlock
        case SSL_ERROR_ZERO_RETURN: return .endOfStream
        case SSL_ERROR_SYSCALL where system == 0: return .endOfStream
        case SSL_ERROR_SYSCALL: return .failed(system)
        default: return .failed(EPROTO)
        }
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
