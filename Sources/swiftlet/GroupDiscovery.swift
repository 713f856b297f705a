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

    init(
        loop: EventLoop, directory: GroupDirectory, configuration: SwiftletConfiguration, addresses: EndpointAddresses,
        _ settings: ProxySettings
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
