import Glibc
import Testing

@testable import EventLoop

@Suite struct SocketAddressTests {
    @Test(arguments: [
        ("127.0.0.1:8000", AF_INET, "127.0.0.1", UInt16(8_000), "127.0.0.1:8000"),
        ("0.0.0.0:0", AF_INET, "0.0.0.0", 0, "0.0.0.0:0"),
        ("255.255.255.255:65535", AF_INET, "255.255.255.255", 65_535, "255.255.255.255:65535"),
        ("[::1]:8000", AF_INET6, "::1", 8_000, "[::1]:8000"),
        ("[::]:443", AF_INET6, "::", 443, "[::]:443"),
        ("[2001:DB8:0:0:0:0:0:1]:1", AF_INET6, "2001:db8::1", 1, "[2001:db8::1]:1"),
        ("[::ffff:10.0.0.1]:80", AF_INET6, "::ffff:10.0.0.1", 80, "[::ffff:10.0.0.1]:80"),
    ])
    func literalsAreParsed(text: String, family: Int32, host: String, port: UInt16, description: String) throws {
        let address = try #require(SocketAddress(text))
        #expect(address.family == family)
        #expect(address.host == host)
        #expect(address.port == port)
        #expect(address.description == description)
        let size = family == AF_INET ? MemoryLayout<sockaddr_in>.size : MemoryLayout<sockaddr_in6>.size
        #expect(Int(address.length) == size)
        #expect(SocketAddress(address.description)?.description == description)
    }

    @Test(arguments: [
        "", ":", ":80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:80a", "127.0.0.1: 80", "127.0.0.1:0x50",
        "localhost:80", "127.0.0:80", "127.0.0.256:80", "1.2.3.4.5:80", "[::1]", "[::1:80", "::1]:80", "[::g]:80", "[]:80", "[:::]:80",
        "http://127.0.0.1:80",
    ])
    func everythingElseIsRefused(text: String) {
        #expect(SocketAddress(text) == nil)
    }

    @Test func thePortCanBeReplaced() throws {
        for text in ["127.0.0.1:1", "[::1]:1"] {
            let address = try #require(SocketAddress(text))
            #expect(address.with(port: 0x1234).port == 0x1234)
            #expect(address.with(port: 0x1234).host == address.host)
            #expect(address.port == 1)
        }
    }

    @Test func theKernelSeesTheSameAddress() throws {
        let address = try #require(SocketAddress("127.0.0.1:4660"))
        address.withSockaddr { pointer, length in
            #expect(Int(length) == MemoryLayout<sockaddr_in>.size)
            pointer.withMemoryRebound(to: sockaddr_in.self, capacity: 1) {
                #expect($0.pointee.sin_port == UInt16(0x1234).bigEndian)
                #expect($0.pointee.sin_addr.s_addr == UInt32(0x7f00_0001).bigEndian)
            }
        }
    }

    @Test func literalsAreResolvedWithoutAResolver() throws {
        #expect(try SocketAddress.resolve(host: "127.0.0.1", port: 7).description == "127.0.0.1:7")
        #expect(try SocketAddress.resolve(host: "::1", port: 7).description == "[::1]:7")
    }
}
