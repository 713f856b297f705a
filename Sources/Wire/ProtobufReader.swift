/// The fields of one protobuf message, in their order and where they lie ("Encoding", protobuf.dev). Nothing is copied or allocated, and
/// nothing is known of types: a field whose wire type is not the expected one is, as for protobuf's own parsers, an unknown field.
///
/// The end of a long message may not be here yet: then the last field is told as far as it goes.
struct ProtobufReader {
    enum Value {
        /// A varint: numbers that are not fixed, booleans, enumerations.
        case number(UInt64)
        /// Text, bytes, a message or packed numbers.
        case bytes(ProtobufReader)
        /// Four or eight bytes, which nobody here asks for.
        case fixed
    }

    let bytes: UnsafeRawBufferPointer
    private var at = 0
    /// How many bytes of the message are not here.
    private(set) var missing: Int
    /// No message: a varint of more than ten bytes, a field's number out of range, a wire type that is none or a group's, or a length beyond the
    /// message's own end. Nothing more is told of it.
    private(set) var isMalformed = false

    init(_ bytes: UnsafeRawBufferPointer, missing: Int = 0) {
        self.bytes = bytes
        self.missing = missing
    }

    /// The next field; nil when there is none, or the message is malformed.
    mutating func next() -> (number: Int, value: Value)? {
        guard let key = number() else { return nil }
        let field = key >> 3
        guard field > 0, field < 1 << 29 else { return malformed() }
        // A value of any type has a byte at least.
        guard at < bytes.count else { return missing > 0 ? nil : malformed() }
        switch key & 7 {
        case 0: return number().map { (Int(field), .number($0)) }
        case 1: return skip(8) ? (Int(field), .fixed) : nil
        case 2: return slice().map { (Int(field), .bytes($0)) }
        case 5: return skip(4) ? (Int(field), .fixed) : nil
        default: return malformed()
        }
    }

    /// A varint, also of those that are packed into a field; nil at the end.
    @inline(__always)
    mutating func number() -> UInt64? {
        guard at < bytes.count, !isMalformed else { return nil }
        let byte = bytes[at]
        at &+= 1
        return byte < 0x80 ? UInt64(byte) : longNumber(from: byte)
    }

    private mutating func longNumber(from first: UInt8) -> UInt64? {
        var result = UInt64(first & 0x7F)
        var shift: UInt64 = 7
        while at < bytes.count {
            let byte = bytes[at]
            at &+= 1
            result |= UInt64(byte & 0x7F) &<< shift
            if byte < 0x80 { return result }
            shift &+= 7
            if shift > 63 { return malformed() }
        }
        return missing > 0 ? nil : malformed()
    }

    private mutating func slice() -> ProtobufReader? {
        guard let length = number() else { return nil }
        guard length <= UInt64(bytes.count &- at &+ missing) else { return malformed() }
        let here = min(Int(length), bytes.count &- at)
        let absent = Int(length) &- here
        missing &-= absent
        defer { at &+= here }
        return ProtobufReader(UnsafeRawBufferPointer(rebasing: bytes[at..<(at &+ here)]), missing: absent)
    }

    private mutating func skip(_ count: Int) -> Bool {
        let here = min(count, bytes.count &- at)
        at &+= here
        guard here < count else { return true }
        if missing < count &- here { isMalformed = true }
        return false
    }

    private mutating func malformed<Result>() -> Result? {
        isMalformed = true
        return nil
    }
}
