import Testing

@testable import EngineModel

@Suite struct BlockPoolTests {
    /// What the pool is meant to be, in the plainest way: a list of free blocks, and what each block holds.
    private struct Reference {
        var free: [KVBlockPool.Block]
        var shares: [Int]
        var hashes: [UInt64]

        init(count: Int) {
            free = (0..<count).map { KVBlockPool.Block($0) }
            shares = Array(repeating: 0, count: count)
            hashes = Array(repeating: 0, count: count)
        }

        mutating func allocate() -> (block: KVBlockPool.Block, evicted: UInt64)? {
            guard !free.isEmpty else { return nil }
            let block = free.removeFirst()
            defer { hashes[Int(block)] = 0 }
            shares[Int(block)] = 1
            return (block, hashes[Int(block)])
        }

        mutating func retain(_ block: KVBlockPool.Block) {
            free.removeAll { $0 == block }
            shares[Int(block)] += 1
        }

        mutating func release(_ block: KVBlockPool.Block) {
            shares[Int(block)] -= 1
            if shares[Int(block)] == 0 { free.append(block) }
        }
    }

    /// Few hashes, so that copies of one text, hits, evictions and rehashes all happen; as many blocks as make the table grow twice.
    @Test(arguments: 0..<20) func thePoolIsAListOfFreeBlocksAndATableOfHashes(seed: Int) throws {
        var generator = SeededGenerator(state: UInt64(seed))
        let count = seed % 2 == 0 ? 13 : 150
        var pool = KVBlockPool(count: count)
        var reference = Reference(count: count)
        var held: [KVBlockPool.Block] = []
        for step in 0..<2_000 {
            let hash = UInt64.random(in: 1...UInt64(count), using: &generator)
            switch Int.random(in: 0..<10, using: &generator) {
            case 0..<4:
                let ours = pool.allocate()
                let theirs = reference.allocate()
                #expect(ours?.block == theirs?.block)
                #expect(ours?.evicted == theirs?.evicted)
                guard let block = ours?.block else { continue }
                held.append(block)
            case 4..<6:
                guard let block = pool.block(holding: hash) else { continue }
                pool.retain(block)
                reference.retain(block)
                held.append(block)
            case 6..<9:
                guard !held.isEmpty else { continue }
                let block = held.remove(at: Int.random(in: held.indices, using: &generator))
                // Full before it is given back, or given back empty, as the tail of a prompt is.
                if reference.hashes[Int(block)] == 0, Bool.random(using: &generator) {
                    pool.store(block, hash: hash)
                    reference.hashes[Int(block)] = hash
                }
                pool.release(block)
                reference.release(block)
            default:
                guard step % 20 == 0 else { continue }
                pool.clearFree()
                for block in reference.free { reference.hashes[Int(block)] = 0 }
            }
            guard step % 16 == 0 else { continue }
            compare(pool, reference)
        }
        compare(pool, reference)
    }

    private func compare(_ pool: KVBlockPool, _ reference: Reference) {
        #expect(pool.evictionOrder == reference.free)
        #expect(pool.freeCount == reference.free.count)
        #expect(pool.usedCount == reference.shares.count { $0 > 0 })
        #expect(reference.shares.indices.map { pool.shares(of: KVBlockPool.Block($0)) } == reference.shares)
        // Whichever of its copies is found, it is one of them, and some copy is found when there is one.
        let held = Set(reference.hashes).subtracting([0])
        let found = (1...UInt64(reference.shares.count)).compactMap { pool.block(holding: $0) }
        #expect(Set(found.map { reference.hashes[Int($0)] }) == held)
        #expect(found.count == held.count)
        #expect(pool.cachedHashCount == held.count)
    }

    @Test func aBlockThatWasNeverUsedIsFree() {
        let pool = KVBlockPool(count: 3)
        #expect(pool.isFree(2))
        #expect(pool.block(holding: 1) == nil)
        #expect(pool.evictionOrder == [0, 1, 2])
    }
}
