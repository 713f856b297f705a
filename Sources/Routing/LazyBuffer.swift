import CVector
import Glibc

/// A fixed run of zeroed elements that cost no memory until they are touched: `calloc` of a large size maps fresh pages, and
/// an element's all-zero pattern is its empty state.
///
/// Indexing is unchecked: every index in this module comes from the module's own free lists and is in range by construction.
struct LazyBuffer<Element: BitwiseCopyable>: ~Copyable {
    // Owned by this value alone and given back in `deinit`: a mapping of so many bytes, or `calloc`'s when that is 0.
    private let memory: UnsafeMutableRawPointer
    private let mappedBytes: Int
    /// Where a cache line begins, so that elements of 16, 32 or 64 bytes never lie on two.
    private let base: UnsafeMutablePointer<Element>
    let count: Int

    /// - Parameters:
    ///   - count: elements, at least 1. Terminates the process when the address space is exhausted, at start only.
    ///   - inHugePages: for many megabytes that are read here and there, where it saves the processor most of its walks through page tables.
    ///     Then 2 MiB are touched at a time, if the system lends itself to it.
    init(count: Int, inHugePages: Bool = false) {
        precondition(count > 0)
        let bytes = count * MemoryLayout<Element>.stride
        let alignment = inHugePages ? Self.hugePageBytes : Self.lineBytes
        mappedBytes = inHugePages ? bytes + alignment : 0
        let found =
            inHugePages
            ? mmap(nil, mappedBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
            : calloc(1, bytes + alignment)
        guard let memory = found, memory != MAP_FAILED else {
            preconditionFailure("out of memory: \(count) elements of \(MemoryLayout<Element>.stride) bytes")
        }
        self.memory = memory
        let aligned = memory.alignedUp(toMultipleOf: alignment)
        // A wish: without huge pages all is as it was.
        if inHugePages { _ = madvise(aligned, bytes, MADV_HUGEPAGE) }
        base = aligned.bindMemory(to: Element.self, capacity: count)
        self.count = count
    }

    deinit {
        if mappedBytes > 0 { munmap(memory, mappedBytes) } else { free(memory) }
    }

    private static var hugePageBytes: Int { 2 << 20 }
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
