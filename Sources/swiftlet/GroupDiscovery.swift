import Configuration
import Discovery
import EventLoop
import HTTPTransport
import Proxy
import Routing

/// The sources of discovery that the configuration asks for, around one directory. Lives on the control loop.
final class GroupDiscovery {
    private let directory: GroupDirectory
    private let models: ModelListing
    private let written: StaticGroups
    private var file: GroupFile?

    init(
        loop: EventLoop, directory: GroupDirectory, configuration: SwiftletConfiguration, addresses: EndpointAddresses,
        _ settings: ProxySettings, log: OperatorLog
    ) {
        self.directory = directory
        let reach = StaticGroups.Reach(address: { addresses[$0] }, tls: { settings.upstreamTLS?.tls(for: $0) })
        let models = ModelListing(loop: loop, table: directory.table, reach: reach, limits: settings.transport)
        self.models = models
        directory.observe { changed, removed in models.groupsChanged(changed, removed: removed) }
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
