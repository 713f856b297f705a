import Glibc

/// The fields of one message: a block of bytes and offsets into it, in the order they came, repetitions and letter case included.
/// Reused from message to message; grows to what it has seen and allocates nothing after that. Confined to one loop.
public final class HeaderBlock {
    struct Field {
        var nameOffset: UInt32
        var valueOffset: UInt32
        var valueLength: UInt32
        var nameLength: UInt16
        var known: KnownHeader
    }

    /// A run of bytes in the block.
    public struct Range: Sendable {
        public var offset: UInt32 = 0
        public var length: UInt32 = 0
        public init() {}
        init(offset: Int, length: Int) {
            self.offset = UInt32(truncatingIfNeeded: offset)
            self.length = UInt32(truncatingIfNeeded: length)
        }
    }

    private var bytes: UnsafeMutableRawPointer
    private var capacity: Int
    private var used = 0
    private var fields: UnsafeMutablePointer<Field>
    private var fieldCapacity: Int
    public private(set) var count = 0
    /// A bit for each known name that occurs.
    private var present: UInt32 = 0

    public init(byteCapacity: Int = 512, fieldCapacity: Int = 16) {
        capacity = max(64, byteCapacity)
        bytes = .allocate(byteCount: capacity, alignment: 16)
        self.fieldCapacity = max(4, fieldCapacity)
        fields = .allocate(capacity: self.fieldCapacity)
    }

    deinit {
        bytes.deallocate()
        fields.deallocate()
    }

    /// Bytes held: names, values and what else was stored.
    public var byteCount: Int { used }

    public func removeAll() {
        used = 0
        count = 0
        present = 0
    }

    // MARK: Reading

    /// Whether a known field occurs.
    public func has(_ known: KnownHeader) -> Bool { present & known.bit != 0 }

    /// Whether any field occurs that belongs to one connection.
    public var hasHopByHop: Bool { present & KnownHeader.hopByHopBits != 0 }

    public func name(at index: Int) -> UnsafeRawBufferPointer {
        let field = fields[index]
        return UnsafeRawBufferPointer(start: bytes + Int(field.nameOffset), count: Int(field.nameLength))
    }

    public func value(at index: Int) -> UnsafeRawBufferPointer {
        let field = fields[index]
        return UnsafeRawBufferPointer(start: bytes + Int(field.valueOffset), count: Int(field.valueLength))
    }

    public func known(at index: Int) -> KnownHeader { fields[index].known }

    /// The first value of a known field.
    public func value(_ known: KnownHeader) -> UnsafeRawBufferPointer? {
        guard has(known) else { return nil }
        for index in 0..<count where fields[index].known == known { return value(at: index) }
        return nil
    }

    /// The first value of the field with this lower-case name.
    public func value(_ name: StaticString) -> UnsafeRawBufferPointer? {
        for index in 0..<count where self.name(at: index).equalsIgnoringCase(name) { return value(at: index) }
        return nil
    }

    /// The first value of the field with this lower-case name; nil for one that is repeated, too, when only one may be.
    public func value(named name: [UInt8], once: Bool = false) -> UnsafeRawBufferPointer? {
        var found: UnsafeRawBufferPointer?
        for index in 0..<count where self.name(at: index).equalsIgnoringCase(name) {
            guard once else { return value(at: index) }
            guard found == nil else { return nil }
            found = value(at: index)
        }
        return found
    }

    /// How often a known field occurs.
    public func occurrences(of known: KnownHeader) -> Int {
        guard has(known) else { return 0 }
        var result = 0
        for index in 0..<count where fields[index].known == known { result &+= 1 }
        return result
    }

    func valueRange(at index: Int) -> Range {
        .init(offset: Int(fields[index].valueOffset), length: Int(fields[index].valueLength))
    }

    public subscript(range: Range) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: bytes + Int(range.offset), count: Int(range.length))
    }

    // MARK: Writing

    /// Keeps bytes that are no field: a method, a target.
    public func store(_ source: UnsafeRawBufferPointer) -> Range {
        let offset = used
        if let base = source.baseAddress, source.count > 0 {
            reserve(source.count)
            memcpy(bytes + used, base, source.count)
            used &+= source.count
        }
        return Range(offset: offset, length: source.count)
    }

    func store(_ text: StaticString) -> Range { store(UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount)) }

    public func append(name: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer) {
        append(name: name, value: value, known: KnownHeader.identify(name))
    }

    public func append(name: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer, known: KnownHeader) {
        reserve(name.count &+ value.count)
        let nameOffset = used
        let valueOffset = nameOffset &+ name.count
        if let base = name.baseAddress { memcpy(bytes + nameOffset, base, name.count) }
        if let base = value.baseAddress { memcpy(bytes + valueOffset, base, value.count) }
        used = valueOffset &+ value.count
        addField(
            nameOffset: UInt32(truncatingIfNeeded: nameOffset), nameLength: UInt16(clamping: name.count),
            value: Range(offset: valueOffset, length: value.count), known: known)
    }

    public func append(_ name: StaticString, _ value: UnsafeRawBufferPointer) {
        append(name: UnsafeRawBufferPointer(start: name.utf8Start, count: name.utf8CodeUnitCount), value: value)
    }

    /// A field whose place among the known ones the caller knows.
    public func append(_ name: StaticString, _ value: UnsafeRawBufferPointer, known: KnownHeader) {
        append(name: UnsafeRawBufferPointer(start: name.utf8Start, count: name.utf8CodeUnitCount), value: value, known: known)
    }

    public func append(_ name: StaticString, _ value: StaticString) {
        append(name, UnsafeRawBufferPointer(start: value.utf8Start, count: value.utf8CodeUnitCount))
    }

    public func append(_ name: String, _ value: String) {
        var name = name
        var value = value
        name.withUTF8 { name in value.withUTF8 { append(name: UnsafeRawBufferPointer(name), value: UnsafeRawBufferPointer($0)) } }
    }

    public func append(_ name: StaticString, decimal value: Int) {
        withUnsafeTemporaryAllocation(byteCount: 20, alignment: 1) { digits in
            var index = 20
            var rest = max(0, value)
            repeat {
                index &-= 1
                digits[index] = UInt8(truncatingIfNeeded: 48 &+ rest % 10)
                rest /= 10
            } while rest > 0
            append(name, UnsafeRawBufferPointer(rebasing: digits[index...]))
        }
    }

    public func append(contentsOf other: HeaderBlock) {
        for index in 0..<other.count { append(name: other.name(at: index), value: other.value(at: index), known: other.known(at: index)) }
    }

    /// Drops every occurrence of a known field; the bytes stay until `removeAll()`.
    public func remove(_ known: KnownHeader) {
        guard has(known) else { return }
        removeFields { fields[$0].known == known }
    }

    /// Drops the fields that `isDropped` names by index.
    public func removeFields(at isDropped: (Int) -> Bool) {
        var kept = 0
        present = 0
        for index in 0..<count where !isDropped(index) {
            fields[kept] = fields[index]
            present |= fields[kept].known.bit
            kept &+= 1
        }
        count = kept
    }

    /// Takes over a head's bytes as they are, one copy for all fields together. Offsets of the fields added next count from its start.
    func adopt(_ head: UnsafeRawBufferPointer) {
        removeAll()
        _ = store(head)
    }

    func addField(nameOffset: UInt32, nameLength: UInt16, value: Range, known: KnownHeader) {
        if count == fieldCapacity { growFields() }
        fields[count] = Field(
            nameOffset: nameOffset, valueOffset: value.offset, valueLength: value.length, nameLength: nameLength, known: known)
        present |= known.bit
        count &+= 1
    }

    @inline(__always)
    private func reserve(_ more: Int) {
        if capacity &- used < more { grow(by: more) }
    }

    private func grow(by more: Int) {
        let grown = max(capacity &* 2, used &+ more)
        let fresh = UnsafeMutableRawPointer.allocate(byteCount: grown, alignment: 16)
        memcpy(fresh, bytes, used)
        bytes.deallocate()
        bytes = fresh
        capacity = grown
    }

    private func growFields() {
        let grown = fieldCapacity &* 2
        let fresh = UnsafeMutablePointer<Field>.allocate(capacity: grown)
        fresh.update(from: fields, count: count)
        fields.deallocate()
        fields = fresh
        fieldCapacity = grown
    }
}
