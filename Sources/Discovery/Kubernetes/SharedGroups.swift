import Routing

/// Brings together what several pools have of one pod, or of one group of pods. Pure.
///
/// The same port in two pools is one engine, and one group that serves the models of both. Ports of its own in each pool make groups of
/// their own, `unit:port`, as several ports within one pool do. So names follow from what the cluster has, and not from which pool
/// was first: replicas of the router agree on them.
struct SharedGroups {
    /// By unit and by the pool's place in the configuration.
    private var found: [String: [Int: [DiscoveredGroup]]] = [:]

    /// - Returns: what each pool that had or has a part in the unit now has of it.
    mutating func set(_ groups: [DiscoveredGroup], unit: String, of place: Int) -> [Int: [DiscoveredGroup]] {
        var parts = found[unit] ?? [:]
        var result = parts.mapValues { _ in [DiscoveredGroup]() }
        result[place] = []
        parts[place] = groups.isEmpty ? nil : groups
        found[unit] = parts.isEmpty ? nil : parts
        for (place, groups) in parts.count > 1 ? Self.together(parts, unit: unit) : parts { result[place] = groups }
        return result
    }

    private static func together(_ parts: [Int: [DiscoveredGroup]], unit: String) -> [Int: [DiscoveredGroup]] {
        var ports: [UInt16] = []
        var byPort: [UInt16: (place: Int, group: DiscoveredGroup)] = [:]
        for (place, groups) in parts.sorted(by: { $0.key < $1.key }) {
            for group in groups {
                guard let port = group.description?.leader.port else { continue }
                if let known = byPort[port] {
                    byPort[port] = (known.place, merged(known.group, group))
                } else {
                    ports.append(port)
                    byPort[port] = (place, group)
                }
            }
        }
        guard !ports.isEmpty else {
            // Nobody leads it, as the first says.
            return Dictionary(uniqueKeysWithValues: parts.sorted { $0.key < $1.key }.prefix(1).map { ($0.key, $0.value) })
        }
        var result: [Int: [DiscoveredGroup]] = [:]
        for port in ports {
            guard let (place, found) = byPort[port] else { continue }
            var group = found
            group.name = ports.count > 1 ? "\(unit):\(port)" : unit
            group.description?.name = group.name
            result[place, default: []].append(group)
        }
        return result
    }

    /// The worst that anybody says, and all models; where one of them leaves those to the engine, so do both.
    private static func merged(_ first: DiscoveredGroup, _ second: DiscoveredGroup) -> DiscoveredGroup {
        var group = first
        if first.obstacle == nil, second.obstacle != nil {
            (group.obstacle, group.members, group.nodes) = (second.obstacle, second.members, second.nodes)
            group.description?.isReady = false
        }
        let (models, more) = (first.description?.models ?? [], second.description?.models ?? [])
        group.description?.models = models.isEmpty || more.isEmpty ? [] : models + more.filter { !models.contains($0) }
        return group
    }
}
