import Testing

@testable import Routing

@Suite struct AdapterTests {
    /// Three groups with one base model: two list the adapter `sql`, one does not.
    private func table(onDemand: Bool) throws -> RoutingTable {
        var placement = PlacementSettings()
        placement.loadsAdaptersOnDemand = onDemand
        let table = RoutingTable(policy: .leastCost, seed: 1, limits: RoutingLimits(indexBlocks: 1 << 16), placement: placement)
        table.replaceGroups(equalGroups(3), now: 0)
        for state in table.groups(now: 0) {
            let lists = state.name != "g2"
            table.setModels(lists ? ["llama", "sql"] : ["llama"], adapters: lists ? ["sql": "llama"] : [:], of: state.id)
        }
        return table
    }

    @Test func anAdapterIsServedWhereItIsListed() throws {
        let table = try table(onDemand: false)
        let groups = try Set((0..<30).map { try table.pick(.distinct($0, chunkCount: 20), model: "sql").get().group })
        #expect(Set(groups.compactMap(table.name)) == ["g0", "g1"])
        #expect(throws: RoutingFailure.modelNotFound) { try table.pick(nil, model: "poems").get() }
    }

    @Test func anAdapterInUseBeatsOneThatIsListedAndThatBeatsOneToBeLoaded() throws {
        let table = try table(onDemand: true)
        func prices() -> [String: Double] {
            let terms = table.explain(model: "sql").groups.map { ($0.name, $0.terms.adapter) }
            return Dictionary(terms, uniquingKeysWith: { first, _ in first })
        }
        #expect(prices() == ["g0": 0.02, "g1": 0.02, "g2": 0.5])
        table.reportAdapters(["sql"], capacity: 1, of: try #require(table.state("g1")?.id), now: 1)
        #expect(prices() == ["g0": 0.02, "g1": 0, "g2": 0.5])
        #expect(try table.name(of: table.pick(.distinct(0, chunkCount: 20), model: "sql", now: 2).get().group) == "g1")
        // The base model itself is free to go anywhere.
        #expect(table.explain(model: "llama").groups.allSatisfy { $0.terms.adapter == 0 })
    }

    @Test func aQueueOutweighsAnAdapter() throws {
        let table = try table(onDemand: true)
        let groups = try (0..<30).map { try table.name(of: table.pick(.distinct($0, chunkCount: 200), model: "sql").get().group) }
        #expect(Set(groups) == ["g0", "g1", "g2"])
        #expect(!groups.prefix(2).contains("g2"))
    }

    @Test func whatWeSentThereIsThere() throws {
        let table = try table(onDemand: true)
        let first = try table.pick(nil, model: "sql").get()
        #expect(table.explain(model: "sql").groups.first { $0.terms.adapter == 0 }?.name == table.name(of: first.group))
    }

    @Test func slotsHoldTheMostRecentlyUsed() {
        var slots = AdapterSlots()
        slots.setCapacity(2)
        for adapter in 1...3 as ClosedRange<UInt64> { slots.touch(adapter, now: adapter) }
        #expect(!slots.holds(1) && slots.holds(2) && slots.holds(3))
        slots.touch(1, now: 4)
        #expect(slots.holds(1) && !slots.holds(2) && slots.holds(3))
        #expect(!slots.holds(9))
        // Unknown capacity, and more adapters than are remembered.
        slots.setCapacity(0)
        for adapter in 10...60 as ClosedRange<UInt64> { slots.touch(adapter, now: adapter) }
        #expect((57...60).allSatisfy { slots.holds($0) } && !slots.holds(56))
        slots.setCapacity(.max)
        #expect((45...60).allSatisfy { slots.holds($0) } && !slots.holds(44))
    }

    @Test func namesGoWithTheListThatHadThem() throws {
        let table = try table(onDemand: false)
        for state in table.groups(now: 0) { table.setModels(["llama"], of: state.id) }
        #expect(throws: RoutingFailure.modelNotFound) { try table.pick(nil, model: "sql").get() }
    }
}
