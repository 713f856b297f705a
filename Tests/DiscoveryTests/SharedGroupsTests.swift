import Routing
import Testing

@testable import Discovery

@Suite struct SharedGroupsTests {
    private func group(
        _ name: String = "llm/p", port: UInt16?, models: [String] = [], obstacle: String? = nil
    ) -> DiscoveredGroup {
        let description = port.map {
            GroupDescription(name: name, leader: Endpoint(host: "10.0.0.1", port: $0), models: models, isReady: obstacle == nil)
        }
        return DiscoveredGroup(name: name, description: description, members: [], obstacle: obstacle, nodes: [])
    }

    /// What all pools together have, by name.
    private struct World {
        var shared = SharedGroups()
        var places: [Int: [DiscoveredGroup]] = [:]
        mutating func set(_ groups: [DiscoveredGroup], of place: Int) {
            places.merge(shared.set(groups, unit: "llm/p", of: place)) { $1 }
        }
        var all: [DiscoveredGroup] { places.sorted { $0.key < $1.key }.flatMap(\.value) }
        var leaders: [String: UInt16] {
            Dictionary(uniqueKeysWithValues: all.compactMap { group in group.description.map { (group.name, $0.leader.port) } })
        }
    }

    @Test func onePortInTwoPoolsIsOneGroupOfBothTheirModels() {
        var world = World()
        world.set([group(port: 8000, models: ["b", "c"])], of: 1)
        #expect(world.places == [1: [group(port: 8000, models: ["b", "c"])]])
        world.set([group(port: 8000, models: ["a", "b"])], of: 0)
        #expect(world.places == [0: [group(port: 8000, models: ["a", "b", "c"])], 1: []])
        // The worst counts, and whose engine is asked for its models serves what it says.
        world.set([group(port: 8000, models: ["b", "c"], obstacle: "gone")], of: 1)
        #expect(world.all == [group(port: 8000, models: ["a", "b", "c"], obstacle: "gone")])
        world.set([group(port: 8000)], of: 1)
        #expect(world.all == [group(port: 8000)])
        world.set([], of: 0)
        #expect(world.places == [0: [], 1: [group(port: 8000)]])
        world.set([], of: 1)
        #expect(world.all.isEmpty)
    }

    @Test(arguments: [[0, 1], [1, 0]]) func twoPortsAreTwoGroupsWhoeverWasFirst(order: [Int]) {
        var world = World()
        for place in order { world.set([group(port: 8000 + UInt16(place), models: ["m\(place)"])], of: place) }
        #expect(world.leaders == ["llm/p:8000": 8000, "llm/p:8001": 8001])
        #expect(world.all.compactMap(\.description).map(\.name) == world.all.map(\.name))
        // As one pool names several ports.
        world.set([group("llm/p:8000", port: 8000), group("llm/p:8001", port: 8001)], of: 0)
        #expect(world.leaders == ["llm/p:8000": 8000, "llm/p:8001": 8001])
        world.set([], of: 0)
        #expect(world.leaders == ["llm/p": 8001])
    }

    @Test func onlyOneSaysThatNobodyLeads() {
        var world = World()
        world.set([group(port: nil, obstacle: "nobody leads it")], of: 0)
        world.set([group(port: nil, obstacle: "nobody leads it")], of: 1)
        #expect(world.all.count == 1)
        world.set([group(port: 8000)], of: 1)
        #expect(world.all == [group(port: 8000)])
    }
}
