public import EventLoop
import Foundation
public import HTTPTransport
public import Routing
import Wire

/// Learns which models the groups serve, where no configuration says so: asks each leader for `/v1/models` (OpenAI's list), soon
/// after start and now and then. A group that does not answer stays able to serve anything. Runs on a control loop of its own.
public final class ModelListing: EventHandler {
    private struct Target {
        var endpoint: Endpoint
        var incarnation: String
        var pool: UpstreamPool
        var isReady: Bool
        var nextQueryAt: UInt64
        var knowsModels = false
        var failures = 0
    }

    private let table: RoutingTable
    private let reach: StaticGroups.Reach
    private var limits: TransportLimits
    private var targets: [String: Target] = [:]

    static let refreshNanoseconds: UInt64 = 60_000_000_000
    static let firstRetryNanoseconds: UInt64 = 250_000_000
    static let answerBytes = 4 << 20

    public init(loop: EventLoop, table: RoutingTable, reach: StaticGroups.Reach, limits: TransportLimits) {
        self.table = table
        self.reach = reach
        self.limits = limits
        self.limits.upstreamSilenceTimeoutNanoseconds = 5_000_000_000
        super.init(loop: loop)
    }

    /// What the directory tells its observers: those without models are asked, at once when they are new or have become ready.
    public func groupsChanged(_ changed: [GroupDescription], removed: [String]) {
        // A pool that goes fails its queries, and they look at `targets`: the pools must outlive the changes here.
        var gone = removed.compactMap { targets.removeValue(forKey: $0) }
        for group in changed {
            guard group.models.isEmpty, let address = reach.address(group.leader) else {
                if let old = targets.removeValue(forKey: group.name) { gone.append(old) }
                continue
            }
            if targets[group.name]?.endpoint == group.leader, targets[group.name]?.incarnation == group.incarnation {
                targets[group.name]?.isReady = group.isReady
                if group.isReady, targets[group.name]?.knowsModels == false { targets[group.name]?.nextQueryAt = loop.now }
                continue
            }
            let pool = UpstreamPool(
                loop: loop, address: address, authority: group.leader.description, speaksHTTP2: group.leader.protocol == .http2,
                tls: reach.tls(group.leader), limits: limits)
            if let old = targets.removeValue(forKey: group.name) { gone.append(old) }
            targets[group.name] = Target(
                endpoint: group.leader, incarnation: group.incarnation, pool: pool, isReady: group.isReady, nextQueryAt: loop.now)
        }
        withExtendedLifetime(gone) { scheduleNext() }
    }

    public override func deadlineReached() {
        for (name, target) in targets where target.nextQueryAt <= loop.now && target.isReady {
            targets[name]?.nextQueryAt = loop.now &+ Self.refreshNanoseconds
            let query = ModelQuery(group: name, listing: self)
            let head = RequestHead()
            head.setMethod("GET")
            head.setTarget("/v1/models")
            head.headers.append("accept", "application/json")
            target.pool.start(query, UpstreamRequest(head: head, bodyLength: nil, hasBody: false))
        }
        scheduleNext()
    }

    private func scheduleNext() {
        if let next = targets.values.filter(\.isReady).map(\.nextQueryAt).min() { setDeadline(max(next, loop.now &+ 1_000_000)) }
    }

    /// `models` is nil when the engine gave no list.
    fileprivate func answered(group: String, reachable: Bool, models: ModelNames?) {
        guard var target = targets[group] else { return }
        target.failures = reachable ? 0 : min(target.failures + 1, 7)
        if !reachable { target.nextQueryAt = loop.now &+ min(Self.firstRetryNanoseconds << UInt64(target.failures), 30_000_000_000) }
        if models != nil { target.knowsModels = true }
        targets[group] = target
        if let models, let known = table.group(named: group), known.leader == target.endpoint {
            table.setModels(models.names, adapters: models.parents, of: known.id)
        }
        scheduleNext()
    }
}

private final class ModelQuery: UpstreamExchange {
    private let group: String
    private weak var listing: ModelListing?
    private var body = Data()

    init(group: String, listing: ModelListing) {
        self.group = group
        self.listing = listing
    }

    override func bodyReceived(_ bytes: UnsafeRawBufferPointer) {
        guard body.count + bytes.count <= ModelListing.answerBytes else { return }
        body.append(contentsOf: bytes)
    }

    override func responseEnded(trailers: HeaderBlock?) {
        listing?.answered(group: group, reachable: true, models: response.status == 200 ? models() : nil)
    }

    override func failed(_ failure: UpstreamFailure) { listing?.answered(group: group, reachable: false, models: nil) }

    private func models() -> ModelNames? { ModelNames(listing: body) }
}

/// What an engine serves, by OpenAI's list: `{"data":[{"id":…}]}`.
struct ModelNames: Equatable {
    var names: [String]
    /// Of LoRA adapters the base model: vLLM gives it as `parent`.
    var parents: [String: String]

    /// Nil when it is no such list.
    init?(listing: Data) {
        struct List: Decodable {
            struct Model: Decodable {
                var id: String
                var parent: String?
            }
            var data: [Model]
        }
        guard let list = try? JSONDecoder().decode(List.self, from: listing) else { return nil }
        names = list.data.map(\.id)
        let pairs = list.data.compactMap { model in model.parent.map { (model.id, $0) } }
        parents = Dictionary(pairs, uniquingKeysWith: { first, _ in first })
    }
}
