import CLinux
import Glibc

/// A system call that failed.
public struct SocketError: Error, CustomStringConvertible {
    public let call: String
    public let code: CInt
    public init(call: String, code: CInt) {
        self.call = call
        self.code = code
    }
    public var description: String { "\(call): \(String(cString: strerror(code)))" }
}

/// An IPv4 or IPv6 address with a port, as the kernel takes it.
public struct SocketAddress: Sendable {
    private var storage: sockaddr_storage
    public let length: socklen_t

    /// Parses `127.0.0.1:8000` and `[::1]:8000`; no names.
    public init?(_ text: String) {
        guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]) else { return nil }
        var host = text[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") { host = host.dropFirst().dropLast() }
        self.init(host: String(host), port: port)
    }

    /// `host` is a literal IPv4 or IPv6 address.
    public init?(host: String, port: UInt16) {
        storage = sockaddr_storage()
        var v4 = in_addr()
        var v6 = in6_addr()
        if inet_pton(AF_INET, host, &v4) == 1 {
            length = socklen_t(MemoryLayout<sockaddr_in>.size)
            withUnsafeMutableBytes(of: &storage) { bytes in
                bytes.bindMemory(to: sockaddr_in.self)[0] = sockaddr_in(
                    sin_family: sa_family_t(AF_INET), sin_port: port.bigEndian, sin_addr: v4, sin_zero: (0, 0, 0, 0, 0, 0, 0, 0))
            }
        } else if inet_pton(AF_INET6, host, &v6) == 1 {
            length = socklen_t(MemoryLayout<sockaddr_in6>.size)
            withUnsafeMutableBytes(of: &storage) { bytes in
                bytes.bindMemory(to: sockaddr_in6.self)[0] = sockaddr_in6(
                    sin6_family: sa_family_t(AF_INET6), sin6_port: port.bigEndian, sin6_flowinfo: 0, sin6_addr: v6, sin6_scope_id: 0)
            }
        } else {
            return nil
        }
    }

    public init(storage: sockaddr_storage, length: socklen_t) {
        self.storage = storage
        self.length = length
    }

    /// Asks the system's resolver; blocks, so never on a loop that serves. Throws a message when the name is unknown.
    public static func resolve(host: String, port: UInt16) throws(SocketError) -> SocketAddress {
        if let literal = SocketAddress(host: host, port: port) { return literal }
        var hints = addrinfo()
        hints.ai_socktype = CInt(SOCK_STREAM.rawValue)
        var found: UnsafeMutablePointer<addrinfo>?
        guard getaddrinfo(host, String(port), &hints, &found) == 0, let first = found else {
            throw SocketError(call: "resolve \(host)", code: ENOENT)
        }
        defer { freeaddrinfo(found) }
        var storage = sockaddr_storage()
        memcpy(&storage, first.pointee.ai_addr, Int(first.pointee.ai_addrlen))
        return SocketAddress(storage: storage, length: first.pointee.ai_addrlen)
    }

    /// The local address of a bound socket: with the port that the kernel chose when 0 was asked for.
    public static func bound(_ descriptor: CInt) -> SocketAddress {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        _ = withUnsafeMutablePointer(to: &storage) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &length) }
        }
        return SocketAddress(storage: storage, length: length)
    }

    public var family: CInt { CInt(storage.ss_family) }

    public var port: UInt16 {
        withUnsafeBytes(of: storage) { UInt16(bigEndian: $0.loadUnaligned(fromByteOffset: 2, as: UInt16.self)) }
    }

    /// The same address with another port.
    public func with(port: UInt16) -> SocketAddress {
        var changed = self
        withUnsafeMutableBytes(of: &changed.storage) { $0.storeBytes(of: port.bigEndian, toByteOffset: 2, as: UInt16.self) }
        return changed
    }

    public var host: String {
        // Off the heap: this is asked once per request, for the access log, and most addresses fit into a String without storage.
        withUnsafeTemporaryAllocation(of: CChar.self, capacity: Int(INET6_ADDRSTRLEN)) { text in
            text[0] = 0
            withUnsafeBytes(of: storage) { bytes in
                let offset = family == AF_INET ? 4 : 8
                _ = inet_ntop(family, bytes.baseAddress! + offset, text.baseAddress!, socklen_t(text.count))
            }
            return String(cString: text.baseAddress!)
        }
    }

    public func withSockaddr<Result>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> Result) -> Result {
        withUnsafeBytes(of: storage) { body($0.baseAddress!.assumingMemoryBound(to: sockaddr.self), length) }
    }
}

extension SocketAddress: CustomStringConvertible {
    /// `127.0.0.1:8000` or `[::1]:8000`.
    public var description: String { family == AF_INET6 ? "[\(host)]:\(port)" : "\(host):\(port)" }
}
