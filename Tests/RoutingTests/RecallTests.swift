import Testing

@testable import Routing

/// What goes through a holder's paths while they are placed, used, split and evicted.
@Suite struct RecallTests {
    /// Of what was there when it began, and was not touched since, nothing is left out; and it ends.
    @Test(arguments: 1...40 as ClosedRange<UInt64>) func whatIsNotTouchedMeanwhileIsGoneThrough(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        var index = PrefixIndex(blockLimit: 900, holderLimit: 4, seed: seed)
        let holders = [index.addHolder(), index.addHolder()]
        // Some of it before the clock begins anew, some of it behind.
        let clock = UInt32.max - UInt32.random(in: 0...600, using: &generator)
        for holder in holders {
            index.holders[Int(holder)].clock = clock
            index.holders[Int(holder)].bornAt = clock
            index.holders[Int(holder)].prefilledStamp = clock
            index.holders[Int(holder)].evictedBefore = clock
        }
        var inFlight: [PrefixIndex.Insertion] = []

        func placeAny() {
            var chain: UInt64 = 0
            let path = (0..<Int.random(in: 1...24, using: &generator)).map { depth in
                chain = mix64(chain ^ UInt64(Int.random(in: 0..<(depth % 8 == 0 ? 12 : 2), using: &generator)))
                return chain
            }
            path.withUnsafeBufferPointer { path in
                index.match(path)
                let insertion = index.insert(path, holder: holders.randomElement(using: &generator)!, quota: 500)
                index.retain(insertion)
                inFlight.append(insertion)
            }
            while inFlight.count > 12 { index.release(inFlight.remove(at: Int.random(in: 0..<inFlight.count, using: &generator))) }
            index.repay()
        }

        for _ in 0..<500 { placeAny() }
        let holder = holders[0]
        let end = index.holders[Int(holder)].clock
        var recall = index.beginRecall(of: holder)
        var told: Set<UInt64> = []
        var calls = 0
        let hashes = UnsafeMutableBufferPointer<UInt64>.allocate(capacity: 64)
        defer { hashes.deallocate() }
        while !recall.isOver, calls < 10_000 {
            calls += 1
            var steps = Int.random(in: 1...40, using: &generator)
            let bottom = index.nextPath(of: holder, &recall, steps: &steps)
            if bottom != 0 { told.formUnion(hashes.prefix(index.copyPath(to: bottom, into: hashes))) }
            for _ in 0..<(seed % 4 == 0 ? 0 : Int.random(in: 0...1, using: &generator)) { placeAny() }
        }
        #expect(recall.isOver)
        var (run, untouched) = (index.holders[Int(holder)].oldest, 0)
        while run != 0, Int32(bitPattern: end &- index.runs[run].stamp) >= 0 {
            untouched += 1
            #expect(told.contains(index.blocks[index.runs[run].bottom].hash))
            run = index.runs[run].newer
        }
        #expect(seed % 4 != 0 || untouched > 50, "\(untouched)")
    }
}
