import Admin
import Configuration
import Discovery
import EventLoop
import Foundation
import HTTPTransport
import Logging
import Proxy
import ReplicaSync
import Routing
import Telemetry

/// A running router: its proxying loops, and a control loop with the admin port and discovery.
final class Router: Sendable {
    let table: RoutingTable
    /// What was bound, in the configuration's order, with the ports that the kernel chose.
    let addresses: [SocketAddress]
    let adminAddress: SocketAddress?
    /// Where other replicas are heard; nil: nowhere.
    let replicaAddress: SocketAddress?
    private let workers: [LoopThread]
    private let control: LoopThread
    private let drainNanoseconds: UInt64

    /// Binds and serves. Throws what cannot be: an address in use, a name that does not resolve, a certificate that cannot be read.
    init(_ configuration: SwiftletConfiguration, accessLogDescriptor: Int32?, logger: Logger) throws {
        let endpoints = try Self.resolve(configuration.groups)
        let log = LoggedNotices(logger)
        let tls = try TLSSources(configuration)
        var listeners = try zip(configuration.listeners, tls.listeners).map { listener, source in
            BoundListener(address: try Self.address(listener.address), tls: source)
        }
        for listener in listeners { try Listener.checkAvailable(listener.address) }
        let settings = try Self.settings(configuration, upstreamTLS: tls.upstream.map { UpstreamTLSSettings(source: $0, log: log) })
        let replicas = try ReplicaSyncSettings(configuration)
        let table = RoutingTable(
            policy: configuration.policy, seed: configuration.routing.hashSeed,
            limits: RoutingLimits(
                groups: 16_384, indexBlocks: configuration.routing.indexBlocks, leases: configuration.limits.requests,
                heldRequests: configuration.routing.heldRequests),
            placement: PlacementSettings(configuration.routing))
        table.replaceGroups(configuration.groups, now: DispatchTime.now().uptimeNanoseconds)
        let count = configuration.loops > 0 ? configuration.loops : max(1, ProcessInfo.processInfo.activeProcessorCount)
        let idSeed = UInt64.random(in: 0 ... .max)
        let waiting = WaitingLoops()
        waiting.listen(to: table)
        var started: [LoopThread] = []
        for index in 0..<count {
            let bound = listeners
            let ports = Answer<[SocketAddress]>([])
            let thread = try LoopThread.start(label: "swiftlet.proxy.\(index)") { loop in
                let worker = ProxyWorker(
                    loop: loop, table: table, settings: settings, addresses: endpoints,
                    metrics: LoopMetrics(
                        decisionReasons: DecisionReason.allCases.map(\.rawValue),
                        handshakeFailureReasons: TLSHandshakeFailure.allCases.map { "\($0.label)" }),
                    waiting: waiting, accessLogDescriptor: accessLogDescriptor, requestIDs: RequestIDGenerator(seed: idSeed, loop: index))
                let service = ListenerService()
                for listener in bound {
                    service.listeners.append(
                        try Listener(
                            loop: loop, address: listener.address, tls: listener.tls, application: worker, limits: settings.transport,
                            sharesPort: true))
                }
                ports.give(service.listeners.map(\.address))
                loop.addService(worker)
                loop.addService(service)
            }
            // The first loop has the kernel choose the ports; the others share them.
            if index == 0 { for (place, address) in ports.wait().enumerated() { listeners[place].address = address } }
            started.append(thread)
        }
        self.table = table
        workers = started
        addresses = listeners.map(\.address)
        drainNanoseconds = configuration.timeouts.drainNanoseconds
        let adminRequest = try configuration.admin.map(Self.address)
        let adminPorts = Answer<[SocketAddress]>([])
        let replicaPort = Answer<SocketAddress?>(nil)
        let mailboxes = started.map(\.mailbox)
        control = try LoopThread.start(label: "swiftlet.control") { loop in
            let service = ListenerService()
            let directory = GroupDirectory(loop: loop, table: table)
            if let adminRequest {
                let application = AdminApplication(
                    loop: loop, table: table, directory: directory, workers: mailboxes, reading: settings.reading,
                    pinning: settings.pinning)
                service.listeners.append(
                    try Listener(loop: loop, address: adminRequest, tls: nil, application: application, limits: settings.transport))
            }
            if let replicas {
                let sync = try ReplicaSync(loop: loop, table: table, settings: replicas, log: log)
                replicaPort.give(sync.address)
                loop.addService(sync)
            } else {
                replicaPort.give(nil)
            }
            adminPorts.give(service.listeners.map(\.address))
            loop.addService(service)
            loop.addService(TLSReloader(loop: loop, sources: tls.all, log: log))
            loop.addService(
                GroupDiscovery(loop: loop, directory: directory, configuration: configuration, addresses: endpoints, settings, log: log))
        }
        adminAddress = adminPorts.wait().first
        replicaAddress = replicaPort.wait()
    }

    /// Reads certificates, keys and authorities again.
    func reloadTLS() { control.mailbox.post { $0.service(TLSReloader.self)?.reload() } }

    /// Takes nothing new, lets requests under way finish for as long as configured, and stops.
    func drain() {
        for worker in workers {
            worker.mailbox.post { loop in
                loop.service(ListenerService.self)?.drain()
            }
        }
        let deadline = DispatchTime.now().uptimeNanoseconds &+ drainNanoseconds
        while inFlight() > 0, DispatchTime.now().uptimeNanoseconds < deadline { usleep(5_000) }
        for worker in workers {
            worker.mailbox.post { loop in
                loop.service(ListenerService.self)?.closeAll()
                loop.service(ProxyWorker.self)?.flushAccessLog()
            }
            worker.stopAndWait()
        }
        control.mailbox.post { loop in
            loop.service(ListenerService.self)?.closeAll()
            // Last: until now the others had to know what was still under way here.
            loop.service(ReplicaSync.self)?.stop()
        }
        control.stopAndWait()
    }

    private func inFlight() -> Int {
        workers.reduce(0) { sum, worker in
            let answer = Answer(0)
            worker.mailbox.post { loop in answer.give(loop.service(ListenerService.self)?.connectionCount ?? 0) }
            return sum + answer.wait()
        }
    }

    // MARK: From configuration

    private struct BoundListener: Sendable {
        var address: SocketAddress
        var tls: TLSServerSource?
    }

    private static func address(_ text: SocketAddressText) throws -> SocketAddress {
        try SocketAddress.resolve(host: text.host, port: text.port)
    }

    private static func resolve(_ groups: [GroupDescription]) throws -> EndpointAddresses {
        var addresses: [Endpoint: SocketAddress] = [:]
        for group in groups { addresses[group.leader] = try SocketAddress.resolve(host: group.leader.host, port: group.leader.port) }
        return EndpointAddresses(addresses)
    }

    private static func settings(_ configuration: SwiftletConfiguration, upstreamTLS: UpstreamTLSSettings?) throws -> ProxySettings {
        var settings = ProxySettings()
        settings.upstreamTLS = upstreamTLS
        let limits = configuration.limits
        let timeouts = configuration.timeouts
        settings.bodyBytes = limits.bodyBytes
        settings.bufferedBodyBytes = limits.bufferedBodyBytes
        settings.replayBytes = limits.replayBytes
        settings.attempts = configuration.retries.attempts
        settings.headHoldNanoseconds = timeouts.headHoldNanoseconds
        settings.loadMetricsFormat = LoadMetricsFormat(configuration.loadSignals.orca)
        settings.loadMetricsToClients = LoadMetricsPassing(configuration.loadSignals.orcaToClients)
        settings.reading = RequestReading(configuration)
        settings.explainsToClients = configuration.routing.explainsToClients
        settings.pinning.token = try configuration.routing.pinToken()
        settings.version = Swiftlet.release
        settings.startedAtSeconds = Int(Date().timeIntervalSince1970)
        settings.transport.headBytes = limits.headerBytes
        settings.transport.headFields = limits.headerFields
        settings.transport.streamsPerConnection = limits.streamsPerConnection
        settings.transport.resetsPerSecond = limits.resetsPerSecond
        settings.transport.connections = limits.connections
        settings.transport.http2UpstreamConnections = limits.http2UpstreamConnections
        settings.transport.upstreamQueueTimeoutNanoseconds = timeouts.streamQueueNanoseconds
        settings.transport.pingIntervalNanoseconds = timeouts.pingIntervalNanoseconds
        settings.transport.pingTimeoutNanoseconds = timeouts.pingTimeoutNanoseconds
        settings.transport.idleUpstreamConnections = limits.idleUpstreamConnections
        settings.transport.outputHighWaterBytes = limits.streamBufferBytes
        settings.transport.outputLowWaterBytes = limits.streamBufferBytes / 4
        settings.transport.connectionBufferBytes = limits.connectionBufferBytes
        settings.transport.requestBodyBytesPerSecond = limits.requestBodyBytesPerSecond
        settings.transport.handshakeTimeoutNanoseconds = timeouts.tlsHandshakeNanoseconds
        settings.transport.requestHeadTimeoutNanoseconds = timeouts.requestHeaderNanoseconds
        settings.transport.requestBodyTimeoutNanoseconds = timeouts.requestBodyNanoseconds
        settings.transport.callIdleTimeoutNanoseconds = timeouts.callIdleNanoseconds
        settings.transport.tunnelIdleTimeoutNanoseconds = timeouts.tunnelIdleNanoseconds
        settings.transport.downstreamIdleTimeoutNanoseconds = timeouts.downstreamIdleNanoseconds
        settings.transport.keepAliveTimeoutNanoseconds = timeouts.downstreamIdleNanoseconds
        settings.transport.upstreamIdleTimeoutNanoseconds = timeouts.upstreamIdleNanoseconds
        settings.transport.upstreamHTTP2IdleTimeoutNanoseconds = timeouts.upstreamHTTP2IdleNanoseconds
        settings.transport.goawayDelayNanoseconds = min(settings.transport.goawayDelayNanoseconds, timeouts.drainNanoseconds / 3)
        settings.transport.connectTimeoutNanoseconds = timeouts.connectNanoseconds
        settings.transport.upstreamSilenceTimeoutNanoseconds = timeouts.responseNanoseconds
        return settings
    }
}

/// The listeners of one loop.
final class ListenerService {
    var listeners: [Listener] = []
    var connectionCount: Int { listeners.reduce(0) { $0 + $1.connectionCount } }
    func drain() { for listener in listeners { listener.drain() } }
    func closeAll() { for listener in listeners { listener.closeAll() } }
}

/// Carries an answer from a loop to the thread that waits for it.
// @unchecked: written before `signal()`, read after `wait()`.
final class Answer<Value: Sendable>: @unchecked Sendable {
    private let ready = DispatchSemaphore(value: 0)
    private var value: Value

    init(_ initial: Value) { value = initial }

    func give(_ value: Value) {
        self.value = value
        ready.signal()
    }

    func wait() -> Value {
        ready.wait()
        return value
    }
}
