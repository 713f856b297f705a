import Testing

@testable import Routing

/// The obvious implementation: per holder a list of hashes, newest first.
private struct NaiveHolder {
    var held: [(hash: UInt64, operation: Int)] = []

    func depth(_ path: [UInt64]) -> Int { path.prefix { hash in held.contains { $0.hash == hash } }.count }

    mutating func insert(_ path: [UInt64], quota: Int, operation: Int) {
        let kept = path.prefix(max(quota, depth(path)))
        let rest = held.filter { block in !kept.contains(block.hash) }
        held = kept.map { ($0, operation) } + rest
        held = Array(held.prefix(max(quota, kept.count)))
    }

    /// Takes back the deepest `count` blocks of a path as far as they are untouched.
    mutating func undo(_ path: [UInt64], count: Int, operation: Int) {
        for hash in path.reversed().prefix(count) {
            guard let position = held.firstIndex(where: { $0.hash == hash && $0.operation == operation }) else { return }
            held.remove(at: position)
        }
    }
}

/// The blocks of a run, its first one first.
private func blocksOf(_ run: UInt32, in index: borrowing PrefixIndex) -> [UInt32] {
    var found: [UInt32] = []
    var block = index.runs[run].bottom
    while block != index.runs[run].above && found.count <= index.blockLimit {
        found.append(block)
        block = index.blocks[block].parent
    }
    return found.reversed()
}

/// A holder's runs, the newest first.
private func runsOf(_ holder: UInt16, in index: borrowing PrefixIndex) -> [UInt32] {
    var found: [UInt32] = []
    var run = index.holders[Int(holder)].newest
    while run != 0 && found.count <= index.blockLimit {
        found.append(run)
        run = index.runs[run].older
    }
    return found
}

/// What must hold of every index at any time.
private func expectSound(_ index: borrowing PrefixIndex, holders: [UInt16]) {
    var total = 0
    for holder in holders {
        let runs = runsOf(holder, in: index)
        var seen: Set<UInt32> = []
        var newer: UInt32 = 0
        for run in runs {
            let record = index.runs[run]
            #expect(record.newer == newer)
            newer = run
            let above = record.above
            #expect(above == 0 || seen.contains(above), "what is above a run must be held, and be newer")
            #expect(above == 0 || index.runs[index.blocks[above].run].bottom == above, "runs hang below the ends of others")
            let blocks = blocksOf(run, in: index)
            #expect(!blocks.isEmpty && blocks.count == Int(record.length))
            #expect(Int(record.depth) == blocks.count + (above == 0 ? 0 : Int(index.runs[index.blocks[above].run].depth)))
            for block in blocks {
                #expect(index.blocks[block].holder == holder)
                #expect(index.blocks[block].run == run)
                var sibling = index.head(of: index.blocks[block].hash)
                #expect(sibling != 0)
                while sibling != 0 && sibling != block { sibling = index.blocks[sibling].nextHolder }
                #expect(sibling == block, "every block must be found by its hash")
                seen.insert(block)
            }
        }
        let record = index.holders[Int(holder)]
        #expect(record.oldest == newer)
        #expect(Int(record.runs) == runs.count)
        let inUse = runs.filter { index.runs[$0].users > 0 }
        #expect(Int(record.inUse) == inUse.reduce(0) { $0 + Int(index.runs[$1].length) })
        for run in runs {
            let children = runs.filter { index.runs[$0].above == index.runs[run].bottom }
            #expect(Int(index.runs[run].children) == children.count)
            let users = children.count { index.runs[$0].users > 0 }
            #expect(Int(index.runs[run].users) >= users, "what leads to a run in use is in use")
        }
        #expect(seen.count == index.count(of: holder))
        total += seen.count
    }
    #expect(total <= index.blocksInUse)
    #expect(index.blocksInUse <= index.blockLimit)
}

/// A seeded family of prompts with much sharing: a path in a small tree of chunks.
private func randomPath(_ random: inout SeededGenerator) -> [UInt64] {
    Prompt((0..<Int.random(in: 1...24, using: &random)).map { _ in Int.random(in: 0..<2, using: &random) }).hashes
}

@Suite struct PrefixIndexTests {
    /// A large index evicts later, but the same.
    @Test(arguments: 1...6 as ClosedRange<UInt64>, [4_096, 1 << 18])
    func agreesWithTheNaiveIndex(seed: UInt64, blockLimit: Int) {
        var random = SeededGenerator(seed: seed)
        var index = PrefixIndex(blockLimit: blockLimit, holderLimit: 8, seed: seed)
        var holders: [(id: UInt16, quota: Int, naive: NaiveHolder)] = []
        for operation in 0..<800 {
            if holders.count < 2 || (holders.count < 8 && Int.random(in: 0..<60, using: &random) == 0) {
                holders.append((index.addHolder(), Int.random(in: 20...400, using: &random), NaiveHolder()))
            }
            if holders.count > 2 && Int.random(in: 0..<80, using: &random) == 0 {
                index.removeHolder(holders.remove(at: Int.random(in: 0..<holders.count, using: &random)).id)
            }
            let path = randomPath(&random)
            let chosen = Int.random(in: 0..<holders.count, using: &random)
            path.withUnsafeBufferPointer { hashes in
                let deepest = index.match(hashes)
                for holder in holders { #expect(index.depth(of: holder.id) == holder.naive.depth(path)) }
                #expect(deepest >= holders.map { $0.naive.depth(path) }.max() ?? 0)
                let insertion = index.insert(hashes, holder: holders[chosen].id, quota: UInt32(holders[chosen].quota))
                holders[chosen].naive.insert(path, quota: holders[chosen].quota, operation: operation)
                while index.overdrawnCount > 0 { index.repay() }
                if Int.random(in: 0..<4, using: &random) == 0 {
                    let reached = Array(path.prefix(holders[chosen].naive.depth(path)))
                    index.undo(insertion, holder: holders[chosen].id)
                    holders[chosen].naive.undo(reached, count: Int(insertion.newBlocks), operation: operation)
                }
            }
            for holder in holders { #expect(index.count(of: holder.id) == holder.naive.held.count) }
            if operation.isMultiple(of: 100) { expectSound(index, holders: holders.map(\.id)) }
        }
        expectSound(index, holders: holders.map(\.id))
    }

    /// A holder counts its insertions in 32 bits, and stamps are compared by their difference: a group that lives for years is no exception.
    @Test(arguments: [0, 1, 2, 3, 4, 5, 8] as [UInt32]) func insertionsMayBeBillions(quarters: UInt32) {
        var index = PrefixIndex(blockLimit: 4_096, holderLimit: 2, seed: 1)
        let holder = index.addHolder()
        let path: [UInt64] = [11, 12, 13]
        path.withUnsafeBufferPointer { hashes in
            for step in 0...quarters {
                if step > 0 { index.holders[Int(holder)].clock &+= 1 << 30 - 4 }
                for _ in 0..<8 {
                    index.match(hashes)
                    let insertion = index.insert(hashes, holder: holder, quota: 100)
                    index.retain(insertion)
                    let (before, used) = (index.isPrefilled(insertion.stamp, on: holder), index.countInUse(of: holder))
                    index.notePrefilled(insertion)
                    let after = index.isPrefilled(insertion.stamp, on: holder)
                    index.release(insertion)
                    let left = index.countInUse(of: holder)
                    #expect(!before && after && used == 3 && left == 0)
                }
            }
        }
    }

    /// Eight that come at once tell of no ninth; when the first of them has been prefilled, those in flight with it do.
    @Test func whoComesAtOnceSharesNothingYet() {
        var index = PrefixIndex(blockLimit: 4_096, holderLimit: 2, seed: 1)
        let holder = index.addHolder()
        let path: [UInt64] = [11, 12, 13]
        path.withUnsafeBufferPointer { hashes in
            var insertions: [PrefixIndex.Insertion] = []
            for _ in 0..<8 {
                index.match(hashes)
                let sharers = index.sharers()
                #expect(sharers == (insertions.isEmpty ? 0 : nil))
                insertions.append(index.insert(hashes, holder: holder, quota: 100))
                index.retain(insertions[insertions.count - 1])
            }
            index.notePrefilled(insertions[0])
            index.match(hashes)
            let all = index.sharers()
            index.release(insertions[0])
            index.match(hashes)
            let rest = index.sharers()
            #expect(all == 8 && rest == 7)
        }
    }

    /// Inserts one of many paths that have nothing in common.
    private func insert(_ name: Int, _ chunkCount: Int, holder: UInt16, quota: UInt32, into index: inout PrefixIndex) {
        Prompt.distinct(name, chunkCount: chunkCount).hashes.withUnsafeBufferPointer { hashes in
            index.match(hashes)
            _ = index.insert(hashes, holder: holder, quota: quota)
        }
    }

    private func depth(_ name: Int, _ chunkCount: Int, of holder: UInt16, in index: inout PrefixIndex) -> Int {
        Prompt.distinct(name, chunkCount: chunkCount).hashes.withUnsafeBufferPointer { hashes in
            index.match(hashes)
            return index.depth(of: holder)
        }
    }

    @Test func anInsertionNeedNotEvictAndWhatIsOverdrawnIsRepaid() {
        var index = PrefixIndex(blockLimit: 1 << 18, holderLimit: 8, seed: 1)
        let holder = index.addHolder()
        for name in 0..<20 { insert(name, 100, holder: holder, quota: 2_000, into: &index) }
        index.repay()
        #expect(index.count(of: holder) == 2_000)
        insert(20, 64, holder: holder, quota: 2_000, into: &index)
        #expect(index.count(of: holder) == 2_064)
        #expect(depth(0, 100, of: holder, in: &index) == 100, "nothing has given way yet")
        // Of more than a sixteenth of the quota the rest waits for others to give way, as ever.
        insert(21, 100, holder: holder, quota: 2_000, into: &index)
        #expect(index.count(of: holder) == 2_125)
        #expect(depth(0, 100, of: holder, in: &index) == 61)
        index.repay()
        #expect(index.count(of: holder) == 2_125 - 64, "a few at a time")
        index.repay()
        #expect(index.count(of: holder) == 2_000)
        #expect(index.overdrawnCount == 0)
        #expect(depth(1, 100, of: holder, in: &index) == 36)
        #expect(depth(21, 100, of: holder, in: &index) == 100)
        expectSound(index, holders: [holder])
    }

    @Test func whatIsOverdrawnHasABoundOverAllHolders() {
        var random = SeededGenerator(seed: 5)
        var index = PrefixIndex(blockLimit: 1 << 16, holderLimit: 100, seed: 5)
        var holders = (0..<100).map { _ in index.addHolder() }
        for name in 0..<6_000 {
            let place = Int.random(in: 0..<100, using: &random)
            insert(name, Int.random(in: 1...40, using: &random), holder: holders[place], quota: 100_000, into: &index)
            let overdrawn = holders.reduce(0) { $0 + max(index.count(of: $1) - Int(index.fairShare), 0) }
            #expect(overdrawn <= index.overdrawn.count * Int(index.overdraft))
            #expect(index.overdrawnCount <= index.overdrawn.count)
            if name % 40 == 0 { index.repay() }
            if name % 500 == 0 {
                index.removeHolder(holders[place])
                holders[place] = index.addHolder()
            }
        }
        #expect(index.blocksInUse > (1 << 16) - 4_096, "the index is full")
        while index.overdrawnCount > 0 { index.repay() }
        #expect(holders.allSatisfy { index.count(of: $0) <= Int(index.fairShare) })
        expectSound(index, holders: holders)
    }

    /// As many holders as may live have one hash, and as many again that were removed but not reclaimed yet.
    @Test func theHoldersOfOneHashAreCountedUpToTheLimit() {
        let most = 16_384
        var index = PrefixIndex(blockLimit: 80_000, holderLimit: most, seed: 1)
        let hash: UInt64 = 7
        func head(of index: borrowing PrefixIndex) -> Int { Int(index.blocks[index.head(of: hash)].holderCount) }
        func listed(in index: borrowing PrefixIndex) -> Int {
            var count = 0
            var block = index.head(of: hash)
            while block != 0 {
                count += 1
                block = index.blocks[block].nextHolder
            }
            return count
        }
        func insertAll(_ holders: [UInt16], into index: inout PrefixIndex) {
            for holder in holders {
                [hash].withUnsafeBufferPointer { hashes in
                    index.match(hashes)
                    #expect(index.insert(hashes, holder: holder, quota: 10).newBlocks == 1)
                }
            }
        }
        // What it gives back is free, so that nothing of the removed holders is reclaimed before it has been filled.
        let filler = index.addHolder()
        for name in 0..<most { insert(name, 1, holder: filler, quota: 100_000, into: &index) }
        var holders = (1..<most).map { _ in index.addHolder() }
        insertAll(holders, into: &index)
        #expect(head(of: index) == most - 1)
        holders.forEach { index.removeHolder($0) }
        holders = holders.map { _ in index.addHolder() }
        index.evict(most, of: filler)
        insertAll(holders, into: &index)
        #expect(head(of: index) == 2 * (most - 1))
        #expect(listed(in: index) == 2 * (most - 1))
        for holder in holders.prefix(10_000) { index.evict(1, of: holder) }
        #expect(head(of: index) == 2 * (most - 1) - 10_000)
        #expect(listed(in: index) == 2 * (most - 1) - 10_000)
        // Takes the room of all that were removed.
        holders.forEach { index.removeHolder($0) }
        for name in 1..<80 { insert(most + name, 1_000, holder: filler, quota: 100_000, into: &index) }
        #expect(index.head(of: hash) == 0)
        insertAll((1..<most).map { _ in index.addHolder() }, into: &index)
        #expect(head(of: index) == most - 1)
    }

    @Test func whatPathsInFlightShareIsInUseOnce() {
        var random = SeededGenerator(seed: 3)
        var index = PrefixIndex(blockLimit: 2_000, holderLimit: 2, seed: 3)
        let holder = index.addHolder()
        var inFlight: [(path: [UInt64], insertion: PrefixIndex.Insertion)] = []
        for _ in 0..<500 {
            let path = randomPath(&random)
            path.withUnsafeBufferPointer { hashes in
                index.match(hashes)
                inFlight.append((path, index.insert(hashes, holder: holder, quota: 2_000)))
            }
            index.retain(inFlight[inFlight.count - 1].insertion)
            while inFlight.count > Int.random(in: 0..<12, using: &random) {
                index.release(inFlight.remove(at: Int.random(in: 0..<inFlight.count, using: &random)).insertion)
            }
            #expect(index.countInUse(of: holder) == Set(inFlight.flatMap(\.path)).count)
            let asked = randomPath(&random)
            let used = Set(inFlight.flatMap(\.path))
            asked.withUnsafeBufferPointer { hashes in
                index.match(hashes)
                #expect(index.depthInUse(of: holder, hashes) == asked.prefix(while: used.contains).count)
            }
        }
        expectSound(index, holders: [holder])
    }

    /// An engine evicts nothing that a request in flight needs, however long ago that came; nor does its shadow, while it has anything else.
    @Test(arguments: 1...4 as ClosedRange<UInt64>)
    func whatIsInUseIsEvictedLast(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        var index = PrefixIndex(blockLimit: 400, holderLimit: 4, seed: seed)
        let holders = [index.addHolder(), index.addHolder()]
        var inFlight: [(path: [UInt64], holder: UInt16, insertion: PrefixIndex.Insertion)] = []
        for operation in 0..<1_000 {
            let path = Prompt.distinct(operation % 300, chunkCount: Int.random(in: 1...8, using: &random)).hashes
            let holder = holders[Int.random(in: 0..<2, using: &random)]
            path.withUnsafeBufferPointer { hashes in
                index.match(hashes)
                let insertion = index.insert(hashes, holder: holder, quota: 100)
                index.retain(insertion)
                inFlight.append((path, holder, insertion))
            }
            while inFlight.count > 12 {
                let ended = inFlight.remove(at: Int.random(in: 0..<inFlight.count, using: &random))
                index.release(ended.insertion)
                if Bool.random(using: &random) { index.undo(ended.insertion, holder: ended.holder) }
            }
            for request in inFlight {
                request.path.withUnsafeBufferPointer { hashes in
                    index.match(hashes)
                    #expect(index.depth(of: request.holder) >= hashes.count)
                }
            }
            if operation.isMultiple(of: 100) { expectSound(index, holders: holders) }
        }
        inFlight.forEach { index.release($0.insertion) }
        #expect(holders.allSatisfy { index.countInUse(of: $0) == 0 })
        expectSound(index, holders: holders)
    }

    /// More in flight than the cache holds: engines let them wait. The oldest give way, and their ends take nothing from others.
    @Test func moreInFlightThanItHolds() {
        var random = SeededGenerator(seed: 9)
        var index = PrefixIndex(blockLimit: 1_000, holderLimit: 2, seed: 9)
        let holder = index.addHolder()
        var inFlight: [PrefixIndex.Insertion] = []
        for _ in 0..<2_000 {
            randomPath(&random).withUnsafeBufferPointer { hashes in
                index.match(hashes)
                let insertion = index.insert(hashes, holder: holder, quota: 40)
                index.retain(insertion)
                inFlight.append(insertion)
            }
            while inFlight.count > 30 { index.release(inFlight.remove(at: Int.random(in: 0..<inFlight.count, using: &random))) }
            #expect(index.countInUse(of: holder) <= 40)
        }
        expectSound(index, holders: [holder])
        inFlight.forEach { index.release($0) }
        expectSound(index, holders: [holder])
    }

    @Test func aPathOfAnEarlierLifeOfAHolderReleasesNothing() {
        var index = PrefixIndex(blockLimit: 100, holderLimit: 2, seed: 1)
        func insert(_ name: Int, _ chunkCount: Int, holder: UInt16, into index: inout PrefixIndex) -> PrefixIndex.Insertion {
            Prompt.distinct(name, chunkCount: chunkCount).hashes.withUnsafeBufferPointer { hashes in
                index.match(hashes)
                let insertion = index.insert(hashes, holder: holder, quota: 100)
                index.retain(insertion)
                return insertion
            }
        }
        let first = index.addHolder()
        let stale = insert(0, 10, holder: first, into: &index)
        index.removeHolder(first)
        // Takes the room of all that the first had, so that its number is free.
        let second = index.addHolder()
        _ = insert(1, 100, holder: second, into: &index)
        let next = index.addHolder()
        #expect(next == first)
        let fresh = insert(2, 10, holder: next, into: &index)
        index.release(stale)
        #expect(index.countInUse(of: next) == 10)
        index.release(fresh)
        #expect(index.countInUse(of: next) == 0)
        expectSound(index, holders: [second, next])
    }

    @Test func churnKeepsItsBoundAndDropsNothingNeedlessly() {
        var random = SeededGenerator(seed: 7)
        var index = PrefixIndex(blockLimit: 300, holderLimit: 6, seed: 7)
        var holders: [UInt16] = []
        for _ in 0..<5_000 {
            if holders.count < 2 || (holders.count < 6 && Int.random(in: 0..<20, using: &random) == 0) { holders.append(index.addHolder()) }
            if holders.count > 2 && Int.random(in: 0..<20, using: &random) == 0 {
                index.removeHolder(holders.remove(at: Int.random(in: 0..<holders.count, using: &random)))
            }
            let path = Prompt.distinct(Int.random(in: 0..<50, using: &random), chunkCount: Int.random(in: 1...80, using: &random)).hashes
            let holder = holders[Int.random(in: 0..<holders.count, using: &random)]
            path.withUnsafeBufferPointer { hashes in
                index.match(hashes)
                let share = Int(index.fairShare)
                _ = index.insert(hashes, holder: holder, quota: 1_000)
                index.match(hashes)
                #expect(index.depth(of: holder) >= min(path.count, share), "the newest prompt is held as far as the share goes")
            }
            #expect(index.blocksInUse <= 300)
        }
        expectSound(index, holders: holders)
    }

    @Test func aRemovedHolderIsForgottenAtOnceAndItsRoomIsUsedAgain() {
        var index = PrefixIndex(blockLimit: 100, holderLimit: 2, seed: 1)
        let first = index.addHolder()
        let prompt = Prompt.distinct(0, chunkCount: 100).hashes
        prompt.withUnsafeBufferPointer { hashes in
            index.match(hashes)
            _ = index.insert(hashes, holder: first, quota: 1_000)
        }
        index.removeHolder(first)
        let next = index.addHolder()
        prompt.withUnsafeBufferPointer { hashes in
            index.match(hashes)
            #expect(index.depth(of: next) == 0)
            let insertion = index.insert(hashes, holder: next, quota: 1_000)
            #expect(insertion.newBlocks == 100)
            index.match(hashes)
            #expect(index.depth(of: next) == 100)
        }
        expectSound(index, holders: [next])
    }

    @Test func creditsEveryHolderOfAPrefixThatAllShare() {
        var index = PrefixIndex(blockLimit: 40_000, holderLimit: 300, seed: 3)
        let holders = (0..<300).map { _ in index.addHolder() }
        let shared = Array(0..<20)
        for (number, holder) in holders.enumerated() {
            Prompt(shared + [1_000 + number]).hashes.withUnsafeBufferPointer { hashes in
                index.match(hashes)
                _ = index.insert(hashes, holder: holder, quota: 100)
            }
        }
        Prompt(shared + [1_007]).hashes.withUnsafeBufferPointer { hashes in
            index.match(hashes)
            #expect(index.depth(of: holders[7]) == 21)
            for holder in holders where holder != holders[7] { #expect(index.depth(of: holder) == 20) }
            // A holder that the search did not visit must not get a second copy of what it holds.
            let insertion = index.insert(hashes, holder: holders[299], quota: 100)
            #expect(insertion.newBlocks == 1)
        }
        expectSound(index, holders: holders)
    }

    /// Long prompts of which one holder has the beginning and another more: every cut of the search must tell the depth to the chunk.
    @Test func findsEveryDepthOfALongPrompt() {
        let whole = Prompt.distinct(0, chunkCount: 600).hashes
        for deeper in [1, 2, 3, 15, 16, 17, 18, 33, 64, 127, 128, 129, 255, 257, 511, 599, 600] {
            for shallower in Set([0, 1, deeper / 3, deeper / 2, deeper - 1, deeper]) {
                var index = PrefixIndex(blockLimit: 4_000, holderLimit: 3, seed: 3)
                let holders = (0..<3).map { _ in index.addHolder() }
                whole.withUnsafeBufferPointer { whole in
                    for (holder, depth) in [(holders[0], deeper), (holders[1], shallower)] where depth > 0 {
                        let path = UnsafeBufferPointer(rebasing: whole[..<depth])
                        index.match(path)
                        _ = index.insert(path, holder: holder, quota: 1_000)
                    }
                    let deepest = index.match(whole)
                    #expect(deepest == deeper)
                }
                #expect(index.depth(of: holders[0]) == deeper)
                #expect(index.depth(of: holders[1]) == shallower)
                #expect(index.depth(of: holders[2]) == 0)
            }
        }
    }

    @Test func thePlacesToLookAtFirstLieWithinThePrompt() {
        for count in 1...5_000 {
            let places = PrefixIndex.cuts(of: count)
            #expect(PrefixIndex.cut(places - 1) < count && PrefixIndex.cut(places) >= count)
        }
    }

    /// Two conversations with a common beginning take turns, so that what is refreshed lies in several pieces.
    @Test func whatIsRefreshedInPiecesKeepsItsOrder() {
        var index = PrefixIndex(blockLimit: 1_000, holderLimit: 1, seed: 3)
        let holder = index.addHolder()
        let shared = Array(0..<40)
        let prompts = (1...3).map { number in Prompt(shared + (0..<30).map { 1_000 * number + $0 }) }
        var random = SeededGenerator(seed: 2)
        for _ in 0..<60 {
            let prompt = prompts[Int.random(in: 0..<3, using: &random)]
            let hashes = Array(prompt.hashes.prefix(Int.random(in: 1...70, using: &random)))
            hashes.withUnsafeBufferPointer { hashes in
                index.match(hashes)
                _ = index.insert(hashes, holder: holder, quota: 120)
            }
            expectSound(index, holders: [holder])
            // The newest blocks are the prompt's, its beginning first.
            let newest = runsOf(holder, in: index).flatMap { blocksOf($0, in: index) }.prefix(hashes.count)
            #expect(newest.map { index.blocks[$0].hash } == hashes)
        }
    }

    /// However a path is cut and grows, it is one run again as far as nothing tells its parts apart.
    @Test func aConversationIsOneRunHoweverManyTurnsItHas() {
        var index = PrefixIndex(blockLimit: 1_000, holderLimit: 1, seed: 3)
        let holder = index.addHolder()
        let prompt = Prompt.distinct(0, chunkCount: 60).hashes
        func turn(_ chunks: Int, _ prompt: [UInt64], into index: inout PrefixIndex) -> PrefixIndex.Insertion {
            prompt.prefix(chunks).withUnsafeBufferPointer { hashes in
                index.match(hashes)
                let insertion = index.insert(hashes, holder: holder, quota: 1_000)
                index.retain(insertion)
                return insertion
            }
        }
        for chunks in stride(from: 2, through: 60, by: 2) { index.release(turn(chunks, prompt, into: &index)) }
        #expect(runsOf(holder, in: index).count == 1)
        // Two that go apart at 20 chunks: what they share and a tail each.
        index.release(turn(60, Array(prompt.prefix(20)) + Prompt.distinct(1, chunkCount: 40).hashes, into: &index))
        #expect(runsOf(holder, in: index).count == 3)
        expectSound(index, holders: [holder])
        // A turn that is still being answered is used apart from the next.
        let first = turn(30, Prompt.distinct(2, chunkCount: 40).hashes, into: &index)
        let second = turn(40, Prompt.distinct(2, chunkCount: 40).hashes, into: &index)
        #expect(runsOf(holder, in: index).count == 5)
        #expect(index.countInUse(of: holder) == 40)
        index.release(second)
        #expect(index.countInUse(of: holder) == 30)
        index.release(first)
        #expect(index.countInUse(of: holder) == 0)
        expectSound(index, holders: [holder])
    }

    /// A use that its path's eviction ended must not end that of another which has grown into the same place.
    @Test func aPathThatWasEvictedReleasesNothingOfOneInItsPlace() {
        var index = PrefixIndex(blockLimit: 1_000, holderLimit: 1, seed: 3)
        let holder = index.addHolder()
        let prompt = Prompt.distinct(0, chunkCount: 10).hashes
        func insert(_ path: ArraySlice<UInt64>, _ quota: UInt32) -> PrefixIndex.Insertion {
            path.withUnsafeBufferPointer { hashes in
                index.match(hashes)
                let insertion = index.insert(hashes, holder: holder, quota: quota)
                index.retain(insertion)
                return insertion
            }
        }
        let evicted = insert(prompt[...], 10)
        // All is in use, so what is in use gives way: the end of the first path.
        let other = insert(Prompt.distinct(1, chunkCount: 2).hashes[...], 10)
        #expect(index.count(of: holder) == 10)
        index.release(other)
        index.undo(other, holder: holder)
        let again = insert(prompt[...], 10)
        #expect(again.newBlocks == 2)
        #expect(index.countInUse(of: holder) == 10)
        index.release(evicted)
        #expect(index.countInUse(of: holder) == 10)
        index.release(again)
        #expect(index.countInUse(of: holder) == 0)
        expectSound(index, holders: [holder])
    }

    /// One-chunk tails of one beginning: so many runs that they give out before the blocks do.
    @Test func whereRunsGiveOutTheOldestGiveWay() {
        var random = SeededGenerator(seed: 4)
        var index = PrefixIndex(blockLimit: 10_000, holderLimit: 3, seed: 4)
        #expect(index.runs.count - 1 == 5_000)
        var holders = [index.addHolder(), index.addHolder()]
        var inFlight: [PrefixIndex.Insertion] = []
        for number in 0..<14_000 {
            let beginning = Prompt.distinct(0, chunkCount: 12).hashes.prefix(Int.random(in: 1...12, using: &random))
            let path = Array(beginning) + [UInt64(number) &* 0x9e37_79b9_7f4a_7c15 | 1]
            let holder = holders[Int.random(in: 0..<holders.count, using: &random)]
            path.withUnsafeBufferPointer { hashes in
                index.match(hashes)
                inFlight.append(index.insert(hashes, holder: holder, quota: 9_000))
                index.retain(inFlight[inFlight.count - 1])
                index.match(hashes)
                #expect(index.depth(of: holder) == path.count)
            }
            if inFlight.count > 8 { index.release(inFlight.removeFirst()) }
            if number == 9_000 { holders.append(index.addHolder()) }
            if number == 12_000 { index.removeHolder(holders.removeFirst()) }
        }
        #expect(holders.allSatisfy { index.holders[Int($0)].runs <= index.fairShareOfRuns + 12 })
        #expect(index.holders[Int(holders[1])].runs > 600, "a newcomer gets its share")
        for insertion in inFlight { index.release(insertion) }
        #expect(holders.allSatisfy { index.countInUse(of: $0) == 0 })
    }

    @Test func aMillionBlocksFitIntoSixtyFourMegabytes() {
        let index = PrefixIndex(blockLimit: 1 << 20, holderLimit: 1_024, seed: 1)
        #expect(MemoryLayout<PrefixIndex.Block>.stride == 32)
        #expect(MemoryLayout<PrefixIndex.Run>.stride == 40)
        #expect(index.reservedBytes < 64_000_000)
        // What is not needed is not more than the block itself and its share of the table.
        #expect(index.reservedBytes > 48 << 20)
    }

    /// Hundreds of holders of the same hashes that come and go: every block is found by its hash and holder, at any time.
    @Test func holdersOfOnePrefixAreFoundHoweverManyTheyAre() {
        var random = SeededGenerator(seed: 12)
        var index = PrefixIndex(blockLimit: 4_000, holderLimit: 200, seed: 5)
        var holders = (0..<150).map { _ in index.addHolder() }
        let shared = Array(0..<6)
        for round in 0..<3_000 {
            if round.isMultiple(of: 17) {
                index.removeHolder(holders.remove(at: Int.random(in: 0..<holders.count, using: &random)))
                holders.append(index.addHolder())
            }
            let holder = holders[Int.random(in: 0..<holders.count, using: &random)]
            Prompt(shared + [Int.random(in: 10..<40, using: &random)]).hashes.withUnsafeBufferPointer { hashes in
                index.match(hashes)
                let before = index.count(of: holder)
                let insertion = index.insert(hashes, holder: holder, quota: 20)
                #expect(index.count(of: holder) <= before + Int(insertion.newBlocks))
                #expect(index.block(of: hashes[6], holder: holder) == insertion.deepest)
                index.match(hashes)
                _ = index.insert(hashes, holder: holder, quota: 20)
                #expect(index.count(of: holder) <= 20)
            }
        }
        expectSound(index, holders: holders)
        for holder in holders {
            for block in runsOf(holder, in: index).flatMap({ blocksOf($0, in: index) }) {
                #expect(index.block(of: index.blocks[block].hash, holder: holder) == block)
            }
        }
    }

    @Test func forgetsWhatIsAsOldAsALostBlock() {
        var index = PrefixIndex(blockLimit: 1_000, holderLimit: 1, seed: 3)
        let holder = index.addHolder()
        let prompts = (0..<3).map { Prompt.distinct($0, chunkCount: 10).hashes }
        let stamps = prompts.map { prompt in
            prompt.withUnsafeBufferPointer { hashes in
                index.match(hashes)
                return index.insert(hashes, holder: holder, quota: 1_000).stamp
            }
        }
        index.forget(of: holder, upTo: stamps[1])
        let depths = prompts.map { prompt in
            prompt.withUnsafeBufferPointer { hashes in
                index.match(hashes)
                return index.depth(of: holder)
            }
        }
        #expect(depths == [0, 0, 10])
    }
}
