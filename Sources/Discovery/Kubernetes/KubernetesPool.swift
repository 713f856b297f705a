import EventLoop
import KubernetesAPI
import Routing

/// Puts what slices, pods and nodes say of one pool's endpoints together, and keeps its groups in step. Pure.
///
/// A change costs as much as the endpoints that it touches: of a slice only those that are different, and of those only their groups.
struct KubernetesPool {
    typealias SliceKey = ObjectStore<EndpointSlice>.Key

    /// An endpoint as one slice has it.
    private struct Record: Equatable {
        var endpoint: EndpointSlice.Endpoint
        var namespace: String
        var isIPv6: Bool
        /// Nil: the slice has no such port.
        var port: UInt16?
        var isHTTP2: Bool
        var sliceVersion: UInt64
    }

    let settings: KubernetesPoolSettings
    /// Whether an endpoint's pod has to be known before the endpoint counts.
    private(set) var knowsPods = false
    /// The ports of an InferencePool; nil: endpoints come from slices.
    private var poolPorts: [UInt16]?
    private var isPoolHTTP2 = false
    private var selector: [String: String] = [:]
    private var records: [String: [SliceKey: Record]] = [:]
    /// By uid.
    private var pods: [String: Pod] = [:]
    /// Of nodes that are taken away: why.
    private var departures: [String: String] = [:]
    private var identitiesByNode: [String: Set<String>] = [:]
    private var members: [String: Member] = [:]
    private var identitiesByGroup: [String: Set<String>] = [:]
    private var dirtyGroups: Set<String> = []
    /// Slices in which the port that is asked for is not there, with what they have.
    private var portFaults: [SliceKey: String] = [:]
    /// Slices with an address that is none, in words.
    private var addressFaults: [SliceKey: String] = [:]
    private var sliceCount = 0
    /// Members that are ready and have a port.
    private(set) var servingCount = 0

    init(_ settings: KubernetesPoolSettings) { self.settings = settings }

    // MARK: Changes

    mutating func sliceChanged(from old: EndpointSlice?, to new: EndpointSlice?) {
        sliceCount += (new == nil ? 0 : 1) - (old == nil ? 0 : 1)
        guard let slice = new ?? old else { return }
        let key = SliceKey(namespace: slice.metadata.namespace, name: slice.metadata.name)
        var touched: Set<String> = []
        let fresh = new.map { records(of: $0, key) } ?? [:]
        if new == nil { (portFaults[key], addressFaults[key]) = (nil, nil) }
        for endpoint in old?.endpoints ?? [] {
            guard let identity = Self.identity(endpoint, slice), fresh[identity] == nil, records[identity]?[key] != nil else { continue }
            records[identity]?[key] = nil
            if records[identity]?.isEmpty == true { records[identity] = nil }
            touched.insert(identity)
        }
        for (identity, record) in fresh {
            var known = records[identity]?[key]
            known?.sliceVersion = record.sliceVersion
            records[identity, default: [:]][key] = record
            // Which of two slices is the later one may be another now.
            if known != record || records[identity]?.count ?? 0 > 1 { touched.insert(identity) }
        }
        for identity in touched {
            refresh(identity)
            // Whether anybody serves, and by which protocol, is the group's and not its members'.
            if let member = members[identity] { dirtyGroups.insert(member.role.group) }
        }
    }

    mutating func podChanged(from old: Pod?, to new: Pod?) {
        if let old, old.metadata.uid != new?.metadata.uid {
            pods[old.metadata.uid] = nil
            refresh(old.metadata.uid)
        }
        guard let new else { return }
        pods[new.metadata.uid] = new
        refresh(new.metadata.uid)
    }

    /// - Parameter departure: why the node is taken away; nil: it stays.
    mutating func nodeChanged(_ name: String, departure: String?) {
        guard departures[name] != departure else { return }
        departures[name] = departure
        for identity in identitiesByNode[name] ?? [] { refresh(identity) }
    }

    /// Pods can be read, or cannot any more.
    mutating func setKnowsPods(_ known: Bool) {
        guard knowsPods != known else { return }
        knowsPods = known
        refreshAll()
    }

    /// An InferencePool's selector and ports; nil when there is none.
    mutating func setPool(_ pool: InferencePool?) {
        poolPorts = pool?.spec.targetPorts.compactMap { Self.port($0.number) } ?? []
        isPoolHTTP2 = pool?.spec.appProtocol == ServicePort.cleartextHTTP2
        selector = pool?.spec.selector.matchLabels ?? [:]
        // The ports' protocol is the groups', not the members'.
        dirtyGroups.formUnion(identitiesByGroup.keys)
        refreshAll()
    }

    private mutating func refreshAll() { for identity in Set(records.keys).union(pods.keys).union(members.keys) { refresh(identity) } }

    // MARK: What follows

    /// Whether there is a slice at all: a Service that does not exist has none.
    var hasSlices: Bool { sliceCount > 0 }
    /// A port that does not exist, in words.
    var portFault: String? { portFaults.values.min() }
    var addressFault: String? { addressFaults.values.min() }
    var endpointCount: Int { records.count }

    /// Groups that may be different, as they are now; empty: gone.
    mutating func takeChanges() -> [String: [DiscoveredGroup]] {
        var changes: [String: [DiscoveredGroup]] = [:]
        for name in dirtyGroups {
            let found = (identitiesByGroup[name] ?? []).compactMap { members[$0] }
            // Pods of others that nobody asked for are no groups of ours: somebody must serve.
            let serves = found.contains { records[$0.identity] != nil || poolPorts != nil }
            var template = settings.template
            let isHTTP2 = isPoolHTTP2 || found.contains { records[$0.identity]?.values.contains(where: \.isHTTP2) == true }
            if isHTTP2 { template.protocol = .http2 }
            changes[name] = serves ? GroupAssembly.groups(name: name, members: found, template: template) : []
        }
        dirtyGroups.removeAll(keepingCapacity: true)
        return changes
    }

    private mutating func refresh(_ identity: String) {
        let old = members[identity]
        let new = member(identity)
        guard old != new else { return }
        members[identity] = new
        servingCount += (new.map(Self.serves) == true ? 1 : 0) - (old.map(Self.serves) == true ? 1 : 0)
        if let old, old.role.group != new?.role.group { leave(old.role.group, identity) }
        if let old, let node = old.node, node != new?.node {
            identitiesByNode[node]?.remove(identity)
            if identitiesByNode[node]?.isEmpty == true { identitiesByNode[node] = nil }
        }
        guard let new else { return }
        identitiesByGroup[new.role.group, default: []].insert(identity)
        dirtyGroups.insert(new.role.group)
        if let node = new.node { identitiesByNode[node, default: []].insert(identity) }
    }

    private static func serves(_ member: Member) -> Bool { member.phase == .ready && !member.ports.isEmpty }

    private mutating func leave(_ group: String, _ identity: String) {
        identitiesByGroup[group]?.remove(identity)
        if identitiesByGroup[group]?.isEmpty == true { identitiesByGroup[group] = nil }
        dirtyGroups.insert(group)
    }

    // MARK: Members

    private func member(_ identity: String) -> Member? {
        if let record = chosen(records[identity]) { return member(identity, record) }
        guard let pod = pods[identity] else { return nil }
        let role = role(of: pod)
        if let poolPorts {
            guard !selector.isEmpty, selector.allSatisfy({ pod.metadata.labels[$0.key] == $0.value }) else { return nil }
            return member(pod, role, ports: role.rank == 0 ? poolPorts : [])
        }
        // Behind a Service of leaders only, the others are known as pods alone.
        guard role.rank > 0 || (role.worldSize ?? 1) > 1 else { return nil }
        return member(pod, role, ports: [])
    }

    private func member(_ identity: String, _ record: Record) -> Member? {
        let reference = record.endpoint.targetRef
        let isPod = reference?.kind == "Pod" && reference?.uid?.isEmpty == false
        let pod = pods[identity]
        // Without its labels nobody knows whom a pod belongs to, and once it is deleted it is gone, whatever the slice says.
        if isPod, knowsPods, pod == nil { return nil }
        guard let address = record.endpoint.addresses.first else { return nil }
        let name = reference?.name ?? record.endpoint.hostname ?? address
        // Labels that were read once still hold when the right to read them is gone; how the pod fares does not.
        let role =
            pod.map { self.role(of: $0) }
            ?? settings.convention.role(of: GroupConvention.Pod(namespace: reference?.namespace ?? record.namespace, name: name))
        let node = record.endpoint.nodeName ?? pod?.nodeName
        return Member(
            identity: identity, name: name, host: address, ports: record.port.map { [$0] } ?? [], node: node, zone: record.endpoint.zone,
            zoneHints: (record.endpoint.hints?.forZones ?? []).map(\.name),
            role: role, phase: phase(of: record.endpoint.conditions, knowsPods ? pod : nil, node: node))
    }

    private func member(_ pod: Pod, _ role: GroupRole, ports: [UInt16]) -> Member {
        let address = pod.status?.podIP.flatMap { Self.isAddress($0) ? $0 : nil }
        return Member(
            identity: pod.metadata.uid, name: pod.metadata.name, host: address ?? "", ports: address == nil ? [] : ports,
            node: pod.nodeName, zone: nil, role: role,
            phase: phase(of: nil, knowsPods || poolPorts != nil ? pod : nil, node: pod.nodeName))
    }

    private func role(of pod: Pod) -> GroupRole {
        settings.convention.role(
            of: GroupConvention.Pod(
                namespace: pod.metadata.namespace, name: pod.metadata.name, labels: pod.metadata.labels,
                annotations: pod.metadata.annotations))
    }

    /// The worst that anybody says.
    private func phase(of conditions: EndpointSlice.Conditions?, _ pod: Pod?, node: String?) -> Member.Phase {
        if pod?.isDeleting == true { return .terminating("its pod is being deleted") }
        if let disruption = pod?.condition("DisruptionTarget"), disruption.status == "True" {
            return .terminating("its pod is about to be evicted: \(disruption.reason ?? "DisruptionTarget")")
        }
        if let node, let why = departures[node] { return .terminating("node \(node) is taken away: \(why)") }
        if conditions?.isTerminating == true { return .terminating("its endpoint is terminating") }
        // Not `ready`: that is true of everybody behind a Service with publishNotReadyAddresses.
        if conditions?.isServing == false { return .notReady("its endpoint is not serving") }
        if let pod, !pod.isReady {
            let condition = pod.condition("Ready")
            let reason = [condition?.reason, condition?.message, pod.status?.reason].compactMap { $0 }.filter { !$0.isEmpty }
            return .notReady(reason.isEmpty ? "its pod is \(pod.status?.phase ?? "Pending")" : reason.joined(separator: ": "))
        }
        return .ready
    }

    // MARK: Slices

    private static func identity(_ endpoint: EndpointSlice.Endpoint, _ slice: EndpointSlice) -> String? {
        if let uid = endpoint.targetRef?.uid, !uid.isEmpty { return uid }
        return endpoint.addresses.first.map { "\(slice.metadata.namespace)/\($0)" }
    }

    /// Names are for whoever wrote such a slice to resolve: endpoints of FQDN slices are passed over.
    private mutating func records(of slice: EndpointSlice, _ key: SliceKey) -> [String: Record] {
        addressFaults[key] = nil
        guard slice.addressType != "FQDN" else { return [:] }
        let port = choosePort(of: slice, key)
        var records: [String: Record] = [:]
        for endpoint in slice.endpoints {
            guard let identity = Self.identity(endpoint, slice), let address = endpoint.addresses.first else { continue }
            guard Self.isAddress(address) else {
                addressFaults[key] =
                    "slice \(key.namespace)/\(key.name) has an address that is none: \(address.prefix(64).debugDescription)"
                continue
            }
            // Of one that is there twice the worst counts: who once terminates never comes back.
            if let known = records[identity], Self.badness(known.endpoint) >= Self.badness(endpoint) { continue }
            records[identity] = Record(
                endpoint: endpoint, namespace: slice.metadata.namespace, isIPv6: slice.addressType == "IPv6",
                port: port?.port.flatMap(Self.port), isHTTP2: port?.appProtocol == ServicePort.cleartextHTTP2,
                sliceVersion: UInt64(slice.metadata.resourceVersion) ?? 0)
        }
        return records
    }

    private static func isAddress(_ text: String) -> Bool { !text.utf8.contains(0) && SocketAddress(host: text, port: 0) != nil }
    private static func port(_ number: Int) -> UInt16? { UInt16(exactly: number).flatMap { $0 > 0 ? $0 : nil } }
    private static func badness(_ endpoint: EndpointSlice.Endpoint) -> Int {
        endpoint.conditions.isTerminating ? 2 : endpoint.conditions.isServing ? 0 : 1
    }

    private mutating func choosePort(of slice: EndpointSlice, _ key: SliceKey) -> ServicePort? {
        let ports = slice.ports.filter { ($0.protocol ?? "TCP") == "TCP" && $0.port.flatMap(Self.port) != nil }
        let found: ServicePort? =
            switch settings.port {
            case .only: ports.count == 1 ? ports.first : nil
            case .name(let name): ports.first { $0.name == name }
            case .number(let number): ports.first { $0.port == Int(number) }
            }
        portFaults[key] = nil
        // An emptied slice has no ports either.
        guard found == nil, !slice.endpoints.isEmpty else { return found }
        let there = ports.map { port in port.name.flatMap { $0.isEmpty ? nil : "\($0) (\(port.port ?? 0))" } ?? "\(port.port ?? 0)" }
        let list = there.isEmpty ? "none" : there.joined(separator: ", ")
        let service = "Service \(slice.metadata.namespace)/\(slice.service ?? "?")"
        switch settings.port {
        case .only: portFaults[key] = "\(service) has several ports or none, say which one with `port`: \(list)"
        case .name(let name): portFaults[key] = "\(service) has no port named \(name); it has \(list)"
        case .number(let number): portFaults[key] = "\(service) has no port \(number); its pods' ports are \(list)"
        }
        return nil
    }

    /// A pod of two stacks is in a slice for each, and one that moves from slice to slice in both for a moment: IPv4 first, then the later.
    private func chosen(_ candidates: [SliceKey: Record]?) -> Record? {
        guard let candidates else { return nil }
        return candidates.values.max { left, right in
            if (left.port == nil) != (right.port == nil) { return left.port == nil }
            if left.isIPv6 != right.isIPv6 { return left.isIPv6 }
            return left.sliceVersion < right.sliceVersion
        }
    }
}
