import COpenSSL
import Glibc

/// Whether a client must show a certificate.
public enum ClientCertificates: String, CaseIterable, Sendable {
    case off, optional, required
}

/// How a listener speaks TLS.
public struct TLSServerSettings: Sendable, Equatable {
    /// At least one. The client's server name chooses; the first is for clients that name none, or another.
    public var certificates: [TLSCertificateFiles]
    public var minimumVersion = TLSVersion.tls12
    public var clientCertificates = ClientCertificates.off
    /// PEM: the authorities whose certificates clients may show.
    public var clientCAFile: String?
    /// Intermediate authorities between a client's certificate and one of these, at most.
    public var clientVerifyDepth = 4

    public init(certificates: [TLSCertificateFiles]) { self.certificates = certificates }

    public var files: [String] { certificates.flatMap { [$0.certificateFile, $0.keyFile] } + (clientCAFile.map { [$0] } ?? []) }
}

/// Certificates, keys and protocol choice for the listening side.
public final class TLSServerContext: TLSContext, @unchecked Sendable {
    // Unchecked: as its superclass; everything here is set before the initialiser returns.
    private let ticketKeys: TLSTicketKeys
    /// One OpenSSL context for each set of certificates that shares a name, the superclass's own among them.
    private var contextsByName: [String: OpaquePointer] = [:]
    private var otherContexts: [OpaquePointer] = []

    /// Parses what `files` holds. TLS 1.2 and 1.3; ALPN `h2`, then `http/1.1`.
    public init(_ settings: TLSServerSettings, files: FileSnapshot, ticketKeys: TLSTicketKeys) throws(TLSError) {
        self.ticketKeys = ticketKeys
        try super.init(method: TLS_server_method(), options: swl_server_options, minimumVersion: settings.minimumVersion)
        var certificates: [TLSCertificateBox] = []
        for pair in settings.certificates { certificates.append(TLSCertificateBox(try TLSCertificate(pair, from: files))) }
        expiries = certificates.map { CertificateExpiry(file: $0.certificate.files.certificateFile, notAfter: $0.certificate.notAfter) }
        // A name may have a certificate of each kind of key, and the client's algorithms choose; of two of a kind the first counts.
        var setsByName: [String: [Int]] = [:]
        for (index, box) in certificates.enumerated() {
            for name in box.certificate.names {
                let isNew = !setsByName[name, default: []].contains {
                    certificates[$0].certificate.keyKind == box.certificate.keyKind
                }
                if isNew { setsByName[name, default: []].append(index) }
            }
        }
        let standard = certificates[0].certificate.names.first.flatMap { setsByName[$0] } ?? [0]
        var contexts = [standard: context]
        try fill(context, with: standard.map { certificates[$0] }, settings: settings, files: files)
        for (name, set) in setsByName {
            if contexts[set] == nil {
                guard let other = SSL_CTX_new(TLS_server_method()) else { throw .because("cannot make a TLS context") }
                otherContexts.append(other)
                Self.setUp(other, options: swl_server_options, minimumVersion: settings.minimumVersion)
                try fill(other, with: set.map { certificates[$0] }, settings: settings, files: files)
                contexts[set] = other
            }
            contextsByName[name] = contexts[set]
        }
        if !otherContexts.isEmpty { swl_on_server_name(context, chooseCertificate, Unmanaged.passUnretained(self).toOpaque()) }
    }

    deinit { for context in otherContexts { SSL_CTX_free(context) } }

    private func fill(
        _ context: OpaquePointer, with certificates: [TLSCertificateBox], settings: TLSServerSettings, files: FileSnapshot
    ) throws(TLSError) {
        for box in certificates { try Self.use(box.certificate, in: context) }
        SSL_CTX_set_alpn_select_cb(context, selectProtocol, nil)
        // Tickets hold the sessions, so that no loop needs another's memory. One for each connection: clients that come back do so one by one.
        SSL_CTX_ctrl(context, SSL_CTRL_SET_SESS_CACHE_MODE, Int(SSL_SESS_CACHE_OFF), nil)
        SSL_CTX_set_num_tickets(context, 1)
        SSL_CTX_set_ex_data(context, 0, Unmanaged.passUnretained(ticketKeys).toOpaque())
        SSL_CTX_set_tlsext_ticket_key_evp_cb(context, sealTicket)
        var identity: [UInt8] = Array(settings.clientCertificates.rawValue.utf8)
        if settings.clientCertificates != .off, let file = settings.clientCAFile {
            try Self.trust(files[file], file: file, in: context, asksClients: true)
            let mode = settings.clientCertificates == .required ? SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT : SSL_VERIFY_PEER
            SSL_CTX_set_verify(context, mode, nil)
            SSL_CTX_set_verify_depth(context, CInt(settings.clientVerifyDepth))
            identity += files[file]
        }
        // A session is resumed without looking at the client's certificate again: only where the same authorities are trusted.
        var digest = [UInt8](repeating: 0, count: 32)
        var length: UInt32 = 0
        EVP_Digest(identity, identity.count, &digest, &length, EVP_sha256(), nil)
        SSL_CTX_set_session_id_context(context, digest, length)
    }

    func makeSession(channel: TLSChannel) -> TLSSession? {
        guard let ssl = SSL_new(context) else { return nil }
        SSL_set_accept_state(ssl)
        guard let session = TLSSession(ssl: ssl, channel: channel, context: self, memory: nil) else {
            ERR_clear_error()
            return nil
        }
        return session
    }

    /// The context for a server name (RFC 6066, section 3): an exact name, or a wildcard for its first label (RFC 6125, 6.4.3).
    fileprivate func context(for name: String) -> OpaquePointer? {
        if let exact = contextsByName[name] { return exact }
        guard let dot = name.firstIndex(of: ".") else { return nil }
        return contextsByName["*" + name[dot...]]
    }
}

/// Lets an array hold what cannot be copied.
private final class TLSCertificateBox {
    let certificate: TLSCertificate
    init(_ certificate: consuming TLSCertificate) { self.certificate = certificate }
}

/// The argument is the `TLSServerContext`, which the connection's session keeps alive.
private let chooseCertificate: @convention(c) (OpaquePointer?, UnsafeMutablePointer<CInt>?, UnsafeMutableRawPointer?) -> CInt = {
    ssl, _, argument in
    guard let argument, let text = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name) else { return SSL_TLSEXT_ERR_NOACK }
    let name = UnsafeRawBufferPointer(start: text, count: strlen(text)).asciiLowercased
    let owner = Unmanaged<TLSServerContext>.fromOpaque(argument).takeUnretainedValue()
    if let context = owner.context(for: name) { SSL_set_SSL_CTX(ssl, context) }
    return SSL_TLSEXT_ERR_OK
}

/// The keys are the context's user data, which the `TLSServerContext` keeps alive.
private let sealTicket:
    @convention(c) (
        OpaquePointer?, UnsafeMutablePointer<UInt8>?, UnsafeMutablePointer<UInt8>?, OpaquePointer?, OpaquePointer?, CInt
    ) -> CInt = { ssl, name, iv, cipher, mac, encrypts in
        guard let keys = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), 0), let name, let iv else { return -1 }
        return Unmanaged<TLSTicketKeys>.fromOpaque(keys).takeUnretainedValue()
            .arm(name: name, iv: iv, cipher: cipher, mac: mac, encrypts: encrypts == 1)
    }

/// RFC 7301, section 3.2: the server chooses, `h2` before `http/1.1`; nothing in common is fatal.
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
        return found == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL
    }
