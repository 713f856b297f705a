import CNghttp2
import EventLoop
import Glibc

/// Memory for nghttp2, which allocates and frees some sixteen times per proxied request: blocks of a power of two, kept in a list per
/// size for the next use, shared by the sessions of one loop and confined to it. (A tenth of an HTTP/2 request's instructions otherwise.)
final class HTTP2Memory {
    /// Of each block, before what nghttp2 sees: its place in `lists`. 16, so that alignment is kept.
    private static let headerBytes = 16
    /// The smallest block, 64 bytes, and the largest that is kept, 16 KiB; longer ones are the allocator's.
    private static let smallestShift = 6
    private static let sizes = 9
    /// Bytes of free blocks that each list keeps.
    private static let keptBytes = 256 << 10

    private struct FreeList {
        var first: UnsafeMutableRawPointer?
        var count = 0
    }

    private let lists: UnsafeMutablePointer<FreeList>

    init() {
        lists = .allocate(capacity: Self.sizes)
        lists.initialize(repeating: FreeList(), count: Self.sizes)
    }

    deinit {
        for index in 0..<Self.sizes {
            while let block = takeFree(index) { Glibc.free(block) }
        }
        lists.deallocate()
    }

    /// The memory of a loop, made at its first use.
    static func shared(by loop: EventLoop) -> HTTP2Memory {
        if let memory = loop.service(HTTP2Memory.self) { return memory }
        let memory = HTTP2Memory()
        loop.addService(memory)
        return memory
    }

    /// What nghttp2 wants to know. Every session holds this object for as long as it lives.
    var table: nghttp2_mem {
        nghttp2_mem(
            mem_user_data: Unmanaged.passUnretained(self).toOpaque(),
            malloc: { size, memory in of(memory)._withUnsafeGuaranteedRef { $0.allocate(size) } },
            free: { pointer, memory in of(memory)._withUnsafeGuaranteedRef { $0.release(pointer) } },
            calloc: { count, size, memory in
                let (bytes, overflow) = count.multipliedReportingOverflow(by: size)
                guard !overflow, let pointer = of(memory)._withUnsafeGuaranteedRef({ $0.allocate(bytes) }) else { return nil }
                memset(pointer, 0, bytes)
                return pointer
            },
            realloc: { pointer, size, memory in of(memory)._withUnsafeGuaranteedRef { $0.resize(pointer, to: size) } })
    }

    private func allocate(_ size: Int) -> UnsafeMutableRawPointer? {
        let wanted = max(size, 1) &+ Self.headerBytes
        let index = max(0, Int.bitWidth &- (wanted &- 1).leadingZeroBitCount &- Self.smallestShift)
        guard let block = takeFree(index) ?? malloc(index < Self.sizes ? 1 << (index &+ Self.smallestShift) : wanted) else { return nil }
        block.storeBytes(of: index, as: Int.self)
        return block + Self.headerBytes
    }

    private func takeFree(_ index: Int) -> UnsafeMutableRawPointer? {
        guard index < Self.sizes, let block = lists[index].first else { return nil }
        lists[index].first = block.load(as: UnsafeMutableRawPointer?.self)
        lists[index].count &-= 1
        return block
    }

    private func release(_ pointer: UnsafeMutableRawPointer?) {
        guard let pointer else { return }
        let block = pointer - Self.headerBytes
        let index = block.load(as: Int.self)
        guard index < Self.sizes, lists[index].count << (index &+ Self.smallestShift) < Self.keptBytes else { return Glibc.free(block) }
        block.storeBytes(of: lists[index].first, as: UnsafeMutableRawPointer?.self)
        lists[index].first = block
        lists[index].count &+= 1
    }

    private func resize(_ pointer: UnsafeMutableRawPointer?, to size: Int) -> UnsafeMutableRawPointer? {
        guard let pointer else { return allocate(size) }
        let block = pointer - Self.headerBytes
        let index = block.load(as: Int.self)
        guard index < Self.sizes else {
            // It stays the allocator's, whatever its new size.
            return realloc(block, max(size, 1) &+ Self.headerBytes).map { $0 + Self.headerBytes }
        }
        let room = (1 << (index &+ Self.smallestShift)) &- Self.headerBytes
        guard size > room else { return pointer }
        guard let larger = allocate(size) else { return nil }
        memcpy(larger, pointer, room)
        release(pointer)
        return larger
    }
}

/// Unretained: the session that was given the pointer holds the object.
private func of(_ memory: UnsafeMutableRawPointer?) -> Unmanaged<HTTP2Memory> { Unmanaged.fromOpaque(memory!) }
