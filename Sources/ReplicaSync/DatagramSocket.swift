import CLinux
import EventLoop
import Glibc

/// A bound UDP socket that does not block. Owns the descriptor.
struct DatagramSocket: ~Copyable {
    enum Received {
        /// What stands in the buffer, and where it came from.
        case datagram(count: Int, from: SocketAddress)
        case nothingMore
        /// An error that the kernel had kept for this socket; the next call goes on.
        case failed(CInt)
    }

    enum Sent {
        case whole
        /// The kernel has no room for it now.
        case noRoom
        case failed(CInt)
    }

    let descriptor: CInt
    let address: SocketAddress

    /// - Parameter address: port 0 takes any free one. An IPv6 address for all of them serves IPv4, too.
    init(boundTo address: SocketAddress) throws(SocketError) {
        let descriptor = swl_datagram_socket(address.family)
        guard descriptor >= 0 else { throw SocketError(call: "socket", code: errno) }
        // Fewer than asked for is no fault.
        _ = swl_set_option(descriptor, SOL_SOCKET, SO_RCVBUF, ReplicaBounds.socketBufferBytes)
        _ = swl_set_option(descriptor, SOL_SOCKET, SO_SNDBUF, ReplicaBounds.socketBufferBytes)
        if address.family == AF_INET6 { _ = swl_set_option(descriptor, CInt(IPPROTO_IPV6), IPV6_V6ONLY, 0) }
        guard address.withSockaddr({ bind(descriptor, $0, $1) }) == 0 else {
            let code = errno
            close(descriptor)
            throw SocketError(call: "bind udp \(address)", code: code)
        }
        self.descriptor = descriptor
        self.address = .bound(descriptor)
    }

    deinit { close(descriptor) }

    /// Reads one datagram; what of it is longer than `buffer` is lost.
    func receive(into buffer: UnsafeMutableRawBufferPointer) -> Received {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let count = withUnsafeMutablePointer(to: &storage) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                recvfrom(descriptor, buffer.baseAddress, buffer.count, 0, $0, &length)
            }
        }
        if count >= 0 { return .datagram(count: count, from: SocketAddress(storage: storage, length: length)) }
        switch errno {
        case EAGAIN: return .nothingMore
        case let code: return .failed(code)
        }
    }

    func send(_ datagram: UnsafeRawBufferPointer, to peer: SocketAddress) -> Sent {
        let count = peer.withSockaddr { sendto(descriptor, datagram.baseAddress, datagram.count, CInt(MSG_NOSIGNAL), $0, $1) }
        if count >= 0 { return .whole }
        switch errno {
        case EAGAIN, ENOBUFS: return .noRoom
        case let code: return .failed(code)
        }
    }
}

extension SocketAddress {
    /// The address as a socket of that family writes to it: an IPv4 one is mapped for an IPv6 socket (RFC 4291, 2.5.5.2). Nil: it cannot.
    func reachable(from family: CInt) -> SocketAddress? {
        if self.family == family { return self }
        return family == AF_INET6 && self.family == AF_INET ? SocketAddress(host: "::ffff:\(host)", port: port) : nil
    }

    /// An IPv4 address as itself, where an IPv6 socket tells it mapped; for people.
    var unmapped: SocketAddress {
        guard family == AF_INET6, host.hasPrefix("::ffff:") else { return self }
        return SocketAddress(host: String(host.dropFirst(7)), port: port) ?? self
    }
}
