import Glibc
import Testing

@testable import EventLoop

@Suite struct ByteSocketTests {
    private func read(_ socket: borrowing ByteSocket, _ count: Int) -> (text: String, result: TransferResult) {
        var buffer = [UInt8](repeating: 0, count: count)
        let result = buffer.withUnsafeMutableBytes { socket.read(into: $0) }
        guard case .moved(let moved, _) = result else { return ("", result) }
        return (String(decoding: buffer[..<moved], as: UTF8.self), result)
    }

    /// Results in words, since they carry no equality.
    private func words(_ result: TransferResult) -> String {
        switch result {
        case .moved(let count, let drained): "\(count)\(drained ? " drained" : "")"
        case .wouldBlock: "would block"
        case .endOfStream: "end"
        case .failed(let code): "failed \(code)"
        }
    }

    @Test func readsWhatIsThereAndSaysWhetherThatWasAll() throws {
        let pair = try SocketPair()
        let socket = ByteSocket(descriptor: pair.take(0))
        #expect(words(read(socket, 8).result) == "would block")
        pair.writeFar("abcdef")
        let full = read(socket, 4)
        #expect(full.text == "abcd" && words(full.result) == "4")
        let short = read(socket, 4)
        #expect(short.text == "ef" && words(short.result) == "2 drained")
        pair.closeEnd(1)
        #expect(words(read(socket, 4).result) == "end")
    }

    @Test func writesInOrderUntilTheKernelIsFull() throws {
        let pair = try SocketPair()
        let far = ByteSocket(descriptor: pair.take(1))
        let socket = ByteSocket(descriptor: pair.take(0))
        let head = Array("head ".utf8)
        let body = [UInt8](repeating: 120, count: 4 << 20)
        let result = head.withUnsafeBytes { head in body.withUnsafeBytes { socket.write(head, $0) } }
        guard case .moved(let count, drained: false) = result, count > head.count, count < body.count else {
            Issue.record("4 MiB do not fit into a socket: \(words(result))")
            return
        }
        #expect(words(body.withUnsafeBytes { socket.write($0) }) == "would block")
        #expect(read(far, 8).text == "head xxx")
    }

    @Test func oneOfTwoPiecesMayBeEmpty() throws {
        let pair = try SocketPair()
        let socket = ByteSocket(descriptor: pair.take(0))
        let empty = UnsafeRawBufferPointer(start: nil, count: 0)
        #expect(words(Array("12345".utf8).withUnsafeBytes { socket.write(empty, $0) }) == "5 drained")
        #expect(words(Array("678".utf8).withUnsafeBytes { socket.write($0, empty) }) == "3 drained")
        #expect(read(ByteSocket(descriptor: pair.take(1)), 20).text == "12345678")
    }

    @Test func aWriteToAClosedPeerFailsWithoutASignal() throws {
        let pair = try SocketPair()
        pair.closeEnd(1)
        let socket = ByteSocket(descriptor: pair.take(0))
        #expect(words(Array("x".utf8).withUnsafeBytes { socket.write($0) }) == "failed \(EPIPE)")
    }

    @Test func isStaleOnceThePeerHasSpokenOrGone() throws {
        let pair = try SocketPair()
        let socket = ByteSocket(descriptor: pair.take(0))
        #expect(socket.isStale() == false)
        pair.writeFar("x")
        #expect(socket.isStale() == true)
        // Looking takes nothing away.
        #expect(read(socket, 4).text == "x")
        #expect(socket.isStale() == false)
        pair.closeEnd(1)
        #expect(socket.isStale() == true)
    }
}
