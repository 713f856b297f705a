import Glibc
import Testing

@testable import EventLoop

/// Nothing here takes a second; a loop that takes ten is stuck.
let patienceNanoseconds: UInt64 = 10_000_000_000

/// Stops a loop that would never end by itself.
final class Watchdog: EventHandler {
    private(set) var hasBarked = false

    override init(loop: EventLoop) {
        super.init(loop: loop)
        setDeadline(loop.now + patienceNanoseconds)
    }

    override func deadlineReached() {
        hasBarked = true
        loop.stop()
    }
}

/// Runs a loop on this thread until something stops it.
func run(_ loop: EventLoop, sourceLocation: SourceLocation = #_sourceLocation) {
    let watchdog = Watchdog(loop: loop)
    loop.run()
    #expect(!watchdog.hasBarked, "the loop did not stop by itself", sourceLocation: sourceLocation)
    watchdog.detach()
}

/// A handler made of closures, for tests alone.
final class ScriptedHandler: EventHandler {
    var onReady: (ScriptedHandler, Readiness) -> Void = { _, _ in }
    var onDeadline: (ScriptedHandler) -> Void = { _ in }
    var onTurnEnd: (ScriptedHandler) -> Void = { _ in }

    override func socketReady(_ readiness: Readiness) { onReady(self, readiness) }
    override func deadlineReached() { onDeadline(self) }
    override func turnEnded() { onTurnEnd(self) }
}

/// Two connected stream sockets that do not block; closed when the pair goes, unless they were closed before.
final class SocketPair {
    private var ends: [CInt] = [-1, -1]

    init() throws {
        let type = CInt(SOCK_STREAM.rawValue) | CInt(SOCK_NONBLOCK.rawValue) | CInt(SOCK_CLOEXEC.rawValue)
        try #require(socketpair(AF_UNIX, type, 0, &ends) == 0)
    }

    deinit {
        closeEnd(0)
        closeEnd(1)
    }

    var near: CInt { ends[0] }

    func closeEnd(_ index: Int) {
        if ends[index] >= 0 { close(ends[index]) }
        ends[index] = -1
    }

    /// Hands an end over to someone who closes it.
    func take(_ index: Int) -> CInt {
        defer { ends[index] = -1 }
        return ends[index]
    }

    func writeFar(_ text: String) {
        let bytes = Array(text.utf8)
        #expect(write(ends[1], bytes, bytes.count) == bytes.count)
    }
}
