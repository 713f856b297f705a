/// The fields of one protobuf message, in their order and where they lie ("Encoding", protobuf.dev). Nothing is copied or allocated, and
/// nothing is known of types: a field whose wire type is not the expected one is, as for protobuf's own parsers, an unknown field.
///
/// The end of a long message may not be here yet: then the last field is told as far as it goes.
struct ProtobufReader {
    enum Kind {
        /// A varint: numbers that are not fixed, booleans, enumerations.
        case number
        /// Text, bytes, a message or packed numbers.
        case bytes
        /// Four or eight bytes, which nobody here asks for.
        case fixed
    }

    enum Value {
        case number(UInt64)
        case bytes(ProtobufReader)
        case fixed
    }

    let bytes: UnsafeRawBufferPointer
    private var at = 0
    /// How many bytes of the message are not here.
    private(set) var missing: Int
    /// No message: a varint of more than ten bytes, a field's number out of range, a wire type that is none or a group's, or a length beyond the
    /// message's own end. Nothing more is told of it.
    private(set) var isMalformed = false

    /// The present field's number, and its value when it is a number.
    private(set) var field = 0
    private(set) var number: UInt64 = 0
    private var start = 0
    private var absent = 0

    init(_ bytes: UnsafeRawBufferPointer, missing: Int = 0) {
        self.bytes = bytes
        self.missing = missing
    }

    /// The next field; nil when there is none, or the message is malformed.
    mutating func next() -> (field: Int, value: Value)? {
        switch advance() {
        case .number: (field, .number(number))
        case .bytes: (field, .bytes(ProtobufReader(content, missing: absent)))
        case .fixed: (field, .fixed)
        case nil: nil
        }
    }

    /// The present field's bytes.
    @inline(__always)
    var content: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: bytes[start..<at]) }

    /// Goes to the next field, and says what it is.
    @inline(__always)
    mutating func advance() -> Kind? {
        guard let key = nextNumber() else { return nil }
        // A value of any type has a byte at least.
        guard at < bytes.count, key >> 3 &- 1 < 1 << 29 &- 1 else { return refuseKey(key) }
        field = Int(key >> 3)
        switch key & 7 {
        case 0:
            guard let value = nextNumber() else { return nil }
            number = value
            return .number
        case 2:
            guard let length = nextNumber() else { return nil }
            start = at
            guard length <= UInt64(bytes.count &- at) else { return cutContent(length) }
            absent = 0
            at &+= Int(length)
            return .bytes
        case 1: return skip(8)
        case 5: return skip(4)
        default: return malformed()
        }
    }

    /// A varint, also of those that are packed into a field; nil at the end.
    @inline(__always)
    mutating func nextNumber() -> UInt64? {
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

    /// Packed numbers of 32 bits, of longer ones the lowest, up to `most`.
    ///
    /// Eight bytes are looked at together, for the lengths of token ids follow no pattern that a branch could be guessed by.
    /// - Returns: how many there were; fewer than `most` at the end.
    mutating func nextNumbers(into numbers: UnsafeMutablePointer<UInt32>, most: Int) -> Int {
        var count = 0
        while count < most {
            guard let base = bytes.baseAddress, at &+ 8 <= bytes.count, !isMalformed else { break }
            var next = at
            while count < most, next &+ 8 <= bytes.count {
                let word = UInt64(littleEndian: base.loadUnaligned(fromByteOffset: next, as: UInt64.self))
                let ends = ~word & 0x8080_8080_8080_8080
                if ends == 0 { break }
                next &+= ends.trailingZeroBitCount &>> 3 &+ 1
                // The number's own bytes, and then seven bits of each.
                let own = word & (ends ^ (ends &- 1))
                let low = own & 0x7F | own &>> 1 & 0x3F80 | own &>> 2 & 0x1F_C000
                numbers[count] = UInt32(truncatingIfNeeded: low | own &>> 3 & 0xFE0_0000 | own &>> 4 & 0xF000_0000)
                count &+= 1
            }
            at = next
            // One of nine or ten bytes is left, or the last few bytes.
            guard count < most, let number = nextNumber() else { break }
            numbers[count] = UInt32(truncatingIfNeeded: number)
            count &+= 1
        }
        while count < most, let number = nextNumber() {
            numbers[count] = UInt32(truncatingIfNeeded: number)
            count &+= 1
        }
        return count
    }

    private mutating func refuseKey(_ key: UInt64) -> Kind? {
        let isKey = key >> 3 > 0 && key >> 3 < 1 << 29
        return isKey && missing > 0 ? nil : malformed()
    }

    /// Of a field that is not all here.
    private mutating func cutContent(_ length: UInt64) -> Kind? {
        guard length <= UInt64(bytes.count &- at &+ missing) else { return malformed() }
        absent = Int(length) &- (bytes.count &- at)
        missing &-= absent
        at = bytes.count
        return .bytes
    }

    private mutating func skip(_ count: Int) -> Kind? {
        let here = min(count, bytes.count &- at)
        at &+= here
        if here == count { return .fixed }
        return missing < count &- here ? malformed() : nil
    }

    private mutating func malformed<Result>() -> Result? {
        isMalformed = true
        return nil
    }
}
