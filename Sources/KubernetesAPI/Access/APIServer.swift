import Dispatch
public import EventLoop
import Foundation
public import HTTPTransport
import Synchronization
import Wire

/// The way to one API server, for all watches of a control loop: credentials, read again when they may have changed, and connections
/// made with them.
///
/// HTTP/2 under TLS, so that all watches share a connection and PINGs find a dead one; HTTP/1.1 where the server does not agree to that,
/// or without TLS.
public final class APIServer {
    /// Bound tokens live for an hour and are renewed at 80 % of it.
    static let refreshNanoseconds: UInt64 = 60_000_000_000
    /// However often the server refuses what we show.
    static let shortestRefreshNanoseconds: UInt64 = 1_000_000_000

    private struct Reach {
        var access: ClusterAccess
        /// A name may get another one.
        var address: SocketAddress
        var pool: UpstreamPool
    }

    private let loop: EventLoop
    private let source: AccessSource
    private let environment: [String: String]
    private let limits: TransportLimits
    private let handshakes = HandshakeLog()
    private var reach: Reach?
    private var speaksHTTP1 = false
    private var loadedAt: UInt64?
    private var isLoading = false
    private var waiting: [() -> Void] = []
    /// Why there is no access, or why it could not be renewed; nil when it is as it should be.
    public private(set) var fault: String?

    /// - Parameter silenceNanoseconds: the longest that a watch may be silent, so that the transport does not end it before.
    public init(loop: EventLoop, source: AccessSource, environment: [String: String], silenceNanoseconds: UInt64) {
        self.loop = loop
        self.source = source
        self.environment = environment
        var limits = TransportLimits()
        limits.upstreamSilenceTimeoutNanoseconds = silenceNanoseconds &+ 30_000_000_000
        limits.connectTimeoutNanoseconds = 5_000_000_000
        limits.pingIntervalNanoseconds = 10_000_000_000
        limits.pingTimeoutNanoseconds = 5_000_000_000
        self.limits = limits
        loop.addService(self)
    }

    /// Where it is, once that is known, and how we came to know.
    public var origin: String? { reach.map { "\($0.access.authority) (\($0.access.origin))" } }
    /// Our own namespace, or the context's; nil as long as there is no access.
    public var namespace: String? { reach?.access.namespace }

    // MARK: Credentials

    /// Calls `ready` when credentials are fresh, or when it is known why they are not: at once, unless files have to be read.
    public func prepare(_ ready: @escaping () -> Void) {
        let age = loadedAt.map { loop.now &- $0 } ?? .max
        guard age >= (reach == nil ? Self.shortestRefreshNanoseconds : Self.refreshNanoseconds) else { return ready() }
        waiting.append(ready)
        guard !isLoading else { return }
        isLoading = true
        let (source, environment, mailbox) = (source, environment, loop.mailbox)
        DispatchQueue.global().async {
            let result = Result<Loaded, AccessError> { () throws(AccessError) in
                let access = try source.load(environment: environment)
                do throws(SocketError) {
                    return Loaded(access: access, address: try SocketAddress.resolve(host: access.host, port: access.port))
                } catch { throw AccessError("\(access.origin): \(error)") }
            }
            mailbox.post { loop in loop.service(APIServer.self)?.loaded(result) }
        }
    }

    /// The server refused what we showed: read it again before the next request.
    public func rejected() {
        guard let loadedAt, loop.now &- loadedAt >= Self.shortestRefreshNanoseconds else { return }
        self.loadedAt = nil
    }

    private struct Loaded: Sendable {
        var access: ClusterAccess
        var address: SocketAddress
    }

    private func loaded(_ result: Result<Loaded, AccessError>) {
        isLoading = false
        loadedAt = loop.now
        do throws(AccessError) { try use(result.get()) } catch { fault = error.description }
        let ready = waiting
        waiting = []
        for call in ready { call() }
    }

    private func use(_ loaded: Loaded) throws(AccessError) {
        if var reach, reach.access.isReached(as: loaded.access), reach.address.description == loaded.address.description,
            reach.pool.speaksHTTP2 == (loaded.access.isTLS && !speaksHTTP1)
        {
            // A new token needs no new connection.
            reach.access = loaded.access
            self.reach = reach
        } else {
            let pool = UpstreamPool(
                loop: loop, address: loaded.address, authority: loaded.access.authority,
                speaksHTTP2: loaded.access.isTLS && !speaksHTTP1, tls: try tls(loaded.access), limits: limits)
            // The old one's watches break off and go on here.
            reach = Reach(access: loaded.access, address: loaded.address, pool: pool)
        }
        fault = nil
    }

    private func tls(_ access: ClusterAccess) throws(AccessError) -> UpstreamTLS? {
        guard access.isTLS else { return nil }
        var settings = TLSClientSettings()
        settings.serverName = access.serverName
        settings.skipsVerification = access.skipsVerification
        if let authorities = access.authorities {
            settings.caFile = "\(access.origin): CA"
            settings.inlineContents["\(access.origin): CA"] = authorities
        }
        if let certificate = access.certificate, let key = access.key {
            let files = TLSCertificateFiles(
                certificateFile: "\(access.origin): client certificate", keyFile: "\(access.origin): client key")
            settings.certificate = files
            settings.inlineContents[files.certificateFile] = certificate
            settings.inlineContents[files.keyFile] = key
        }
        do throws(TLSError) {
            return UpstreamTLS(source: try TLSClientSource(settings), host: access.host, log: handshakes)
        } catch { throw AccessError(error.description) }
    }

    // MARK: Requests

    /// Sends a GET for `exchange`. False: there is no access; `fault` says why.
    public func start(_ exchange: UpstreamExchange, target: String) -> Bool {
        guard let reach else { return false }
        let head = RequestHead()
        head.setMethod("GET")
        Array(target.utf8).withUnsafeBytes { head.setTarget($0) }
        Array(reach.access.authority.utf8).withUnsafeBytes { head.setAuthority($0) }
        head.headers.append("accept", "application/json")
        head.headers.append("user-agent", "swiftlet")
        if let token = reach.access.token { head.headers.append("authorization", "Bearer \(token)") }
        reach.pool.start(exchange, UpstreamRequest(head: head, bodyLength: nil, hasBody: false))
        return true
    }

    /// What a failure of the transport means here.
    public func words(for failure: UpstreamFailure) -> String {
        let server = reach?.access.authority ?? "the API server"
        switch failure {
        case .connectFailed, .outOfDescriptors: return "cannot connect to \(server)"
        case .tlsFailed:
            let why = handshakes.latest
            if why.contains("ALPN") {
                speaksHTTP1 = true
                loadedAt = nil
            }
            rejected()
            return why.isEmpty ? "TLS with \(server) failed" : why
        case .timeout: return "\(server) is silent"
        case .protocolError: return "what \(server) sends is no HTTP"
        case .staleConnection, .refusedStream, .overloaded, .reset: return "the connection to \(server) broke off"
        }
    }
}

extension ClusterAccess {
    /// Whether connections made for `other` serve this as well: all but the token is alike.
    fileprivate func isReached(as other: ClusterAccess) -> Bool {
        var (left, right) = (self, other)
        (left.token, right.token) = (nil, nil)
        return left == right
    }
}

/// Remembers why a handshake failed: here it is told with the fault of the watch.
// Unchecked: as its superclass; what it has is under a lock.
private final class HandshakeLog: OperatorLog, @unchecked Sendable {
    private let text = Mutex("")

    var latest: String { text.withLock { $0 } }
    override func warning(_ text: String) { self.text.withLock { $0 = text } }
}
