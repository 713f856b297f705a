public import Discovery
public import EventLoop
import Foundation
public import HTTPTransport
import KubernetesAPI
import LoadSignals
public import Proxy
public import Routing
import Telemetry
import Wire

/// The admin port: `/metrics`, `/groups`, `/replicas`, `/explain`, `/health`, `/readiness`. Served by the control loop, never by one that proxies.
public final class AdminApplication: DownstreamApplication {
    let loop: EventLoop
    let table: RoutingTable
    let directory: GroupDirectory
    /// Mailboxes of the loops that proxy; each carries a `ProxyWorker`.
    let workers: [Mailbox]
    /// How the proxying loops read requests: `/explain` reads its own alike.
    let reading: RequestReading
    let pinning: Pinning
    /// Made for the first `/explain`: most routers never need one.
    lazy var probe = reading.makeProbe()

    public init(
        loop: EventLoop, table: RoutingTable, directory: GroupDirectory, workers: [Mailbox], reading: RequestReading = RequestReading(),
        pinning: Pinning = Pinning()
    ) {
        self.reading = reading
        self.pinning = pinning
        self.loop = loop
        self.table = table
        self.directory = directory
        self.workers = workers
        super.init()
        loop.addService(MetricsCollections())
    }

    public override func makeExchange() -> DownstreamExchange { AdminExchange(application: self) }
}

private final class AdminExchange: DownstreamExchange {
    private let application: AdminApplication
    private var body: [UInt8] = []
    /// Bytes of a request's body at most: a prompt of a million tokens.
    private static let bodyBytes = 16 << 20

    init(application: AdminApplication) { self.application = application }

    override func bodyReceived(_ bytes: UnsafeRawBufferPointer) {
        guard isOpen, !isResponseStarted else { return }
        guard body.count + bytes.count <= Self.bodyBytes else {
            body = []
            return answer(413, "application/json", #"{"error":{"message":"The body is too large.","type":"invalid_request_error"}}"#)
        }
        body.append(contentsOf: bytes)
    }

    override func requestEnded() {
        guard isOpen, !isResponseStarted else { return }
        let path = request.path
        if request.method == .post {
            if path.equals("/explain") {
                let (status, text) = application.explanation(of: request, body: &body)
                return answer(status, "application/json", text)
            }
            if path.starts(with: "/groups/") { return changeGroup(String(decoding: path.dropFirst(8), as: UTF8.self)) }
        }
        guard request.method == .get || request.method == .head else {
            return answer(405, "application/json", #"{"error":{"message":"Method not allowed.","type":"invalid_request_error"}}"#)
        }
        if path.equals("/metrics") {
            collectMetrics()
        } else if path.equals("/groups") {
            let watches = application.loop.service(KubernetesSource.self)?.watches ?? []
            answer(
                200, "application/json",
                groupsJSON(
                    application.table, application.directory, watches: watches, leaders: application.leaders,
                    now: application.loop.now))
        } else if path.equals("/replicas") {
            answer(200, "application/json", application.replicasJSON)
        } else if path.equals("/health") {
            answer(200, "application/json", #"{"status":"ok"}"#)
        } else if path.equals("/readiness") {
            let isReady = application.table.hasReadyGroup(now: application.loop.now)
            let hasSynced = application.directory.hasSynced
            let status = isReady ? "ready" : hasSynced ? "no_ready_group" : "discovery_not_synced"
            answer(isReady ? 200 : 503, "application/json", #"{"status":"\#(status)","discovery_synced":\#(hasSynced)}"#)
        } else if path.equals("/") {
            answer(
                200, "text/plain; charset=utf-8",
                """
                /metrics    Prometheus text
                /groups     what the next decision would use
                /explain    POST a request's body and headers: where it would go, and every term of every group; nothing is booked
                /explain?path=/PACKAGE.SERVICE/METHOD    the same of a gRPC call, with content-type application/grpc
                /explain?protocol=websocket&model=NAME   the same of a WebSocket
                /replicas   other replicas of the router, as they are heard
                /groups/NAME/drain, /groups/NAME/resume    POST: takes a group out, and back in
                /health
                /readiness

                """)
        } else {
            answer(404, "application/json", #"{"error":{"message":"Not found.","type":"invalid_request_error"}}"#)
        }
    }

    /// `NAME/drain` or `NAME/resume`.
    private func changeGroup(_ target: String) {
        let separator = target.lastIndex(of: "/") ?? target.endIndex
        let verb = target[separator...].dropFirst()
        guard verb == "drain" || verb == "resume", let group = target[..<separator].removingPercentEncoding,
            application.table.setDrained(verb == "drain", group: group)
        else {
            return answer(404, "application/json", #"{"error":{"message":"Not found.","type":"invalid_request_error"}}"#)
        }
        answer(200, "application/json", #"{"group":"\#(escapedForJSON(group))","drained":\#(verb == "drain")}"#)
    }

    private func collectMetrics() {
        application.loop.service(MetricsCollections.self)?.collect(from: application.workers, replyTo: application.loop.mailbox) {
            [self] snapshot in
            var snapshot = snapshot
            if let reloader = application.loop.service(TLSReloader.self) {
                var certificates = MetricsSnapshot.Certificates()
                certificates.expiries = reloader.expiries.map { ($0.file, $0.notAfter) }
                certificates.reloads = reloader.reloads
                certificates.failedReloads = reloader.failedReloads
                snapshot.certificates = certificates
            }
            snapshot.discovery = discovery(application)
            snapshot.loadSignals = application.loadSignals
            snapshot.replicas = application.replicas
            var bytes: [UInt8] = []
            snapshot.writePrometheus(into: &bytes)
            answer(200, "text/plain; version=0.0.4; charset=utf-8", bytes)
        }
    }

    private func discovery(_ application: AdminApplication) -> MetricsSnapshot.Discovery {
        let now = application.loop.now
        func age(_ heardAt: UInt64) -> Double? { heardAt == 0 ? nil : Double(now > heardAt ? now - heardAt : 0) / 1e9 }
        var discovery = MetricsSnapshot.Discovery()
        discovery.sources = application.directory.sources.map {
            MetricsSnapshot.Discovery.Source(
                name: $0.name, hasSynced: $0.hasSynced, isFaulty: $0.fault != nil, ageSeconds: age($0.heardAt), events: $0.events,
                faults: $0.faults)
        }
        discovery.watches = (application.loop.service(KubernetesSource.self)?.watches ?? []).map {
            MetricsSnapshot.Discovery.Watch(
                resource: $0.resource, scope: $0.scope, fault: $0.fault?.kind.rawValue, hasSynced: $0.hasSynced,
                ageSeconds: age($0.heardAt),
                objects: $0.objects, lists: $0.counters.lists, watches: $0.counters.watches, events: $0.counters.events,
                expirations: $0.counters.expirations, faults: $0.counters.faults)
        }
        return discovery
    }

    private func answer(_ status: Int, _ type: StaticString, _ text: String) { answer(status, type, Array(text.utf8)) }

    private func answer(_ status: Int, _ type: StaticString, _ bytes: [UInt8]) {
        let headers = HeaderBlock()
        headers.append("content-type", type)
        headers.append("content-length", decimal: bytes.count)
        let isHead = request.method == .head
        respond(status: status, headers: headers, ended: isHead)
        guard !isHead else { return }
        bytes.withUnsafeBytes { _ = write($0) }
        finish()
    }
}

/// Snapshots on their way from the proxying loops. A loop that has stopped does not answer, and neither then do we.
private final class MetricsCollections {
    private struct Collection {
        var outstanding: Int
        var sum = MetricsSnapshot()
        var completion: (MetricsSnapshot) -> Void
    }
    private var collections: [Int: Collection] = [:]
    private var nextID = 0

    func collect(from workers: [Mailbox], replyTo control: Mailbox, completion: @escaping (MetricsSnapshot) -> Void) {
        nextID += 1
        let id = nextID
        collections[id] = Collection(outstanding: workers.count, completion: completion)
        for worker in workers {
            worker.post { loop in
                guard let snapshot = loop.service(ProxyWorker.self)?.snapshot() else { return }
                control.post { $0.service(MetricsCollections.self)?.received(snapshot, for: id) }
            }
        }
    }

    private func received(_ snapshot: MetricsSnapshot, for id: Int) {
        guard var collection = collections[id] else { return }
        collection.sum.merge(snapshot)
        collection.outstanding -= 1
        guard collection.outstanding == 0 else {
            collections[id] = collection
            return
        }
        collections[id] = nil
        collection.completion(collection.sum)
    }
}
