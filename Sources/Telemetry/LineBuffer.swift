import Glibc

/// A fixed block of bytes that text is appended to and whole lines are taken from. What does not fit is not written:
/// `isOverfull` says so, until `rollBack`.
struct LineBuffer: ~Copyable {
    private let base: UnsafeMutableRawPointer
    let capacity: Int
    private var start = 0
    private var end = 0
    private(set) var isOverfull = false

    init(capacity: Int) {
        base = UnsafeMutableRawPointer.allocate(byteCount: capacity, alignment: 16)
        self.capacity = capacity
    }

    deinit {
        base.deallocate()
    }

    var count: Int { end - start }

    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: base + start, count: count) }

    /// Moves what is held to the front, so that all free room is behind it.
    mutating func compact() {
        guard start > 0 else { return }
        memmove(base, base + start, count)
        end -= start
        start = 0
    }

    var room: Int { capacity - end }

    mutating func removeFirst(_ count: Int) {
        start += min(count, self.count)
        if start == end { (start, end) = (0, 0) }
    }

    /// Takes back everything beyond the first `count` bytes.
    mutating func rollBack(toCount count: Int) {
        end = start + min(count, self.count)
        isOverfull = false
    }

    // MARK: Text

    mutating func append(_ text: StaticString) {
        append(UnsafeRawBufferPointer(text))
    }

    mutating func append(_ text: UnsafeRawBufferPointer) {
        guard text.count <= capacity - end else { return isOverfull = true }
        guard let source = text.baseAddress else { return }
        memcpy(base + end, source, text.count)
        end += text.count
    }

    private mutating func append(_ byte: UInt8) {
        guard end < capacity else { return isOverfull = true }
        base.storeBytes(of: byte, toByteOffset: end, as: UInt8.self)
        end += 1
    }

    mutating func append(decimal value: UInt64) {
        var digits = 1
        var rest = value / 10
        while rest > 0 {
            digits += 1
            rest /= 10
        }
        append(decimal: value, digits: digits)
    }

    /// The last `digits` digits of `value`, zeros in front.
    mutating func append(decimal value: UInt64, digits: Int) {
        guard digits <= capacity - end else { return isOverfull = true }
        var rest = value
        for place in stride(from: digits - 1, through: 0, by: -1) {
            base.storeBytes(of: UInt8(ascii: "0") + UInt8(truncatingIfNeeded: rest % 10), toByteOffset: end + place, as: UInt8.self)
            rest /= 10
        }
        end += digits
    }

    /// RFC 3339 in UTC with milliseconds, as in `2026-11-23T21:20:12.345Z`. The date comes from a day count by the arithmetic of
    /// Howard Hinnant's "chrono-compatible low-level date algorithms" (civil_from_days).
    mutating func appendTimestamp(_ wallClockNanoseconds: UInt64) {
        let milliseconds = wallClockNanoseconds / 1_000_000
        let seconds = milliseconds / 1_000
        // Days since 0000-03-01: with the leap day last, every month has a fixed place in its year.
        let days = seconds / 86_400 + 719_468
        let era = days / 146_097
        let dayOfEra = days % 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let monthFromMarch = (5 * dayOfYear + 2) / 153
        let day = dayOfYear - (153 * monthFromMarch + 2) / 5 + 1
        let month = monthFromMarch < 10 ? monthFromMarch + 3 : monthFromMarch - 9
        append(decimal: yearOfEra + era * 400 + (month <= 2 ? 1 : 0), digits: 4)
        append("-")
        append(decimal: month, digits: 2)
        append("-")
        append(decimal: day, digits: 2)
        append("T")
        append(decimal: seconds / 3_600 % 24, digits: 2)
        append(":")
        append(decimal: seconds / 60 % 60, digits: 2)
        append(":")
        append(decimal: seconds % 60, digits: 2)
        append(".")
        append(decimal: milliseconds % 1_000, digits: 3)
        append("Z")
    }

    /// `text` as a JSON string (RFC 8259, 7) whose content is clipped to `limit` bytes, between characters. Ill-formed UTF-8 becomes U+FFFD,
    /// control bytes and DEL are escaped: a log line must not move the cursor of whoever reads it.
    mutating func appendJSONString(_ text: UnsafeRawBufferPointer, atMost limit: Int) {
        append("\"")
        var index = 0
        var left = limit
        while true {
            let run = plainLength(text, from: index, atMost: left)
            append(UnsafeRawBufferPointer(rebasing: text[index..<index + run]))
            index += run
            left -= run
            guard index < text.count else { break }
            let length = wellFormedLength(text, at: index)
            let written = length > 1 ? length : length == 0 ? 3 : Self.escapedLength(text[index])
            guard written <= left else { break }
            left -= written
            switch length {
            case 0: append("\u{FFFD}")
            case 1: appendEscaped(text[index])
            default: append(UnsafeRawBufferPointer(rebasing: text[index..<index + length]))
            }
            index += max(1, length)
        }
        append("\"")
    }

    private static func escapedLength(_ byte: UInt8) -> Int {
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "\n"), UInt8(ascii: "\r"), UInt8(ascii: "\t"): 2
        default: 6
        }
    }

    private mutating func appendEscaped(_ byte: UInt8) {
        switch byte {
        case UInt8(ascii: "\""): append("\\\"")
        case UInt8(ascii: "\\"): append("\\\\")
        case UInt8(ascii: "\n"): append("\\n")
        case UInt8(ascii: "\r"): append("\\r")
        case UInt8(ascii: "\t"): append("\\t")
        default:
            append("\\u00")
            append(hexadecimalDigit(byte >> 4))
            append(hexadecimalDigit(byte))
        }
    }
}

/// The lower four bits of `value`.
@inline(__always)
func hexadecimalDigit(_ value: UInt8) -> UInt8 {
    let nibble = value & 0xF
    return nibble < 10 ? UInt8(ascii: "0") + nibble : UInt8(ascii: "a") + nibble - 10
}

/// Bytes from `start` on that JSON takes as they are, at most `limit`.
private func plainLength(_ text: UnsafeRawBufferPointer, from start: Int, atMost limit: Int) -> Int {
    let end = min(text.count, start + limit)
    var index = start
    while index < end {
        let byte = text[index]
        guard byte >= 0x20 && byte < 0x7F && byte != UInt8(ascii: "\"") && byte != UInt8(ascii: "\\") else { break }
        index += 1
    }
    return index - start
}

/// Bytes of the well-formed UTF-8 sequence that begins at `index` (Unicode 15, table 3-7); 0: there is none.
private func wellFormedLength(_ text: UnsafeRawBufferPointer, at index: Int) -> Int {
    let first = text[index]
    let length: Int
    var second: ClosedRange<UInt8> = 0x80...0xBF
    switch first {
    case 0...0x7F: return 1
    case 0xC2...0xDF: length = 2
    case 0xE0...0xEF:
        length = 3
        if first == 0xE0 { second = 0xA0...0xBF }
        if first == 0xED { second = 0x80...0x9F }
    case 0xF0...0xF4:
        length = 4
        if first == 0xF0 { second = 0x90...0xBF }
        if first == 0xF4 { second = 0x80...0x8F }
    default: return 0
    }
    guard length <= text.count - index, second.contains(text[index + 1]) else { return 0 }
    for offset in 2..<max(2, length) where text[index + offset] & 0xC0 != 0x80 { return 0 }
    return length
}
