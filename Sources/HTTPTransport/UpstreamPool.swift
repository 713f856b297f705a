import EventLoop
import Glibc
import Wire

/// How a pool's connections speak TLS.
public struct UpstreamTLS {
    public var source: TLSClientSource
    /// The endpoint's host, for which its certificate must be unless the source names another.
    public var host: String
    /// Is told why handshakes fail, now and then.
    public var log: OperatorLog

    public init(source: TLSClientSource, host: String, log: OperatorLog) {
        self.source = source
        self.host = host
        self.log = log
    }
}

/// The connections of one loop to one backend. HTTP/1.1: one exchange each, the latest idle one first; HTTP/2: filled to the
/// backend's stream limit before another is opened.
public final class UpstreamPool {
    let loop: EventLoop
    let address: SocketAddress
    let limits: TransportLimits
    let parser: HTTP1HeadParser
    /// `host:port`, for clients that named no host.
    let authority: String
    public let speaksHTTP2: Bool
    let tls: UpstreamTLS?
    let tlsMemory = TLSSessionMemory()
    private var tlsReport: (text: String, at: UInt64)?
    private var idle: [UpstreamConnection] = []
    private var multiplexed: [UpstreamConnection] = []
    /// Connections held, by what they are doing.
    private var open: [ObjectIdentifier: UpstreamConnection] = [:]

    public init(
        loop: EventLoop, address: SocketAddress, authority: String, speaksHTTP2: Bool, tls: UpstreamTLS? = nil, limits: TransportLimits
    ) {
        self.loop = loop
        self.address = address
        self.authority = authority
        self.speaksHTTP2 = speaksHTTP2
        self.tls = tls
        self.limits = limits
        // Engines may answer with large heads (a metadata field grows with an embedding batch), hence twice the room.
        parser = HTTP1HeadParser(maximumHeadBytes: limits.headBytes, maximumFields: limits.headFields * 2)
    }

    public var openConnections: Int { open.count }

    /// Sends `request` for `exchange` over a kept connection or a new one; what becomes of it the exchange is told.
    /// `freshConnection`: do not use a kept one, since that has just failed.
    public func start(_ exchange: UpstreamExchange, _ request: UpstreamRequest, freshConnection: Bool = false) {
        if speaksHTTP2 {
            if !freshConnection, let connection = multiplexed.first(where: { $0.freeStreams > 0 }) {
                connection.start(exchange, request)
                return
            }
        } else if !freshConnection {
            while let connection = idle.popLast() {
                if connection.isUsable(at: loop.now) {
                    connection.start(exchange, request)
                    return
                }
                connection.close()
            }
        }
        do throws(SocketError) {
            let connection = try UpstreamConnection(pool: self, speaksHTTP2: speaksHTTP2)
            open[ObjectIdentifier(connection)] = connection
            if speaksHTTP2 { multiplexed.append(connection) }
            connection.start(exchange, request)
        } catch {
            exchange.isFinished = true
            exchange.failed(.connectFailed)
        }
    }

    /// Says why, when it is news or has not been said for a while.
    func handshakeFailed(_ text: String) {
        if let report = tlsReport, report.text == text, loop.now &- report.at < TransportLimits.tlsReportNanoseconds { return }
        tlsReport = (text, loop.now)
        tls?.log.warning("TLS to \(authority) failed: \(text)")
    }

    func becameIdle(_ connection: UpstreamConnection) {
        if idle.count < limits.idleUpstreamConnections { idle.append(connection) } else { connection.close() }
    }

    /// No new exchange on this connection.
    func forget(_ connection: UpstreamConnection) {
        if let index = multiplexed.firstIndex(where: { $0 === connection }) { multiplexed.remove(at: index) }
        guard connection.isClosed else { return }
        open[ObjectIdentifier(connection)] = nil
        if let index = idle.lastIndex(where: { $0 === connection }) { idle.remove(at: index) }
    }

    /// Closes idle connections now and the others when their exchange ends: the backend is no longer ours to use.
    public func closeIdle() {
        let connections = idle
        idle = []
        for connection in connections { connection.close() }
    }

    /// Closes everything; exchanges under way fail.
    public func closeAll() {
        for connection in open.values { connection.close() }
    }
}
