import Testing

@testable import Wire

/// Writes protobuf messages field by field, so that tests can also write what no library would.
struct Fields {
    private(set) var bytes: [UInt8] = []

    static func varint(_ value: UInt64) -> [UInt8] {
        var (rest, bytes) = (value, [UInt8]())
        while rest >= 0x80 {
            bytes.append(UInt8(rest & 0x7F) | 0x80)
            rest >>= 7
        }
        return bytes + [UInt8(rest)]
    }

    private func adding(_ field: Int, _ wireType: UInt64, _ value: [UInt8]) -> Fields {
        var copy = self
        copy.bytes += Self.varint(UInt64(field) << 3 | wireType) + value
        return copy
    }

    func number(_ field: Int, _ value: UInt64) -> Fields { adding(field, 0, Self.varint(value)) }
    func bytes(_ field: Int, _ value: [UInt8]) -> Fields { adding(field, 2, Self.varint(UInt64(value.count)) + value) }
    func text(_ field: Int, _ value: String) -> Fields { bytes(field, Array(value.utf8)) }
    func message(_ field: Int, _ value: Fields) -> Fields { bytes(field, value.bytes) }
    func packed(_ field: Int, _ values: [UInt64]) -> Fields { bytes(field, values.flatMap(Self.varint)) }
    func fixed32(_ field: Int) -> Fields { adding(field, 5, [1, 2, 3, 4]) }
    func fixed64(_ field: Int) -> Fields { adding(field, 1, [1, 2, 3, 4, 5, 6, 7, 8]) }
    func raw(_ value: [UInt8]) -> Fields {
        var copy = self
        copy.bytes += value
        return copy
    }

    static func + (left: Fields, right: Fields) -> Fields { left.raw(right.bytes) }

    /// As a gRPC body of one message.
    var framed: [UInt8] { Self.frame(bytes) }

    static func frame(_ message: [UInt8], length: Int? = nil, flag: UInt8 = 0) -> [UInt8] {
        let length = UInt32(length ?? message.count)
        return [flag] + (0..<4).map { UInt8(truncatingIfNeeded: length >> (24 - 8 * UInt32($0))) } + message
    }
}

/// All fields of a message, in words.
func told(_ bytes: [UInt8], missing: Int = 0) -> (fields: [String], isMalformed: Bool) {
    bytes.withUnsafeBytes { bytes in
        var reader = ProtobufReader(bytes, missing: missing)
        var fields: [String] = []
        while let (field, value) = reader.next() {
            switch value {
            case .number(let number): fields.append("\(field)=\(number)")
            case .bytes(let content):
                fields.append("\(field):\(Array(content.bytes))" + (content.missing > 0 ? "+\(content.missing)" : ""))
            case .fixed: fields.append("\(field) fixed")
            }
        }
        #expect(reader.next() == nil, "what has ended stays so")
        return (fields, reader.isMalformed)
    }
}
