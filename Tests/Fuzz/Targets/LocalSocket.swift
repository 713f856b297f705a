import EventLoop
import Glibc
import Synchronization

/// Addresses and sockets of the harness: abstract Unix sockets, since they cost no port and leave nothing behind.
enum LocalSocket {
    private static let counter = Atomic<Int>(0)

    static func freshAddress() -> SocketAddress {
        let number = counter.add(1, ordering: .relaxed).newValue
        var storage = sockaddr_storage()
        // The two bytes where an IP address has its port must be zero: the first is what makes the name abstract, and a listener
        // writes the port that it reads from them back.
        let name = Array("\0\0swiftlet-fuzz-\(getpid())-\(number)".utf8)
        withUnsafeMutableBytes(of: &storage) { bytes in
            bytes.storeBytes(of: sa_family_t(AF_UNIX), as: sa_family_t.self)
            UnsafeMutableRawBufferPointer(rebasing: bytes[2...]).copyBytes(from: name)
        }
        return SocketAddress(storage: storage, length: socklen_t(2 + name.count))
    }

    static func connect(to address: SocketAddress) -> CInt {
        let descriptor = socket(AF_UNIX, CInt(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue), 0)
        precondition(address.withSockaddr { Glibc.connect(descriptor, $0, $1) } == 0, "connect: \(errno)")
        return descriptor
    }

    /// The next connection, or -1 when none waits.
    static func accept(from listener: CInt) -> CInt {
        let descriptor = Glibc.accept(listener, nil, nil)
        if descriptor >= 0 { _ = fcntl(descriptor, F_SETFL, O_NONBLOCK) }
        return descriptor
    }

    static func listen(on address: SocketAddress) -> CInt {
        let descriptor = socket(AF_UNIX, CInt(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue), 0)
        precondition(address.withSockaddr { bind(descriptor, $0, $1) } == 0 && Glibc.listen(descriptor, 64) == 0, "listen: \(errno)")
        return descriptor
    }
}

/// The far end of a connection: sends its script piece by piece, and reads what comes.
final class ScriptedPeer {
    let descriptor: CInt
    private let pieces: [UnsafeRawBufferPointer]
    private var sent = 0
    private var turnsHeldBack = 0
    private var offset = 0
    private(set) var received: [UInt8] = []
    private(set) var receivedBytes = 0
    private(set) var isOpen = true
    /// A slow reader takes this much at once.
    var readBytes = 64 << 10

    /// `script` must outlive the peer.
    init(descriptor: CInt, script: UnsafeRawBufferPointer, seed: UInt8) {
        self.descriptor = descriptor
        pieces = Pieces.cut(script, seed: seed)
    }

    deinit { close() }

    func close() {
        guard isOpen else { return }
        // A child that another test is starting has a copy until it has become its program.
        shutdown(descriptor, CInt(SHUT_RDWR))
        Glibc.close(descriptor)
        isOpen = false
    }

    var hasSentAll: Bool { sent == pieces.count || !isOpen }

    func beginAgain() {
        sent = 0
        offset = 0
    }

    /// An HTTP/2 server's SETTINGS, which a client waits for before it asks; the script has to wait for the client.
    func greet() {
        let settings: [UInt8] = [0, 0, 0, 4, 0, 0, 0, 0, 0]
        _ = send(descriptor, settings, settings.count, CInt(MSG_NOSIGNAL))
        turnsHeldBack = 2
    }

    /// Sends one piece, as far as it goes. Whether something moved.
    func sendNext() -> Bool {
        guard !hasSentAll else { return false }
        if turnsHeldBack > 0 {
            turnsHeldBack -= 1
            return true
        }
        let piece = UnsafeRawBufferPointer(rebasing: pieces[sent][offset...])
        let count = send(descriptor, piece.baseAddress, piece.count, CInt(MSG_NOSIGNAL))
        if count < 0 {
            // What the other end said before it went is still to be read.
            if errno != EAGAIN { sent = pieces.count }
            return false
        }
        offset += count
        if offset == pieces[sent].count {
            sent += 1
            offset = 0
        }
        return count > 0
    }

    /// Whether something came.
    func receive() -> Bool {
        guard isOpen else { return false }
        return withUnsafeTemporaryAllocation(byteCount: readBytes, alignment: 1) { buffer in
            let count = recv(descriptor, buffer.baseAddress, buffer.count, 0)
            if count > 0 {
                receivedBytes += count
                // Enough to compare.
                if received.count < 64 << 10 { received += buffer[..<count] }
                return true
            }
            if count == 0 { close() }
            return false
        }
    }
}

/// Runs a loop turn by turn until the work is done, without waiting for anything.
final class TurnDriver: EventHandler {
    /// Does one step; returns whether anything moved.
    private let step: () -> Bool
    /// Turns in a row in which nothing moved, after which nothing will.
    private static let quietTurns = 6
    private static let maximumTurns = 20_000
    private var quiet = 0
    private var turns = 0

    private init(loop: EventLoop, step: @escaping () -> Bool) {
        self.step = step
        super.init(loop: loop)
        // A handler is called again only when it has a place in the loop.
        setDeadline(.max - 1)
        callAgain()
    }

    override func socketReady(_ readiness: Readiness) {
        quiet = step() ? 0 : quiet + 1
        turns += 1
        if quiet >= Self.quietTurns || turns >= Self.maximumTurns { loop.stop() } else { callAgain() }
    }

    /// Turns `loop` until `step` has had nothing to do for a while. A loop runs once.
    static func run(_ loop: EventLoop, _ step: @escaping () -> Bool) throws {
        let driver = TurnDriver(loop: loop, step: step)
        loop.run()
        driver.detach()
        try check(driver.turns < maximumTurns, "nothing goes on for ever")
    }
}
