import Glibc
import Testing

@testable import EventLoop

/// SplitMix64, so that every run of a test is the same run.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }
}

@Suite struct ByteBufferTests {
    private func decimal(_ value: Int) -> String {
        var buffer = ByteBuffer(pool: ChunkPool())
        buffer.append(decimal: value)
        return String(decoding: buffer.readable, as: UTF8.self)
    }

    private func hexadecimal(_ value: Int) -> String {
        var buffer = ByteBuffer(pool: ChunkPool())
        buffer.append(hexadecimal: value)
        return String(decoding: buffer.readable, as: UTF8.self)
    }

    @Test func numbersAreWrittenAsSwiftWritesThem() {
        var random = SeededGenerator(seed: 1)
        var values = [0, 1, 9, 10, 11, 15, 16, 17, 255, 256, .max, .max - 1]
        var power = 10
        while power < 1_000_000_000_000_000_000 {
            values += [power - 1, power, power + 1]
            power *= 10
        }
        values += [power - 1, power, power + 1]
        for shift in 0..<63 { values += [1 << shift, (1 << shift) - 1, Int(truncatingIfNeeded: random.next() >> (1 + UInt64(shift)))] }
        for value in values {
            #expect(decimal(value) == String(value))
            #expect(hexadecimal(value) == String(value, radix: 16))
        }
    }

    /// Every operation in a random order, beside an array that does the same in the plainest way.
    @Test(arguments: 0..<8) func behavesLikeAnArray(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        var buffer = ByteBuffer(pool: ChunkPool())
        var model: [UInt8] = []
        let pattern = (0..<60_000).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 8) }
        for step in 0..<500 {
            switch Int.random(in: 0..<10, using: &random) {
            case 0...2:
                let longest = [8, 300, 5_000, 40_000][Int.random(in: 0..<4, using: &random)]
                let start = Int.random(in: 0...10_000, using: &random)
                let bytes = pattern[start...(start + Int.random(in: 0...longest, using: &random))]
                bytes.withUnsafeBytes { buffer.append($0) }
                model += bytes
            case 3:
                let byte = UInt8.random(in: 0...255, using: &random)
                buffer.append(byte: byte)
                model.append(byte)
            case 4:
                let value = Int.random(in: 0...Int.max, using: &random) >> Int.random(in: 0..<63, using: &random)
                buffer.append(decimal: value)
                buffer.append(hexadecimal: value)
                model += Array(String(value).utf8) + Array(String(value, radix: 16).utf8)
            case 5:
                let asked = Int.random(in: 1...30_000, using: &random)
                let room = buffer.reserve(asked)
                #expect(buffer.spareCapacity >= asked)
                let used = Int.random(in: 0...asked, using: &random)
                pattern.withUnsafeBytes { room.copyMemory(from: $0.baseAddress!, byteCount: used) }
                buffer.commit(used)
                model += pattern[..<used]
            case 6...8:
                let count = Int.random(in: 0...min(model.count, 60_000), using: &random)
                buffer.consume(count)
                model.removeFirst(count)
            default:
                if Int.random(in: 0..<20, using: &random) == 0 {
                    buffer.removeAll()
                    model = []
                } else {
                    buffer.append("static")
                    buffer.append(String("string"))
                    model += Array("staticstring".utf8)
                }
            }
            let readable = buffer.readable
            guard buffer.count == model.count, buffer.isEmpty == model.isEmpty, readable.count == model.count,
                model.isEmpty || memcmp(readable.baseAddress!, model, model.count) == 0
            else {
                Issue.record("seed \(seed) differs after step \(step)")
                return
            }
        }
    }

    @Test func holdsNoMemoryWhileEmpty() {
        var buffer = ByteBuffer(pool: ChunkPool())
        #expect(buffer.readable.baseAddress == nil && buffer.spareCapacity == 0)
        buffer.append(UnsafeRawBufferPointer(start: nil, count: 0))
        buffer.append("" as StaticString)
        #expect(buffer.spareCapacity == 0)
        buffer.append("abc" as StaticString)
        #expect(buffer.spareCapacity == ChunkPool.chunkBytes - 3)
        buffer.consume(2)
        #expect(String(decoding: buffer.readable, as: UTF8.self) == "c")
        buffer.consume(1)
        #expect(buffer.spareCapacity == 0 && buffer.isEmpty)
        buffer.consume(0)
        buffer.removeAll()
        #expect(buffer.isEmpty == true)
    }

    @Test func chunksAreUsedAgain() {
        let pool = ChunkPool()
        var first = ByteBuffer(pool: pool)
        first.append(byte: 1)
        let place = first.readable.baseAddress
        first.removeAll()
        var second = ByteBuffer(pool: pool)
        second.append(byte: 2)
        #expect(second.readable.baseAddress == place)
        // While one has it no other gets it.
        var third = ByteBuffer(pool: pool)
        third.append(byte: 3)
        #expect(third.readable.baseAddress != place)
    }

    @Test func whatIsLentIsCountedByCapacity() {
        let pool = ChunkPool()
        do {
            var short = ByteBuffer(pool: pool)
            #expect(pool.lentBytes == 0)
            short.append(byte: 1)
            #expect(pool.lentBytes == ChunkPool.chunkBytes)
            var long = ByteBuffer(pool: pool)
            _ = long.reserve(100_000)
            #expect(pool.lentBytes == ChunkPool.chunkBytes + 131_072)
            // A buffer that grows gives its old chunk back.
            _ = short.reserve(20_000)
            #expect(pool.lentBytes == 32_768 + 131_072)
            long.removeAll()
            #expect(pool.lentBytes == 32_768)
            withExtendedLifetime(short) {}
        }
        #expect(pool.lentBytes == 0)
    }

    @Test func whatIsKeptTakesHardlyMoreThanItsLength() {
        let pool = ChunkPool()
        let bytes = [UInt8](repeating: 5, count: ChunkPool.chunkBytes + 1)
        let lengths = [(1, 512), (512, 512), (513, 1_024), (8_192, 8_192), (8_193, 16_384), (16_384, 16_384), (16_385, 32_768)]
        for (count, capacity) in lengths {
            var buffer = ByteBuffer(pool: pool)
            bytes.withUnsafeBytes { buffer.keep(UnsafeRawBufferPointer(rebasing: $0[..<count])) }
            #expect(buffer.count == count && pool.lentBytes == capacity, "\(count) bytes")
            // It grows as any other.
            bytes.withUnsafeBytes { buffer.append($0) }
            #expect(Array(buffer.readable) == [UInt8](repeating: 5, count: count + bytes.count))
            buffer.removeAll()
            #expect(pool.lentBytes == 0)
        }
        var buffer = ByteBuffer(pool: pool)
        buffer.keep(UnsafeRawBufferPointer(start: nil, count: 0))
        #expect(buffer.isEmpty && pool.lentBytes == 0)
    }

    @Test func shortChunksAreUsedAgainUpToTheirBound() {
        let pool = ChunkPool()
        let taken = (0...ChunkPool.keptShortChunks).map { _ in pool.take(512) }
        for chunk in taken { pool.give(chunk, capacity: 512) }
        #expect(pool.take(512) == taken[ChunkPool.keptShortChunks - 1])
        #expect(pool.lentBytes == 512)
        pool.give(taken[ChunkPool.keptShortChunks - 1], capacity: 512)
    }

    @Test func aQueueThatIsReadAsFastAsItIsWrittenStaysInItsChunk() {
        var buffer = ByteBuffer(pool: ChunkPool())
        let piece = [UInt8](repeating: 7, count: 1_000)
        buffer.append(byte: 7)
        for _ in 0..<1_000 {
            piece.withUnsafeBytes { buffer.append($0) }
            buffer.consume(1_000)
            #expect(buffer.count == 1)
            #expect(buffer.spareCapacity < ChunkPool.chunkBytes)
        }
    }

    @Test func longChunksAreKeptUpToTheirBound() {
        let pool = ChunkPool()
        var taken: [(UnsafeMutableRawPointer, Int)] = []
        for count in [16_385, 32_768, 32_769, 1 << 20, (1 << 20) + 1] {
            let capacity = ChunkPool.capacity(for: count)
            #expect(capacity >= count && (capacity < 2 * count) && (capacity > 1 << 20 || capacity.nonzeroBitCount == 1))
            taken.append((pool.take(capacity), capacity))
        }
        for (chunk, capacity) in taken { pool.give(chunk, capacity: capacity) }
        #expect(pool.longBytes == 32_768 * 2 + 65_536 + 1 << 20)
        #expect(pool.take(65_536) == taken[2].0)
        #expect(pool.longBytes == 32_768 * 2 + 1 << 20)
        pool.give(taken[2].0, capacity: 65_536)
        let many = (0..<20).map { _ in pool.take(1 << 20) }
        for chunk in many { pool.give(chunk, capacity: 1 << 20) }
        #expect(pool.longBytes <= ChunkPool.keptLongBytes)
    }
}
