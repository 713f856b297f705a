import Testing

@testable import Routing

@Suite struct ModelCatalogTests {
    /// One by one comes to the same as all at once, in the same order.
    @Test(arguments: 0..<8) func additionsAndRemovalsComeToWhatARebuildDoes(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        let names = ["a", "b", "c", "long-name/with-a-slash"]
        var groups: [(slot: UInt32, models: [String])] = []
        var catalog = ModelCatalog()
        for step in 0..<600 {
            if !groups.isEmpty, Int.random(in: 0..<5, using: &random) < 2 {
                let gone = groups.remove(at: Int.random(in: 0..<groups.count, using: &random))
                catalog.remove(gone.slot, models: gone.models)
            } else {
                // The same model twice, too.
                let models = (0..<Int.random(in: 0..<3, using: &random)).compactMap { _ in names.randomElement(using: &random) }.sorted()
                groups.append((UInt32(step), models))
                catalog.add(UInt32(step), models: models)
            }
            var fresh = ModelCatalog()
            fresh.rebuild(groups)
            #expect(catalog.everyGroup == fresh.everyGroup && catalog.openGroups == fresh.openGroups && catalog.names == fresh.names)
            for name in names + ["unknown"] {
                var name = name
                let isSame = name.withUTF8 { catalog.slots(for: .init($0)) == fresh.slots(for: .init($0)) }
                #expect(isSame, "seed \(seed), step \(step), \(name)")
            }
        }
    }
}
