import Glibc

/// What a load report in a response's fields says of an engine: ORCA's `endpoint-load-metrics`, as `TEXT name=value, …`,
/// `JSON {…}` or `BIN <base64>`, and `endpoint-load-metrics-bin`, which is the base64 alone of a xds.data.orca.v3.OrcaLoadReport.
///
/// Only the names that engines use are read, wherever they stand in the report; a name that comes again, as with several
/// data-parallel ranks, adds up, and shares are averaged. Nothing is allocated; malformed reports say as much as was well-formed.
public struct LoadMetrics: Sendable {
    public private(set) var running: Double?
    public private(set) var waiting: Double?
    /// Tokens that the KV cache holds.
    public private(set) var capacityTokens: Double?
    private var usageSum = 0.0
    private var usageCount = 0.0
    public var kvUsage: Double? { usageCount > 0 ? usageSum / usageCount : nil }

    /// A longer report is not read: engines name two metrics, and a header block has 64 KiB at most.
    public static let mostBytes = 4 << 10

    /// Nil when no known metric is in it. `isBinary`: the value of `endpoint-load-metrics-bin`.
    public init?(_ value: UnsafeRawBufferPointer, isBinary: Bool = false) {
        guard value.count <= Self.mostBytes else { return nil }
        if isBinary {
            readBase64(value)
        } else if value.hasPrefixIgnoringCase("json ") {
            readJSON(UnsafeRawBufferPointer(rebasing: value[5...]))
        } else if value.hasPrefixIgnoringCase("text ") {
            readText(UnsafeRawBufferPointer(rebasing: value[5...]))
        } else if value.hasPrefixIgnoringCase("bin ") {
            readBase64(UnsafeRawBufferPointer(rebasing: value[4...]))
        } else {
            return nil
        }
        guard running != nil || waiting != nil || capacityTokens != nil || usageCount > 0 else { return nil }
    }

    /// A name may have a path before it (`named_metrics.`) or an engine's (`vllm:`).
    private mutating func take(_ name: UnsafeRawBufferPointer, _ value: Double) {
        guard value.isFinite, value >= 0 else { return }
        let start = name.lastIndex { $0 == UInt8(ascii: ".") || $0 == UInt8(ascii: ":") }.map { $0 + 1 } ?? 0
        let name = UnsafeRawBufferPointer(rebasing: name[start...])
        if name.equals("num_requests_waiting") {
            waiting = (waiting ?? 0) + value
        } else if name.equals("num_requests_running") {
            running = (running ?? 0) + value
        } else if name.equals("kv_cache_usage_perc") || name.equals("kv_cache_utilization") || name.equals("gpu_cache_usage_perc") {
            usageSum += value
            usageCount += 1
        } else if name.equals("max_token_capacity") {
            capacityTokens = (capacityTokens ?? 0) + value
        }
    }

    // MARK: Text

    private mutating func readText(_ text: UnsafeRawBufferPointer) {
        var start = 0
        while start < text.count {
            let end = text[start...].firstIndex(of: UInt8(ascii: ",")) ?? text.count
            if let equals = text[start..<end].firstIndex(of: UInt8(ascii: "=")),
                let number = Self.trimmed(text, (equals + 1)..<end).decimalNumber
            {
                take(Self.trimmed(text, start..<equals), number)
            }
            start = end + 1
        }
    }

    private static func trimmed(_ text: UnsafeRawBufferPointer, _ range: Range<Int>) -> UnsafeRawBufferPointer {
        var range = range
        while let first = range.first, text[first] == 32 || text[first] == 9 { range.removeFirst() }
        while let last = range.last, text[last] == 32 || text[last] == 9 { range.removeLast() }
        return UnsafeRawBufferPointer(rebasing: text[range])
    }

    // MARK: JSON

    /// Every string that a colon and a number follow, at any depth; none of the known names has an escape.
    private mutating func readJSON(_ text: UnsafeRawBufferPointer) {
        var index = 0
        while index < text.count {
            guard text[index] == UInt8(ascii: "\"") else {
                index += 1
                continue
            }
            let start = index + 1
            var end = start
            while end < text.count, text[end] != UInt8(ascii: "\"") { end += text[end] == UInt8(ascii: "\\") ? 2 : 1 }
            guard end < text.count else { return }
            index = Self.skipBlanks(text, end + 1)
            guard index < text.count, text[index] == UInt8(ascii: ":") else { continue }
            let value = Self.skipBlanks(text, index + 1)
            index = value
            while index < text.count, Self.isNumeric(text[index]) { index += 1 }
            if let number = UnsafeRawBufferPointer(rebasing: text[value..<index]).decimalNumber {
                take(UnsafeRawBufferPointer(rebasing: text[start..<end]), number)
            }
        }
    }

    private static func skipBlanks(_ text: UnsafeRawBufferPointer, _ start: Int) -> Int {
        var index = start
        while index < text.count, text[index] == 32 || text[index] == 9 { index += 1 }
        return index
    }

    private static func isNumeric(_ byte: UInt8) -> Bool {
        byte >= 48 && byte <= 57 || byte == 43 || byte == 45 || byte == 46 || byte | 0x20 == 101
    }

    // MARK: Binary

    private mutating func readBase64(_ text: UnsafeRawBufferPointer) {
        withUnsafeTemporaryAllocation(byteCount: Self.mostBytes, alignment: 1) { bytes in
            var count = 0
            var bits: UInt32 = 0
            var held = 0
            for byte in text {
                guard let value = Self.sextet(byte) else {
                    if byte == UInt8(ascii: "=") || byte == 32 { continue }
                    return
                }
                bits = bits << 6 | UInt32(value)
                held += 6
                guard held >= 8 else { continue }
                held -= 8
                bytes[count] = UInt8(truncatingIfNeeded: bits >> UInt32(held))
                count += 1
            }
            readReport(ProtobufFields(UnsafeRawBufferPointer(rebasing: bytes[..<count])))
        }
    }

    /// RFC 4648's alphabets, both of them.
    private static func sextet(_ byte: UInt8) -> UInt8? {
        switch byte {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"): byte - 65
        case UInt8(ascii: "a")...UInt8(ascii: "z"): byte - 71
        case UInt8(ascii: "0")...UInt8(ascii: "9"): byte + 4
        case UInt8(ascii: "+"), UInt8(ascii: "-"): 62
        case UInt8(ascii: "/"), UInt8(ascii: "_"): 63
        default: nil
        }
    }

    /// Fields 5 (`utilization`) and 8 (`named_metrics`) are maps of names to doubles.
    private mutating func readReport(_ fields: ProtobufFields) {
        var fields = fields
        while let field = fields.next() {
            guard field.number == 5 || field.number == 8, let entry = field.bytes else { continue }
            var name: UnsafeRawBufferPointer?
            var value = 0.0
            var parts = ProtobufFields(entry)
            while let part = parts.next() {
                if part.number == 1 { name = part.bytes }
                if part.number == 2, let bits = part.fixed64 { value = Double(bitPattern: bits) }
            }
            if let name { take(name, value) }
        }
    }
}

/// The fields of one protobuf message, in their order; ends at the first that is malformed.
private struct ProtobufFields {
    struct Field {
        var number: UInt64
        var bytes: UnsafeRawBufferPointer?
        var fixed64: UInt64?
    }

    private let message: UnsafeRawBufferPointer
    private var index = 0

    init(_ message: UnsafeRawBufferPointer) { self.message = message }

    mutating func next() -> Field? {
        guard let key = varint() else { return nil }
        var field = Field(number: key >> 3)
        switch key & 7 {
        case 0: if varint() == nil { return nil }
        case 1:
            guard message.count - index >= 8 else { return nil }
            field.fixed64 = UInt64(littleEndian: message.loadUnaligned(fromByteOffset: index, as: UInt64.self))
            index += 8
        case 2:
            guard let length = varint(), length <= UInt64(message.count - index) else { return nil }
            field.bytes = UnsafeRawBufferPointer(rebasing: message[index..<(index + Int(length))])
            index += Int(length)
        case 5:
            guard message.count - index >= 4 else { return nil }
            index += 4
        default: return nil
        }
        return field
    }

    private mutating func varint() -> UInt64? {
        var value: UInt64 = 0
        var shift: UInt64 = 0
        while index < message.count, shift < 64 {
            let byte = message[index]
            index += 1
            value |= UInt64(byte & 0x7f) << shift
            if byte < 0x80 { return value }
            shift += 7
        }
        return nil
    }
}
