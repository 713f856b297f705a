import COpenSSL

/// Certificate, key and protocol choice for the listening side. Shared between loops: OpenSSL counts references to an SSL_CTX
/// atomically and does not change it after set-up.
public final class TLSServerContext: @unchecked Sendable {
    // Unchecked: the pointer is set once, and SSL_new on one SSL_CTX from several threads is allowed (openssl-threads(7)).
    private let context: OpaquePointer

    /// Reads PEM files: a certificate chain and its key. TLS 1.2 and 1.3; ALPN `h2`, then `http/1.1`.
    public init(certificateFile: String, keyFile: String) throws(TLSError) {
        guard let context = SSL_CTX_new(TLS_server_method()) else { throw TLSError("cannot make a TLS context") }
        self.context = context
        SSL_CTX_ctrl(context, SSL_CTRL_SET_MIN_PROTO_VERSION, Int(TLS1_2_VERSION), nil)
        // Renegotiation is an attack surface that no HTTP client needs; the session ids must not depend on the defaults of a build.
        SSL_CTX_set_options(context, UInt64(1) << 30 /* SSL_OP_NO_RENEGOTIATION */)
        SSL_CTX_ctrl(
            context, SSL_CTRL_MODE,
            Int(SSL_MODE_ENABLE_PARTIAL_WRITE) | Int(SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER) | Int(SSL_MODE_RELEASE_BUFFERS), nil)
        SSL_CTX_set_alpn_select_cb(context, selectProtocol, nil)
        guard SSL_CTX_use_certificate_chain_file(context, certificateFile) == 1 else {
            throw TLSError("\(certificateFile): not a readable PEM certificate chain (\(Self.lastReason()))")
        }
        guard SSL_CTX_use_PrivateKey_file(context, keyFile, SSL_FILETYPE_PEM) == 1 else {
            throw TLSError("\(keyFile): not a readable PEM private key (\(Self.lastReason()))")
        }
        guard SSL_CTX_check_private_key(context) == 1 else { throw TLSError("\(keyFile): not the key of \(certificateFile)") }
    }

    deinit { SSL_CTX_free(context) }

    func makeSession(descriptor: CInt) -> OpaquePointer? {
        guard let session = SSL_new(context) else { return nil }
        SSL_set_fd(session, descriptor)
        SSL_set_accept_state(session)
        return session
    }

    private static func lastReason() -> String {
        let code = ERR_get_error()
        guard let reason = ERR_reason_error_string(code) else { return "no such file" }
        return String(cString: reason)
    }
}

public struct TLSError: Error, CustomStringConvertible {
    public let description: String
    init(_ description: String) { self.description = description }
}

/// RFC 7301, section 3.2: the server chooses; `h2` is preferred. Nothing in common: the connection goes on without ALPN.
private let selectProtocol:
    @convention(c) (
        OpaquePointer?, UnsafeMutablePointer<UnsafePointer<UInt8>?>?, UnsafeMutablePointer<UInt8>?, UnsafePointer<UInt8>?, UInt32,
        UnsafeMutableRawPointer?
    ) -> CInt = { _, chosen, chosenLength, offered, offeredLength, _ in
        let preferences: StaticString = "\u{2}h2\u{8}http/1.1"
        guard let offered else { return SSL_TLSEXT_ERR_NOACK }
        let found = chosen?.withMemoryRebound(to: UnsafeMutablePointer<UInt8>?.self, capacity: 1) { pointer in
            SSL_select_next_proto(
                pointer, chosenLength, preferences.utf8Start, UInt32(preferences.utf8CodeUnitCount), offered, offeredLength)
        }
        return found == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK
    }
