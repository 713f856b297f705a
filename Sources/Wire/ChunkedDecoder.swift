import Glibc

/// Decodes a chunked body in place (RFC 9112, 7.1), up to its last chunk: the trailer section that follows is the head parser's
/// (`measureTrailers`). Strict in its framing; extensions are read over. One per message; a value, so that it can be tried at every split.
public struct ChunkedDecoder: Sendable {
    private enum State {
        case size, blanks, extensions, sizeLineFeed, data, dataReturn, dataLineFeed, complete
    }

    /// Bytes of chunk extensions in one message at most: more is an attack, for nobody uses them.
    static let overheadBytes = 16 << 10
    static let sizeDigits = 15

    private var state = State.size
    private var remaining = 0
    private var digits = 0
    private var overhead = 0

    public init() {}

    public struct Progress: Sendable, Equatable {
        /// Bytes of body, moved to the start of the input.
        public var bodyBytes: Int
        /// Bytes of input that belong to the chunks.
        public var inputBytes: Int
        /// The last chunk, which is empty, has come; the trailer section follows.
        public var isComplete: Bool
    }

    /// `input` is overwritten. Throws on a broken chunk; the decoder is of no use after that.
    public mutating func decode(_ input: UnsafeMutableRawBufferPointer) throws(HTTP1Defect) -> Progress {
        var read = 0
        var written = 0
        while read < input.count, state != .complete {
            if state == .data {
                let count = min(remaining, input.count &- read)
                if written != read { memmove(input.baseAddress! + written, input.baseAddress! + read, count) }
                read &+= count
                written &+= count
                remaining &-= count
                if remaining == 0 { state = .dataReturn }
                continue
            }
            try advance(over: input[read])
            read &+= 1
        }
        return Progress(bodyBytes: written, inputBytes: read, isComplete: state == .complete)
    }

    private mutating func advance(over byte: UInt8) throws(HTTP1Defect) {
        switch state {
        case .size: try readSize(byte)
        case .blanks:
            // RFC 9112, 7.1.1 lets white space stand before the semicolon; a second number behind it is one too many.
            switch byte {
            case 13: state = .sizeLineFeed
            case 59: state = .extensions
            case 32, 9: try countOverhead(byte)
            default: throw .malformed
            }
        case .extensions:
            if byte == 13 { state = .sizeLineFeed } else { try countOverhead(byte) }
        case .sizeLineFeed:
            try expect(byte, 10)
            digits = 0
            state = remaining == 0 ? .complete : .data
        case .dataReturn:
            try expect(byte, 13)
            state = .dataLineFeed
        case .dataLineFeed:
            try expect(byte, 10)
            state = .size
        case .data, .complete: break
        }
    }

    private mutating func readSize(_ byte: UInt8) throws(HTTP1Defect) {
        let digit: UInt8
        switch byte {
        case 48...57: digit = byte - 48
        case 65...70: digit = byte - 55
        case 97...102: digit = byte - 87
        case 13 where digits > 0:
            state = .sizeLineFeed
            return
        case 59 where digits > 0:
            state = .extensions
            return
        case 32 where digits > 0, 9 where digits > 0:
            state = .blanks
            return
        default: throw .malformed
        }
        digits += 1
        guard digits <= Self.sizeDigits else { throw .malformed }
        remaining = remaining << 4 | Int(digit)
    }

    private func expect(_ byte: UInt8, _ expected: UInt8) throws(HTTP1Defect) {
        guard byte == expected else { throw .malformed }
    }

    private mutating func countOverhead(_ byte: UInt8) throws(HTTP1Defect) {
        overhead += 1
        guard overhead <= Self.overheadBytes, byte >= 32 || byte == 9, byte != 127 else { throw .malformed }
    }
}

extension UInt8 {
    /// RFC 9110, 5.6.2: `tchar`, as two sets of 64 bits.
    var isTokenByte: Bool {
        let set: UInt64 = self < 64 ? 0x03ff_6cfa_0000_0000 : 0x57ff_ffff_c7ff_fffe
        return self < 128 && set >> UInt64(self & 63) & 1 == 1
    }
}
