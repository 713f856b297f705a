public import EventLoop
public import HTTPTransport
public import Routing
public import Telemetry
import Wire

/// The proxy on one loop: makes an `Exchange` of every request and holds what exchanges share, which is all confined to the loop
/// but for the routing table.
///
/// Reading order of this folder is the life of a request: `Exchange` (head, probe), `Exchange+Dispatch` (choice, forwarding, retry), `HeldRequests` (waiting),
/// `Attempt` (one try at one backend), `Exchange+Response` (streaming back), `Exchange+Settle` (release, learn, record).
public final class ProxyWorker: DownstreamApplication {
    public let loop: EventLoop
    public let table: RoutingTable
    public let metrics: LoopMetrics
    let settings: ProxySettings
    let addresses: EndpointAddresses
    let probe: RequestProbe
    /// Heads that wait for their first event.
    let holds: Graces
    /// Calls that wait for their first message.
    let messageWaits: Graces
    let callDeadlines: CallDeadlines
    let health: HealthService
    let held: HeldRequests
    /// Whoever waits in the router waits no longer than for a backend.
    let waits: Graces
    let accessLog: AccessLog?
    var requestIDs: RequestIDGenerator
    private var pools: [Endpoint: UpstreamPool] = [:]
    private var poolsBeforeSweep = 64
    /// What is known of a group by its slot, so that no decision hashes a name.
    private var groupShortcuts: [GroupShortcut] = []
    var spareExchanges = SpareExchanges()
    /// What the exchanges of this loop hold of their requests' bodies.
    var bufferedBodyBytes = 0
    /// Their memory: apart from that of connections, which has a bound of its own.
    let bodyChunks = ChunkPool()

    public init(
        loop: EventLoop, table: RoutingTable, settings: ProxySettings, addresses: EndpointAddresses, metrics: LoopMetrics,
        waiting: WaitingLoops, accessLogDescriptor: Int32?, requestIDs: RequestIDGenerator
    ) {
        self.loop = loop
        self.table = table
        self.settings = settings
        self.addresses = addresses
        self.metrics = metrics
        accessLog = accessLogDescriptor.map { AccessLog(loop: loop, descriptor: $0) }
        probe = settings.reading.makeProbe()
        holds = Graces(loop: loop, nanoseconds: settings.headHoldNanoseconds)
        waits = Graces(loop: loop, nanoseconds: settings.transport.upstreamSilenceTimeoutNanoseconds)
        messageWaits = Graces(loop: loop, nanoseconds: settings.firstMessageNanoseconds)
        callDeadlines = CallDeadlines(loop: loop)
        health = HealthService(loop: loop, table: table)
        self.requestIDs = requestIDs
        held = HeldRequests(loop: loop, table: table, loops: waiting)
        super.init()
    }

    public override func makeExchange() -> DownstreamExchange {
        guard let exchange = spareExchanges.take() else { return Exchange(worker: self) }
        exchange.restart()
        return exchange
    }

    public override func drainBegan() { health.drain() }

    public override func connectionCountChanged(by change: Int) {
        metrics.counters.downstreamConnectionsOpen &+= Int64(change)
        if change > 0 { metrics.counters.downstreamConnectionsAccepted &+= UInt64(change) }
    }

    public override func handshakeFailed(_ failure: TLSHandshakeFailure) { metrics.tlsHandshakeFailed(failure.rawValue) }

    public override func requestRefused(status: Int, client: SocketAddress) {
        var record = AccessRecord()
        record.status = status
        record.outcome = .rejected
        count(&record, client: client)
    }

    public override func streamRefused(_ request: RequestHead, client: SocketAddress) {
        var record = AccessRecord()
        record.method = request.methodBytes
        record.path = request.path
        record.protocolName = request.isGRPC ? "gRPC" : "HTTP/2"
        record.outcome = .streamRefused
        count(&record, client: client)
    }

    /// What no exchange was made of.
    private func count(_ record: inout AccessRecord, client: SocketAddress) {
        let series = metrics.series(SeriesKey(model: LabelTable.other, group: LabelTable.other))
        metrics.requestStarted(series)
        metrics.requestFinished(series, status: record.status, outcome: record.outcome, durationNanoseconds: 0)
        guard let accessLog else { return }
        record.wallClockNanoseconds = loop.wallClock()
        var client = client.host
        client.withUTF8 { client in
            record.client = UnsafeRawBufferPointer(client)
            accessLog.append(record)
        }
    }

    public func flushAccessLog() { accessLog?.flush() }

    /// Numbers as of now, for the admin port.
    public func snapshot() -> MetricsSnapshot {
        metrics.counters.upstreamConnectionsOpen = Int64(pools.values.reduce(0) { $0 + $1.openConnections })
        metrics.counters.requestsHeld = Int64(held.count)
        metrics.counters.accessLogLinesDropped = accessLog?.linesDropped ?? 0
        return metrics.snapshot()
    }

    /// Nil when the endpoint's host could not be resolved.
    func pool(for decision: Decision) -> UpstreamPool? {
        let place = shortcut(to: decision.group)
        if let pool = groupShortcuts[place].pool { return pool }
        let pool = pool(for: decision.endpoint)
        groupShortcuts[place].pool = pool
        return pool
    }

    private func pool(for endpoint: Endpoint) -> UpstreamPool? {
        if let pool = pools[endpoint] { return pool }
        guard let address = addresses[endpoint], !endpoint.isTLS || settings.upstreamTLS != nil else { return nil }
        let pool = UpstreamPool(
            loop: loop, address: address, authority: endpoint.description, speaksHTTP2: endpoint.protocol == .http2,
            tls: settings.upstreamTLS?.tls(for: endpoint), limits: settings.transport)
        pools[endpoint] = pool
        if pools.count > poolsBeforeSweep { sweepPools() }
        return pool
    }

    /// Endpoints come and go for as long as the router lives. Of those that no group names any more, what has no open connection is
    /// let go, whenever the pools have doubled since the last time.
    private func sweepPools() {
        let leaders = Set(table.groups(now: loop.now).map(\.leader))
        for (endpoint, pool) in pools where !leaders.contains(endpoint) { pool.closeIdle() }
        let kept = pools.filter { leaders.contains($0.key) || $0.value.openConnections > 0 }
        // Pools end here, after the exchange of the dictionaries: one that ends may call back.
        let (before, shortcuts) = (pools, groupShortcuts)
        pools = kept
        for place in groupShortcuts.indices { groupShortcuts[place].pool = nil }
        withExtendedLifetime((before, shortcuts)) { poolsBeforeSweep = max(64, kept.count &* 2) }
    }

    /// The label under which a group is counted.
    func label(of group: GroupID) -> UInt16 {
        let place = shortcut(to: group)
        if let label = groupShortcuts[place].label { return label }
        let label = table.name(of: group).map { metrics.groups.intern($0) } ?? LabelTable.other
        groupShortcuts[place].label = label
        return label
    }

    /// Where the group's shortcut is; an empty one when another group had the slot before.
    private func shortcut(to group: GroupID) -> Int {
        let place = Int(group.slot)
        while groupShortcuts.count <= place { groupShortcuts.append(GroupShortcut()) }
        if groupShortcuts[place].group != group { groupShortcuts[place] = GroupShortcut(group: group) }
        return place
    }
}

/// A loop's own view of a group. Slots are few (`RoutingLimits.groups`).
private struct GroupShortcut {
    var group: GroupID?
    var pool: UpstreamPool?
    var label: UInt16?
}

/// Ended exchanges with their buffers, for the requests to come.
struct SpareExchanges {
    /// About 3 KiB each.
    private static let kept = 256
    private var exchanges: [Exchange] = []

    init() { exchanges.reserveCapacity(Self.kept) }

    mutating func keep(_ exchange: Exchange) {
        if exchanges.count < Self.kept { exchanges.append(exchange) }
    }

    /// One that nobody else holds: a caller further up the stack may still look at the exchange that ended last.
    mutating func take() -> Exchange? {
        guard var exchange = exchanges.popLast() else { return nil }
        return isKnownUniquelyReferenced(&exchange) ? exchange : nil
    }
}

/// Gathers log lines for a moment, so that many of them leave in one write.
final class AccessLog: EventHandler {
    private static let gatheringNanoseconds: UInt64 = 20_000_000
    private let writer: AccessLogWriter
    private var isArmed = false

    init(loop: EventLoop, descriptor: Int32) {
        writer = AccessLogWriter(descriptor: descriptor)
        super.init(loop: loop)
    }

    var linesDropped: UInt64 { writer.linesDropped }

    func append(_ record: borrowing AccessRecord) {
        writer.append(record)
        guard !isArmed else { return }
        isArmed = true
        setDeadline(loop.now &+ Self.gatheringNanoseconds)
    }

    override func deadlineReached() {
        isArmed = false
        writer.flush()
    }

    func flush() { writer.flush() }
}

/// Deadlines of exchanges that wait for the same thing: one grace for all, so a list in order of arrival, linked through the exchanges
/// themselves, and one timer.
final class Graces: EventHandler {
    private var first: Exchange?
    private unowned(unsafe) var last: Exchange?
    private let nanoseconds: UInt64

    init(loop: EventLoop, nanoseconds: UInt64) {
        self.nanoseconds = nanoseconds
        super.init(loop: loop)
    }

    func add(_ exchange: Exchange) {
        exchange.grace.deadline = loop.now &+ nanoseconds
        exchange.grace.previous = last
        if let last { last.grace.next = exchange } else { first = exchange }
        last = exchange
        if first === exchange { setDeadline(exchange.grace.deadline) }
    }

    func remove(_ exchange: Exchange) {
        let (previous, next) = (exchange.grace.previous, exchange.grace.next)
        if let next { next.grace.previous = previous } else { last = previous }
        if let previous { previous.grace.next = next } else { first = next }
        exchange.grace = Grace()
    }

    override func deadlineReached() {
        while let exchange = first, exchange.grace.deadline <= loop.now { exchange.graceEnded() }
        if let first { setDeadline(first.grace.deadline) }
    }
}

/// An exchange's place among those that wait.
struct Grace {
    var deadline: UInt64 = 0
    var next: Exchange?
    /// Unchecked: the list holds every exchange in it strongly, from the first on.
    unowned(unsafe) var previous: Exchange?
}
