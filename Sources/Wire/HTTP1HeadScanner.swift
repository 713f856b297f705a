import Glibc

/// One pass over the bytes of a HTTP/1 head: the start line by pieces, then fields into a `HeaderBlock`. Strict where RFC 9112 lets a
/// recipient be lenient, because every leniency has been a way to smuggle requests: exactly one blank where one belongs, CRLF alone
/// ends a line, names are tokens, no obs-fold, no control byte anywhere.
///
/// Budget: about three instructions per byte of names, one and a half per byte of values, no allocation.
/// (http_parser below the same rules, which Debian builds without its strict mode, took three times that: 16 % of a proxied request.)
struct HTTP1HeadScanner {
    let base: UnsafePointer<UInt8>
    let end: Int
    var at = 0

    /// - Parameter head: a whole head, its blank line included; not empty.
    init(_ head: UnsafeRawBufferPointer) {
        base = head.baseAddress!.assumingMemoryBound(to: UInt8.self)
        end = head.count
    }

    // MARK: Start lines

    /// RFC 9110, 9.1: a method is a token. All that are registered are upper-case letters and hyphens; those in lower case are a
    /// client's mistake that some servers take and others do not.
    mutating func method() throws(HTTP1Defect) -> HeaderBlock.Range {
        let start = at
        while at < end, (base[at] >= 65 && base[at] <= 90) || base[at] == 45 { at &+= 1 }
        guard at > start, at &- start <= 32 else { throw .malformed }
        return .init(offset: start, length: at &- start)
    }

    /// Everything up to the next blank, which is not taken: no control byte and no DEL.
    mutating func target() throws(HTTP1Defect) -> HeaderBlock.Range {
        let start = at
        while at < end, base[at] > 0x20, base[at] != 0x7f { at &+= 1 }
        guard at > start else { throw .malformed }
        return .init(offset: start, length: at &- start)
    }

    mutating func blank() throws(HTTP1Defect) {
        guard at < end, base[at] == 0x20 else { throw .malformed }
        at &+= 1
    }

    mutating func lineEnd() throws(HTTP1Defect) {
        guard at &+ 1 < end, base[at] == 13, base[at &+ 1] == 10 else { throw .malformed }
        at &+= 2
    }

    /// `HTTP/` and two digits (RFC 9112, 2.3).
    mutating func version() throws(HTTP1Defect) -> (major: UInt8, minor: UInt8) {
        guard end &- at >= 8, memcmp(base + at, "HTTP/", 5) == 0, base[at &+ 6] == 46 else { throw .malformed }
        let major = base[at &+ 5] &- 48
        let minor = base[at &+ 7] &- 48
        guard major <= 9, minor <= 9 else { throw .malformed }
        at &+= 8
        return (major, minor)
    }

    /// Three digits and the reason behind them, to the line's end (RFC 9112, 4). The blank before an empty reason may be missing.
    mutating func status() throws(HTTP1Defect) -> Int {
        guard end &- at > 3 else { throw .malformed }
        var status = 0
        for _ in 0..<3 {
            let digit = base[at] &- 48
            guard digit <= 9 else { throw .malformed }
            status = status &* 10 &+ Int(digit)
            at &+= 1
        }
        if base[at] != 13 {
            try blank()
            skipValue()
        }
        try lineEnd()
        return status
    }

    // MARK: Fields

    /// All fields and the blank line behind them, which must be the last bytes.
    mutating func fields(into block: HeaderBlock, atMost maximum: Int) throws(HTTP1Defect) {
        while at < end, base[at] != 13 {
            guard block.count < maximum else { throw .tooManyFields }
            let name = at
            skipToken()
            let nameLength = at &- name
            guard nameLength > 0, nameLength <= Self.longestName, at < end, base[at] == 58 else { throw .malformed }
            at &+= 1
            while at < end, base[at] == 0x20 || base[at] == 9 { at &+= 1 }
            let value = at
            skipValue()
            var valueEnd = at
            while valueEnd > value, base[valueEnd &- 1] == 0x20 || base[valueEnd &- 1] == 9 { valueEnd &-= 1 }
            try lineEnd()
            block.addField(
                nameOffset: UInt32(truncatingIfNeeded: name), nameLength: UInt16(truncatingIfNeeded: nameLength),
                value: .init(offset: value, length: valueEnd &- value),
                known: KnownHeader.identify(UnsafeRawBufferPointer(start: base + name, count: nameLength)))
        }
        try lineEnd()
        guard at == end else { throw .malformed }
    }

    /// Goes on to the first byte that is none of a token's. Eight letters or hyphens at once, of which nearly all names are made: sums that
    /// reach a byte's highest bit tell what is at least `a`, and what is beyond `z`; the lowest byte marked is exact.
    private mutating func skipToken() {
        let ones: UInt64 = 0x0101_0101_0101_0101
        let highs: UInt64 = 0x8080_8080_8080_8080
        var next = at
        while next &+ 8 <= end {
            let word = UnsafeRawPointer(base + next).loadUnaligned(as: UInt64.self)
            let lower = word | (ones &* 0x20)
            let letters = (lower &+ (ones &* 0x1f)) & ~(lower &+ (ones &* 0x05))
            let hyphens = ~(((word ^ (ones &* 0x2d)) & ~highs) &+ ~highs)
            let others = (~(letters | hyphens) | word) & highs
            if others != 0 {
                next &+= others.trailingZeroBitCount >> 3
                break
            }
            next &+= 8
        }
        while next < end, base[next].isTokenByte { next &+= 1 }
        at = next
    }

    /// Bytes of a field's name at most.
    private static let longestName = 1_024

    /// Goes on to the first control byte other than a tab: the end of a line, or what must not be there. Eight bytes at once, by the
    /// borrow that a byte below 0x20 leaves in its highest bit (Hacker's Delight, 6-1); the lowest byte that it marks is exact.
    private mutating func skipValue() {
        let ones: UInt64 = 0x0101_0101_0101_0101
        let highs: UInt64 = 0x8080_8080_8080_8080
        while at &+ 8 <= end {
            let word = UnsafeRawPointer(base + at).loadUnaligned(as: UInt64.self)
            let deletes = word ^ (ones &* 0x7f)
            let marks = (((word &- ones &* 0x20) & ~word) | ((deletes &- ones) & ~deletes)) & highs
            if marks == 0 {
                at &+= 8
                continue
            }
            at &+= marks.trailingZeroBitCount >> 3
            guard base[at] == 9 else { return }
            at &+= 1
        }
        while at < end, (base[at] >= 0x20 && base[at] != 0x7f) || base[at] == 9 { at &+= 1 }
    }
}
