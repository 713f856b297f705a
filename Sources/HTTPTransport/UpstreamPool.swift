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
    let authority: StoredBytes
    public let speaksHTTP2: Bool
    let tls: UpstreamTLS?
    let tlsMemory = TLSSessionMemory()
    private var tlsReport: (text: String, at: UInt64)?
    private var idle: [UpstreamConnection] = []
    private var multiplexed: [UpstreamConnection] = []
    private var open: [ObjectIdentifier: UpstreamConnection] = [:]
    private let waiting: WaitingRequests
    /// Silence on a connection with streams before it is asked for a sign of life.
    private(set) var pingIntervalNanoseconds: UInt64
    /// HTTP/2: a backend that ends connections before they carry anything wants no more of them: none is opened beside those that stand until
    /// then, and the rest doubles while they keep coming to nothing.
    private var restsUntil: UInt64 = 0
    private var restNanoseconds: UInt64 = 0
    private static let shortestRestNanoseconds: UInt64 = 10_000_000
    private static let longestRestNanoseconds: UInt64 = 1_000_000_000
    /// What ends without a stream after this long was not refused.
    private static let refusalNanoseconds: UInt64 = 1_000_000_000

    public init(
        loop: EventLoop, address: SocketAddress, authority: String, speaksHTTP2: Bool, tls: UpstreamTLS? = nil, limits: TransportLimits
    ) {
        self.loop = loop
        self.address = address
        self.authority = StoredBytes(authority)
        self.speaksHTTP2 = speaksHTTP2
        self.tls = tls
        self.limits = limits
        // Engines may answer with large heads (a metadata field grows with an embedding batch), hence twice the room.
        parser = HTTP1HeadParser(maximumHeadBytes: limits.headBytes, maximumFields: limits.headFields * 2)
        waiting = WaitingRequests(loop: loop, limits: limits)
        pingIntervalNanoseconds = limits.pingIntervalNanoseconds
    }

    deinit {
        waiting.detach()
        closeAll()
    }

    public var openConnections: Int { open.count }
    var hasWaitingRequests: Bool { !waiting.isEmpty }

    /// Sends `request` for `exchange` over a kept connection or a new one; what becomes of it the exchange is told.
    /// `freshConnection`: one that was kept has just failed. Over HTTP/1.1 none of the others is used; over HTTP/2, where they may be in the
    /// midst of things, those that the backend has closed as well are not.
    public func start(_ exchange: UpstreamExchange, _ request: UpstreamRequest, freshConnection: Bool = false) {
        if speaksHTTP2 {
            if freshConnection { for connection in multiplexed where connection.isIdleAndStale { connection.close() } }
            return startStream(exchange, request)
        }
        while !freshConnection, let connection = idle.popLast() {
            if connection.isUsable(at: loop.now) {
                connection.start(exchange, request)
                return
            }
            connection.close()
        }
        do throws(SocketError) {
            try connect().start(exchange, request)
        } catch {
            exchange.isFinished = true
            exchange.failed(error.call == "connect" ? .connectFailed : .outOfDescriptors)
        }
    }

    private func connect() throws(SocketError) -> UpstreamConnection {
        let connection = try UpstreamConnection(pool: self, speaksHTTP2: speaksHTTP2)
        open[ObjectIdentifier(connection)] = connection
        if speaksHTTP2 { multiplexed.append(connection) }
        return connection
    }

    // MARK: HTTP/2

    private func startStream(_ exchange: UpstreamExchange, _ request: UpstreamRequest) {
        if uncounted(waiting).use({ $0.isEmpty }), let connection = connectionWithRoom {
            return connection.start(exchange, request)
        }
        guard waiting.count < limits.queuedUpstreamRequests else {
            exchange.isFinished = true
            return exchange.failed(.overloaded)
        }
        waiting.append(exchange, request)
        connectForWaiting()
    }

    private var connectionWithRoom: UpstreamConnection? {
        let index = multiplexed.withUnsafeBufferPointer { connections in
            connections.indices.first { uncounted(connections[$0]).use { $0.freeStreams > 0 } }
        }
        return index.map { multiplexed[$0] }
    }

    /// One connection is made at a time: the backend's SETTINGS tell how many more are needed. None while one stands that may carry
    /// no stream at all: another would fare alike.
    private func connectForWaiting() {
        guard waiting.first != nil, multiplexed.count < limits.http2UpstreamConnections,
            multiplexed.allSatisfy({ $0.isClosed || $0.hasOpenStreams }), !rests || !multiplexed.contains(where: { $0.isReady })
        else { return }
        do throws(SocketError) { _ = try connect() } catch { waiting.failAll(.connectFailed) }
    }

    /// HTTP/2: opens connections until `streams` more requests would find room on them, beside those that wait already; for callers whose
    /// requests shall not wait for a connection. How many fit on one the backend's SETTINGS tell; until those are here one connection stands.
    public func makeRoom(forStreams streams: Int) {
        guard speaksHTTP2, !rests else { return }
        var (room, perConnection, unready) = (0, 0, 0)
        for connection in multiplexed where !connection.isClosed {
            guard connection.isReady else {
                unready += 1
                continue
            }
            room += max(0, connection.freeStreams)
            perConnection = max(perConnection, connection.streamLimit)
        }
        guard perConnection > 0 else {
            if multiplexed.isEmpty { _ = try? connect() }
            return
        }
        room += unready * perConnection
        // Where the last came to nothing one is tried, not all.
        let most = restNanoseconds > 0 ? unready == 0 ? 1 : 0 : Int.max
        var opened = 0
        while room < streams + waiting.count, opened < most, multiplexed.count < limits.http2UpstreamConnections, (try? connect()) != nil {
            room += perConnection
            opened += 1
        }
    }

    private var rests: Bool { loop.now < restsUntil }

    /// When `makeRoom` may do more for requests that wait; nil: none waits.
    public var nextRoomNanoseconds: UInt64? {
        waiting.isEmpty ? nil : max(restsUntil, loop.now &+ Self.shortestRestNanoseconds)
    }

    /// A connection carries its first stream.
    func connectionHolds() { restNanoseconds = 0 }

    private func connectionEnded(_ connection: UpstreamConnection) {
        // Several that were opened at once are one refusal.
        guard speaksHTTP2, !connection.carriesStreams, loop.now &- connection.openedAt < Self.refusalNanoseconds, !rests else { return }
        restNanoseconds = min(max(Self.shortestRestNanoseconds, restNanoseconds &* 2), Self.longestRestNanoseconds)
        restsUntil = loop.now &+ restNanoseconds
    }

    /// A stream has ended, or the backend has said how many it allows.
    func streamsMayBeFree() {
        guard !uncounted(waiting).use({ $0.isEmpty }) else { return }
        while let next = waiting.first, let connection = connectionWithRoom {
            next.leave()
            let (exchange, isRequestSent) = (next.exchange, next.exchange.isRequestSent)
            connection.start(exchange, next.request)
            guard !exchange.isFinished else { continue }
            exchange.send(next.body.readable)
            if isRequestSent { exchange.finishRequest(trailers: next.trailers) }
            if next.hasStalledSource { exchange.requestDrained() }
        }
        connectForWaiting()
    }

    /// Twice the interval from now on, as gRPC's clients do when a server has had enough of their PINGs.
    func pingLess() { pingIntervalNanoseconds = min(pingIntervalNanoseconds &* 2, 3_600_000_000_000) }

    // MARK: Connections

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
        connectionEnded(connection)
        if speaksHTTP2, !connection.carriesStreams, multiplexed.allSatisfy({ !$0.isReady || $0.isClosed }) {
            // It was the hope of those who wait.
            waiting.failAll(connection.failure ?? .connectFailed)
        }
        // Its place is free for another.
        if connection.carriesStreams { connectForWaiting() }
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
        waiting.failAll(.reset)
        for connection in open.values { connection.close() }
    }
}
