/// The field `grpc-timeout` ("gRPC over HTTP2", Requests): at most eight digits and a unit, H, M, S, m, u or n.
public enum GRPCTimeout {
    /// Bytes of the longest value.
    public static let maximumBytes = 9
    private static let maximumCount: UInt64 = 99_999_999

    /// Nanoseconds of a well-formed value; nil for any other.
    public static func nanoseconds(_ value: UnsafeRawBufferPointer) -> UInt64? {
        guard value.count >= 2, value.count <= maximumBytes, let unit = value.last.flatMap(nanoseconds(ofUnit:)),
            let count = UnsafeRawBufferPointer(rebasing: value.dropLast()).decimalValue
        else { return nil }
        // 10^8 hours are 3.6 * 10^20 ns, more than 64 bits hold.
        let (product, overflow) = UInt64(count).multipliedReportingOverflow(by: unit)
        return overflow ? .max : product
    }

    private static func nanoseconds(ofUnit unit: UInt8) -> UInt64? {
        switch unit {
        case UInt8(ascii: "n"): 1
        case UInt8(ascii: "u"): 1_000
        case UInt8(ascii: "m"): 1_000_000
        case UInt8(ascii: "S"): 1_000_000_000
        case UInt8(ascii: "M"): 60_000_000_000
        case UInt8(ascii: "H"): 3_600_000_000_000
        default: nil
        }
    }

    /// Writes the value of `nanoseconds` in the finest unit that holds it, rounded up.
    /// - Parameter buffer: `maximumBytes` or longer.
    /// - Returns: bytes written.
    public static func write(nanoseconds: UInt64, into buffer: UnsafeMutableRawBufferPointer) -> Int {
        let units: [6 of (UInt8, UInt64)] = [
            (UInt8(ascii: "n"), 1), (UInt8(ascii: "u"), 1_000), (UInt8(ascii: "m"), 1_000_000), (UInt8(ascii: "S"), 1_000_000_000),
            (UInt8(ascii: "M"), 60_000_000_000), (UInt8(ascii: "H"), 3_600_000_000_000),
        ]
        for index in units.indices {
            let (letter, size) = units[index]
            let count = nanoseconds / size &+ (nanoseconds % size == 0 ? 0 : 1)
            guard count <= maximumCount else { continue }
            var digits = 1
            var bound: UInt64 = 10
            while count >= bound {
                digits &+= 1
                bound &*= 10
            }
            var rest = count
            for place in (0..<digits).reversed() {
                buffer[place] = UInt8(truncatingIfNeeded: 48 &+ rest % 10)
                rest /= 10
            }
            buffer[digits] = letter
            return digits &+ 1
        }
        return 0
    }
}
