public import EventLoop
public import Routing

/// Where all sources of discovery meet: what they found, why some of it gets no request, and how old that knowledge is. It keeps the
/// routing table in step with it. Confined to the control loop.
///
/// A source tells what one *unit* of it is (a tensor-parallel group's name, a file) whenever that changed. What one read of a watch
/// brings is told to the table in one step when the read has been served: the next decision knows it.
public final class GroupDirectory: EventHandler {
    /// How a source of discovery fares, for `/groups` and metrics.
    public struct SourceState: Sendable {
        public var name: String
        /// Whether it ever had the whole picture.
        public var hasSynced = false
        /// Monotonic time of the last word from it, event or confirmation; 0 when there was none.
        public var heardAt: UInt64 = 0
        /// What is wrong with it now; nil when nothing is.
        public var fault: String?
        public var events: UInt64 = 0
        public var faults: UInt64 = 0
        /// Whether its groups give way to those of the same name that another has.
        var standsIn = false
    }

    /// A group with where it comes from.
    public struct Entry: Sendable {
        public var group: DiscoveredGroup
        public var source: String
        /// Monotonic time at which it was last different.
        public var changedAt: UInt64
    }

    private struct Unit: Hashable {
        var source: Int
        var name: String
    }

    public let table: RoutingTable
    public private(set) var sources: [SourceState] = []
    private var units: [Unit: [DiscoveredGroup]] = [:]
    private var changedAt: [String: UInt64] = [:]
    /// Which unit a name in the table belongs to: of two units with one name the first counts, until it goes, and the others wait.
    private var owners: [String: Unit] = [:]
    private var rivals: [String: [Unit]] = [:]
    private var changed: Set<String> = []
    /// Those for which the table has no room; they enter when others leave.
    public private(set) var leftOut: Set<String> = []
    /// Grows whenever the table was told of anything.
    public private(set) var generation: UInt64 = 0
    private var syncObservers: [() -> Void] = []
    /// Is told after the table changed which groups are new or have another leader, and which are gone.
    private var observers: [(_ changed: [GroupDescription], _ removed: [String]) -> Void] = []

    public init(loop: EventLoop, table: RoutingTable) {
        self.table = table
        super.init(loop: loop)
    }

    // MARK: Sources

    /// The number under which a source speaks to the directory from now on.
    /// - Parameter standsIn: its groups give way to those of the same name that another source has.
    public func addSource(_ name: String, standsIn: Bool = false) -> Int {
        sources.append(SourceState(name: name, standsIn: standsIn))
        return sources.count - 1
    }

    /// What a unit of a source is from now on; empty: it is gone.
    public func set(_ groups: [DiscoveredGroup], unit name: String, of source: Int) {
        let unit = Unit(source: source, name: name)
        let before = units[unit] ?? []
        guard before != groups else { return }
        units[unit] = groups.isEmpty ? nil : groups
        for group in before where !groups.contains(where: { $0.name == group.name }) { release(group.name, by: unit) }
        for group in groups where !before.contains(group) { claim(group.name, by: unit) }
    }

    private func claim(_ name: String, by unit: Unit) {
        if let owner = owners[name], owner != unit, !sources[owner.source].standsIn || sources[unit.source].standsIn {
            if rivals[name]?.contains(unit) != true { rivals[name, default: []].append(unit) }
            return
        }
        if let owner = owners[name], owner != unit { rivals[name, default: []].append(owner) }
        owners[name] = unit
        touch(name)
    }

    private func release(_ name: String, by unit: Unit) {
        guard owners[name] == unit else {
            rivals[name]?.removeAll { $0 == unit }
            return
        }
        owners[name] = nil
        if var waiting = rivals[name], !waiting.isEmpty {
            owners[name] = waiting.removeFirst()
            rivals[name] = waiting.isEmpty ? nil : waiting
        }
        touch(name)
    }

    /// Makes `units` all that the source knows.
    public func replace(_ groups: [String: [DiscoveredGroup]], of source: Int) {
        let stale = units.keys.filter { $0.source == source && groups[$0.name] == nil }
        for unit in stale { set([], unit: unit.name, of: source) }
        for (name, groups) in groups { set(groups, unit: name, of: source) }
    }

    /// The source had word from where it looks. `hasSynced`: it now has the whole picture.
    public func heard(_ source: Int, events: UInt64 = 0, hasSynced: Bool = false) {
        sources[source].heardAt = loop.now
        sources[source].events &+= events
        sources[source].fault = nil
        guard hasSynced, !sources[source].hasSynced else { return }
        sources[source].hasSynced = true
        for observer in syncObservers { observer() }
    }

    /// What is known was confirmed then, without a change.
    public func confirmed(_ source: Int, at time: UInt64) { if time > 0 { sources[source].heardAt = time } }

    /// Something is wrong; what is known stays.
    public func failed(_ source: Int, _ fault: String) {
        sources[source].fault = fault
        sources[source].faults &+= 1
    }

    /// Whether every source had the whole picture once.
    public var hasSynced: Bool { sources.allSatisfy(\.hasSynced) }
    func hasSynced(sourceNamed name: String) -> Bool { sources.contains { $0.name == name && $0.hasSynced } }
    func hasAnySynced(besides names: Set<String>) -> Bool { sources.contains { $0.hasSynced && !names.contains($0.name) } }

    /// Is told whenever a source has the whole picture for the first time, before the table knows what it found.
    func observeSync(_ observer: @escaping () -> Void) { syncObservers.append(observer) }

    public func observe(_ observer: @escaping (_ changed: [GroupDescription], _ removed: [String]) -> Void) { observers.append(observer) }

    // MARK: What is known

    /// Every group in the order of names, those that cannot be routed to included.
    public var entries: [Entry] {
        owners.keys.sorted().compactMap { name in
            guard let unit = owners[name], var group = units[unit]?.first(where: { $0.name == name }) else { return nil }
            if leftOut.contains(name) {
                group.description = nil
                group.obstacle = "the router has no room for more groups"
            }
            return Entry(group: group, source: sources[unit.source].name, changedAt: changedAt[name] ?? 0)
        }
    }

    /// Every group that can be routed to with the source that has it, in no order, but for those of `excluded`.
    func descriptions(withoutSource excluded: String) -> [(group: GroupDescription, source: String)] {
        owners.compactMap { name, unit in
            let source = sources[unit.source].name
            guard source != excluded, let group = units[unit]?.first(where: { $0.name == name })?.description else { return nil }
            return (group, source)
        }
    }

    // MARK: The table

    private func touch(_ name: String) {
        changedAt[name] = owners[name] == nil ? nil : loop.now
        changed.insert(name)
        callAtTurnEnd()
        // Before the loop runs there is no turn that could end.
        setDeadline(loop.now)
    }

    public override func turnEnded() { tellTable() }
    public override func deadlineReached() { tellTable() }

    private func tellTable() {
        setDeadline(nil)
        guard !changed.isEmpty else { return }
        var descriptions: [GroupDescription] = []
        var gone: [String] = []
        for name in changed.sorted() {
            let description = owners[name].flatMap { units[$0]?.first { $0.name == name }?.description }
            if let description { descriptions.append(description) } else { gone.append(name) }
        }
        changed.removeAll(keepingCapacity: true)
        generation &+= 1
        let full = table.updateGroups(descriptions, removing: gone, now: loop.now)
        if !full.isEmpty || !leftOut.isEmpty {
            leftOut.subtract(gone)
            leftOut.subtract(descriptions.map(\.name))
            leftOut.formUnion(full)
        }
        for observer in observers { observer(descriptions, gone) }
        if !gone.isEmpty { for name in leftOut.prefix(gone.count) { touch(name) } }
    }
}
