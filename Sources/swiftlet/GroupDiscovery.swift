import Configuration
import Discovery
import EventLoop
import Foundation
import HTTPTransport
import KubernetesAPI
import LoadSignals
import Proxy
import Routing

/// The sources of discovery that the configuration asks for, around one directory. Lives on the control loop.
final class GroupDiscovery {
    private let directory: GroupDirectory
    private let models: ModelListing
    private let written: StaticGroups
    private var file: GroupFile?
    private var dns: DNSDiscovery?
    private var snapshot: GroupSnapshot?

    init(
        loop: EventLoop, directory: GroupDirectory, configuration: SwiftletConfiguration, addresses: EndpointAddresses,
        _ settings: ProxySettings, log: OperatorLog
    ) {
        self.directory = directory
        let reach = StaticGroups.Reach(address: { addresses[$0] }, tls: { settings.upstreamTLS?.tls(for: $0) })
        let models = ModelListing(loop: loop, table: directory.table, reach: reach, limits: settings.transport)
        self.models = models
        directory.observe { changed, removed in models.groupsChanged(changed, removed: removed) }
        let scraper = LoadScraper(
            loop: loop, table: directory.table, reach: .init(address: reach.address, tls: reach.tls),
            settings: LoadSignalSettings(configuration.loadSignals), limits: settings.transport)
        loop.addService(scraper)
        directory.observe { changed, removed in scraper.groupsChanged(changed, removed: removed) }
        written = StaticGroups(
            loop: loop, directory: directory, name: "static", reach: reach, probing: configuration.probes.settings,
            limits: settings.transport)
        written.replace(configuration.groups)
        if let path = configuration.discovery.file {
            let groups = StaticGroups(
                loop: loop, directory: directory, name: "file \(path)", reach: reach, probing: configuration.probes.settings,
                limits: settings.transport)
            file = GroupFile(
                loop: loop, path: path, groups: groups, directory: directory, log: log, parse: { Self.parse($0, path: path) },
                addressesFound: { addresses.add($0) })
        }
        if let path = configuration.discovery.snapshotFile {
            snapshot = GroupSnapshot(
                loop: loop, path: path, directory: directory, log: log,
                parse: { Self.parseSnapshot($0, path: path) },
                render: { SwiftletConfiguration.snapshotYAML(SnapshotConfiguration($0)) })
        }
        if !configuration.discovery.kubernetes.pools.isEmpty {
            let environment = ProcessInfo.processInfo.environment
            loop.addService(
                KubernetesSource(
                    loop: loop, settings: KubernetesSettings(configuration.discovery.kubernetes, environment: environment),
                    environment: environment, directory: directory, seed: .random(in: 0 ... .max), log: log))
        }
        let names = configuration.discovery.dns.map(DNSName.init)
        guard !names.isEmpty else { return }
        dns = DNSDiscovery(loop: loop, names: names, servers: NameServers(configuration.discovery), directory: directory, log: log)
        if dns == nil { log.warning("discovery.dns_servers: not all of them are addresses, no name is resolved") }
    }

    private static func parseSnapshot(_ text: String, path: String) -> Result<GroupSnapshot.Contents, GroupFile.Fault> {
        do throws(ConfigurationError) {
            let snapshot = try SwiftletConfiguration.loadSnapshot(text: text, file: path)
            let named = snapshot.sources.flatMap { source in source.groups.map { ($0, source.name) } }
            return .success(
                GroupSnapshot.Contents(groups: snapshot.groups, sources: Dictionary(named, uniquingKeysWith: { first, _ in first })))
        } catch {
            return .failure(GroupFile.Fault("\(error)"))
        }
    }

    /// Names are resolved here, off the loop: an endpoint that nobody can reach is a fault of the file.
    private static func parse(_ text: String, path: String) -> Result<GroupFile.Contents, GroupFile.Fault> {
        do {
            let groups = try SwiftletConfiguration.loadGroups(text: text, file: path)
            var addresses: [Endpoint: SocketAddress] = [:]
            for endpoint in groups.flatMap({ [$0.leader] + $0.members }) {
                addresses[endpoint] = try SocketAddress.resolve(host: endpoint.host, port: endpoint.port)
            }
            return .success(GroupFile.Contents(groups: groups, addresses: addresses))
        } catch {
            return .failure(GroupFile.Fault("\(error)"))
        }
    }
}

extension SnapshotConfiguration {
    fileprivate init(_ contents: GroupSnapshot.Contents) {
        let named = Dictionary(grouping: contents.groups.map(\.name).filter { contents.sources[$0] != nil }) { contents.sources[$0] ?? "" }
        self.init(
            groups: contents.groups, sources: named.map { Source(name: $0.key, groups: $0.value) }.sorted { $0.name < $1.name })
    }
}

extension ProbeConfiguration {
    fileprivate var settings: ProbeSettings {
        var settings = ProbeSettings()
        settings.intervalNanoseconds = intervalNanoseconds
        settings.timeoutNanoseconds = timeoutNanoseconds
        settings.failures = failures
        settings.asksLeaders = asksLeaders
        return settings
    }
}

extension NameServers {
    init(_ configuration: DiscoveryConfiguration) {
        self.init(addresses: configuration.dnsServers, timeoutMilliseconds: Int(configuration.dnsTimeoutNanoseconds / 1_000_000))
    }
}

extension LoadSignalSettings {
    fileprivate init(_ configuration: LoadSignalConfiguration) {
        self.init()
        intervalNanoseconds = configuration.intervalNanoseconds
        loadIntervalNanoseconds = configuration.loadIntervalNanoseconds
        timeoutNanoseconds = configuration.timeoutNanoseconds
        greatestShare = configuration.greatestShare
        path = configuration.path ?? ""
        port = configuration.port
    }
}

extension LoadMetricsFormat {
    init?(_ form: LoadSignalConfiguration.ReportForm) {
        switch form {
        case .off: return nil
        case .text: self = .text
        case .json: self = .json
        case .binary: self = .binary
        }
    }
}

extension LoadMetricsPassing {
    init(_ passing: LoadSignalConfiguration.Passing) {
        switch passing {
        case .whenAsked: self = .whenAsked
        case .always: self = .always
        case .never: self = .never
        }
    }
}

extension DNSName {
    fileprivate init(_ configuration: DNSConfiguration) {
        self.init(name: configuration.endpoint.host, port: configuration.isService ? nil : configuration.endpoint.port)
        template = GroupTemplate(configuration.grouping)
        template.protocol = configuration.endpoint.protocol
        template.isTLS = configuration.endpoint.isTLS
        convention = GroupConvention(configuration.grouping)
    }
}

extension GroupTemplate {
    init(_ grouping: GroupingConfiguration) {
        self.init()
        models = grouping.models
        worldSize = grouping.podsPerGroup > 0 ? grouping.podsPerGroup : nil
        spreadSlowdown = grouping.spreadSlowdown
        prefillTokensPerSecond = grouping.prefillTokensPerSecond
        decodeStepSeconds = grouping.decodeStepSeconds
        kvCapacityTokens = grouping.kvCapacityTokens
    }
}

extension GroupConvention {
    init(_ grouping: GroupingConfiguration) {
        self.init()
        form =
            switch grouping.form {
            case .automatic: .automatic
            case .pod: .pod
            case .leaderWorkerSet: .leaderWorkerSet
            case .statefulSet: .statefulSet
            }
        podsPerGroup = grouping.podsPerGroup > 0 ? grouping.podsPerGroup : nil
        setName = grouping.setName
        groupKey = grouping.groupKey
        rankKey = grouping.rankKey
        worldSizeKey = grouping.worldSizeKey
        revisionKey = grouping.revisionKey
    }
}

extension KubernetesSettings {
    fileprivate init(_ configuration: KubernetesConfiguration, environment: [String: String]) {
        self.init(
            access: .choose(
                kubeconfig: configuration.kubeconfigFile, context: configuration.context,
                serviceAccountFolder: configuration.serviceAccountFolder, environment: environment))
        watchesPods = configuration.watchesPods
        watchesNodes = configuration.watchesNodes
        departureTaints = Set(configuration.departureTaints)
        reflector.streamsLists = configuration.streamsLists
        reflector.silenceNanoseconds = configuration.silenceNanoseconds
        reflector.answerNanoseconds = configuration.answerNanoseconds
        reflector.relistNanoseconds = configuration.relistNanoseconds
        pools = configuration.pools.map(KubernetesPoolSettings.init)
    }
}

extension KubernetesPoolSettings {
    fileprivate init(_ configuration: KubernetesPoolConfiguration) {
        if let name = configuration.inferencePool {
            self.init(subject: .inferencePool(name))
        } else {
            self.init(subject: configuration.selector.map { .selector($0) } ?? .services(configuration.services))
        }
        namespace = configuration.namespace
        if let port = configuration.port { self.port = UInt16(port).map { .number($0) } ?? .name(port) }
        readsEndpoints = configuration.readsEndpoints
        convention = GroupConvention(configuration.grouping)
        template = GroupTemplate(configuration.grouping)
        template.protocol = configuration.speaksHTTP2 ? .http2 : .http1
        template.isTLS = configuration.isTLS
    }
}
