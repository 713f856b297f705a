import CLinux
import Glibc

/// Free chunks that the connections of a loop borrow while they hold bytes, so that an idle connection holds none: of one size mostly, and
/// for long bodies of powers of two up to 1 MiB, which the allocator would return to the kernel, and fault in again, for each request.
public final class ChunkPool {
    public static let chunkBytes = 16 << 10
    /// Kept for reuse at most: 4 MiB per loop. More than that goes back to the allocator.
    static let keptChunks = 256
    /// The same of longer ones, all together.
    static let keptLongBytes = 8 << 20
    /// Of each shorter length kept: for the first bytes of what the rest is awaited of.
    static let keptShortChunks = 64
    private static let longestShift = 20
    private static let chunkShift = 14
    private static let shortestShift = 9

    private var free: [UnsafeMutableRawPointer] = []
    private var long: [[UnsafeMutableRawPointer]]
    private var short: [[UnsafeMutableRawPointer]]
    private(set) var longBytes = 0
    /// What is lent at present: every byte that buffers of this pool occupy, filled or not.
    public private(set) var lentBytes = 0

    public init() {
        free.reserveCapacity(Self.keptChunks)
        long = Array(repeating: [], count: Self.longestShift - Self.chunkShift)
        short = Array(repeating: [], count: Self.chunkShift - Self.shortestShift)
    }

    deinit {
        for chunk in free { chunk.deallocate() }
        for chunks in long { for chunk in chunks { chunk.deallocate() } }
        for chunks in short { for chunk in chunks { chunk.deallocate() } }
    }

    /// The capacity of a chunk for so many bytes: a power of two as far as they are kept.
    static func capacity(for count: Int) -> Int {
        if count <= chunkBytes { return chunkBytes }
        guard count <= 1 << longestShift else { return count }
        return 1 << (Int.bitWidth &- (count &- 1).leadingZeroBitCount)
    }

    /// The capacity of the shortest chunk for so many bytes, at most `chunkBytes`: twice as many, or 512.
    static func shortCapacity(for count: Int) -> Int {
        guard count > 1 << shortestShift else { return 1 << shortestShift }
        return 1 << (Int.bitWidth &- (count &- 1).leadingZeroBitCount)
    }

    private static func shortPlace(of capacity: Int) -> Int { capacity.trailingZeroBitCount &- shortestShift }

    /// Where chunks of this capacity are kept; nil when they are not.
    private static func place(of capacity: Int) -> Int? {
        guard capacity <= 1 << longestShift else { return nil }
        return capacity.trailingZeroBitCount &- chunkShift &- 1
    }

    /// - Parameter capacity: as `capacity(for:)` or `shortCapacity(for:)` has it.
    func take(_ capacity: Int) -> UnsafeMutableRawPointer {
        lentBytes &+= capacity
        if capacity == Self.chunkBytes { return free.popLast() ?? .allocate(byteCount: capacity, alignment: 64) }
        if capacity < Self.chunkBytes {
            return short[Self.shortPlace(of: capacity)].popLast() ?? .allocate(byteCount: capacity, alignment: 64)
        }
        guard let place = Self.place(of: capacity), let chunk = long[place].popLast() else {
            return .allocate(byteCount: capacity, alignment: 64)
        }
        longBytes &-= capacity
        return chunk
    }

    func give(_ chunk: UnsafeMutableRawPointer, capacity: Int) {
        lentBytes &-= capacity
        if capacity == Self.chunkBytes {
            if free.count < Self.keptChunks { free.append(chunk) } else { chunk.deallocate() }
        } else if capacity < Self.chunkBytes {
            let place = Self.shortPlace(of: capacity)
            if short[place].count < Self.keptShortChunks { short[place].append(chunk) } else { chunk.deallocate() }
        } else if let place = Self.place(of: capacity), longBytes &+ capacity <= Self.keptLongBytes {
            long[place].append(chunk)
            longBytes &+= capacity
        } else {
            chunk.deallocate()
        }
    }
}

/// Writes forward through memory that is known to be large enough.
public struct ByteWriter {
    public fileprivate(set) var at: UnsafeMutableRawPointer

    @inline(__always)
    public mutating func write(_ bytes: UnsafeRawBufferPointer) {
        guard let base = bytes.baseAddress else { return }
        memcpy(at, base, bytes.count)
        at += bytes.count
    }

    /// Short texts only: their length is known where this is inlined, and the copy becomes a move or two.
    @inline(__always)
    public mutating func write(_ text: StaticString) {
        memcpy(at, text.utf8Start, text.utf8CodeUnitCount)
        at += text.utf8CodeUnitCount
    }

    /// Takes 19 bytes at most. A negative number is written as 0.
    public mutating func write(decimal value: Int) {
        let room = at.assumingMemoryBound(to: UInt8.self)
        var digits = 1
        var bound = 10
        while digits < 19, value >= bound {
            digits &+= 1
            bound &*= 10
        }
        var rest = max(0, value)
        var index = digits &- 1
        while index >= 0 {
            room[index] = UInt8(truncatingIfNeeded: 48 &+ rest % 10)
            rest /= 10
            index &-= 1
        }
        at += digits
    }

    /// One line of a HTTP/1 head.
    @inline(__always)
    public mutating func write(field name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) {
        write(name)
        write(": ")
        write(value)
        write("\r\n")
    }
}

/// A queue of bytes: appended at the end, consumed at the start. Holds no memory while it is empty.
/// Confined to the loop whose pool it borrows from.
public struct ByteBuffer: ~Copyable {
    private let pool: ChunkPool
    private var storage: UnsafeMutableRawPointer?
    private var capacity = 0
    private var start = 0
    private var end = 0

    public init(pool: ChunkPool) { self.pool = pool }

    deinit {
        if let storage { pool.give(storage, capacity: capacity) }
    }

    public var count: Int { end &- start }
    public var isEmpty: Bool { start == end }
    /// Valid until the next change.
    public var readable: UnsafeRawBufferPointer {
        guard let storage else { return UnsafeRawBufferPointer(start: nil, count: 0) }
        return UnsafeRawBufferPointer(start: storage + start, count: end &- start)
    }
    /// The bytes after `readable` up to the storage's end; zero when there is no storage.
    public var spareCapacity: Int { capacity &- end }

    /// Room for `count` more bytes, to be filled and then announced with `commit`.
    public mutating func reserve(_ count: Int) -> UnsafeMutableRawPointer {
        if storage == nil || capacity &- end < count { makeRoom(for: count) }
        return storage! + end
    }

    public mutating func commit(_ count: Int) {
        assert(count >= 0 && end &+ count <= capacity)
        end &+= count
    }

    /// Appends what `write` writes, `bound` bytes at most: many small pieces for the price of one check.
    @inline(__always)
    public mutating func append(atMost bound: Int, _ write: (inout ByteWriter) -> Void) {
        let room = reserve(bound)
        var writer = ByteWriter(at: room)
        write(&writer)
        commit(writer.at - room)
    }

    public mutating func append(_ bytes: UnsafeRawBufferPointer) {
        guard let base = bytes.baseAddress, bytes.count > 0 else { return }
        memcpy(reserve(bytes.count), base, bytes.count)
        end &+= bytes.count
    }

    /// Appends bytes that are to wait, perhaps for long: as the first, in a chunk hardly longer than they are.
    public mutating func keep(_ bytes: UnsafeRawBufferPointer) {
        if storage == nil, bytes.count > 0, bytes.count < ChunkPool.chunkBytes {
            capacity = ChunkPool.shortCapacity(for: bytes.count)
            storage = pool.take(capacity)
        }
        append(bytes)
    }

    @inline(__always)
    public mutating func append(_ text: StaticString) {
        append(UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }

    public mutating func append(byte: UInt8) {
        reserve(1).storeBytes(of: byte, as: UInt8.self)
        end &+= 1
    }

    // A literal is to be taken as StaticString, which costs no String.
    @_disfavoredOverload
    public mutating func append(_ text: String) {
        var text = text
        text.withUTF8 { append(UnsafeRawBufferPointer($0)) }
    }

    public mutating func append(decimal value: Int) { append(atMost: 20) { $0.write(decimal: value) } }

    public mutating func append(hexadecimal value: Int) {
        let room = reserve(16).assumingMemoryBound(to: UInt8.self)
        var digits = 1
        while digits < 16, value >> (digits &* 4) != 0 { digits &+= 1 }
        for index in 0..<digits {
            let nibble = UInt8(truncatingIfNeeded: value >> ((digits &- 1 &- index) &* 4)) & 15
            room[index] = nibble < 10 ? 48 &+ nibble : 87 &+ nibble
        }
        end &+= digits
    }

    /// Drops `count` bytes from the start; gives the storage back when nothing is left.
    public mutating func consume(_ count: Int) {
        start &+= count
        if start >= end { removeAll() }
    }

    public mutating func removeAll() {
        start = 0
        end = 0
        guard let storage else { return }
        pool.give(storage, capacity: capacity)
        self.storage = nil
        capacity = 0
    }

    private mutating func makeRoom(for count: Int) {
        let used = end &- start
        if storage == nil, count <= ChunkPool.chunkBytes {
            capacity = ChunkPool.chunkBytes
            storage = pool.take(capacity)
            return
        }
        if let storage, capacity &- used >= count, start >= capacity / 2 {
            memmove(storage, storage + start, used)
        } else {
            let grown = ChunkPool.capacity(for: max(capacity &* 2, used &+ count))
            let fresh = pool.take(grown)
            if let storage {
                memcpy(fresh, storage + start, used)
                pool.give(storage, capacity: capacity)
            }
            storage = fresh
            capacity = grown
        }
        start = 0
        end = used
    }
}
