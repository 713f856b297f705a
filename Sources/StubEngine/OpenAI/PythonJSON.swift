/// Finds what Python's `json` (3.12) finds wrong with a text, since vLLM's answer says it: the rules are those of its scanner.
struct PythonJSON {
    struct Defect: Error, Equatable {
        let message: String
        /// In characters.
        let position: Int
    }

    private let bytes: ArraySlice<UInt8>
    private var at: Int
    /// A string that is no text: a `\ud800` without its other half. Python reads it; a tokeniser does not.
    private(set) var hasLoneSurrogate = false

    /// Deeper ones are not looked at.
    private static let deepest = 512

    private init(_ bytes: ArraySlice<UInt8>) {
        self.bytes = bytes
        at = bytes.startIndex
    }

    /// What is wrong first, if anything, and whether a string holds half a surrogate pair.
    static func check(_ bytes: [UInt8]) -> (defect: Defect?, hasLoneSurrogate: Bool) {
        var scanner = PythonJSON(bytes[...])
        do throws(Defect) {
            scanner.skipBlanks()
            try scanner.value(depth: 0)
            scanner.skipBlanks()
            guard scanner.at == bytes.endIndex else { throw scanner.defect("Extra data", scanner.at) }
            return (nil, scanner.hasLoneSurrogate)
        } catch {
            return (error, scanner.hasLoneSurrogate)
        }
    }

    private var byte: UInt8? { at < bytes.endIndex ? bytes[at] : nil }

    private func defect(_ message: String, _ place: Int) -> Defect {
        Defect(message: message, position: bytes[..<place].count { $0 & 0xc0 != 0x80 })
    }

    private mutating func skipBlanks() {
        while let byte, [0x20, 0x09, 0x0a, 0x0d].contains(byte) { at += 1 }
    }

    private mutating func take(_ word: StaticString) -> Bool {
        let word = UnsafeBufferPointer(start: word.utf8Start, count: word.utf8CodeUnitCount)
        guard bytes[at...].starts(with: word) else { return false }
        at += word.count
        return true
    }

    private mutating func value(depth: Int) throws(Defect) {
        guard depth < Self.deepest else { throw defect("Expecting value", at) }
        switch byte {
        case UInt8(ascii: "\""): try string()
        case UInt8(ascii: "{"): try object(depth: depth)
        case UInt8(ascii: "["): try array(depth: depth)
        default:
            for word in ["null", "true", "false", "NaN", "Infinity", "-Infinity"] as [StaticString] where take(word) { return }
            try number()
        }
    }

    private mutating func object(depth: Int) throws(Defect) {
        at += 1
        skipBlanks()
        if byte == UInt8(ascii: "}") { return at += 1 }
        while true {
            guard byte == UInt8(ascii: "\"") else { throw defect("Expecting property name enclosed in double quotes", at) }
            try string()
            skipBlanks()
            guard byte == UInt8(ascii: ":") else { throw defect("Expecting ':' delimiter", at) }
            at += 1
            skipBlanks()
            try value(depth: depth + 1)
            if try endsList(with: UInt8(ascii: "}")) { return }
        }
    }

    private mutating func array(depth: Int) throws(Defect) {
        at += 1
        skipBlanks()
        if byte == UInt8(ascii: "]") { return at += 1 }
        while true {
            try value(depth: depth + 1)
            if try endsList(with: UInt8(ascii: "]")) { return }
        }
    }

    /// After an element: whether it was the last.
    private mutating func endsList(with end: UInt8) throws(Defect) -> Bool {
        skipBlanks()
        if byte == end {
            at += 1
            return true
        }
        guard byte == UInt8(ascii: ",") else { throw defect("Expecting ',' delimiter", at) }
        at += 1
        skipBlanks()
        return false
    }

    private mutating func string() throws(Defect) {
        let start = at
        at += 1
        var high = false
        while let byte {
            if byte != UInt8(ascii: "\\"), high {
                hasLoneSurrogate = true
                high = false
            }
            switch byte {
            case UInt8(ascii: "\""): return at += 1
            case 0..<0x20: throw defect("Invalid control character at", at)
            case UInt8(ascii: "\\"): high = try escape(from: start, afterHigh: high)
            default: at += 1
            }
        }
        throw defect("Unterminated string starting at", start)
    }

    /// Returns whether it was the first half of a surrogate pair.
    private mutating func escape(from start: Int, afterHigh high: Bool) throws(Defect) -> Bool {
        at += 1
        guard let byte else { throw defect("Unterminated string starting at", start) }
        guard byte == UInt8(ascii: "u") else {
            guard #""\/bfnrt"#.utf8.contains(byte) else { throw defect("Invalid \\escape", at - 1) }
            at += 1
            if high { hasLoneSurrogate = true }
            return false
        }
        let digits = bytes[(at + 1)...].prefix(4)
        guard digits.count == 4, digits.endIndex < bytes.endIndex, digits.allSatisfy({ Character(UnicodeScalar($0)).isHexDigit }),
            let unit = UInt16(String(decoding: digits, as: UTF8.self), radix: 16)
        else { throw defect("Invalid \\uXXXX escape", at) }
        at += 5
        let isLow = UTF16.isTrailSurrogate(unit)
        if high != isLow { hasLoneSurrogate = true }
        return UTF16.isLeadSurrogate(unit)
    }

    private mutating func number() throws(Defect) {
        let start = at
        if byte == UInt8(ascii: "-") { at += 1 }
        guard let first = byte, isDigit(first) else {
            at = start
            throw defect("Expecting value", start)
        }
        at += 1
        if first != UInt8(ascii: "0") { skipDigits() }
        if byte == UInt8(ascii: "."), at + 1 < bytes.endIndex, isDigit(bytes[at + 1]) {
            at += 1
            skipDigits()
        }
        guard byte == UInt8(ascii: "e") || byte == UInt8(ascii: "E") else { return }
        var end = at + 1
        if end < bytes.endIndex, bytes[end] == UInt8(ascii: "+") || bytes[end] == UInt8(ascii: "-") { end += 1 }
        guard end < bytes.endIndex, isDigit(bytes[end]) else { return }
        at = end
        skipDigits()
    }

    private func isDigit(_ byte: UInt8) -> Bool { (0x30...0x39).contains(byte) }

    private mutating func skipDigits() {
        while let byte, isDigit(byte) { at += 1 }
    }
}
