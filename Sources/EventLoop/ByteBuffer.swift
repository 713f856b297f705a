import CLinux
import Glibc

/// Free chunks of one size that the connections of a loop borrow while they hold bytes, so that an idle connection holds none.
public final class ChunkPool {
    public static let chunkBytes = 16 << 10
    /// Kept for reuse at most: 4 MiB per loop. More than that goes back to the allocator.
    static let keptChunks = 256
    private var free: [UnsafeMutableRawPointer] = []

    init() { free.reserveCapacity(Self.keptChunks) }
    deinit { for chunk in free { chunk.deallocate() } }

    func take() -> UnsafeMutableRawPointer {
        free.popLast() ?? .allocate(byteCount: Self.chunkBytes, alignment: 64)
    }

    func give(_ chunk: UnsafeMutableRawPointer) {
        if free.count < Self.keptChunks { free.append(chunk) } else { chunk.deallocate() }
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
        guard let storage else { return }
        if capacity == ChunkPool.chunkBytes { pool.give(storage) } else { storage.deallocate() }
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

    public mutating func append(_ text: StaticString) {
        append(UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }

    public mutating func append(byte: UInt8) {
        reserve(1).storeBytes(of: byte, as: UInt8.self)
        end &+= 1
    }

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
        if capacity == ChunkPool.chunkBytes { pool.give(storage) } else { storage.deallocate() }
        self.storage = nil
        capacity = 0
    }

    private mutating func makeRoom(for count: Int) {
        let used = end &- start
        if storage == nil, count <= ChunkPool.chunkBytes {
            storage = pool.take()
            capacity = ChunkPool.chunkBytes
            return
        }
        if let storage, capacity &- used >= count, start >= capacity / 2 {
            memmove(storage, storage + start, used)
        } else {
            let grown = max(ChunkPool.chunkBytes &* 2, max(capacity &* 2, used &+ count))
            let fresh = UnsafeMutableRawPointer.allocate(byteCount: grown, alignment: 64)
            if let storage {
                memcpy(fresh, storage + start, used)
                if capacity == ChunkPool.chunkBytes { pool.give(storage) } else { storage.deallocate() }
            }
            storage = fresh
            capacity = grown
        }
        start = 0
        end = used
    }
}
