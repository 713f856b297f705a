import COpenSSL
import Glibc

/// What can be wrong with certificates, keys and TLS settings, in words for an operator.
public struct TLSError: Error, CustomStringConvertible, Sendable, Equatable {
    public let description: String
    public init(_ description: String) { self.description = description }

    /// With OpenSSL's reason for the latest failure.
    static func because(_ what: String) -> TLSError {
        let reason = ERR_reason_error_string(ERR_peek_last_error()).map { String(cString: $0) }
        ERR_clear_error()
        return TLSError(reason.map { "\(what) (\($0))" } ?? what)
    }
}

public enum TLSVersion: String, CaseIterable, Sendable {
    case tls12 = "1.2"
    case tls13 = "1.3"

    var number: Int { self == .tls12 ? Int(TLS1_2_VERSION) : Int(TLS1_3_VERSION) }
}

/// A certificate chain, leaf first, and its key, in PEM files.
public struct TLSCertificateFiles: Sendable, Equatable {
    public var certificateFile: String
    public var keyFile: String

    public init(certificateFile: String, keyFile: String) {
        self.certificateFile = certificateFile
        self.keyFile = keyFile
    }
}

/// When a certificate ends.
public struct CertificateExpiry: Sendable, Equatable {
    public let file: String
    /// Seconds since 1970.
    public let notAfter: Int64
}

/// An OpenSSL context. Shared between loops and never changed once it is made, which OpenSSL allows (openssl-threads(7)).
// Unchecked: the pointer is set once, and the library counts references to what is behind it atomically.
open class TLSContext: @unchecked Sendable {
    let context: OpaquePointer
    /// Of the certificates that this side shows.
    public internal(set) final var expiries: [CertificateExpiry] = []

    init(method: OpaquePointer?, options: UInt64, minimumVersion: TLSVersion) throws(TLSError) {
        guard let context = SSL_CTX_new(method) else { throw .because("cannot make a TLS context") }
        self.context = context
        Self.setUp(context, options: options, minimumVersion: minimumVersion)
    }

    deinit { SSL_CTX_free(context) }

    static func setUp(_ context: OpaquePointer, options: UInt64, minimumVersion: TLSVersion) {
        SSL_CTX_ctrl(context, SSL_CTRL_SET_MIN_PROTO_VERSION, minimumVersion.number, nil)
        SSL_CTX_set_options(context, options)
        SSL_CTX_ctrl(
            context, SSL_CTRL_MODE,
            Int(SSL_MODE_ENABLE_PARTIAL_WRITE) | Int(SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER) | Int(SSL_MODE_RELEASE_BUFFERS), nil)
        // AES-128 first: as strong as anything around it, and it is the fastest where AES is in hardware. TLS 1.2 with forward secrecy and
        // authenticated encryption only, which is also all that HTTP/2 allows (RFC 9113, 9.2.2).
        SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256")
        SSL_CTX_set_cipher_list(
            context,
            "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
                + "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305")
        _ = swl_set_groups(context, "X25519:P-256:P-384")
    }

    /// Makes `certificate` one of those that `context` shows; there may be one of each kind of key.
    static func use(_ certificate: borrowing TLSCertificate, in context: OpaquePointer) throws(TLSError) {
        guard SSL_CTX_use_certificate(context, certificate.leaf) == 1 else {
            throw .because("\(certificate.files.certificateFile): not a usable certificate")
        }
        for issuer in certificate.issuers where swl_add_chain_certificate(context, issuer) != 1 {
            throw .because("\(certificate.files.certificateFile): not a usable chain")
        }
        // OpenSSL compares only a key with a certificate of the same kind: one of another kind it would keep for a certificate to come.
        guard X509_check_private_key(certificate.leaf, certificate.key) == 1, SSL_CTX_use_PrivateKey(context, certificate.key) == 1 else {
            throw .because("\(certificate.files.keyFile): not the key of \(certificate.files.certificateFile)")
        }
    }

    /// Trusts the certificates in `bytes`, and, for a server, asks clients for one that these have issued.
    static func trust(_ bytes: [UInt8], file: String, in context: OpaquePointer, asksClients: Bool = false) throws(TLSError) {
        var authorities: [OpaquePointer] = []
        defer { for authority in authorities { X509_free(authority) } }
        authorities = TLSCertificate.parseChain(bytes)
        guard !authorities.isEmpty else { throw .because("\(file): no PEM certificate in it") }
        let store = SSL_CTX_get_cert_store(context)
        for authority in authorities {
            guard X509_STORE_add_cert(store, authority) == 1 else { throw .because("\(file): not a usable CA certificate") }
            if asksClients { SSL_CTX_add_client_CA(context, authority) }
        }
    }
}

/// A certificate with its chain and key, parsed.
struct TLSCertificate: ~Copyable {
    let files: TLSCertificateFiles
    let leaf: OpaquePointer
    let issuers: [OpaquePointer]
    let key: OpaquePointer
    /// DNS names of the subject alternative name, in lower case, wildcards as `*.example.org`.
    let names: [String]
    /// OpenSSL's number of the key's kind: RSA, EC…
    let keyKind: CInt
    let notAfter: Int64

    init(_ files: TLSCertificateFiles, from contents: FileSnapshot) throws(TLSError) {
        let chain = Self.parseChain(contents[files.certificateFile])
        guard let leaf = chain.first else { throw .because("\(files.certificateFile): not a readable PEM certificate chain") }
        guard let key = Self.parseKey(contents[files.keyFile]) else {
            for certificate in chain { X509_free(certificate) }
            throw .because("\(files.keyFile): not a readable PEM private key without a passphrase")
        }
        self.files = files
        self.leaf = leaf
        issuers = Array(chain.dropFirst())
        self.key = key
        names = Self.dnsNames(leaf)
        keyKind = EVP_PKEY_get_base_id(key)
        notAfter = swl_expiry(leaf)
    }

    deinit {
        X509_free(leaf)
        for issuer in issuers { X509_free(issuer) }
        EVP_PKEY_free(key)
    }

    /// The PEM certificates in `bytes`, each to be freed.
    static func parseChain(_ bytes: [UInt8]) -> [OpaquePointer] {
        guard let memory = BIO_new_mem_buf(bytes, CInt(clamping: bytes.count)) else { return [] }
        defer { BIO_free(memory) }
        var chain: [OpaquePointer] = []
        while let certificate = PEM_read_bio_X509(memory, nil, refuseToAsk, nil) { chain.append(certificate) }
        // The end of the file is an error to the parser; anything else is one to us too.
        let isAtEnd = swl_reason(ERR_peek_last_error()) == PEM_R_NO_START_LINE
        guard !isAtEnd || chain.isEmpty else {
            ERR_clear_error()
            return chain
        }
        for certificate in chain { X509_free(certificate) }
        return []
    }

    private static func parseKey(_ bytes: [UInt8]) -> OpaquePointer? {
        guard let memory = BIO_new_mem_buf(bytes, CInt(clamping: bytes.count)) else { return nil }
        defer { BIO_free(memory) }
        return PEM_read_bio_PrivateKey(memory, nil, refuseToAsk, nil)
    }

    private static func dnsNames(_ certificate: OpaquePointer) -> [String] {
        let names = swl_alternative_names(certificate)
        defer { GENERAL_NAMES_free(names) }
        return (0..<swl_name_count(names)).compactMap { index in
            var text: UnsafePointer<CChar>?
            let length = swl_dns_name(names, index, &text)
            guard length > 0, let text else { return nil }
            return UnsafeRawBufferPointer(start: text, count: Int(length)).asciiLowercased
        }
    }
}

/// The library would ask for a passphrase at the terminal.
private let refuseToAsk: @convention(c) (UnsafeMutablePointer<CChar>?, CInt, CInt, UnsafeMutableRawPointer?) -> CInt = { _, _, _, _ in -1 }

extension UnsafeRawBufferPointer {
    var asciiLowercased: String { String(decoding: map { (65...90).contains($0) ? $0 | 32 : $0 }, as: UTF8.self) }
}

/// The contents of some files at one moment.
public struct FileSnapshot: Sendable, Equatable {
    private var contents: [String: [UInt8]] = [:]
    /// Enough for the largest bundle of authorities.
    static let maximumBytes = 4 << 20

    public init(_ paths: [String]) throws(TLSError) {
        for path in paths { contents[path] = try Self.read(path) }
    }

    subscript(path: String) -> [UInt8] { contents[path] ?? [] }

    /// This and what is in no file.
    func with(_ inline: [String: [UInt8]]) -> FileSnapshot {
        var all = self
        all.contents.merge(inline) { _, new in new }
        return all
    }

    private static func read(_ path: String) throws(TLSError) -> [UInt8] {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw TLSError("\(path): \(String(cString: strerror(errno)))") }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 16 << 10)
        while true {
            let count = Glibc.read(descriptor, &chunk, chunk.count)
            if count == 0 { return bytes }
            guard count > 0 else { throw TLSError("\(path): \(String(cString: strerror(errno)))") }
            bytes += chunk[..<count]
            guard bytes.count <= maximumBytes else { throw TLSError("\(path): larger than 4 MiB") }
        }
    }
}
