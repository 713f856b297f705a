public import EventLoop
public import HTTPTransport
public import Routing

/// Groups that somebody wrote down, in the configuration or in a watched file, and what probes find out about them: the members of
/// such a group are looked at here, since nobody else tells when one is gone.
public final class StaticGroups {
    private struct Watched {
        var description: GroupDescription
        /// What is wrong with an endpoint, by its place: 0 leads.
        var faults: [Int: String] = [:]
        var probes: [EndpointProbe] = []
    }

    /// How endpoints are reached: where they are (nil: not known yet), and how they speak TLS.
    public struct Reach {
        public var address: (Endpoint) -> SocketAddress?
        public var tls: (Endpoint) -> UpstreamTLS?

        public init(address: @escaping (Endpoint) -> SocketAddress?, tls: @escaping (Endpoint) -> UpstreamTLS?) {
            self.address = address
            self.tls = tls
        }
    }

    private let loop: EventLoop
    private let directory: GroupDirectory
    private let reach: Reach
    private let probing: ProbeSettings
    private var limits: TransportLimits
    public let source: Int
    private var watched: [String: Watched] = [:]

    public init(
        loop: EventLoop, directory: GroupDirectory, name: String, reach: Reach, probing: ProbeSettings, limits: TransportLimits
    ) {
        self.loop = loop
        self.directory = directory
        self.reach = reach
        self.probing = probing
        self.limits = limits
        self.limits.upstreamSilenceTimeoutNanoseconds = probing.timeoutNanoseconds
        source = directory.addSource(name)
    }

    /// Makes these the groups that are written down. One that did not change keeps its probes and what they know.
    public func replace(_ groups: [GroupDescription]) {
        var next: [String: Watched] = [:]
        for group in groups where next[group.name] == nil {
            if let old = watched.removeValue(forKey: group.name) {
                if old.description == group {
                    next[group.name] = old
                    continue
                }
                stop(old)
            }
            next[group.name] = Watched(description: group)
        }
        for gone in watched.values { stop(gone) }
        watched = next
        for (name, entry) in watched where entry.probes.isEmpty { startProbes(of: name) }
        directory.replace(watched.mapValues { [discovered($0)] }, of: source)
        directory.heard(source, events: 1, hasSynced: true)
    }

    private func startProbes(of name: String) {
        guard let group = watched[name]?.description, probing.intervalNanoseconds > 0 else { return }
        for (place, endpoint) in ([group.leader] + group.members).enumerated() where place > 0 || probing.asksLeaders {
            guard let address = reach.address(endpoint) else { continue }
            // Spread over an interval, by a fixed rule, so that a thousand endpoints are not looked at in one moment.
            let delay = UInt64(watched[name]?.probes.count ?? 0) &* 97_000_003 % max(probing.intervalNanoseconds, 1)
            let changed: (String?) -> Void = { [weak self] fault in self?.endpointChanged(name, place, fault) }
            let probe: EndpointProbe
            if place == 0 {
                let pool = UpstreamPool(
                    loop: loop, address: address, authority: endpoint.description, speaksHTTP2: endpoint.protocol == .http2,
                    tls: reach.tls(endpoint), limits: limits)
                probe = HealthProbe(loop: loop, pool: pool, settings: probing, delayNanoseconds: delay, changed: changed)
            } else {
                probe = ConnectProbe(loop: loop, address: address, settings: probing, delayNanoseconds: delay, changed: changed)
            }
            watched[name]?.probes.append(probe)
        }
    }

    private func stop(_ entry: Watched) { for probe in entry.probes { probe.stop() } }

    private func endpointChanged(_ name: String, _ place: Int, _ fault: String?) {
        watched[name]?.faults[place] = fault
        guard let entry = watched[name] else { return }
        directory.set([discovered(entry)], unit: name, of: source)
        directory.heard(source, events: 1)
    }

    private func discovered(_ entry: Watched) -> DiscoveredGroup {
        var description = entry.description
        let endpoints = [description.leader] + description.members
        let first = entry.faults.keys.min()
        description.isReady = entry.description.isReady && first == nil
        var obstacle = entry.description.isReady ? nil : "it is written down as not ready"
        if let first, let fault = entry.faults[first] {
            obstacle = "\(first == 0 ? "leader" : "member") \(endpoints[first]) is gone: \(fault)"
        }
        let members = endpoints.enumerated().map { place, endpoint in
            DiscoveredGroup.MemberState(
                name: endpoint.description, address: endpoint.host, rank: place, node: nil, zone: nil, revision: nil,
                state: entry.faults[place].map { "gone: \($0)" } ?? "ready")
        }
        return DiscoveredGroup(name: description.name, description: description, members: members, obstacle: obstacle, nodes: [])
    }
}
