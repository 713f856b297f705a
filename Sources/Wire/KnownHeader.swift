import Glibc

/// Field names that the proxy acts upon, as integers; every other name is carried as bytes alone.
public enum KnownHeader: UInt8, Sendable {
    case other, connection, contentLength, transferEncoding, host, keepAlive, te, trailer, upgrade, proxyConnection, expect,
        contentType, contentEncoding, http2Settings, requestID, cookie, retryAfter, retryCount

    /// Fields that belong to one connection and never travel on (RFC 9110, 7.6.1).
    public var isHopByHop: Bool {
        switch self {
        case .connection, .transferEncoding, .keepAlive, .te, .upgrade, .proxyConnection, .http2Settings: true
        default: false
        }
    }

    /// Compares without regard to case; `name` is any slice.
    public static func identify(_ name: UnsafeRawBufferPointer) -> KnownHeader {
        switch name.count {
        case 2: name.isEqual(to: "te", .te)
        case 4: name.isEqual(to: "host", .host)
        case 6: name.isEqual(to: "expect", .expect, or: "cookie", .cookie)
        case 7: name.isEqual(to: "upgrade", .upgrade, or: "trailer", .trailer)
        case 10: name.isEqual(to: "connection", .connection, or: "keep-alive", .keepAlive)
        case 11: name.isEqual(to: "retry-after", .retryAfter)
        case 12: name.isEqual(to: "content-type", .contentType, or: "x-request-id", .requestID)
        case 14: name.isEqual(to: "content-length", .contentLength, or: "http2-settings", .http2Settings)
        case 16: name.isEqual(to: "content-encoding", .contentEncoding, or: "proxy-connection", .proxyConnection)
        case 17: name.isEqual(to: "transfer-encoding", .transferEncoding)
        case 23: name.isEqual(to: "x-stainless-retry-count", .retryCount)
        default: .other
        }
    }
}

extension UnsafeRawBufferPointer {
    /// Whether these are the bytes of `text`, letter case aside. `text` is lower-case ASCII.
    public func equalsIgnoringCase(_ text: StaticString) -> Bool {
        guard count == text.utf8CodeUnitCount else { return false }
        let expected = text.utf8Start
        var index = 0
        while index < count {
            var byte = self[index]
            if byte >= 65, byte <= 90 { byte |= 0x20 }
            if byte != expected[index] { return false }
            index &+= 1
        }
        return true
    }

    public func equals(_ text: StaticString) -> Bool {
        count == text.utf8CodeUnitCount && (count == 0 || memcmp(baseAddress!, text.utf8Start, count) == 0)
    }

    public func starts(with text: StaticString) -> Bool {
        count >= text.utf8CodeUnitCount && memcmp(baseAddress!, text.utf8Start, text.utf8CodeUnitCount) == 0
    }

    /// Whether `text`, which is not empty, occurs in these bytes.
    public func contains(_ text: StaticString) -> Bool {
        let length = text.utf8CodeUnitCount
        var index = 0
        while let base = baseAddress, index &+ length <= count,
            let found = memchr(base + index, CInt(text.utf8Start[0]), count &- index &- length &+ 1)
        {
            if memcmp(found, text.utf8Start, length) == 0 { return true }
            index = UnsafeRawPointer(found) - base + 1
        }
        return false
    }

    public func hasPrefixIgnoringCase(_ text: StaticString) -> Bool {
        count >= text.utf8CodeUnitCount && UnsafeRawBufferPointer(rebasing: self[..<text.utf8CodeUnitCount]).equalsIgnoringCase(text)
    }

    /// A decimal number of digits alone, as Content-Length is (RFC 9110, 8.6); nil for anything else, overflow included.
    public var decimalValue: Int? {
        guard count > 0, count <= 19 else { return nil }
        var value: UInt64 = 0
        for byte in self {
            guard byte >= 48, byte <= 57 else { return nil }
            value = value &* 10 &+ UInt64(byte &- 48)
        }
        // Nineteen digits always fit without their sign.
        return Int(exactly: value)
    }

    fileprivate func isEqual(to text: StaticString, _ known: KnownHeader) -> KnownHeader {
        equalsIgnoringCase(text) ? known : .other
    }

    fileprivate func isEqual(
        to text: StaticString, _ known: KnownHeader, or second: StaticString, _ knownSecond: KnownHeader
    ) -> KnownHeader {
        equalsIgnoringCase(text) ? known : equalsIgnoringCase(second) ? knownSecond : .other
    }
}
