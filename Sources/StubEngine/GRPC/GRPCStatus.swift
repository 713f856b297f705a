/// Codes of the gRPC specification that the stub uses.
enum GRPCStatus: Int {
    case ok = 0
    case invalidArgument = 3
    case deadlineExceeded = 4
    case notFound = 5
    case resourceExhausted = 8
    case unimplemented = 12
    case internalError = 13
    case unavailable = 14

    /// The gRPC specification's mapping, except that an overloaded engine says so (`http-grpc-status-mapping`).
    init(httpStatus: Int) {
        switch httpStatus {
        case 400: self = .invalidArgument
        case 404: self = .notFound
        case 429, 529: self = .resourceExhausted
        case 502, 503, 504: self = .unavailable
        default: self = .internalError
        }
    }
}

/// Why a call ends without its answer.
struct GRPCFailure: Error {
    let status: GRPCStatus
    let message: String

    static func invalid(_ message: String) -> GRPCFailure { GRPCFailure(status: .invalidArgument, message: message) }
}

/// The specification's texts in header fields.
enum GRPCText {
    /// `Timeout`: up to eight digits and a unit. Returns ns.
    static func nanoseconds(_ text: UnsafeRawBufferPointer) -> UInt64? {
        guard let unit = text.last, (2...9).contains(text.count) else { return nil }
        var value: UInt64 = 0
        for digit in text.dropLast() {
            guard (48...57).contains(digit) else { return nil }
            value = value * 10 + UInt64(digit - 48)
        }
        let scale: UInt64
        switch unit {
        case UInt8(ascii: "H"): scale = 3_600_000_000_000
        case UInt8(ascii: "M"): scale = 60_000_000_000
        case UInt8(ascii: "S"): scale = 1_000_000_000
        case UInt8(ascii: "m"): scale = 1_000_000
        case UInt8(ascii: "u"): scale = 1_000
        case UInt8(ascii: "n"): scale = 1
        default: return nil
        }
        // A century of hours does not fit: half of the clock's range is as good as for ever.
        let (product, overflow) = value.multipliedReportingOverflow(by: scale)
        return overflow ? .max / 2 : min(product, .max / 2)
    }

    /// `Status-Message`: everything but printable ASCII is escaped, and the escape itself.
    static func percentEncoded(_ text: String) -> String {
        let digits = Array("0123456789ABCDEF".utf8)
        var encoded: [UInt8] = []
        for byte in text.utf8 {
            if (0x20...0x7e).contains(byte), byte != 0x25 {
                encoded.append(byte)
            } else {
                encoded.append(contentsOf: [0x25, digits[Int(byte >> 4)], digits[Int(byte & 15)]])
            }
        }
        return String(decoding: encoded, as: UTF8.self)
    }
}
