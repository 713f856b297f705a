import COpenSSL
import Glibc

/// How backends are spoken to over TLS.
public struct TLSClientSettings: Sendable, Equatable {
    /// PEM: the authorities that may have issued a backend's certificate; nil: those of the system.
    public var caFile: String?
    /// The name that certificates must be for and that is asked for (SNI); nil: the endpoint's own host.
    public var serverName: String?
    /// Takes any certificate: whoever can answer at the address can read and answer everything.
    public var skipsVerification = false
    /// Shown to backends that ask for one.
    public var certificate: TLSCertificateFiles?
    public var minimumVersion = TLSVersion.tls12
    /// What is in no file of its own, by the name that is given above in the place of a path.
    public var inlineContents: [String: [UInt8]] = [:]

    public init() {}

    public var files: [String] {
        let all = (caFile.map { [$0] } ?? []) + (certificate.map { [$0.certificateFile, $0.keyFile] } ?? [])
        return all.filter { inlineContents[$0] == nil }
    }
}

/// The latest session that a server gave, for the next connection to it. One per endpoint and loop, and confined to the loop.
public final class TLSSessionMemory {
    private var session: OpaquePointer?
    /// The context that it was made under, which verified the server.
    private var origin: OpaquePointer?

    public init() {}
    deinit { forget() }

    private func forget() {
        SSL_SESSION_free(session)
        SSL_CTX_free(origin)
        session = nil
        origin = nil
    }

    /// Takes over one reference to `session`.
    fileprivate func keep(_ session: OpaquePointer, madeUnder origin: OpaquePointer?) {
        forget()
        self.session = session
        // Counted, lest another context be made at its address.
        if let origin, SSL_CTX_up_ref(origin) == 1 { self.origin = origin }
    }

    /// A session given under other authorities or with another certificate is of no use any more.
    fileprivate func resume(_ ssl: OpaquePointer, under context: OpaquePointer) {
        if let session, origin == context { SSL_set_session(ssl, session) }
    }
}

/// Trust, names and protocol choice for connections to backends.
public final class TLSClientContext: TLSContext, @unchecked Sendable {
    // Unchecked: as its superclass; everything here is set before the initialiser returns.
    private let serverName: String?
    private let verifies: Bool

    public init(_ settings: TLSClientSettings, files: FileSnapshot) throws(TLSError) {
        serverName = settings.serverName
        verifies = !settings.skipsVerification
        try super.init(method: TLS_client_method(), options: swl_client_options, minimumVersion: settings.minimumVersion)
        if let pair = settings.certificate {
            let certificate = try TLSCertificate(pair, from: files)
            try Self.use(certificate, in: context)
            expiries = [CertificateExpiry(file: pair.certificateFile, notAfter: certificate.notAfter)]
        }
        if let file = settings.caFile {
            try Self.trust(files[file], file: file, in: context)
        } else if verifies {
            SSL_CTX_set_default_verify_paths(context)
        }
        SSL_CTX_set_verify(context, verifies ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, nil)
        SSL_CTX_ctrl(
            context, SSL_CTRL_SET_SESS_CACHE_MODE, Int(SSL_SESS_CACHE_CLIENT) | Int(SSL_SESS_CACHE_NO_INTERNAL), nil)
        SSL_CTX_sess_set_new_cb(context, rememberSession)
        ERR_clear_error()
    }

    /// - Parameter protocol: offered by ALPN, alone.
    func makeSession(serverName host: String, protocol: ApplicationProtocol, memory: TLSSessionMemory, channel: TLSChannel) -> TLSSession? {
        guard let ssl = SSL_new(context) else { return nil }
        SSL_set_connect_state(ssl)
        let name = serverName ?? host
        if SocketAddress(host: name, port: 0) != nil {
            // RFC 6066, section 3: an address is no server name.
            if verifies { _ = swl_expect_address(ssl, name) }
        } else {
            _ = swl_set_server_name(ssl, name)
            if verifies { SSL_set1_host(ssl, name) }
        }
        let offer: StaticString = `protocol` == .http2 ? "\u{2}h2" : "\u{8}http/1.1"
        SSL_set_alpn_protos(ssl, offer.utf8Start, UInt32(offer.utf8CodeUnitCount))
        memory.resume(ssl, under: context)
        guard let session = TLSSession(ssl: ssl, channel: channel, context: self, memory: memory) else {
            ERR_clear_error()
            return nil
        }
        session.startHandshake()
        return session
    }
}

/// The session's user data is its `TLSSessionMemory`, which it keeps alive. Returning 1 keeps the reference.
private let rememberSession: @convention(c) (OpaquePointer?, OpaquePointer?) -> CInt = { ssl, session in
    guard let memory = SSL_get_ex_data(ssl, 0), let session else { return 0 }
    Unmanaged<TLSSessionMemory>.fromOpaque(memory).takeUnretainedValue().keep(session, madeUnder: SSL_get_SSL_CTX(ssl))
    return 1
}
