import Glibc

/// Field names that the proxy acts upon, as integers; every other name is carried as bytes alone.
public enum KnownHeader: UInt8, Sendable, CaseIterable {
    case other, connection, contentLength, transferEncoding, host, keepAlive, te, trailer, upgrade, proxyConnection, expect,
        contentType, contentEncoding, http2Settings, requestID, correlationID, traceID, bareRequestID, cookie, retryAfter, retryCount,
        wantedTTFT, wantedTPOT, loadMetrics, loadMetricsBinary, loadMetricsFormat

    var bit: UInt32 { self == .other ? 0 : 1 << UInt32(rawValue) }

    /// The bits of all that `isHopByHop`.
    static let hopByHopBits =
        connection.bit | transferEncoding.bit | keepAlive.bit | te.bit | upgrade.bit | proxyConnection.bit
        | http2Settings.bit

    /// Fields that belong to one connection and never travel on (RFC 9110, 7.6.1).
    public var isHopByHop: Bool {
        switch self {
        case .connection, .transferEncoding, .keepAlive, .te, .upgrade, .proxyConnection, .http2Settings: true
        default: false
        }
    }

    /// The name in lower case; nil for one of several names, or of none.
    public var lowercaseName: StaticString? {
        switch self {
        case .other, .wantedTTFT, .wantedTPOT: nil
        case .connection: "connection"
        case .contentLength: "content-length"
        case .transferEncoding: "transfer-encoding"
        case .host: "host"
        case .keepAlive: "keep-alive"
        case .te: "te"
        case .trailer: "trailer"
        case .upgrade: "upgrade"
        case .proxyConnection: "proxy-connection"
        case .expect: "expect"
        case .contentType: "content-type"
        case .contentEncoding: "content-encoding"
        case .http2Settings: "http2-settings"
        case .requestID: "x-request-id"
        case .correlationID: "x-correlation-id"
        case .traceID: "x-trace-id"
        case .bareRequestID: "request-id"
        case .cookie: "cookie"
        case .retryAfter: "retry-after"
        case .retryCount: "x-stainless-retry-count"
        }
    }

    /// Compares without regard to case; `name` is any slice.
    public static func identify(_ name: UnsafeRawBufferPointer) -> KnownHeader {
        @inline(__always) func isName(_ text: StaticString) -> Bool { name.equalsIgnoringCase(text) }
        return switch name.count {
        case 2: isName("te") ? .te : .other
        case 4: isName("host") ? .host : .other
        case 6: isName("expect") ? .expect : isName("cookie") ? .cookie : .other
        case 7: isName("upgrade") ? .upgrade : isName("trailer") ? .trailer : .other
        case 10:
            isName("connection")
                ? .connection
                : isName("keep-alive")
                    ? .keepAlive : isName("request-id") ? .bareRequestID : isName("x-trace-id") ? .traceID : .other
        case 11: isName("retry-after") ? .retryAfter : .other
        case 12: isName("content-type") ? .contentType : isName("x-request-id") ? .requestID : .other
        case 13: isName("x-slo-ttft-ms") ? .wantedTTFT : isName("x-slo-tpot-ms") ? .wantedTPOT : .other
        case 14: isName("content-length") ? .contentLength : isName("http2-settings") ? .http2Settings : .other
        case 16:
            isName("content-encoding")
                ? .contentEncoding : isName("proxy-connection") ? .proxyConnection : isName("x-correlation-id") ? .correlationID : .other
        case 17: isName("transfer-encoding") ? .transferEncoding : .other
        // The names of llm-d and of the Gateway API's inference extension.
        case 19: isName("x-llm-d-slo-ttft-ms") ? .wantedTTFT : isName("x-llm-d-slo-tpot-ms") ? .wantedTPOT : .other
        case 21: isName("endpoint-load-metrics") ? .loadMetrics : .other
        case 23: isName("x-stainless-retry-count") ? .retryCount : .other
        case 25: isName("endpoint-load-metrics-bin") ? .loadMetricsBinary : .other
        case 28: isName("endpoint-load-metrics-format") ? .loadMetricsFormat : .other
        default: .other
        }
    }
}

extension UnsafeRawBufferPointer {
    /// Whether these are the bytes of `text`, letter case aside. `text` is lower-case ASCII without any of `` `{|}~ ``.
    @inline(__always)
    public func equalsIgnoringCase(_ text: StaticString) -> Bool {
        guard count == text.utf8CodeUnitCount else { return false }
        guard count >= 4, let base = baseAddress else { return equalsShortIgnoringCase(text) }
        let expected = UnsafeRawPointer(text.utf8Start)
        if count < 8 {
            return Self.matches(base, expected, at: 0, as: UInt32.self) && Self.matches(base, expected, at: count &- 4, as: UInt32.self)
        }
        var at = 0
        while at &+ 8 < count {
            guard Self.matches(base, expected, at: at, as: UInt64.self) else { return false }
            at &+= 8
        }
        return Self.matches(base, expected, at: count &- 8, as: UInt64.self)
    }

    /// Compares a word of bytes: they may differ in the bit of letter case, and only where `expected` has a letter (bits 5 and 6 set).
    @inline(__always)
    private static func matches<Word: FixedWidthInteger>(
        _ base: UnsafeRawPointer, _ expected: UnsafeRawPointer, at offset: Int, as type: Word.Type
    ) -> Bool {
        let wanted = expected.loadUnaligned(fromByteOffset: offset, as: Word.self)
        let letters = wanted & (wanted >> 1) & (Word.max / 255 &* 0x20)
        return (base.loadUnaligned(fromByteOffset: offset, as: Word.self) ^ wanted) & ~letters == 0
    }

    private func equalsShortIgnoringCase(_ text: StaticString) -> Bool {
        var index = 0
        while index < count {
            var byte = self[index]
            if byte >= 65, byte <= 90 { byte |= 0x20 }
            if byte != text.utf8Start[index] { return false }
            index &+= 1
        }
        return true
    }

    /// Whether these are the bytes of `name`, which is in lower case.
    public func equalsIgnoringCase(_ name: [UInt8]) -> Bool {
        guard count == name.count else { return false }
        for index in 0..<count {
            var byte = self[index]
            if byte >= 65, byte <= 90 { byte |= 0x20 }
            if byte != name[index] { return false }
        }
        return true
    }

    /// A decimal number that is not negative, with a fraction or without; nil for anything else, and beyond 15 digits.
    public var decimalFraction: Double? {
        var value = 0.0
        var scale = 1.0
        var digits = 0
        var isInFraction = false
        for byte in self {
            if byte == 46, !isInFraction, digits > 0 {
                isInFraction = true
            } else if byte >= 48, byte <= 57, digits < 15 {
                value = value * 10 + Double(byte &- 48)
                if isInFraction { scale *= 10 }
                digits &+= 1
            } else {
                return nil
            }
        }
        return digits > 0 && last != 46 ? value / scale : nil
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

    /// A number as Prometheus' text and JSON write them, `NaN` and `+Inf` included; nil for anything else. At most 63 bytes.
    public var decimalNumber: Double? {
        guard count > 0, count < 64 else { return nil }
        if equalsIgnoringCase("nan") { return .nan }
        if equalsIgnoringCase("+inf") || equalsIgnoringCase("inf") { return .infinity }
        if equalsIgnoringCase("-inf") { return -.infinity }
        // strtod would take hexadecimal, too, and skip blanks.
        for byte in self where byte < 48 || byte > 57 {
            guard byte == 43 || byte == 45 || byte == 46 || byte | 0x20 == 101 else { return nil }
        }
        return withUnsafeTemporaryAllocation(of: CChar.self, capacity: 64) { text in
            memcpy(text.baseAddress!, baseAddress!, count)
            text[count] = 0
            var end: UnsafeMutablePointer<CChar>?
            let value = strtod(text.baseAddress!, &end)
            return end == text.baseAddress! + count ? value : nil
        }
    }
}
