import Testing

@testable import EventLoop

/// Notes when it was called; stops its loop when told to.
private final class Alarm: EventHandler {
    private let name: Int
    private let log: Log
    var stopsLoop = false

    init(loop: EventLoop, name: Int, log: Log) {
        self.name = name
        self.log = log
        super.init(loop: loop)
    }

    override func deadlineReached() {
        log.names.append(name)
        if stopsLoop { loop.stop() }
    }
}

private final class Log { var names: [Int] = [] }

@Suite struct EventLoopTests {
    @Test func deadlinesFireInTheirOrder() throws {
        let loop = try EventLoop()
        let log = Log()
        let start = loop.now
        for (name, milliseconds) in [(1, 3), (2, 1), (3, 2)] {
            Alarm(loop: loop, name: name, log: log).setDeadline(start + UInt64(milliseconds) * 1_000_000)
        }
        let last = Alarm(loop: loop, name: 4, log: log)
        last.stopsLoop = true
        last.setDeadline(start + 5_000_000)
        loop.run()
        #expect(log.names == [2, 3, 1, 4])
        #expect(loop.now >= start + 5_000_000)
    }

    @Test func deadlinesMoveAndVanish() throws {
        let loop = try EventLoop()
        let log = Log()
        let start = loop.now
        let later = Alarm(loop: loop, name: 1, log: log)
        later.setDeadline(start + 1_000_000)
        later.setDeadline(start + 6_000_000)
        let earlier = Alarm(loop: loop, name: 2, log: log)
        earlier.setDeadline(start + 3_600_000_000_000)
        earlier.setDeadline(start + 2_000_000)
        let cleared = Alarm(loop: loop, name: 3, log: log)
        cleared.setDeadline(start + 1_000_000)
        cleared.setDeadline(nil)
        let detached = Alarm(loop: loop, name: 4, log: log)
        detached.setDeadline(start + 1_000_000)
        detached.detach()
        let last = Alarm(loop: loop, name: 5, log: log)
        last.stopsLoop = true
        last.setDeadline(start + 8_000_000)
        loop.run()
        #expect(log.names == [2, 1, 5])
    }

    @Test func messagesFromManyThreadsAllArriveInTheirOrder() async throws {
        let thread = try LoopThread.start(label: "test") { loop in loop.addService(Received()) }
        await withTaskGroup(of: Void.self) { group in
            for sender in 0..<4 {
                group.addTask {
                    for number in 0..<500 { thread.mailbox.post { $0.service(Received.self)?.numbers[sender].append(number) } }
                }
            }
        }
        let numbers = await withCheckedContinuation { continuation in
            thread.mailbox.post { continuation.resume(returning: $0.service(Received.self)?.numbers ?? []) }
        }
        thread.stopAndWait()
        #expect(numbers == Array(repeating: Array(0..<500), count: 4))
    }

    private final class Received { var numbers = [[Int]](repeating: [], count: 4) }

    @Test(arguments: ["127.0.0.1:80", "[::1]:65535", "0.0.0.0:0"])
    func addressesAreReadAndWrittenAlike(text: String) { #expect(SocketAddress(text)?.description == text) }

    @Test(arguments: ["", "localhost:1", "127.0.0.1", "127.0.0.1:65536", "1.2.3:4", "[::1:80"])
    func whatIsNoAddressIsNone(text: String) { #expect(SocketAddress(text) == nil) }
}

@Suite struct ByteBufferTests {
    @Test func aBufferHoldsWhatANaiveOneHolds() {
        var generator = SystemSeed(state: 7)
        let pool = ChunkPool()
        var buffer = ByteBuffer(pool: pool)
        var model: [UInt8] = []
        for _ in 0..<4_000 {
            switch Int.random(in: 0..<6, using: &generator) {
            case 0, 1:
                let bytes = (0..<Int.random(in: 0...9_000, using: &generator)).map { UInt8(truncatingIfNeeded: $0 &* 31) }
                bytes.withUnsafeBytes { buffer.append($0) }
                model += bytes
            case 2:
                let value = Int.random(in: 0...Int.max, using: &generator) >> Int.random(in: 0...62, using: &generator)
                buffer.append(decimal: value)
                model += Array(String(value).utf8)
            case 3:
                let value = Int.random(in: 0...Int.max, using: &generator) >> Int.random(in: 0...62, using: &generator)
                buffer.append(hexadecimal: value)
                model += Array(String(value, radix: 16).utf8)
            default:
                let count = Int.random(in: 0...buffer.count, using: &generator)
                buffer.consume(count)
                model.removeFirst(count)
            }
            #expect(buffer.count == model.count)
            if !buffer.readable.elementsEqual(model) {
                Issue.record("contents differ")
                return
            }
        }
    }

    @Test func anEmptyBufferHoldsNoMemory() {
        let pool = ChunkPool()
        var buffer = ByteBuffer(pool: pool)
        buffer.append("x")
        buffer.consume(1)
        #expect(buffer.isEmpty && buffer.spareCapacity == 0)
    }

    private struct SystemSeed: RandomNumberGenerator {
        var state: UInt64
        mutating func next() -> UInt64 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return state ^ (state >> 29)
        }
    }
}
