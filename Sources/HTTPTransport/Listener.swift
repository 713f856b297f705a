import CLinux
import EventLoop
import Glibc
import Wire

/// A listening socket of one loop and the connections accepted on it.
public final class Listener: EventHandler {
    let application: DownstreamApplication
    /// Of the connections accepted from now on.
    public var limits: TransportLimits
    let parser: HTTP1HeadParser
    private let tls: TLSServerSource?
    private var descriptor: CInt
    private let sharesPort: Bool
    private var connections: [DownstreamConnection] = []
    private var isPaused = false
    /// The address bound, with the port that the kernel chose when 0 was asked for.
    public private(set) var address: SocketAddress

    static let acceptsPerWake = 64

    /// - Parameter sharesPort: other loops listen on the same port (SO_REUSEPORT). Ask `checkAvailable` before the first does, for
    ///   whatever else listens there would share it too, in silence.
    public init(
        loop: EventLoop, address: SocketAddress, tls: TLSServerSource?, application: DownstreamApplication, limits: TransportLimits,
        sharesPort: Bool = false
    ) throws(SocketError) {
        self.application = application
        self.limits = limits
        self.tls = tls
        parser = HTTP1HeadParser(maximumHeadBytes: limits.headBytes, maximumFields: limits.headFields)
        descriptor = -1
        self.sharesPort = sharesPort
        self.address = address
        super.init(loop: loop)
        try startAccepting()
    }

    /// Opens the listening socket: at first, and again on the same port after `stopAccepting()`. Throws when the port is taken.
    public func startAccepting() throws(SocketError) {
        guard descriptor < 0 else { return }
        descriptor = swl_stream_socket(address.family)
        do throws(SocketError) {
            guard descriptor >= 0 else { throw SocketError(call: "socket", code: errno) }
            _ = swl_set_option(descriptor, SOL_SOCKET, SO_REUSEADDR, 1)
            if sharesPort { _ = swl_set_option(descriptor, SOL_SOCKET, SO_REUSEPORT, 1) }
            // Accepted sockets inherit it, which spares a call per connection.
            _ = swl_no_delay(descriptor)
            guard address.withSockaddr({ bind(descriptor, $0, $1) }) == 0 else {
                throw SocketError(call: "bind \(address)", code: errno)
            }
            guard listen(descriptor, 4096) == 0 else { throw SocketError(call: "listen \(address)", code: errno) }
            address = address.with(port: SocketAddress.bound(descriptor).port)
            try attach(descriptor: descriptor)
        } catch {
            if descriptor >= 0 { Glibc.close(descriptor) }
            descriptor = -1
            throw error
        }
    }

    deinit { closeAll() }

    /// Throws when something listens there.
    public static func checkAvailable(_ address: SocketAddress) throws(SocketError) {
        guard address.port != 0 else { return }
        let probe = swl_stream_socket(address.family)
        guard probe >= 0 else { throw SocketError(call: "socket", code: errno) }
        defer { Glibc.close(probe) }
        _ = swl_set_option(probe, SOL_SOCKET, SO_REUSEADDR, 1)
        guard address.withSockaddr({ bind(probe, $0, $1) }) == 0 else { throw SocketError(call: "bind \(address)", code: errno) }
    }

    public var port: UInt16 { address.port }
    /// The listening socket is open.
    public var isAccepting: Bool { descriptor >= 0 }
    public var connectionCount: Int { connections.count }

    public override func socketReady(_ readiness: Readiness) {
        for _ in 0..<Self.acceptsPerWake {
            guard descriptor >= 0, !isPaused else { return }
            guard connections.count < limits.connections else { return pause() }
            var storage = sockaddr_storage()
            var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
            let accepted = withUnsafeMutablePointer(to: &storage) { pointer in
                pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { swl_accept(descriptor, $0, &length) }
            }
            guard accepted >= 0 else {
                switch errno {
                case EAGAIN: return
                case EMFILE, ENFILE, ENOBUFS, ENOMEM: return pause()
                default: continue  // ECONNABORTED and its like concern that client alone
                }
            }
            adopt(accepted, peer: SocketAddress(storage: storage, length: length))
        }
        callAgain()
    }

    private func adopt(_ accepted: CInt, peer: SocketAddress) {
        guard application.admitsConnection() else {
            Glibc.close(accepted)
            return
        }
        // The descriptor is closed with its socket when the connection cannot be made.
        var made: DownstreamConnection?
        if let tls {
            if let socket = ByteSocket(descriptor: accepted, tls: tls.current, channel: loop.tlsChannel) {
                made = try? DownstreamConnection(socket: socket, peer: peer, listener: self)
            } else {
                application.handshakeFailed(.other)
            }
        } else {
            made = try? DownstreamConnection(socket: ByteSocket(descriptor: accepted), peer: peer, listener: self)
        }
        guard let connection = made else { return }
        connection.listIndex = connections.count
        connections.append(connection)
        application.connectionCountChanged(by: 1)
    }

    /// No descriptor or no place left: look again when a connection ends, or in a while, instead of spinning.
    private func pause() {
        isPaused = true
        setDeadline(loop.now &+ 100_000_000)
    }

    public override func deadlineReached() {
        isPaused = false
        socketReady(.readable)
    }

    func forget(_ connection: DownstreamConnection) {
        guard connection.listIndex < connections.count, connections[connection.listIndex] === connection else { return }
        connections.swapAt(connection.listIndex, connections.count - 1)
        connections[connection.listIndex].listIndex = connection.listIndex
        connections.removeLast()
        application.connectionCountChanged(by: -1)
        if isPaused { setDeadline(loop.now) }
    }

    /// Closes the listening socket; connections go on.
    public func stopAccepting() {
        guard descriptor >= 0 else { return }
        isPaused = false
        detach()
        Glibc.close(descriptor)
        descriptor = -1
    }

    /// Takes no new connection and no new request; lets those under way finish. Done when `connectionCount` is 0.
    public func drain() {
        stopAccepting()
        application.drainBegan()
        for connection in connections { connection.drain() }
    }

    /// Closes everything at once.
    public func closeAll() {
        stopAccepting()
        while let connection = connections.last { connection.close() }
    }
}
