/// The bytes of a text that is written often: kept in one place, so that no use of it is a String's.
public final class StoredBytes: Sendable, CustomStringConvertible {
    // Unsafe: written once here, read only after, freed with its owner.
    private nonisolated(unsafe) let storage: UnsafeMutableRawBufferPointer

    public init(_ text: String) {
        let utf8 = Array(text.utf8)
        storage = .allocate(byteCount: max(1, utf8.count), alignment: 1)
        storage.copyBytes(from: utf8)
        count = utf8.count
    }

    deinit { storage.deallocate() }

    public let count: Int
    public var description: String { String(decoding: bytes, as: UTF8.self) }
    public var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: storage[..<count]) }
}
