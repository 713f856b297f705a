import CLinux
import COpenSSL
import Glibc

/// The TLS of one connection: plaintext on one side, a socket's ciphertext on the other. Confined to the loop of its channel.
///
/// Budget: one `recv` per read and one `send` per write, of up to 64 KiB; OpenSSL borrows a record's buffer while it works and holds
/// none when idle. Bytes that the kernel does not take wait here, at most some 80 KiB.
final class TLSSession {
    /// Plaintext encrypted for one `send`: four records of the greatest size.
    static let writeBytes = 64 << 10
    /// With more than this unsent nothing more is encrypted.
    static let pendingBytes = 16 << 10

    private let ssl: OpaquePointer
    private let channel: TLSChannel
    /// Callbacks of OpenSSL's reach into it.
    private let context: TLSContext
    /// Keeps the sessions that a server gives, for the next connection to it.
    private let memory: TLSSessionMemory?
    /// Ciphertext that the kernel did not take, or that must leave before anything else: a handshake's flight, an alert.
    private var pendingOutput: ByteBuffer
    /// Ciphertext that came and did not fit into the reader's buffer when it was plain.
    private var pendingInput: ByteBuffer
    /// Both sides have finished; set by the read that sees it.
    private(set) var isEstablished = false
    private var hasFailed = false
    /// The kernel takes no more. What it has received can still be read.
    private var cannotSend = false
    /// The peer's close_notify came, perhaps in one read with its last bytes and long before its FIN.
    private var hasEnded = false
    /// OpenSSL's code of the error that ended the session; 0 for none.
    private(set) var errorCode: UInt = 0

    /// - Parameter ssl: with its role set; owned from now on.
    init?(ssl: OpaquePointer, channel: TLSChannel, context: TLSContext, memory: TLSSessionMemory?) {
        self.ssl = ssl
        self.channel = channel
        self.context = context
        self.memory = memory
        pendingOutput = ByteBuffer(pool: channel.pool)
        pendingInput = ByteBuffer(pool: channel.pool)
        guard let bio = channel.makeBIO() else { return nil }
        SSL_set_bio(ssl, bio, bio)
        if let memory { SSL_set_ex_data(ssl, 0, Unmanaged.passUnretained(memory).toOpaque()) }
    }

    deinit { SSL_free(ssl) }

    /// The client speaks first.
    func startHandshake() {
        channel.state.pointee.inputCount = 0
        channel.clearOutput()
        SSL_do_handshake(ssl)
        pendingOutput.append(channel.output)
    }

    var hasPendingOutput: Bool { !pendingOutput.isEmpty }
    var pendingOutputBytes: Int { pendingOutput.count }

    // MARK: Reading

    func read(_ descriptor: CInt, into buffer: UnsafeMutableRawBufferPointer) -> TransferResult {
        guard !hasFailed else { return .failed(EPROTO) }
        if !pendingInput.isEmpty || SSL_pending(ssl) > 0 {
            let (count, end) = decryptPending(into: buffer)
            if count > 0 { return .moved(count, drained: false) }
            if let end { return end }
        }
        if hasEnded { return .endOfStream }
        let room = min(buffer.count, TLSChannel.inputBytes)
        let received = recvAll(descriptor, room)
        guard received > 0 else {
            // The end of the stream that no close_notify announced: whoever cut it, it may not be whole (RFC 8446, 6.1).
            if received == 0 { return .failed(ECONNRESET) }
            return errno == EAGAIN ? .wouldBlock : .failed(errno)
        }
        let (count, end) = decrypt(UnsafeRawBufferPointer(rebasing: channel.receiveBuffer[..<received]), into: buffer)
        let rest = channel.state.pointee
        if rest.inputCount > 0, end == nil { pendingInput.append(UnsafeRawBufferPointer(start: rest.input, count: rest.inputCount)) }
        if count > 0 {
            // What stopped us comes again with the next read; only "nothing more for now" may wait for an edge.
            return .moved(count, drained: received < room && end == nil && pendingInput.isEmpty && SSL_pending(ssl) == 0)
        }
        if let end { return end }
        // Not `wouldBlock`: behind these bytes the end of the stream may have come with the same edge.
        return .moved(0, drained: received < room)
    }

    private func recvAll(_ descriptor: CInt, _ room: Int) -> Int {
        while true {
            let count = recv(descriptor, channel.receiveBuffer.baseAddress, room, 0)
            if count >= 0 || errno != EINTR { return count }
        }
    }

    private func decryptPending(into buffer: UnsafeMutableRawBufferPointer) -> (count: Int, end: TransferResult?) {
        let held = pendingInput.count
        let result = decrypt(pendingInput.readable, into: buffer)
        pendingInput.consume(held &- channel.state.pointee.inputCount)
        return result
    }

    /// Hands ciphertext to OpenSSL and takes plaintext from it, until one is used up or the other is full.
    private func decrypt(
        _ ciphertext: UnsafeRawBufferPointer, into buffer: UnsafeMutableRawBufferPointer
    ) -> (count: Int, end: TransferResult?) {
        channel.state.pointee.input = ciphertext.baseAddress
        channel.state.pointee.inputCount = ciphertext.count
        channel.clearOutput()
        defer { if channel.state.pointee.outputCount > 0, !cannotSend { pendingOutput.append(channel.output) } }
        var total = 0
        repeat {
            let count = SSL_read(ssl, buffer.baseAddress! + total, CInt(clamping: buffer.count &- total))
            if count > 0 {
                total &+= Int(count)
                continue
            }
            if !isEstablished, SSL_is_init_finished(ssl) == 1 { establish() }
            switch SSL_get_error(ssl, count) {
            case SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE: return (total, nil)
            case SSL_ERROR_ZERO_RETURN:
                hasEnded = true
                return (total, .endOfStream)
            default:
                fail()
                return (total, .failed(EPROTO))
            }
        } while total < buffer.count && (channel.state.pointee.inputCount > 0 || SSL_pending(ssl) > 0)
        if !isEstablished { establish() }
        return (total, nil)
    }

    private func establish() {
        isEstablished = true
        // What a handshake left in the thread's queue, such as a ticket that nobody knows, is not a later read's error.
        ERR_clear_error()
    }

    private func fail() {
        hasFailed = true
        errorCode = UInt(ERR_peek_error())
        ERR_clear_error()
    }

    // MARK: Writing

    /// Encrypts up to 64 KiB of `bytes` and sends it behind what waits. With no bytes: sends what waits.
    /// `drained`: nothing of it is left here.
    func write(_ descriptor: CInt, _ bytes: UnsafeRawBufferPointer) -> TransferResult {
        guard !hasFailed || bytes.isEmpty else { return .failed(EPROTO) }
        if pendingOutput.count > Self.pendingBytes || bytes.isEmpty {
            if let code = sendPending(descriptor) { return .failed(code) }
            return .moved(0, drained: pendingOutput.isEmpty)
        }
        channel.clearOutput()
        let count = SSL_write(ssl, bytes.baseAddress, CInt(min(bytes.count, Self.writeBytes)))
        guard count > 0 else {
            switch SSL_get_error(ssl, count) {
            case SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE: return .wouldBlock
            default:
                fail()
                return .failed(EPROTO)
            }
        }
        if !pendingOutput.isEmpty {
            pendingOutput.append(channel.output)
            if let code = sendPending(descriptor) { return .failed(code) }
        } else {
            let output = channel.output
            let sent = sendSome(descriptor, output)
            if sent < 0 { return .failed(sendingFailed()) }
            pendingOutput.append(UnsafeRawBufferPointer(rebasing: output[sent...]))
        }
        return .moved(Int(count), drained: pendingOutput.isEmpty)
    }

    private func sendPending(_ descriptor: CInt) -> CInt? {
        while !pendingOutput.isEmpty {
            let sent = sendSome(descriptor, pendingOutput.readable)
            if sent < 0 { return sendingFailed() }
            if sent == 0 { return nil }
            pendingOutput.consume(sent)
        }
        return nil
    }

    /// Forgets what cannot leave any more; returns why.
    private func sendingFailed() -> CInt {
        let code = errno
        cannotSend = true
        pendingOutput.removeAll()
        return code
    }

    /// Bytes taken by the kernel, 0 when it is full; -1 with `errno`.
    private func sendSome(_ descriptor: CInt, _ bytes: UnsafeRawBufferPointer) -> Int {
        while true {
            let count = send(descriptor, bytes.baseAddress, bytes.count, CInt(MSG_NOSIGNAL))
            if count >= 0 { return count }
            if errno == EAGAIN { return 0 }
            if errno != EINTR { return -1 }
        }
    }

    /// Tells the peer that no more comes. After a failure: sends its alert, if it has not left yet.
    func sayGoodbye(_ descriptor: CInt) {
        if isEstablished, !hasFailed {
            channel.clearOutput()
            SSL_shutdown(ssl)
            ERR_clear_error()
            pendingOutput.append(channel.output)
        }
        _ = sendPending(descriptor)
    }

    // MARK: What was agreed

    /// The protocol chosen by ALPN (RFC 7301); nil when none was.
    var applicationProtocol: ApplicationProtocol? {
        var name: UnsafePointer<UInt8>?
        var length: UInt32 = 0
        SSL_get0_alpn_selected(ssl, &name, &length)
        return switch length {
        case 2: .http2
        case 8: .http11
        default: nil
        }
    }

    /// Subject of the verified certificate that the peer showed (RFC 2253); nil when it showed none. Builds text: not for every request.
    var peerSubject: String? {
        guard SSL_get_verify_result(ssl) == Int(X509_V_OK), let certificate = SSL_get1_peer_certificate(ssl) else { return nil }
        defer { X509_free(certificate) }
        var text = [CChar](repeating: 0, count: 1_024)
        let length = Int(swl_subject(certificate, &text, CInt(text.count)))
        return String(decoding: text[..<length].map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    /// The class of the error that ended the handshake.
    var failure: TLSHandshakeFailure { TLSHandshakeFailure(errorCode: errorCode) }

    /// The error that ended the session, in words for a log.
    var failureText: String {
        let verification = SSL_get_verify_result(ssl)
        if verification != Int(X509_V_OK), swl_reason(errorCode) == SSL_R_CERTIFICATE_VERIFY_FAILED {
            return "certificate not accepted: \(String(cString: X509_verify_cert_error_string(verification)))"
        }
        guard errorCode != 0, let reason = ERR_reason_error_string(errorCode) else { return "closed during the TLS handshake" }
        return String(cString: reason)
    }

    /// Whether the peer ended the session with an alert, as a server does that refuses the client's certificate after its own handshake is done.
    var wasRefusedByPeer: Bool { hasFailed && failure == .peerAlert }
}

/// What ALPN can agree on here.
public enum ApplicationProtocol: Sendable {
    case http11, http2
}

/// Why a handshake came to nothing, in classes that an operator acts upon differently.
public enum TLSHandshakeFailure: Int, CaseIterable, Sendable {
    /// Not finished in time.
    case timeout
    /// The peer closed or reset the connection first.
    case closed
    /// No version of TLS in common.
    case protocolVersion
    /// No cipher, group or signature algorithm in common.
    case cipher
    /// ALPN without a protocol in common (RFC 7301, 3.2).
    case applicationProtocol
    /// The peer showed no certificate, or one that cannot be verified.
    case certificate
    /// The peer gave up with an alert: it does not trust our certificate, for one.
    case peerAlert
    /// Bytes that are not TLS.
    case notTLS
    case other

    /// As in the label `reason` of metrics.
    public var label: StaticString {
        switch self {
        case .timeout: "timeout"
        case .closed: "closed"
        case .protocolVersion: "protocol_version"
        case .cipher: "cipher"
        case .applicationProtocol: "alpn"
        case .certificate: "certificate"
        case .peerAlert: "peer_alert"
        case .notTLS: "not_tls"
        case .other: "other"
        }
    }

    init(errorCode: UInt) {
        guard errorCode != 0 else {
            self = .closed
            return
        }
        switch swl_reason(errorCode) {
        case SSL_R_UNSUPPORTED_PROTOCOL, SSL_R_VERSION_TOO_LOW, SSL_R_WRONG_SSL_VERSION, SSL_R_INAPPROPRIATE_FALLBACK:
            self = .protocolVersion
        case SSL_R_NO_SHARED_CIPHER, SSL_R_NO_SUITABLE_GROUPS, SSL_R_NO_SUITABLE_KEY_SHARE, SSL_R_NO_SHARED_SIGNATURE_ALGORITHMS,
            SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM:
            self = .cipher
        case SSL_R_NO_APPLICATION_PROTOCOL: self = .applicationProtocol
        case SSL_R_CERTIFICATE_VERIFY_FAILED, SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE: self = .certificate
        case SSL_R_HTTP_REQUEST, SSL_R_HTTPS_PROXY_REQUEST, SSL_R_WRONG_VERSION_NUMBER, SSL_R_PACKET_LENGTH_TOO_LONG: self = .notTLS
        // Alerts of the peer's are numbered from here (SSL_AD_REASON_OFFSET).
        case 1_000...1_255: self = .peerAlert
        default: self = .other
        }
    }
}
