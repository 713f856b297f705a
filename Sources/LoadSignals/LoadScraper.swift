// LoadSignals learns how busy the engines are, as they tell it themselves.
//
// Reading order:
//   1. `LoadScraper`: every ready leader is asked, each by a `LeaderScrape` of its own, on the control loop.
//   2. `LeaderScrape`: when it is asked what, at which `ScrapePace` and `AnswerCost`; `Muteness`: when it says nothing; `LeaderQuery` is one question.
//   3. `Metrics/`: from the bytes of `/metrics` to an `EngineReading`: scanner, labels, families; and from those of gRPC's `GetLoads`.
//   4. `Blankness`: which zeros are no load; `ReadingHistory`: what is frozen, and what began anew; `FirstTokenBacklog`: who is being prefilled.
//
// What of it is others' load, and what that counts for, is the routing table's business (`RoutingTable.reportLoad`).

public import EventLoop
public import HTTPTransport
public import Routing

/// Asks the leaders of all ready groups for their load. Confined to the control loop.
public final class LoadScraper {
    /// How endpoints are reached: where they are (nil: not known yet), and how they speak TLS.
    public struct Reach {
        public var address: (Endpoint) -> SocketAddress?
        public var tls: (Endpoint) -> UpstreamTLS?

        public init(address: @escaping (Endpoint) -> SocketAddress?, tls: @escaping (Endpoint) -> UpstreamTLS?) {
            self.address = address
            self.tls = tls
        }
    }

    private struct Target {
        var endpoint: Endpoint
        var incarnation: String
        var scrape: LeaderScrape
    }

    private let loop: EventLoop
    private let table: RoutingTable
    private let reach: Reach
    private let settings: LoadSignalSettings
    private var limits: TransportLimits
    private var targets: [String: Target] = [:]
    private let pace = ScrapePace()
    private let tellers = LoadTellers()

    public init(loop: EventLoop, table: RoutingTable, reach: Reach, settings: LoadSignalSettings, limits: TransportLimits) {
        self.loop = loop
        self.table = table
        self.reach = reach
        self.settings = settings
        self.limits = limits
        self.limits.upstreamSilenceTimeoutNanoseconds = settings.timeoutNanoseconds
        self.limits.connectTimeoutNanoseconds = min(limits.connectTimeoutNanoseconds, settings.timeoutNanoseconds)
        self.limits.idleUpstreamConnections = 1
    }

    /// Groups that are new, or different, and names of those that are gone.
    public func groupsChanged(_ changed: [GroupDescription], removed: [String]) {
        guard settings.intervalNanoseconds > 0 else { return }
        for name in removed { stop(name) }
        // Before the new ones choose their first moments.
        pace.leaders = targets.count + changed.count
        defer { pace.leaders = targets.count }
        for group in changed {
            if let target = targets[group.name], group.isReady, target.endpoint == group.leader, target.incarnation == group.incarnation {
                continue
            }
            stop(group.name)
            guard group.isReady, let pool = pool(for: group.leader) else { continue }
            targets[group.name] = Target(
                endpoint: group.leader, incarnation: group.incarnation,
                scrape: LeaderScrape(
                    loop: loop, group: group.name, table: table, pool: pool, settings: settings, pace: pace, tellers: tellers))
        }
    }

    /// Every leader that is asked, in the order of names.
    public var leaders: [LeaderState] { targets.values.map(\.scrape.state).sorted { $0.group < $1.group } }

    private func stop(_ name: String) { targets.removeValue(forKey: name)?.scrape.stop() }

    /// Nil for an endpoint that cannot be asked: it is not known where it is. What speaks HTTP/2 alone is a gRPC server, and asked as one.
    private func pool(for leader: Endpoint) -> UpstreamPool? {
        guard let address = reach.address(leader) else { return nil }
        if settings.port != 0 {
            let endpoint = Endpoint(host: leader.host, port: settings.port)
            return UpstreamPool(
                loop: loop, address: address.with(port: settings.port), authority: endpoint.description, speaksHTTP2: false, limits: limits)
        }
        return UpstreamPool(
            loop: loop, address: address, authority: leader.description, speaksHTTP2: leader.protocol == .http2, tls: reach.tls(leader),
            limits: limits)
    }
}
