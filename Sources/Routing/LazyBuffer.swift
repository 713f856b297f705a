import CXXHash
import Glibc

/// A fixed run of zeroed elements that cost no memory until they are touched: `calloc` of a large size maps fresh pages, and
/// an element's all-zero pattern is its empty state.
///
/// Indexing is unchecked: every index in this module comes from the module's own free lists and is in range by construction.
struct LazyBuffer<Element: BitwiseCopyable>: ~Copyable {
    // Owned by this value alone and freed in `deinit`.
    private let memory: UnsafeMutableRawPointer
    /// Where a cache line begins, so that elements of 16, 32 or 64 bytes never lie on two.
    private let base: UnsafeMutablePointer<Element>
    let count: Int

    /// - Parameter count: elements, at least 1. Terminates the process when the address space is exhausted, at start only.
    init(count: Int) {
        precondition(count > 0)
        guard let memory = calloc(1, count * MemoryLayout<Element>.stride + Self.lineBytes) else {
            preconditionFailure("out of memory: \(count) elements of \(MemoryLayout<Element>.stride) bytes")
        }
        self.memory = memory
        base = memory.alignedUp(toMultipleOf: Self.lineBytes).bindMemory(to: Element.self, capacity: count)
        self.count = count
    }

    deinit { free(memory) }

    private static var lineBytes: Int { 64 }

    var byteCount: Int { count * MemoryLayout<Element>.stride }

    @inline(__always)
    subscript(index: Int) -> Element {
        unsafeAddress { UnsafePointer(base + index) }
        nonmutating unsafeMutableAddress { base + index }
    }

    @inline(__always)
    subscript(index: UInt32) -> Element {
        unsafeAddress { UnsafePointer(base + Int(index)) }
        nonmutating unsafeMutableAddress { base + Int(index) }
    }

    /// Asks for the element's memory ahead of its use.
    @inline(__always)
    func prefetch(_ index: Int) { swl_prefetch(base + index) }

    /// The same for so many bytes of an element that is longer than a cache line.
    @inline(__always)
    func prefetch(_ index: UInt32, bytes: Int) {
        let element = UnsafeRawPointer(base + Int(index))
        for offset in stride(from: 0, to: bytes, by: Self.lineBytes) { swl_prefetch(element + offset) }
    }

    /// The elements, for a function of C that fills them.
    @inline(__always)
    func withBase<Result>(_ body: (UnsafeMutablePointer<Element>) -> Result) -> Result { body(base) }

    /// All elements, for those who read them as what they are made of.
    var bytes: UnsafeRawPointer { UnsafeRawPointer(base) }
}
