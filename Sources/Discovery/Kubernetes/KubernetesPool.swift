import EventLoop
import KubernetesAPI
import Routing

/// Puts what slices, pods and nodes say of one pool's endpoints together, and keeps its groups in step. Pure.
///
/// A pod is one member, told from others by its uid, whatever its addresses and in however many slices it is. In each Service it has one
/// port; several Services with a port each make several groups of it, as several ports of an InferencePool do. An endpoint that stands for
/// no pod is told from others by its address and its port: two ports are two engines, of which nobody says that they belong together.
///
/// A change costs as much as the endpoints that it touches: of a slice only those that are different, and of those only their groups.
struct KubernetesPool {
    typealias SliceKey = ObjectStore<EndpointSlice>.Key

    /// An endpoint as one slice has it.
    private struct Record: Equatable {
        var endpoint: EndpointSlice.Endpoint
        var namespace: String
        var service: String
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
    private(set) var departures: [String: String] = [:]
    /// Those of them that are gone, in the order in which they went.
    private var goneNodes: [String] = []
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
        let oldPort = old.flatMap { choosePort(of: $0) }?.port.flatMap(Self.port)
        for endpoint in old?.endpoints ?? [] {
            guard let identity = Self.identity(endpoint, slice, oldPort), fresh[identity] == nil, records[identity]?[key] != nil else {
                continue
            }
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
            // Whether anybody serves is the group's and not its members'.
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
        if departures[name] == Self.gone { goneNodes.removeAll { $0 == name } }
        setDeparture(departure, of: name)
    }

    /// It is remembered for as long as an endpoint is said to be there, and then for a while: slices may be later than nodes.
    mutating func nodeRemoved(_ name: String) {
        if departures[name] != Self.gone { goneNodes.append(name) }
        setDeparture(Self.gone, of: name)
        while goneNodes.count > Self.goneNodesRemembered, let place = goneNodes.firstIndex(where: { identitiesByNode[$0] == nil }) {
            departures[goneNodes.remove(at: place)] = nil
        }
    }

    /// Of nodes that are gone and have no endpoints any more, so many are remembered at most.
    static let goneNodesRemembered = 1_024
    private static let gone = "it is gone"

    private mutating func setDeparture(_ departure: String?, of name: String) {
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
        poolPorts = Set(pool?.spec.targetPorts.compactMap { Self.port($0.number) } ?? []).sorted()
        isPoolHTTP2 = pool?.spec.appProtocol == ServicePort.cleartextHTTP2
        selector = pool?.spec.selector.matchLabels ?? [:]
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
            changes[name] = serves ? GroupAssembly.groups(name: name, members: found, template: settings.template) : []
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
        if let found = records[identity] { return member(identity, chosen(found)) }
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

    /// - Parameter records: of each Service one, the one to be believed first.
    private func member(_ identity: String, _ records: [Record]) -> Member? {
        guard let record = records.first, let address = record.endpoint.addresses.first else { return nil }
        let reference = record.endpoint.targetRef
        let isPod = reference?.kind == "Pod" && reference?.uid?.isEmpty == false
        let pod = pods[identity]
        // Without its labels nobody knows whom a pod belongs to, and once it is deleted it is gone, whatever the slice says.
        if isPod, knowsPods, pod == nil { return nil }
        let name = reference?.name ?? record.endpoint.hostname ?? address
        // Labels that were read once still hold when the right to read them is gone; how the pod fares does not.
        var role =
            pod.map { self.role(of: $0) }
            ?? settings.convention.role(of: GroupConvention.Pod(namespace: reference?.namespace ?? record.namespace, name: name))
        if Self.uid(record.endpoint) == nil, (role.worldSize ?? 1) == 1, let port = record.port { role.group += ":\(port)" }
        let node = record.endpoint.nodeName ?? pod?.nodeName
        let worst = records.max { Self.badness($0.endpoint) < Self.badness($1.endpoint) } ?? record
        return Member(
            identity: identity, name: name, host: address, ports: Set(records.compactMap(\.port)).sorted(),
            http2Ports: Set(records.filter(\.isHTTP2).compactMap(\.port)), node: node, zone: record.endpoint.zone,
            zoneHints: (record.endpoint.hints?.forZones ?? []).map(\.name),
            role: role, phase: phase(of: worst.endpoint.conditions, knowsPods ? pod : nil, node: node))
    }

    private func member(_ pod: Pod, _ role: GroupRole, ports: [UInt16]) -> Member {
        let address = pod.status?.podIP.flatMap { Self.isAddress($0) ? $0 : nil }
        return Member(
            identity: pod.metadata.uid, name: pod.metadata.name, host: address ?? "", ports: address == nil ? [] : ports,
            http2Ports: isPoolHTTP2 ? Set(ports) : [], node: pod.nodeName, zone: nil, role: role,
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

    private static func uid(_ endpoint: EndpointSlice.Endpoint) -> String? { endpoint.targetRef?.uid.flatMap { $0.isEmpty ? nil : $0 } }

    private static func identity(_ endpoint: EndpointSlice.Endpoint, _ slice: EndpointSlice, _ port: UInt16?) -> String? {
        uid(endpoint)
            ?? endpoint.addresses.first.map { "\(slice.metadata.namespace)/\($0)\(port.map { " port \($0)" } ?? "")" }
    }

    /// Names are for whoever wrote such a slice to resolve: endpoints of FQDN slices are passed over.
    private mutating func records(of slice: EndpointSlice, _ key: SliceKey) -> [String: Record] {
        addressFaults[key] = nil
        guard slice.addressType != "FQDN" else {
            addressFaults[key] = "slice \(key.namespace)/\(key.name) has names instead of addresses (FQDN), which are passed over"
            return [:]
        }
        let chosen = choosePort(of: slice)
        let port = chosen?.port.flatMap(Self.port)
        // An emptied slice has no ports either.
        portFaults[key] = port == nil && !slice.endpoints.isEmpty ? portFault(of: slice) : nil
        var records: [String: Record] = [:]
        for endpoint in slice.endpoints {
            guard let identity = Self.identity(endpoint, slice, port), let address = endpoint.addresses.first else { continue }
            guard Self.isAddress(address) else {
                addressFaults[key] =
                    "slice \(key.namespace)/\(key.name) has an address that is none: \(address.prefix(64).debugDescription)"
                continue
            }
            // Of one that is there twice the worst counts: who once terminates never comes back.
            if let known = records[identity], Self.badness(known.endpoint) >= Self.badness(endpoint) { continue }
            records[identity] = Record(
                endpoint: endpoint, namespace: slice.metadata.namespace, service: slice.service ?? "",
                isIPv6: slice.addressType == "IPv6", port: port, isHTTP2: chosen?.appProtocol == ServicePort.cleartextHTTP2,
                sliceVersion: UInt64(slice.metadata.resourceVersion) ?? 0)
        }
        return records
    }

    private static func isAddress(_ text: String) -> Bool { !text.utf8.contains(0) && SocketAddress(host: text, port: 0) != nil }
    private static func port(_ number: Int) -> UInt16? { UInt16(exactly: number).flatMap { $0 > 0 ? $0 : nil } }
    private static func badness(_ endpoint: EndpointSlice.Endpoint) -> Int {
        endpoint.conditions.isTerminating ? 2 : endpoint.conditions.isServing ? 0 : 1
    }

    /// Those that can be connected to.
    private static func ports(of slice: EndpointSlice) -> [ServicePort] {
        slice.ports.filter { ($0.protocol ?? "TCP") == "TCP" && $0.port.flatMap(port) != nil }
    }

    private func choosePort(of slice: EndpointSlice) -> ServicePort? {
        let ports = Self.ports(of: slice)
        switch settings.port {
        case .only: return ports.count == 1 ? ports.first : nil
        case .name(let name): return ports.first { $0.name == name }
        case .number(let number): return ports.first { $0.port == Int(number) }
        }
    }

    private func portFault(of slice: EndpointSlice) -> String {
        let there = Self.ports(of: slice).map { port in
            port.name.flatMap { $0.isEmpty ? nil : "\($0) (\(port.port ?? 0))" } ?? "\(port.port ?? 0)"
        }
        let list = there.isEmpty ? "none" : there.joined(separator: ", ")
        let service = "Service \(slice.metadata.namespace)/\(slice.service ?? "?")"
        switch settings.port {
        case .only: return "\(service) has several ports or none, say which one with `port`: \(list)"
        case .name(let name): return "\(service) has no port named \(name); it has \(list)"
        case .number(let number): return "\(service) has no port \(number); its pods' ports are \(list)"
        }
    }

    /// Of each Service one, the one to be believed first. In one Service, a pod of two stacks is in a slice for each, and one that moves
    /// from slice to slice in both for a moment: IPv4 first, then the later. Between Services no version may decide, since each of them
    /// changes with every pod: those with a port come first, then IPv4, then names in their order.
    private func chosen(_ candidates: [SliceKey: Record]) -> [Record] {
        if candidates.count == 1, let only = candidates.first?.value { return [only] }
        var best: [String: Record] = [:]
        for candidate in candidates.values {
            guard let other = best[candidate.service] else {
                best[candidate.service] = candidate
                continue
            }
            let (rank, otherRank) = (Self.rank(candidate), Self.rank(other))
            if rank < otherRank || rank == otherRank && candidate.sliceVersion > other.sliceVersion { best[candidate.service] = candidate }
        }
        return best.values.sorted { left, right in
            let (rank, otherRank) = (Self.rank(left), Self.rank(right))
            return rank == otherRank ? left.service < right.service : rank < otherRank
        }
    }

    private static func rank(_ record: Record) -> Int { (record.port == nil ? 2 : 0) + (record.isIPv6 ? 1 : 0) }
}
