public import EventLoop
import Routing

/// A name of the DNS behind which engines serve.
public struct DNSName: Sendable, Equatable {
    /// Host, or SRV name such as `_http._tcp.vllm.models.svc.cluster.local`.
    public var name: String
    /// Of every address; nil: the name is one of SRV records, which bring ports and hosts.
    public var port: UInt16?
    public var template = GroupTemplate()
    /// SRV targets carry pods' names in their first label, and so their groups; addresses alone are groups of one.
    public var convention = GroupConvention()

    public init(name: String, port: UInt16?) {
        self.name = name
        self.port = port
    }
}

/// Groups behind one DNS name, asked for again when its TTL has passed: a headless Service without any right at the Kubernetes API, or
/// any fleet with a name.
///
/// A resolver that fails changes nothing. A name that is said to be gone empties the source when it was said twice, for a headless
/// Service without ready pods has no name at all, and so has one whose DNS server has just started.
public final class DNSGroups: EventHandler {
    /// A TTL of 0 must not become a storm of questions, nor one of a day hide a new pod.
    static let shortestNanoseconds: UInt64 = 1_000_000_000
    static let longestNanoseconds: UInt64 = 60_000_000_000
    static let confirmationNanoseconds: UInt64 = 250_000_000

    private let name: DNSName
    private let resolver: Resolver
    private let directory: GroupDirectory
    private let log: OperatorLog
    private let source: Int
    private var failures = 0
    private var absences = 0
    private var reported: String?
    /// Questions about the hosts of a SRV answer that are under way.
    private var outstanding = 0
    private var members: [Member] = []
    private var ttlSeconds = Int.max
    private var fault: String?

    init(loop: EventLoop, name: DNSName, resolver: Resolver, directory: GroupDirectory, log: OperatorLog) {
        self.name = name
        self.resolver = resolver
        self.directory = directory
        self.log = log
        source = directory.addSource("dns \(name.name)")
        super.init(loop: loop)
        setDeadline(loop.now)
    }

    public override func deadlineReached() {
        members = []
        ttlSeconds = .max
        fault = nil
        if let port = name.port {
            resolver.addresses(of: name.name) { [weak self] in self?.addressesCame($0, port: port) }
        } else {
            resolver.services(of: name.name) { [weak self] in self?.servicesCame($0) }
        }
    }

    private func addressesCame(_ resolution: Resolution<[String]>, port: UInt16) {
        switch resolution {
        case .failed(let text): failed(text)
        case .nothing: absent()
        case .found(let hosts, let ttl):
            ttlSeconds = ttl
            members = hosts.map { host in
                Member(
                    identity: host, name: host, host: host, ports: [port], role: GroupRole(group: Self.name(host, port), worldSize: 1))
            }
            found()
        }
    }

    private func servicesCame(_ resolution: Resolution<[ServiceRecord]>) {
        switch resolution {
        case .failed(let text): failed(text)
        case .nothing: absent()
        case .found(let records, let ttl):
            ttlSeconds = ttl
            outstanding = records.count
            for record in records {
                resolver.addresses(of: record.target) { [weak self] in self?.targetCame(record, $0) }
            }
        }
    }

    private func targetCame(_ record: ServiceRecord, _ resolution: Resolution<[String]>) {
        outstanding -= 1
        switch resolution {
        case .failed(let text): fault = "\(record.target): \(text)"
        // Gone between the two answers.
        case .nothing: break
        case .found(let hosts, let ttl):
            ttlSeconds = min(ttlSeconds, ttl)
            members += hosts.prefix(1).map { member(at: $0, of: record) }
        }
        guard outstanding == 0 else { return }
        if let fault { failed(fault) } else { found() }
    }

    /// A pod of a StatefulSet is `pod.service.namespace.svc…`; a nameless one has its address for a label.
    private func member(at host: String, of record: ServiceRecord) -> Member {
        let labels = record.target.split(separator: ".", omittingEmptySubsequences: true).map(String.init)
        let pod = labels.first ?? record.target
        let role = name.convention.role(of: .init(namespace: labels.count > 2 ? labels[2] : name.name, name: pod))
        return Member(identity: "\(record.target)/\(host)", name: pod, host: host, ports: [record.port], role: role)
    }

    private static func name(_ host: String, _ port: UInt16) -> String { Endpoint(host: host, port: port).description }

    // MARK: What came of it

    private func found() {
        failures = 0
        absences = 0
        reported = nil
        let units = Dictionary(grouping: members, by: \.role.group)
        let groups = units.map { unit, members in
            (unit, GroupAssembly.groups(name: unit, members: members, template: name.template))
        }
        directory.replace(Dictionary(uniqueKeysWithValues: groups), of: source)
        directory.heard(source, events: 1, hasSynced: true)
        let kept = UInt64(clamping: ttlSeconds) &* 1_000_000_000
        setDeadline(loop.now &+ min(max(kept, Self.shortestNanoseconds), Self.longestNanoseconds))
    }

    private func absent() {
        failures = 0
        absences += 1
        guard absences > 1 else { return setDeadline(loop.now &+ Self.confirmationNanoseconds) }
        let text = "\(name.name) has no \(name.port == nil ? "SRV records" : "addresses")"
        report(text)
        directory.replace([:], of: source)
        directory.heard(source, events: 1, hasSynced: true)
        directory.failed(source, text)
        setDeadline(loop.now &+ Self.shortestNanoseconds)
    }

    private func failed(_ text: String) {
        failures = min(failures + 1, 6)
        directory.failed(source, "\(name.name): \(text)")
        report("\(name.name) was not resolved, what is known stays in use: \(text)")
        setDeadline(loop.now &+ min(Self.shortestNanoseconds << UInt64(failures - 1), Self.longestNanoseconds))
    }

    private func report(_ text: String) {
        if reported != text { log.warning(text) }
        reported = text
    }
}

/// All DNS names of a configuration, with the resolver that they share.
public final class DNSDiscovery {
    private let names: [DNSGroups]

    /// Nil when a server's address makes no sense.
    public init?(loop: EventLoop, names: [DNSName], servers: NameServers, directory: GroupDirectory, log: OperatorLog) {
        guard let resolver = Resolver(loop: loop, servers: servers) else { return nil }
        self.names = names.map { DNSGroups(loop: loop, name: $0, resolver: resolver, directory: directory, log: log) }
    }
}
