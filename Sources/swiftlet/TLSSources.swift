import Configuration
import Dispatch
import EventLoop
import Logging
import Routing

/// The TLS that a configuration asks for, its files read.
struct TLSSources: Sendable {
    /// One for each listener; nil where it speaks cleartext.
    let listeners: [TLSServerSource?]
    /// nil when no endpoint speaks TLS.
    let upstream: TLSClientSource?

    /// Throws what is wrong with a file.
    init(_ configuration: SwiftletConfiguration) throws {
        // One set of keys, so that a session is resumed at whichever listener its client comes back to.
        let ticketKeys = TLSTicketKeys()
        listeners = try configuration.listeners.map { listener in
            try listener.tls.map { try TLSServerSource(Self.settings($0), ticketKeys: ticketKeys) }
        }
        let needsUpstream = configuration.groups.contains { $0.leader.isTLS }
        upstream = needsUpstream ? try TLSClientSource(Self.settings(configuration.upstreamTLS)) : nil
    }

    var all: [TLSSource] {
        var sources: [TLSSource] = listeners.compactMap { $0 }
        if let upstream { sources.append(upstream) }
        return sources
    }

    private static func settings(_ tls: ListenerTLS) -> TLSServerSettings {
        let certificates = [tls.standard] + tls.others
        var settings = TLSServerSettings(
            certificates: certificates.map { TLSCertificateFiles(certificateFile: $0.certificateFile, keyFile: $0.keyFile) })
        settings.minimumVersion = version(tls.minimumVersion)
        settings.clientCertificates =
            switch tls.clientCertificates {
            case .off: .off
            case .optional: .optional
            case .required: .required
            }
        settings.clientCAFile = tls.clientCAFile
        settings.clientVerifyDepth = tls.clientVerifyDepth
        return settings
    }

    private static func settings(_ tls: UpstreamTLSConfiguration) -> TLSClientSettings {
        var settings = TLSClientSettings()
        settings.caFile = tls.caFile
        settings.serverName = tls.serverName
        settings.skipsVerification = tls.insecureSkipVerify
        if let certificate = tls.certificateFile, let key = tls.keyFile {
            settings.certificate = TLSCertificateFiles(certificateFile: certificate, keyFile: key)
        }
        settings.minimumVersion = version(tls.minimumVersion)
        return settings
    }

    private static func version(_ minimum: MinimumTLSVersion) -> TLSVersion { minimum == .tls12 ? .tls12 : .tls13 }
}

/// Notices of loops in the program's log, written elsewhere than on the loop.
// Unchecked: a logger is a value that any thread may use.
final class LoggedNotices: OperatorLog, @unchecked Sendable {
    private let logger: Logger
    private let queue = DispatchQueue(label: "swiftlet.notices")

    init(_ logger: Logger) { self.logger = logger }

    override func notice(_ text: String) { queue.async { [logger] in logger.notice("\(text)") } }
    override func warning(_ text: String) { queue.async { [logger] in logger.warning("\(text)") } }
}
