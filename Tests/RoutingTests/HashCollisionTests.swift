import Testing

@testable import Routing

@Suite struct HashCollisionTests {
    /// XXH3 is no secret: who wants two prompts with one hash can make them, at any depths, and in one prompt. Credit may be wrong then, but
    /// nothing else: no search goes on for ever, every bound holds, and what was used is given back.
    @Test(arguments: 1...4 as ClosedRange<UInt64>)
    func hashesThatCollideBreakNothing(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        var index = PrefixIndex(blockLimit: 60, holderLimit: 4, seed: seed)
        var holders = (0..<3).map { _ in index.addHolder() }
        var open: [(PrefixIndex.Insertion, UInt16)] = []
        for _ in 0..<20_000 {
            let hashes = (0..<Int.random(in: 1...20, using: &random)).map { _ in UInt64.random(in: 1...9, using: &random) }
            let place = Int.random(in: 0..<holders.count, using: &random)
            switch Int.random(in: 0..<8, using: &random) {
            case 0..<5:
                hashes.withUnsafeBufferPointer { hashes in
                    #expect(index.match(hashes) <= hashes.count)
                    for holder in holders {
                        #expect(index.depth(of: holder) <= hashes.count)
                        #expect(index.depthInUse(of: holder, hashes) <= index.depth(of: holder))
                    }
                    _ = (index.sharers(), index.commonDepth(hashes))
                    let quota = UInt32.random(in: 1...40, using: &random)
                    let insertion = index.insert(hashes, holder: holders[place], quota: quota)
                    index.retain(insertion)
                    open.append((insertion, holders[place]))
                }
            case 5..<7:
                guard !open.isEmpty else { continue }
                let (insertion, holder) = open.remove(at: Int.random(in: 0..<open.count, using: &random))
                if holders.contains(holder), Bool.random(using: &random) { index.undo(insertion, holder: holder) }
                index.release(insertion)
            default:
                if Int.random(in: 0..<50, using: &random) == 0 {
                    index.removeHolder(holders[place])
                    holders[place] = index.addHolder()
                } else {
                    index.forget(of: holders[place], upTo: UInt32.random(in: 0...300, using: &random))
                }
            }
            #expect(index.blocksInUse <= index.blockLimit)
        }
        for (insertion, _) in open { index.release(insertion) }
        #expect(holders.allSatisfy { index.countInUse(of: $0) == 0 })
    }

    /// A prompt whose chain stands still at one hash is held as far as that hash has places in the table, so that nobody walks along it.
    @Test func aHashIsHeldNoMoreOftenThanItHasPlaces() {
        let hash: UInt64 = 5
        var index = PrefixIndex(blockLimit: 80_000, holderLimit: 2, seed: 1)
        let holder = index.addHolder()
        for number in 0..<10 {
            let hashes = [UInt64(1_000 + number)] + [UInt64](repeating: hash, count: 7_999)
            hashes.withUnsafeBufferPointer { hashes in
                index.match(hashes)
                index.retain(index.insert(hashes, holder: holder, quota: 80_000))
            }
        }
        #expect((100..<1_000).contains(index.count(of: holder)))
        // Some give way, and the last is still found.
        [UInt64(1)].withUnsafeBufferPointer { hashes in
            index.match(hashes)
            _ = index.insert(hashes, holder: holder, quota: UInt32(index.count(of: holder) - 50))
        }
        #expect(index.block(of: hash, holder: holder) != 0)
        [UInt64(1_000), hash].withUnsafeBufferPointer { #expect(index.match($0) == 2) }
    }

    /// Prompts whose chains stand still have a hash held more often than it is counted: it stays found until the last has gone.
    @Test func aHashThatIsHeldMoreOftenThanCountedIsNotLost() {
        let hash: UInt64 = 5
        var index = PrefixIndex(blockLimit: 200_000, holderLimit: 800, seed: 1)
        let holders = (0..<800).map { _ in index.addHolder() }
        for (number, holder) in holders.enumerated() {
            ([UInt64(1_000 + number)] + [UInt64](repeating: hash, count: 150)).withUnsafeBufferPointer { hashes in
                index.match(hashes)
                _ = index.insert(hashes, holder: holder, quota: 1_000)
            }
        }
        let held = holders.reduce(0) { $0 + index.count(of: $1) } - holders.count
        #expect(held > 65_535)
        #expect(index.blocks[index.head(of: hash)].holderCount == .max)
        for (number, holder) in holders.enumerated() {
            index.forget(of: holder, upTo: .max >> 1)
            #expect(index.count(of: holder) == 0)
            #expect((index.head(of: hash) != 0) == (number + 1 < holders.count))
        }
        #expect(index.blocksInUse == 0)
    }
}
