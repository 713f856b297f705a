import EventLoop
import Glibc

/// A connection between a group's leader and a member: short lines of text, and its end, which is what it is there for.
class LineSocket: EventHandler {
    private var socket: ByteSocket?
    private var input: [UInt8] = []
    private var output: [UInt8] = []
    private var isConnected: Bool

    /// Takes over `descriptor`. `isConnected` is false while a connect is under way.
    init(loop: EventLoop, descriptor: CInt, isConnected: Bool) throws(SocketError) {
        self.isConnected = isConnected
        socket = ByteSocket(descriptor: descriptor)
        super.init(loop: loop)
        try attach(descriptor: descriptor)
    }

    /// A line has come, without its end.
    func received(_ line: String) {}
    /// The other side is gone. No call follows.
    func closed() {}

    final func send(_ line: String) {
        output.append(contentsOf: line.utf8)
        output.append(10)
        flush()
    }

    final func close() {
        guard socket != nil else { return }
        detach()
        socket = nil
    }

    private func end() {
        close()
        closed()
    }

    override func socketReady(_ readiness: Readiness) {
        if !isConnected, readiness.contains(.writable) {
            guard socket?.pendingError() == 0 else { return end() }
            isConnected = true
        }
        flush()
        guard isConnected else {
            if !readiness.intersection([.failed, .hungUp]).isEmpty { end() }
            return
        }
        read()
    }

    private func flush() {
        guard isConnected, !output.isEmpty, socket != nil else { return }
        if case .moved(let count, _) = output.withUnsafeBytes({ socket!.write($0) }) { output.removeFirst(count) }
    }

    private func read() {
        while socket != nil {
            switch socket!.read(into: loop.readBuffer) {
            case .moved(let count, _):
                input.append(contentsOf: loop.readBuffer[..<count])
                guard takeLines() else { return end() }
            case .wouldBlock: return
            case .endOfStream, .failed: return end()
            }
        }
    }

    /// Returns false when a line is longer than any that is spoken here.
    private func takeLines() -> Bool {
        while let end = input.firstIndex(of: 10) {
            let line = String(decoding: input[..<end], as: UTF8.self)
            input.removeFirst(end + 1)
            received(line)
        }
        return input.count <= StubLimits.joinBytes
    }
}
