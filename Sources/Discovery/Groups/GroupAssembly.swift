public import Routing

/// A group as it was put together from its members, with what stands in its way.
public struct DiscoveredGroup: Sendable, Equatable {
    public struct MemberState: Sendable, Equatable {
        public var name: String
        public var address: String
        public var rank: Int
        public var node: String?
        public var zone: String?
        public var zoneHints: [String] = []
        public var revision: String?
        /// `ready`, or what is in the way.
        public var state: String
    }

    public var name: String
    /// Nil while nobody leads: such a group is shown and cannot be routed to.
    public var description: GroupDescription?
    /// By rank.
    public var members: [MemberState]
    /// Why the group gets no request; nil when it is ready.
    public var obstacle: String?
    /// Nodes of the members that count, sorted. More than one: every all-reduce crosses the network.
    public var nodes: [String]
}

/// Puts the members of one tensor-parallel group together. Pure.
///
/// Ready means that the leader is ready and not terminating, and that every other rank of the leader's revision is there, ready and not
/// terminating: an engine that lost a member keeps its port open and hangs in the next collective, so the leader's own readiness
/// proves nothing.
enum GroupAssembly {
    /// - Parameters:
    ///   - name: of the group; data-parallel ranks get `name:port`.
    ///   - members: all that claim to belong to it, in any order.
    /// - Returns: one group for each port of the leader, and one without a description when nobody leads.
    static func groups(name: String, members: [Member], template: GroupTemplate) -> [DiscoveredGroup] {
        let sorted = members.sorted(by: isBefore)
        let states = sorted.map(state)
        guard let leader = sorted.first(where: { $0.role.rank == 0 && !$0.ports.isEmpty }) else {
            let isServed = sorted.contains { $0.role.rank == 0 }
            let obstacle = isServed ? "its leader has no port to serve at" : "nobody leads it: rank 0 is missing"
            return [DiscoveredGroup(name: name, description: nil, members: states, obstacle: obstacle, nodes: nodes(of: sorted))]
        }
        let worldSize = min(max(leader.role.worldSize ?? template.worldSize ?? 1, 1), maximumWorldSize)
        let present = present(with: leader, in: sorted)
        let obstacle = obstacle(leader: leader, present: present, all: sorted, worldSize: worldSize)
        return leader.ports.map { port in
            let groupName = leader.ports.count > 1 ? "\(name):\(port)" : name
            let description = describe(
                groupName, leader: leader, port: port, present: present, worldSize: worldSize, isReady: obstacle == nil, template)
            return DiscoveredGroup(
                name: groupName, description: description, members: states, obstacle: obstacle, nodes: nodes(of: present))
        }
    }

    /// More processes than any engine spreads one model over; what a label says must not become the length of a loop.
    static let maximumWorldSize = 4_096

    /// By rank; of those that claim one rank the one that stays, then the ready one, then in a fixed order.
    private static func isBefore(_ left: Member, _ right: Member) -> Bool {
        func weight(_ member: Member) -> Int {
            switch member.phase {
            case .ready: 0
            case .notReady: 1
            case .terminating: 2
            }
        }
        return (left.role.rank, weight(left), left.name, left.identity) < (right.role.rank, weight(right), right.name, right.identity)
    }

    /// The members that make the group whole, one for each rank, the leader first. Of several that could be a rank the one on the
    /// leader's node.
    private static func present(with leader: Member, in sorted: [Member]) -> [Member] {
        var present = [leader]
        for member in sorted where member.phase == .ready && member.role.revision == leader.role.revision {
            guard let last = present.last else { break }
            if member.role.rank > last.role.rank {
                present.append(member)
            } else if member.role.rank == last.role.rank, last.identity != leader.identity, last.node != leader.node,
                member.node == leader.node
            {
                present[present.count - 1] = member
            }
        }
        return present
    }

    private static func obstacle(leader: Member, present: [Member], all: [Member], worldSize: Int) -> String? {
        switch leader.phase {
        case .terminating(let why): return "leader \(leader.name) is terminating: \(why)"
        case .notReady(let why): return "leader \(leader.name) is not ready: \(why)"
        case .ready: break
        }
        let ranks = Set(present.map(\.role.rank))
        let missing = (0..<worldSize).filter { !ranks.contains($0) }
        guard let first = missing.first else { return nil }
        let named = missing.prefix(8).map(String.init).joined(separator: ", ") + (missing.count > 8 ? ", …" : "")
        let counted = "\(worldSize - missing.count) of \(worldSize) members are there, missing rank \(named)"
        guard let culprit = all.first(where: { $0.role.rank == first }) else { return counted }
        switch culprit.phase {
        case .ready: return "\(counted): \(culprit.name) is of another revision than the leader"
        case .notReady(let why): return "\(counted): \(culprit.name) is not ready: \(why)"
        case .terminating(let why): return "\(counted): \(culprit.name) is terminating: \(why)"
        }
    }

    private static func describe(
        _ name: String, leader: Member, port: UInt16, present: [Member], worldSize: Int, isReady: Bool, _ template: GroupTemplate
    ) -> GroupDescription {
        func endpoint(_ member: Member) -> Endpoint {
            let own = member.identity == leader.identity ? port : member.ports.first ?? port
            return Endpoint(
                host: member.host, port: own, protocol: member.http2Ports.contains(own) ? .http2 : template.protocol,
                isTLS: template.isTLS)
        }
        var description = GroupDescription(
            name: name, leader: endpoint(leader), members: present.dropFirst().map(endpoint), size: worldSize,
            models: template.models, prefillTokensPerSecond: template.prefillTokensPerSecond,
            decodeStepSeconds: template.decodeStepSeconds, kvCapacityTokens: template.kvCapacityTokens, isReady: isReady)
        description.incarnation = leader.identity
        description.slowdown = nodes(of: present).count > 1 ? template.spreadSlowdown : 1
        description.node = leader.node ?? ""
        description.zone = leader.zone ?? ""
        return description
    }

    private static func nodes(of members: [Member]) -> [String] { Set(members.compactMap(\.node)).sorted() }

    private static func state(_ member: Member) -> DiscoveredGroup.MemberState {
        let state =
            switch member.phase {
            case .ready: "ready"
            case .notReady(let why): "not ready: \(why)"
            case .terminating(let why): "terminating: \(why)"
            }
        return DiscoveredGroup.MemberState(
            name: member.name, address: member.host, rank: member.role.rank, node: member.node, zone: member.zone,
            zoneHints: member.zoneHints, revision: member.role.revision, state: state)
    }
}
