import Discovery
import EventLoop

/// Whom we write to: addresses as they are configured, and those of names, asked for again and again.
final class Peers {
    /// Each once, in the form that our socket takes.
    private(set) var addresses: [SocketAddress] = []
    private var texts: Set<String> = []
    private var names: [PeerName] = []
    private let written: [SocketAddress]
    private let family: CInt
    private let log: OperatorLog
    private var tellsOfTooMany = true

    init(_ settings: ReplicaSyncSettings, loop: EventLoop, log: OperatorLog) {
        family = settings.listen.family
        self.log = log
        written = settings.peers.compactMap { SocketAddress(host: $0.host, port: $0.port) }
        let hosts = settings.peers.filter { SocketAddress(host: $0.host, port: $0.port) == nil }
        if !hosts.isEmpty {
            if let resolver = Resolver(loop: loop, servers: settings.nameServers) {
                names = hosts.map { PeerName($0, loop: loop, resolver: resolver, log: log) { [unowned self] in gather() } }
            } else {
                log.warning("discovery.dns_servers: not all of them are addresses, no name of replicas.peers is resolved")
            }
        }
        gather()
    }

    /// Names that could not be resolved when they were asked for last, and why.
    var faults: [(name: String, text: String)] { names.compactMap { name in name.fault.map { ("\(name.peer)", $0) } } }

    func stop() { for name in names { name.detach() } }

    func contains(_ address: SocketAddress) -> Bool { texts.contains(address.unmapped.description) }

    /// Some of these are not ours yet, as when a router has just started: the names are asked again, before their TTL has passed.
    func compare(with heard: some Sequence<SocketAddress>) {
        if !names.isEmpty, heard.contains(where: { !texts.contains($0.unmapped.description) }) { for name in names { name.askSoon() } }
    }

    private func gather() {
        var seen: Set<String> = []
        var all = (written + names.flatMap { $0.addresses(of: family) }).compactMap { $0.reachable(from: family) }
        all = all.filter { seen.insert($0.description).inserted }
        if all.count > ReplicaBounds.peers, tellsOfTooMany {
            tellsOfTooMany = false
            log.warning("replicas.peers: \(all.count) addresses, of which the first \(ReplicaBounds.peers) are told anything")
        }
        addresses = Array(all.prefix(ReplicaBounds.peers))
        texts = Set(addresses.map(\.unmapped.description))
    }
}

/// One name of the DNS whose addresses are peers, such as that of a headless Service; asked for again when its TTL has passed.
///
/// A resolver that fails changes nothing. A name that is said to be gone has no addresses when that was said twice.
final class PeerName: EventHandler {
    let peer: ReplicaSyncSettings.Peer
    private(set) var fault: String?
    private var addresses: [SocketAddress] = []
    private let resolver: Resolver
    private let log: OperatorLog
    private let changed: () -> Void
    private var absences = 0
    private var failures = 0
    private var askedAt: UInt64 = 0
    private var hasAnswer = false

    init(_ peer: ReplicaSyncSettings.Peer, loop: EventLoop, resolver: Resolver, log: OperatorLog, changed: @escaping () -> Void) {
        self.peer = peer
        self.resolver = resolver
        self.log = log
        self.changed = changed
        super.init(loop: loop)
        setDeadline(loop.now)
    }

    /// A pod may have an address of either kind, and is told everything once: those of the socket's own kind, if there are any.
    func addresses(of family: CInt) -> [SocketAddress] {
        let own = addresses.filter { $0.family == family }
        return own.isEmpty ? addresses : own
    }

    override func deadlineReached() {
        askedAt = loop.now
        hasAnswer = false
        resolver.addresses(of: peer.host) { [weak self] in self?.came($0) }
    }

    /// Nothing while a question is under way.
    func askSoon() {
        if hasAnswer { setDeadline(noLaterThan: askedAt &+ ReplicaBounds.shortestTTLNanoseconds) }
    }

    private func came(_ resolution: Resolution<[String]>) {
        hasAnswer = true
        switch resolution {
        case .found(let hosts, let seconds):
            (absences, failures, fault) = (0, 0, nil)
            addresses = hosts.compactMap { SocketAddress(host: $0, port: peer.port) }
            changed()
            let kept = UInt64(clamping: seconds) &* 1_000_000_000
            ask(after: min(max(kept, ReplicaBounds.shortestTTLNanoseconds), ReplicaBounds.longestTTLNanoseconds))
        case .nothing:
            failures = 0
            absences += 1
            guard absences > 1 else { return ask(after: ReplicaBounds.confirmationNanoseconds) }
            report("it has no addresses")
            addresses = []
            changed()
            ask(after: ReplicaBounds.shortestTTLNanoseconds)
        case .failed(let text):
            failures = min(failures + 1, 8)
            report("it was not resolved, what is known stays in use: \(text)")
            ask(after: min(ReplicaBounds.shortestTTLNanoseconds << UInt64(failures - 1), ReplicaBounds.longestTTLNanoseconds))
        }
    }

    private func ask(after nanoseconds: UInt64) { setDeadline(loop.now &+ nanoseconds) }

    private func report(_ text: String) {
        if fault != text { log.warning("replicas.peers: \(peer): \(text)") }
        fault = text
    }
}
