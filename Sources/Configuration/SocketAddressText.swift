import Glibc

/// A host and a port as written. Nothing is resolved here: the host may be an IPv4 or IPv6 address or a name.
public struct SocketAddressText: Hashable, Sendable, CustomStringConvertible {
    /// Without brackets.
    public var host: String
    public var port: UInt16

    public init(host: String, port: UInt16) {
        self.host = host
        self.port = port
    }

    /// Reads `HOST:PORT`, an IPv6 host in brackets (RFC 3986, 3.2.2). nil: not of that form. Port 0 is accepted.
    public init?(_ text: String) {
        guard let colon = text.lastIndex(of: ":") else { return nil }
        let digits = text[text.index(after: colon)...]
        guard (1...5).contains(digits.utf8.count), digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let port = UInt16(digits)
        else { return nil }
        let written = text[..<colon]
        if written.hasPrefix("["), written.hasSuffix("]") {
            let address = String(written.dropFirst().dropLast())
            guard Self.isIPv6(address) else { return nil }
            self.init(host: address, port: port)
        } else {
            let name = String(written)
            guard Self.isName(name) else { return nil }
            self.init(host: name, port: port)
        }
    }

    /// `HOST:PORT`, an IPv6 host in brackets: what `init(_:)` reads.
    public var description: String {
        host.utf8.contains(UInt8(ascii: ":")) ? "[\(host)]:\(port)" : "\(host):\(port)"
    }

    /// Whether the host is an address of this kind, and no name.
    var isIPv4: Bool {
        var address = in_addr()
        return inet_pton(AF_INET, host, &address) == 1
    }

    var isIPv6: Bool { Self.isIPv6(host) }

    private static func isIPv6(_ text: String) -> Bool {
        var address = in6_addr()
        return inet_pton(AF_INET6, text, &address) == 1
    }

    /// A DNS name (RFC 1123, 2.1) or an IPv4 address. One whose last label is all digits can only be an address, so that
    /// `10.0.0.300` is a mistake and not a name.
    private static func isName(_ text: String) -> Bool {
        guard (1...253).contains(text.utf8.count) else { return false }
        let labels = text.utf8.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        if let last = labels.last, !last.isEmpty, last.allSatisfy({ (0x30...0x39).contains($0) }) {
            var address = in_addr()
            return inet_pton(AF_INET, text, &address) == 1
        }
        return labels.allSatisfy { label in
            (1...63).contains(label.count) && label.first != UInt8(ascii: "-") && label.last != UInt8(ascii: "-")
                && label.allSatisfy { byte in
                    switch byte {
                    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"): true
                    case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"): true
                    default: false
                    }
                }
        }
    }
}
