/// Small helpers for writing JSON by hand: the shapes are vLLM's, field by field, and most of a stream never changes.
enum JSONText {
    /// A string with its quotes.
    static func string(_ text: String) -> String {
        var quoted = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": quoted += "\\\""
            case "\\": quoted += "\\\\"
            case "\n": quoted += "\\n"
            case "\r": quoted += "\\r"
            case "\t": quoted += "\\t"
            case "\u{0}"..<" ":
                let digits = String(scalar.value, radix: 16)
                quoted += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: quoted.unicodeScalars.append(scalar)
            }
        }
        return quoted + "\""
    }

    /// A string, or null.
    static func string(_ text: String?) -> String { text.map { string($0) } ?? "null" }
}

extension Array where Element == UInt8 {
    mutating func append(_ text: StaticString) {
        append(contentsOf: UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }
    mutating func append(_ text: String) { append(contentsOf: text.utf8) }
}

extension Array where Element == UInt8 {
    /// Digits of a number that is not negative.
    mutating func append(decimal value: Int) {
        var value = value
        let start = count
        repeat {
            append(UInt8(truncatingIfNeeded: 48 + value % 10))
            value /= 10
        } while value > 0
        self[start...].reverse()
    }
}
