import Testing

@testable import Routing

@Suite struct ModelCatalogTests {
    private static let names = ["a", "b", "long-name/with-a-slash", "a-lora", "b-lora"]

    /// What the catalog is to say, straight from its definition.
    private struct Expected {
        var groups: [ModelCatalog.Listing]
        var loadsAdaptersOnDemand: Bool

        init(_ groups: [ModelCatalog.Listing], loadsAdaptersOnDemand: Bool) {
            self.groups = groups.sorted { $0.rank < $1.rank }
            self.loadsAdaptersOnDemand = loadsAdaptersOnDemand
        }

        var names: [String] { Set(groups.flatMap(\.models)).sorted() }
        var open: [UInt32] { groups.filter(\.models.isEmpty).map(\.slot) }
        func listing(_ name: String) -> [UInt32] { groups.filter { $0.models.contains(name) }.map(\.slot) }
        func parent(_ name: String) -> String? { groups.lazy.filter { $0.models.contains(name) }.compactMap { $0.parents[name] }.first }

        func slots(_ name: String) -> [UInt32] {
            let known = listing(name) + open
            guard loadsAdaptersOnDemand, let base = parent(name), parent(base) == nil else { return known }
            return known + listing(base).filter { !known.contains($0) }
        }
    }

    private func randomListing(_ slot: UInt32, rank: UInt64, _ random: inout SeededGenerator) -> ModelCatalog.Listing {
        // The same model twice, too; and engines need not agree whether a name is an adapter's, or of which base model.
        let models = (0..<Int.random(in: 0..<4, using: &random)).compactMap { _ in Self.names.randomElement(using: &random) }
        var parents: [String: String] = [:]
        for model in models where model.hasSuffix("-lora") && Int.random(in: 0..<4, using: &random) > 0 {
            parents[model] = Int.random(in: 0..<8, using: &random) > 0 ? String(model.prefix(1)) : "b-lora"
        }
        return .init(slot: slot, rank: rank, models: models, parents: parents)
    }

    /// Change by change it comes to what it is by definition, in the same order, and so does a rebuild.
    @Test(arguments: 0..<12 as Range<UInt64>) func changesComeToWhatARebuildDoes(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        let loadsAdaptersOnDemand = seed % 2 == 0
        var groups: [UInt32: ModelCatalog.Listing] = [:]
        var catalog = ModelCatalog(loadsAdaptersOnDemand: loadsAdaptersOnDemand)
        for _ in 0..<150 {
            var removed: [UInt32] = []
            var changed: [ModelCatalog.Listing] = []
            for slot in Set((0..<Int.random(in: 1..<5, using: &random)).map { _ in UInt32.random(in: 0..<12, using: &random) }) {
                let old = groups[slot]
                if old != nil, Bool.random(using: &random) {
                    removed.append(slot)
                    groups[slot] = nil
                    // The slot may be taken again at once.
                    guard Int.random(in: 0..<3, using: &random) == 0 else { continue }
                }
                // Not twice the same rank: 24 bits of chance above the slot.
                let rank = groups[slot]?.rank ?? UInt64.random(in: 0..<1 << 24, using: &random) << 8 | UInt64(slot)
                let listing = randomListing(slot, rank: rank, &random)
                groups[slot] = listing
                changed.append(listing)
            }
            catalog.update(changed, removing: removed)
            var fresh = ModelCatalog(loadsAdaptersOnDemand: loadsAdaptersOnDemand)
            fresh.rebuild(groups.values.sorted { $0.rank < $1.rank })
            let expected = Expected(Array(groups.values), loadsAdaptersOnDemand: loadsAdaptersOnDemand)
            check(catalog, expected)
            check(fresh, expected)
        }
    }

    private func check(_ catalog: ModelCatalog, _ expected: Expected) {
        #expect(catalog.names == expected.names)
        #expect(Array(catalog.everyGroup) == expected.groups.map(\.slot))
        #expect(Array(catalog.openGroups) == expected.open)
        for var name in Self.names + ["unknown"] {
            let (match, hash) = name.withUTF8 { (catalog.match(.init($0)), ModelCatalog.hash(.init($0))) }
            #expect(Array(match.slots) == expected.slots(name), "\(name)")
            #expect(match.adapter == (expected.parent(name) == nil ? 0 : hash), "\(name)")
            for slot in 0..<UInt32(12) { #expect(catalog.lists(hash, slot: slot) == expected.listing(name).contains(slot)) }
        }
    }
}
