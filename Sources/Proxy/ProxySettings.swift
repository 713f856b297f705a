public import EventLoop
public import HTTPTransport
public import Routing
import Synchronization

/// What the proxy is told once, before it starts. Times in nanoseconds.
public struct ProxySettings: Sendable {
    public var transport = TransportLimits()
    /// Bytes of a request's body at most.
    public var bodyBytes = 64 << 20
    /// Bytes of all bodies that one loop holds at once.
    public var bufferedBodyBytes = 256 << 20
    /// Bytes of a body that is forwarded as it comes, kept for another try while `bufferedBodyBytes` has room for them.
    public var replayBytes = 1 << 20
    /// Groups that one request is sent to at most.
    public var attempts = 3
    /// How long the head of an answer waits for its first event.
    public var headHoldNanoseconds: UInt64 = 30_000_000_000
    /// How long a call whose messages are read may keep its first one back before it goes where load alone would have it go: its client may
    /// wait for the backend to speak first.
    public var firstMessageNanoseconds: UInt64 = 1_000_000_000
    /// Ask engines to report their load beside answers, in this form; nil: do not ask. What is reported is read either way.
    public var loadMetricsFormat: LoadMetricsFormat?
    /// Whether clients see such reports.
    public var loadMetricsToClients = LoadMetricsPassing.whenAsked
    public var reading = RequestReading()
    /// Whether a request with `x-swiftlet-explain` is told why it went where.
    public var explainsToClients = false
    public var pinning = Pinning()
    /// Needed when an endpoint speaks TLS.
    public var upstreamTLS: UpstreamTLSSettings?
    public var writesAccessLog = true
    public var version = "0.1.0"
    /// Seconds since 1970 that `/v1/models` reports as the models' birth.
    public var startedAtSeconds = 0

    public init() {}
}

/// The forms of ORCA's report: values of `endpoint-load-metrics-format`.
public enum LoadMetricsFormat: Sendable {
    case text, json, binary
}

public enum LoadMetricsPassing: Sendable {
    /// Not the reports that the router alone asked for.
    case whenAsked
    case always, never
}

/// What connections to endpoints with TLS need.
public struct UpstreamTLSSettings: Sendable {
    public var source: TLSClientSource
    public var log: OperatorLog

    public init(source: TLSClientSource, log: OperatorLog) {
        self.source = source
        self.log = log
    }

    /// For a pool of that endpoint's; nil when it speaks cleartext.
    public func tls(for endpoint: Endpoint) -> UpstreamTLS? {
        endpoint.isTLS ? UpstreamTLS(source: source, host: endpoint.host, log: log) : nil
    }
}

/// Where the hosts of the endpoints are, resolved before they are used. Read once per endpoint and loop.
public final class EndpointAddresses: Sendable {
    private let addresses: Mutex<[Endpoint: SocketAddress]>

    public init(_ addresses: [Endpoint: SocketAddress] = [:]) { self.addresses = Mutex(addresses) }

    /// Nil for an endpoint whose host is a name that was never resolved.
    public subscript(endpoint: Endpoint) -> SocketAddress? {
        addresses.withLock { $0[endpoint] } ?? SocketAddress(host: endpoint.host, port: endpoint.port)
    }

    /// What a resolver has found.
    public func add(_ found: [Endpoint: SocketAddress]) { addresses.withLock { $0.merge(found) { _, new in new } } }
}
