import CNghttp2
import Testing

@testable import HTTPTransport

struct HTTP2MemoryTests {
    /// Blocks as nghttp2 sees them, through its own table.
    private struct Library {
        let memory: HTTP2Memory
        var table: nghttp2_mem { memory.table }
        func take(_ size: Int) -> UnsafeMutableRawPointer? { table.malloc(size, table.mem_user_data) }
        func give(_ block: UnsafeMutableRawPointer?) { table.free(block, table.mem_user_data) }
        func resize(_ block: UnsafeMutableRawPointer?, _ size: Int) -> UnsafeMutableRawPointer? {
            table.realloc(block, size, table.mem_user_data)
        }
        func zeroed(_ count: Int, _ size: Int) -> UnsafeMutableRawPointer? { table.calloc(count, size, table.mem_user_data) }
    }

    private let library = Library(memory: HTTP2Memory())
    /// Around the smallest block, powers of two and the largest that is kept.
    private static let sizes = [0, 1, 47, 48, 49, 63, 64, 112, 113, 4_080, 4_081, 16_367, 16_368, 16_369, 100_000]

    @Test("A block is aligned, all of it can be written, and it comes back for the next of its size", arguments: sizes)
    func reuse(size: Int) throws {
        let block = try #require(library.take(size))
        #expect(UInt(bitPattern: block) % 16 == 0)
        block.initializeMemory(as: UInt8.self, repeating: 0xab, count: size)
        library.give(block)
        let again = try #require(library.take(size))
        if size <= 16_368 { #expect(again == block) }
        library.give(again)
    }

    @Test("Growing keeps what was there, whatever sizes it passes through", arguments: sizes)
    func growth(size: Int) throws {
        var block = try #require(library.take(size))
        for place in 0..<size { block.storeBytes(of: UInt8(truncatingIfNeeded: place), toByteOffset: place, as: UInt8.self) }
        for larger in [size + 1, size * 2 + 17, size + 20_000] {
            block = try #require(library.resize(block, larger))
            let kept = (0..<size).allSatisfy { block.load(fromByteOffset: $0, as: UInt8.self) == UInt8(truncatingIfNeeded: $0) }
            #expect(kept)
        }
        library.give(block)
    }

    @Test("calloc clears a block that was used before, and refuses a product that is no size")
    func cleared() throws {
        let used = try #require(library.take(96))
        used.initializeMemory(as: UInt8.self, repeating: 0xff, count: 96)
        library.give(used)
        let block = try #require(library.zeroed(12, 8))
        #expect((0..<96).allSatisfy { block.load(fromByteOffset: $0, as: UInt8.self) == 0 })
        library.give(block)
        #expect(library.zeroed(.max, 2) == nil)
    }

    @Test("free and realloc take no block at all, as C's do")
    func nothing() throws {
        library.give(nil)
        let block = try #require(library.resize(nil, 10))
        library.give(block)
    }
}
