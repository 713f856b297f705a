import Glibc

/// The fields behind a chunked body (RFC 9112, 7.1.2): parsed as a block, bounded as a head is.
extension HTTP1HeadParser {
    /// Looks for the end of a trailer section at the start of `input`: its length with the blank line, which is 2 when it holds no
    /// field, nil when more bytes are needed.
    public func measureTrailers(_ input: UnsafeRawBufferPointer) throws(HTTP1Defect) -> Int? {
        guard input.first == 13 else { return try measureHead(input) }
        guard input.count >= 2 else { return nil }
        guard input[1] == 10 else { throw .malformed }
        return 2
    }

    /// Parses a trailer section of exactly these bytes into `block`.
    public func parseTrailers(_ input: UnsafeRawBufferPointer, into block: HeaderBlock) throws(HTTP1Defect) {
        block.adopt(input)
        var start = 0
        while start &+ 2 < input.count {
            guard block.count < maximumFields else { throw .tooManyFields }
            var end = start
            while end < input.count, input[end] != 13 { end &+= 1 }
            guard end &+ 1 < input.count, input[end &+ 1] == 10 else { throw .malformed }
            try addField(of: UnsafeRawBufferPointer(rebasing: input[start..<end]), at: start, to: block)
            start = end &+ 2
        }
    }

    private func addField(of line: UnsafeRawBufferPointer, at offset: Int, to block: HeaderBlock) throws(HTTP1Defect) {
        guard let colon = line.firstIndex(of: 58), colon > 0, colon <= 1_024 else { throw .malformed }
        for byte in line[..<colon] where !byte.isToken { throw .malformed }
        for byte in line[colon...] where (byte < 0x20 && byte != 9) || byte == 0x7f { throw .malformed }
        var first = colon &+ 1
        var last = line.count
        while first < last, line[first] == 32 || line[first] == 9 { first &+= 1 }
        while last > first, line[last &- 1] == 32 || line[last &- 1] == 9 { last &-= 1 }
        block.addField(
            nameOffset: UInt32(truncatingIfNeeded: offset), nameLength: UInt16(truncatingIfNeeded: colon),
            value: .init(offset: offset &+ first, length: last &- first))
    }
}

extension UInt8 {
    /// RFC 9110, 5.6.2: `tchar`.
    fileprivate var isToken: Bool {
        let set: UInt64 = self < 64 ? 0x03ff_6cfa_0000_0000 : 0x57ff_ffff_c7ff_fffe
        return self < 128 && set >> UInt64(self & 63) & 1 == 1
    }
}
