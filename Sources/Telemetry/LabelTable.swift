import Glibc

/// Names of one kind (models, groups) as small integers: a name is looked at once, and everything after is an index.
///
/// Bounded in number and in length, since a label costs a monitoring system a series for as long as it keeps data. What
/// does not fit is counted as `other`. Intern only names that the configuration or an engine vouches for: names that
/// clients invent would fill the table. Confined to one loop; a name that is known costs one hash and no allocation.
public final class LabelTable {
    /// The index of what did not fit.
    public static let other: UInt16 = 0
    public static let maximumLabelBytes = 256

    private let maximumLabels: Int
    private var labels: [UnsafeRawBufferPointer] = []
    /// What was interned last.
    private var latest = LabelTable.other
    /// By a 64-bit hash under the process's random key; `labels` has the last word on a hit.
    private var indexByHash: [Int: UInt16] = [:]

    public init(maximumLabels: Int = 1_000) {
        self.maximumLabels = min(maximumLabels, Int(UInt16.max))
        let other: StaticString = "other"
        append(UnsafeRawBufferPointer(start: other.utf8Start, count: other.utf8CodeUnitCount))
    }

    deinit {
        for label in labels { label.deallocate() }
    }

    /// Number of labels, `other` included.
    public var count: Int { labels.count }

    public func intern(_ name: UnsafeRawBufferPointer) -> UInt16 {
        guard name.count <= Self.maximumLabelBytes else { return Self.other }
        // The same name over and over needs no hash.
        if isEqual(labels[Int(latest)], name) { return latest }
        latest = findOrAdd(name)
        return latest
    }

    private func findOrAdd(_ name: UnsafeRawBufferPointer) -> UInt16 {
        var hasher = Hasher()
        hasher.combine(bytes: name)
        let hash = hasher.finalize()
        if let index = indexByHash[hash] {
            // Two names of one hash would have to be shown as one: the later is `other`.
            return isEqual(labels[Int(index)], name) ? index : Self.other
        }
        guard labels.count <= maximumLabels else { return Self.other }
        let index = UInt16(truncatingIfNeeded: labels.count)
        append(name)
        indexByHash[hash] = index
        return index
    }

    public func intern(_ name: String) -> UInt16 {
        var name = name
        return name.withUTF8 { intern(UnsafeRawBufferPointer($0)) }
    }

    /// The bytes of a label; they stay in place for as long as the table lives. An unknown index reads as `other`.
    public func bytes(of index: UInt16) -> UnsafeRawBufferPointer {
        labels[Int(index) < labels.count ? Int(index) : Int(Self.other)]
    }

    /// The same as text, ill-formed UTF-8 repaired.
    public func name(of index: UInt16) -> String {
        String(decoding: bytes(of: index), as: UTF8.self)
    }

    private func isEqual(_ left: UnsafeRawBufferPointer, _ right: UnsafeRawBufferPointer) -> Bool {
        guard left.count == right.count else { return false }
        guard let leftBase = left.baseAddress, let rightBase = right.baseAddress else { return true }
        return memcmp(leftBase, rightBase, left.count) == 0
    }

    private func append(_ name: UnsafeRawBufferPointer) {
        let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: max(name.count, 1), alignment: 1)
        copy.copyMemory(from: name)
        labels.append(UnsafeRawBufferPointer(rebasing: copy[..<name.count]))
    }
}
