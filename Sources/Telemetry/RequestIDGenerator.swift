/// Makes request ids: 128 bits as 32 hexadecimal digits. Two SplitMix64 sequences (Steele, Lea and Flood, 2014), each of
/// which passes through all 64-bit values before one returns, so no generator repeats itself; generators of different
/// loops are told apart by their starting points. Unique, not secret.
public struct RequestIDGenerator: Sendable {
    public static let byteCount = 32

    private var high: UInt64
    private var low: UInt64

    /// - Parameters:
    ///   - seed: different for every process that shares a log, such as bytes from the kernel.
    ///   - loop: index of the loop that owns this generator.
    public init(seed: UInt64, loop: Int) {
        let start = Self.mix(seed &+ Self.increment)
        high = start
        low = Self.mix(start ^ Self.mix(UInt64(truncatingIfNeeded: loop) &+ Self.increment))
    }

    /// Writes the next id over the first 32 bytes of `buffer`, which must be that large.
    public mutating func write(into buffer: UnsafeMutableRawBufferPointer) {
        precondition(buffer.count >= Self.byteCount)
        high &+= Self.increment
        low &+= Self.increment
        Self.writeHexadecimal(Self.mix(high), into: buffer, at: 0)
        Self.writeHexadecimal(Self.mix(low), into: buffer, at: 16)
    }

    private static let increment: UInt64 = 0x9E37_79B9_7F4A_7C15

    private static func mix(_ value: UInt64) -> UInt64 {
        var z = value
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }

    private static func writeHexadecimal(_ value: UInt64, into buffer: UnsafeMutableRawBufferPointer, at offset: Int) {
        for digit in 0..<16 {
            buffer[offset + digit] = hexadecimalDigit(UInt8(truncatingIfNeeded: value >> UInt64(60 - 4 * digit)))
        }
    }
}
