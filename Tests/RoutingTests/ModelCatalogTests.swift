import Testing

@testable import Routing

@Suite struct ModelCatalogTests {
    private let names = ["a", "b", "c", "long-name/with-a-slash"]

    private func expectSame(_ catalog: ModelCatalog, _ groups: [ModelCatalog.Listing], _ comment: Comment) {
        var fresh = ModelCatalog()
        fresh.rebuild(groups, loadsAdaptersOnDemand: true)
        #expect(catalog.everyGroup == fresh.everyGroup && catalog.openGroups == fresh.openGroups, comment)
        #expect(catalog.names == fresh.names, comment)
        for var name in names + ["unknown"] {
            let (found, expected) = name.withUTF8 { (catalog.match(.init($0)), fresh.match(.init($0))) }
            #expect(found.slots == expected.slots && found.adapter == expected.adapter, comment)
        }
    }

    /// One by one comes to the same as all at once, in the same order.
    @Test(arguments: 0..<8) func additionsAndRemovalsComeToWhatARebuildDoes(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        var groups: [ModelCatalog.Listing] = []
        var catalog = ModelCatalog()
        for step in 0..<300 {
            if !groups.isEmpty, Int.random(in: 0..<5, using: &random) < 2 {
                let gone = groups.remove(at: Int.random(in: 0..<groups.count, using: &random))
                let isDone = catalog.remove(gone)
                #expect(isDone)
            } else {
                // The same model twice, too.
                let models = (0..<Int.random(in: 0..<3, using: &random)).compactMap { _ in names.randomElement(using: &random) }
                groups.append(.init(slot: UInt32(step), models: models))
                let isDone = catalog.add(groups[groups.count - 1])
                #expect(isDone)
            }
            expectSame(catalog, groups, "seed \(seed), step \(step)")
        }
    }

    @Test func whereAdaptersAreAtStakeAllIsMadeAnew() {
        let plain = ModelCatalog.Listing(slot: 0, models: ["a"])
        let adapted = ModelCatalog.Listing(slot: 1, models: ["a", "b"], parents: ["b": "a"])
        var catalog = ModelCatalog()
        catalog.rebuild([plain], loadsAdaptersOnDemand: true)
        let isAdded = catalog.add(adapted)
        #expect(!isAdded)
        expectSame(catalog, [plain], "unchanged")
        catalog.rebuild([plain, adapted], loadsAdaptersOnDemand: true)
        let (isRemoved, isAddedToo) = (catalog.remove(plain), catalog.add(.init(slot: 2, models: ["c"])))
        #expect(!isRemoved && !isAddedToo)
        expectSame(catalog, [plain, adapted], "unchanged")
    }
}
