public import EventLoop
public import KubernetesAPI

/// Groups as a Kubernetes API server tells of them: watches what the settings name, and keeps the directory in step. An event that was
/// read is in the next decision. Lives on the control loop.
public final class KubernetesSource: EventHandler {
    /// One of the settings' pools with its watches.
    private struct Watched {
        var pool: KubernetesPool
        /// How it is called, unlike every other.
        var name: String
        var source: Int
        var namespace: String?
        var slices: ResourceWatch<EndpointSlice>?
        var endpoints: ResourceWatch<Endpoints>?
        var inferencePool: ResourceWatch<InferencePool>?
        /// Endpoints of which the server has left some out, by `namespace/name`.
        var truncated: Set<String> = []
        /// Changes since the directory was told.
        var events: UInt64 = 0
        var reported: String?
        var isPublished = false
        var podTrust = PodTrust()
    }

    static let tickNanoseconds: UInt64 = 1_000_000_000

    private let settings: KubernetesSettings
    private let directory: GroupDirectory
    private let server: APIServer
    private let log: OperatorLog
    private var seed: UInt64
    private var watched: [Watched] = []
    private var shared = SharedGroups()
    /// By namespace, for all pools there; empty: all.
    private var pods: [String: ResourceWatch<Pod>] = [:]
    private var nodes: ResourceWatch<Node>?
    private var hasBegun = false

    /// - Parameters:
    ///   - environment: of the process: where the cluster is.
    ///   - seed: of jitter.
    public init(
        loop: EventLoop, settings: KubernetesSettings, environment: [String: String], directory: GroupDirectory, seed: UInt64,
        log: OperatorLog
    ) {
        self.settings = settings
        self.directory = directory
        self.log = log
        self.seed = seed
        server = APIServer(
            loop: loop, source: settings.access, environment: environment, silenceNanoseconds: settings.reflector.silenceNanoseconds)
        super.init(loop: loop)
        var names: [String: Int] = [:]
        watched = settings.pools.map { pool in
            names[pool.name, default: 0] += 1
            let name = names[pool.name] == 1 ? pool.name : "\(pool.name) #\(names[pool.name] ?? 0)"
            return Watched(pool: KubernetesPool(pool), name: name, source: directory.addSource(name), namespace: pool.namespace)
        }
        setDeadline(loop.now)
    }

    /// Once a second: begins when there is access, and says how old our knowledge is.
    public override func deadlineReached() {
        setDeadline(loop.now &+ Self.tickNanoseconds)
        guard hasBegun else { return server.prepare { [weak self] in self?.begin() } }
        for place in watched.indices {
            directory.confirmed(watched[place].source, at: heardAt(place))
            settle(place)
        }
    }

    // MARK: Watches

    private func begin() {
        guard !hasBegun else { return }
        guard let ownNamespace = server.namespace else {
            for place in watched.indices { report(server.fault ?? "no access to the API server", of: place) }
            return
        }
        hasBegun = true
        log.notice("Kubernetes API server: \(server.origin ?? "")")
        for place in watched.indices {
            let namespace = watched[place].namespace ?? ownNamespace
            watched[place].namespace = namespace == "*" ? nil : namespace
            switch watched[place].pool.settings.subject {
            case .inferencePool(let name): watchInferencePool(place, name)
            case .services, .selector:
                if watched[place].pool.settings.readsEndpoints { watchEndpoints(place) } else { watchSlices(place) }
            }
            watchPods(place)
        }
        if settings.watchesNodes { watchNodes() }
    }

    private func nextSeed() -> UInt64 {
        seed &+= 0x9E37_79B9_7F4A_7C15
        return seed
    }

    private func watchSlices(_ place: Int) {
        var scope = WatchScope(namespace: watched[place].namespace)
        switch watched[place].pool.settings.subject {
        case .services(let names):
            scope.labelSelector =
                names.count == 1
                ? "\(EndpointSlice.serviceLabel)=\(names[0])" : "\(EndpointSlice.serviceLabel) in (\(names.joined(separator: ",")))"
        case .selector(let selector):
            scope.labelSelector = selector.isEmpty ? EndpointSlice.serviceLabel : "\(selector),\(EndpointSlice.serviceLabel)"
        case .inferencePool: return
        }
        watched[place].slices = ResourceWatch(loop: loop, server: server, scope: scope, settings: settings.reflector, seed: nextSeed()) {
            [unowned self] changes in
            for change in changes {
                switch change {
                case .added(let slice): watched[place].pool.sliceChanged(from: nil, to: slice)
                case .updated(let old, let new): watched[place].pool.sliceChanged(from: old, to: new)
                case .removed(let slice): watched[place].pool.sliceChanged(from: slice, to: nil)
                }
            }
            watched[place].events &+= UInt64(changes.count)
            chooseKind(place)
            settle(place)
        }
    }

    /// A server that says that it has no slices may only have begun: Endpoints are read until it has them.
    private func chooseKind(_ place: Int) {
        guard let slices = watched[place].slices?.reflector else { return }
        if slices.hasSynced {
            guard let endpoints = watched[place].endpoints else { return }
            endpoints.stop()
            for object in endpoints.reflector.store.objects.values {
                for slice in object.slices { watched[place].pool.sliceChanged(from: slice, to: nil) }
            }
            (watched[place].endpoints, watched[place].truncated) = (nil, [])
        } else if slices.fault?.kind == .notServed, watched[place].endpoints == nil {
            watchEndpoints(place)
        }
    }

    /// For servers without slices.
    private func watchEndpoints(_ place: Int) {
        var scope = WatchScope(namespace: watched[place].namespace)
        var names: Set<String>?
        switch watched[place].pool.settings.subject {
        case .services(let services):
            if services.count == 1 { scope.fieldSelector = "metadata.name=\(services[0])" }
            names = Set(services)
        case .selector(let selector): scope.labelSelector = selector.isEmpty ? nil : selector
        case .inferencePool: return
        }
        watched[place].endpoints = ResourceWatch(loop: loop, server: server, scope: scope, settings: settings.reflector, seed: nextSeed()) {
            [unowned self] changes in
            for change in changes {
                let (old, new): (Endpoints?, Endpoints?) =
                    switch change {
                    case .added(let endpoints): (nil, endpoints)
                    case .updated(let old, let new): (old, new)
                    case .removed(let endpoints): (endpoints, nil)
                    }
                guard let metadata = (new ?? old)?.metadata, names?.contains(metadata.name) ?? true else { continue }
                let name = "\(metadata.namespace)/\(metadata.name)"
                if new?.isTruncated == true { watched[place].truncated.insert(name) } else { watched[place].truncated.remove(name) }
                let (before, after) = (old?.slices ?? [], new?.slices ?? [])
                for index in 0..<max(before.count, after.count) {
                    watched[place].pool.sliceChanged(
                        from: index < before.count ? before[index] : nil, to: index < after.count ? after[index] : nil)
                }
            }
            watched[place].events &+= UInt64(changes.count)
            settle(place)
        }
    }

    private func watchInferencePool(_ place: Int, _ name: String) {
        watched[place].pool.setPool(nil)
        let scope = WatchScope(namespace: watched[place].namespace, fieldSelector: "metadata.name=\(name)")
        watched[place].inferencePool = ResourceWatch(
            loop: loop, server: server, scope: scope, settings: settings.reflector, seed: nextSeed()
        ) { [unowned self] changes in
            if !changes.isEmpty {
                let found = watched[place].inferencePool?.reflector.store.objects.values.first { $0.metadata.name == name }
                watched[place].pool.setPool(found)
            }
            watched[place].events &+= UInt64(changes.count)
            settle(place)
        }
    }

    private func watchPods(_ place: Int) {
        let needsPods = watched[place].inferencePool != nil
        guard settings.watchesPods || needsPods else { return }
        let namespace = watched[place].namespace
        let key = namespace ?? ""
        guard pods[key] == nil else { return }
        let watch = ResourceWatch<Pod>(
            loop: loop, server: server, scope: WatchScope(namespace: namespace), settings: settings.reflector, seed: nextSeed()
        ) { [unowned self] changes in
            for place in watched.indices where watched[place].namespace == namespace {
                for change in changes {
                    switch change {
                    case .added(let pod): watched[place].pool.podChanged(from: nil, to: pod)
                    case .updated(let old, let new): watched[place].pool.podChanged(from: old, to: new)
                    case .removed(let pod): watched[place].pool.podChanged(from: pod, to: nil)
                    }
                }
                watched[place].events &+= UInt64(changes.count)
                settle(place)
            }
        }
        pods[key] = watch
    }

    private func watchNodes() {
        nodes = ResourceWatch(loop: loop, server: server, scope: WatchScope(), settings: settings.reflector, seed: nextSeed()) {
            [unowned self] changes in
            for change in changes {
                for place in watched.indices {
                    switch change {
                    case .added(let node), .updated(_, let node):
                        watched[place].pool.nodeChanged(node.metadata.name, departure: departure(of: node))
                    case .removed(let node): watched[place].pool.nodeRemoved(node.metadata.name)
                    }
                }
            }
            for place in watched.indices { settle(place) }
        }
    }

    private func departure(of node: Node) -> String? {
        if node.isDeleting { return "it is being deleted" }
        return node.taints.first { settings.departureTaints.contains($0.key) }.map { "taint \($0.key)" }
    }

    // MARK: What the directory learns

    private func podKnowledge(_ place: Int) -> PodTrust.Verdict {
        guard settings.watchesPods || watched[place].inferencePool != nil else { return .without }
        guard let reflector = pods[watched[place].namespace ?? ""]?.reflector else { return .without }
        let slicesFault = watched[place].endpoints.map { $0.reflector.fault } ?? watched[place].slices?.reflector.fault
        return watched[place].podTrust.verdict(
            hasSynced: reflector.hasSynced, fault: reflector.fault, faults: reflector.counters.faults, slicesGoOn: slicesFault == nil,
            now: loop.now)
    }

    /// Tells the directory of one pool: its groups as far as the whole picture is there, and what is wrong.
    private func settle(_ place: Int) {
        let podKnowledge = podKnowledge(place)
        watched[place].pool.setKnowsPods(podKnowledge == .known)
        let isWhole: Bool
        if let pool = watched[place].inferencePool {
            isWhole = pool.reflector.hasSynced && podKnowledge == .known
        } else {
            isWhole =
                podKnowledge != .awaited
                && (watched[place].slices?.reflector.hasSynced ?? false || watched[place].endpoints?.reflector.hasSynced ?? false)
        }
        if isWhole || watched[place].isPublished {
            for (name, groups) in watched[place].pool.takeChanges() { tell(groups, unit: name, of: place) }
            if watched[place].events > 0 || !watched[place].isPublished {
                directory.heard(watched[place].source, events: watched[place].events, hasSynced: isWhole)
                watched[place].events = 0
                if watched[place].reported != nil { directory.failed(watched[place].source, watched[place].reported ?? "") }
            }
            watched[place].isPublished = true
        }
        report(fault(place, podKnowledge, isWhole: isWhole), of: place)
    }

    private func tell(_ groups: [DiscoveredGroup], unit: String, of place: Int) {
        guard watched.count > 1 else { return directory.set(groups, unit: unit, of: watched[place].source) }
        for (place, groups) in shared.set(groups, unit: unit, of: place) {
            directory.set(groups, unit: unit, of: watched[place].source)
        }
    }

    /// What is wrong with what the groups themselves come from.
    private func watchFault(_ entry: Watched) -> WatchFault? {
        if let pool = entry.inferencePool { return pool.reflector.fault }
        guard let endpoints = entry.endpoints else { return entry.slices?.reflector.fault }
        guard var fault = endpoints.reflector.fault else { return nil }
        if let slices = entry.slices?.reflector.fault { fault.text = "\(slices.text); instead of them: \(fault.text)" }
        return fault
    }

    private func fault(_ place: Int, _ podKnowledge: PodTrust.Verdict, isWhole: Bool) -> String? {
        let entry = watched[place]
        if let watchFault = watchFault(entry) {
            // Refused with the old credentials, since there are no new ones.
            guard watchFault.kind == .unauthorized, let fault = server.fault else { return watchFault.text }
            return "\(watchFault.text); credentials cannot be renewed: \(fault)"
        }
        if let podFault = podFault(entry, podKnowledge) { return podFault }
        if let fault = server.fault { return "credentials cannot be renewed, the old ones stay in use: \(fault)" }
        if let nodeFault = nodes?.reflector.fault { return "nodes that are taken away are not seen: \(nodeFault.text)" }
        if let relistFault = relistFault(entry) { return "the watch goes on, but a list beside it fails: \(relistFault.text)" }
        guard isWhole else { return nil }
        if let unreadable = unreadable(entry.slices) ?? unreadable(entry.endpoints) ?? unreadable(entry.inferencePool)
            ?? unreadable(pods[entry.namespace ?? ""]) ?? unreadable(nodes)
        {
            return unreadable
        }
        if let truncated = entry.truncated.min() {
            return "the server has left addresses out of Endpoints \(truncated), which end at 1,000: those pods get no request "
                + "unless EndpointSlices are read"
        }
        if let addressFault = entry.pool.addressFault { return addressFault }
        if let portFault = entry.pool.portFault { return portFault }
        if case .inferencePool(let name) = entry.pool.settings.subject, entry.inferencePool?.reflector.store.objects.isEmpty ?? true {
            return "there is no InferencePool \(name) in \(entry.namespace.map { "namespace \($0)" } ?? "any namespace")"
        }
        if entry.inferencePool == nil, !entry.pool.hasSlices {
            return "there are no endpoints: is there such a Service in \(entry.namespace.map { "namespace \($0)" } ?? "any namespace")?"
        }
        let count = entry.pool.endpointCount
        return count > 0 && entry.pool.servingCount == 0 ? "of \(count) endpoints none is ready" : nil
    }

    private func relistFault(_ entry: Watched) -> WatchFault? {
        entry.inferencePool?.reflector.relistFault ?? entry.slices?.reflector.relistFault ?? entry.endpoints?.reflector.relistFault
            ?? pods[entry.namespace ?? ""]?.reflector.relistFault ?? nodes?.reflector.relistFault
    }

    private func podFault(_ entry: Watched, _ podKnowledge: PodTrust.Verdict) -> String? {
        guard let reflector = pods[entry.namespace ?? ""]?.reflector, let fault = reflector.fault else { return nil }
        guard entry.inferencePool == nil, podKnowledge == .without else { return fault.text }
        // Whoever gives us no right to read pods means it; a right that is taken away or a feed that fails is another matter.
        if !reflector.hasSynced, fault.kind == .forbidden || fault.kind == .notServed { return nil }
        return "going on without pods: \(fault.text)"
    }

    private func unreadable<Object>(_ watch: ResourceWatch<Object>?) -> String? {
        guard let found = watch?.reflector.unreadable,
            let first = found.min(by: { ($0.key.namespace, $0.key.name) < ($1.key.namespace, $1.key.name) })
        else { return nil }
        return "\(found.count) of \(Object.resource.description) cannot be read and are passed over, "
            + "\(first.key.namespace)/\(first.key.name) for one: \(first.value)"
    }

    private func report(_ fault: String?, of place: Int) {
        guard fault != watched[place].reported else { return }
        watched[place].reported = fault
        let name = watched[place].name
        if let fault {
            directory.failed(watched[place].source, fault)
            log.warning("\(name): \(fault)")
        } else {
            directory.heard(watched[place].source)
            directory.confirmed(watched[place].source, at: heardAt(place))
            log.notice("\(name): in sync")
        }
    }

    private func heardAt(_ place: Int) -> UInt64 {
        let entry = watched[place]
        return entry.inferencePool?.reflector.heardAt ?? entry.endpoints?.reflector.heardAt ?? entry.slices?.reflector.heardAt ?? 0
    }

    // MARK: What is known of the watches

    /// One watch, for metrics.
    public struct WatchState: Sendable {
        /// `endpointslices`, `pods`…
        public var resource: String
        /// The source that it is for, or its namespace where it serves several.
        public var scope: String
        public var hasSynced: Bool
        public var heardAt: UInt64
        public var fault: WatchFault?
        public var objects: Int
        public var counters: ReflectorCounters
    }

    public var watches: [WatchState] {
        func state<Object>(_ watch: ResourceWatch<Object>?, _ scope: String) -> WatchState? {
            guard let reflector = watch?.reflector else { return nil }
            return WatchState(
                resource: Object.resource.plural, scope: scope, hasSynced: reflector.hasSynced, heardAt: reflector.heardAt,
                fault: reflector.fault, objects: reflector.store.objects.count, counters: reflector.counters)
        }
        return watched.flatMap { entry in
            let name = entry.name
            return [state(entry.slices, name), state(entry.endpoints, name), state(entry.inferencePool, name)].compactMap { $0 }
        } + pods.sorted { $0.key < $1.key }.compactMap { state($0.value, $0.key.isEmpty ? "all namespaces" : $0.key) }
            + [state(nodes, "cluster")].compactMap { $0 }
    }
}
