public import Discovery
public import EventLoop
import Foundation
public import HTTPTransport
import Proxy
public import Routing
import Telemetry
import Wire

/// The admin port: `/metrics`, `/groups`, `/health`, `/readiness`. Served by the control loop, never by one that proxies.
public final class AdminApplication: DownstreamApplication {
    let loop: EventLoop
    let table: RoutingTable
    let directory: GroupDirectory
    /// Mailboxes of the loops that proxy; each carries a `ProxyWorker`.
    let workers: [Mailbox]

    public init(loop: EventLoop, table: RoutingTable, directory: GroupDirectory, workers: [Mailbox]) {
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

    init(application: AdminApplication) { self.application = application }

    override func requestEnded() {
        guard request.method == .get || request.method == .head else {
            return answer(405, "application/json", #"{"error":{"message":"Method not allowed.","type":"invalid_request_error"}}"#)
        }
        let path = request.path
        if path.equals("/metrics") {
            collectMetrics()
        } else if path.equals("/groups") {
            answer(200, "application/json", groupsJSON(application.table, application.directory, now: application.loop.now))
        } else if path.equals("/health") {
            answer(200, "application/json", #"{"status":"ok"}"#)
        } else if path.equals("/readiness") {
            let isReady = application.table.hasReadyGroup(now: application.loop.now)
            answer(isReady ? 200 : 503, "application/json", isReady ? #"{"status":"ready"}"# : #"{"status":"no_ready_group"}"#)
        } else if path.equals("/") {
            answer(
                200, "text/plain; charset=utf-8",
                "/metrics    Prometheus text\n/groups     what the next decision would use\n/health\n/readiness\n")
        } else {
            answer(404, "application/json", #"{"error":{"message":"Not found.","type":"invalid_request_error"}}"#)
        }
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
            var bytes: [UInt8] = []
            snapshot.writePrometheus(into: &bytes)
            answer(200, "text/plain; version=0.0.4; charset=utf-8", bytes)
        }
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
