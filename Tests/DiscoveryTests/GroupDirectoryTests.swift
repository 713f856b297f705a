import EventLoop
import Routing
import Testing

@testable import Discovery

@Suite struct GroupDirectoryTests {
    private struct World {
        let loop: EventLoop
        let table = RoutingTable(policy: .leastCost, seed: 1)
        let directory: GroupDirectory

        init() throws {
            loop = try EventLoop()
            directory = GroupDirectory(loop: loop, table: table)
        }

        func group(_ name: String, host: String = "10.0.0.1", isReady: Bool = true, incarnation: String = "a") -> DiscoveredGroup {
            var description = GroupDescription(name: name, leader: Endpoint(host: host, port: 8000), isReady: isReady)
            description.incarnation = incarnation
            return DiscoveredGroup(name: name, description: description, members: [], obstacle: isReady ? nil : "out", nodes: [])
        }

        var names: [String] { table.groups(now: 0).map(\.name) }
    }

    @Test func whatIsSetIsInTheTableWhenTheTurnEnds() throws {
        let world = try World()
        let source = world.directory.addSource("file")
        world.directory.set([world.group("a"), world.group("b")], unit: "u", of: source)
        #expect(world.names.isEmpty)
        world.directory.turnEnded()
        #expect(world.names == ["a", "b"])
        world.directory.set([world.group("b", isReady: false)], unit: "u", of: source)
        world.directory.turnEnded()
        #expect(world.names == ["b"])
        #expect(!world.table.hasReadyGroup(now: 0))
        #expect(world.directory.entries.map(\.group.obstacle) == ["out"])
    }

    @Test func aGroupKeepsItsIdentityUntilItsEngineIsAnother() throws {
        let world = try World()
        let source = world.directory.addSource("file")
        func id(_ group: DiscoveredGroup) -> GroupID? {
            world.directory.set([group], unit: "u", of: source)
            world.directory.turnEnded()
            return world.table.groups(now: 0).first?.id
        }
        let first = id(world.group("a"))
        #expect(id(world.group("a", isReady: false)) == first)
        #expect(id(world.group("a")) == first)
        let restarted = id(world.group("a", incarnation: "b"))
        #expect(restarted != first)
        #expect(id(world.group("a", host: "10.0.0.2", incarnation: "b")) != restarted)
        #expect(world.names == ["a"])
    }

    @Test func ofTwoUnitsWithOneNameTheSecondWaits() throws {
        let world = try World()
        let first = world.directory.addSource("kubernetes")
        let second = world.directory.addSource("file")
        world.directory.set([world.group("a", host: "10.0.0.1")], unit: "u", of: first)
        world.directory.set([world.group("a", host: "10.0.0.2")], unit: "v", of: second)
        world.directory.turnEnded()
        #expect(world.table.groups(now: 0).map(\.leader.host) == ["10.0.0.1"])
        world.directory.set([], unit: "u", of: first)
        world.directory.turnEnded()
        #expect(world.table.groups(now: 0).map(\.leader.host) == ["10.0.0.2"])
        world.directory.replace([:], of: second)
        world.directory.turnEnded()
        #expect(world.names.isEmpty)
    }

    @Test func groupsForWhichThereIsNoRoomAreShownAndEnterWhenOthersLeave() throws {
        let loop = try EventLoop()
        let table = RoutingTable(policy: .leastCost, seed: 1, limits: RoutingLimits(groups: 2))
        let directory = GroupDirectory(loop: loop, table: table)
        let world = try World()
        let source = directory.addSource("file")
        for name in ["a", "b", "c", "d"] { directory.set([world.group(name)], unit: name, of: source) }
        directory.turnEnded()
        #expect(table.groups(now: 0).map(\.name) == ["a", "b"])
        #expect(directory.leftOut == ["c", "d"])
        let shown = directory.entries.filter { $0.group.description == nil }
        #expect(shown.map(\.group.name) == ["c", "d"] && shown.allSatisfy { $0.group.obstacle?.contains("no room") == true })
        directory.set([], unit: "d", of: source)
        directory.set([], unit: "a", of: source)
        directory.turnEnded()
        directory.turnEnded()
        #expect(table.groups(now: 0).map(\.name) == ["b", "c"])
        #expect(directory.leftOut.isEmpty)
    }

    /// After any sequence of changes the table holds what a new one would after the last of them.
    @Test func theTableFollows() throws {
        let world = try World()
        var random = Generator(state: 3)
        let sources = (0..<3).map { world.directory.addSource("\($0)") }
        var truth: [Int: [String: [DiscoveredGroup]]] = [:]
        for _ in 0..<2_000 {
            let source = Int.random(in: 0..<3, using: &random)
            let unit = "unit-\(Int.random(in: 0..<4, using: &random))"
            // A source names its groups after itself: which of two rivals wins is another test's.
            let names = ["x", "y", "z"].filter { _ in Bool.random(using: &random) }
            let groups = names.map { world.group("\(source)/\(unit)/\($0)", isReady: Bool.random(using: &random)) }
            world.directory.set(groups, unit: unit, of: sources[source])
            truth[source, default: [:]][unit] = groups
            if Int.random(in: 0..<3, using: &random) == 0 { world.directory.turnEnded() }
        }
        world.directory.turnEnded()
        let expected = truth.values.flatMap { $0.values.flatMap { $0 } }.reduce(into: [String: Bool]()) {
            $0[$1.name] = $1.description?.isReady
        }
        let found = world.table.groups(now: 0).reduce(into: [String: Bool]()) { $0[$1.name] = $1.isReady }
        #expect(found == expected)
        #expect(world.directory.entries.map(\.group.name) == expected.keys.sorted())
    }
}
