/// A slow JSON reader in the words of RFC 8259, to compare the fast one with. Keeps members in order, duplicates included.
indirect enum ReferenceJSON: Equatable {
    case null, bool(Bool), number(String), string([UInt8]), array([ReferenceJSON]), object([(key: [UInt8], value: ReferenceJSON)])

    static func == (left: Self, right: Self) -> Bool { left.compact() == right.compact() }

    /// The last member of that name.
    func member(_ name: String) -> ReferenceJSON? {
        guard case .object(let members) = self else { return nil }
        return members.last { $0.key == Array(name.utf8) }?.value
    }

    var text: [UInt8]? { if case .string(let bytes) = self { bytes } else { nil } }

    /// A number that is whole, as an engine would take it; nil beyond what a double holds exactly.
    var integer: Int? {
        guard case .number(let digits) = self else { return nil }
        if let integer = Int(digits) { return integer }
        guard digits.contains(where: { ".eE".contains($0) }), let value = Double(digits), value.rounded(.towardZero) == value,
            abs(value) <= 9_007_199_254_740_992
        else { return nil }
        return Int(value)
    }

    var isTrue: Bool { self == .bool(true) || integer == 1 }

    /// Written without blanks, escapes only where they must be.
    func compact() -> [UInt8] {
        switch self {
        case .null: return Array("null".utf8)
        case .bool(let value): return Array((value ? "true" : "false").utf8)
        case .number(let digits): return Array(digits.utf8)
        case .string(let bytes): return Self.quoted(bytes)
        case .array(let elements):
            return [UInt8(ascii: "[")] + elements.map { $0.compact() }.joined(separator: [UInt8(ascii: ",")]) + [UInt8(ascii: "]")]
        case .object(let members):
            let written = members.map { Self.quoted($0.key) + [UInt8(ascii: ":")] + $0.value.compact() }
            return [UInt8(ascii: "{")] + written.joined(separator: [UInt8(ascii: ",")]) + [UInt8(ascii: "}")]
        }
    }

    private static func quoted(_ bytes: [UInt8]) -> [UInt8] {
        var result = [UInt8(ascii: "\"")]
        for byte in bytes {
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"): result += [UInt8(ascii: "\\"), byte]
            case 0..<32: result += Array(("\\u00" + (byte < 16 ? "0" : "") + String(byte, radix: 16)).utf8)
            default: result.append(byte)
            }
        }
        return result + [UInt8(ascii: "\"")]
    }

    /// Nil when `bytes` are no JSON text, or one that readers may differ in: lone surrogates, numbers beyond 64 bits or a finite
    /// double, nesting above 400.
    static func parse(_ bytes: [UInt8]) -> ReferenceJSON? {
        guard String(validating: bytes, as: UTF8.self) != nil else { return nil }
        var reader = ReferenceReader(bytes: bytes)
        guard let value = reader.value(depth: 0) else { return nil }
        reader.skipBlanks()
        return reader.at == bytes.count ? value : nil
    }
}

private struct ReferenceReader {
    let bytes: [UInt8]
    var at = 0

    var next: UInt8? { at < bytes.count ? bytes[at] : nil }

    mutating func skipBlanks() { while let byte = next, byte == 32 || byte == 9 || byte == 10 || byte == 13 { at += 1 } }

    private mutating func take(_ text: String) -> Bool {
        guard bytes[at...].starts(with: text.utf8) else { return false }
        at += text.utf8.count
        return true
    }

    mutating func value(depth: Int) -> ReferenceJSON? {
        guard depth < 400 else { return nil }
        skipBlanks()
        switch next {
        case UInt8(ascii: "{"): return object(depth: depth)
        case UInt8(ascii: "["): return array(depth: depth)
        case UInt8(ascii: "\""): return string().map { .string($0) }
        case UInt8(ascii: "t"): return take("true") ? .bool(true) : nil
        case UInt8(ascii: "f"): return take("false") ? .bool(false) : nil
        case UInt8(ascii: "n"): return take("null") ? .null : nil
        default: return number()
        }
    }

    private mutating func array(depth: Int) -> ReferenceJSON? {
        at += 1
        var elements: [ReferenceJSON] = []
        skipBlanks()
        if take("]") { return .array([]) }
        repeat {
            guard let element = value(depth: depth + 1) else { return nil }
            elements.append(element)
            skipBlanks()
        } while take(",")
        return take("]") ? .array(elements) : nil
    }

    private mutating func object(depth: Int) -> ReferenceJSON? {
        at += 1
        var members: [(key: [UInt8], value: ReferenceJSON)] = []
        skipBlanks()
        if take("}") { return .object([]) }
        repeat {
            skipBlanks()
            guard next == UInt8(ascii: "\""), let key = string() else { return nil }
            skipBlanks()
            guard take(":"), let value = value(depth: depth + 1) else { return nil }
            members.append((key, value))
            skipBlanks()
        } while take(",")
        return take("}") ? .object(members) : nil
    }

    private mutating func number() -> ReferenceJSON? {
        let start = at
        _ = take("-")
        let whole = digits()
        guard whole > 0, whole == 1 || bytes[at - whole] != UInt8(ascii: "0") else { return nil }
        var isWhole = true
        if take(".") {
            isWhole = false
            guard digits() > 0 else { return nil }
        }
        if take("e") || take("E") {
            isWhole = false
            if !take("+") { _ = take("-") }
            guard digits() > 0 else { return nil }
        }
        let text = String(decoding: bytes[start..<at], as: UTF8.self)
        if isWhole { return Int(text) != nil || UInt(text) != nil ? .number(text) : nil }
        guard let value = Double(text), value.isFinite else { return nil }
        return .number(text)
    }

    private mutating func digits() -> Int {
        let start = at
        while let byte = next, (48...57).contains(byte) { at += 1 }
        return at - start
    }

    private mutating func string() -> [UInt8]? {
        at += 1
        var result: [UInt8] = []
        while let byte = next {
            at += 1
            switch byte {
            case UInt8(ascii: "\""): return result
            case 0..<32: return nil
            case UInt8(ascii: "\\"):
                guard let escaped = escape() else { return nil }
                result += escaped
            default: result.append(byte)
            }
        }
        return nil
    }

    private mutating func escape() -> [UInt8]? {
        guard let byte = next else { return nil }
        at += 1
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): return [byte]
        case UInt8(ascii: "b"): return [8]
        case UInt8(ascii: "f"): return [12]
        case UInt8(ascii: "n"): return [10]
        case UInt8(ascii: "r"): return [13]
        case UInt8(ascii: "t"): return [9]
        case UInt8(ascii: "u"): break
        default: return nil
        }
        guard var code = unit() else { return nil }
        if (0xD800..<0xDC00).contains(code) {
            guard take("\\u"), let low = unit(), (0xDC00..<0xE000).contains(low) else { return nil }
            code = 0x10000 + (code - 0xD800) << 10 + (low - 0xDC00)
        }
        return UnicodeScalar(code).map { Array(String(Character($0)).utf8) }
    }

    private mutating func unit() -> UInt32? {
        guard at + 4 <= bytes.count else { return nil }
        var value: UInt32 = 0
        for byte in bytes[at..<at + 4] {
            switch byte {
            case 48...57: value = value << 4 + UInt32(byte - 48)
            case 65...70: value = value << 4 + UInt32(byte - 55)
            case 97...102: value = value << 4 + UInt32(byte - 87)
            default: return nil
            }
        }
        at += 4
        return value
    }
}
