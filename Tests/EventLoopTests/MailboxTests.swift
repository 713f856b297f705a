import Dispatch
import Synchronization
import Testing

@testable import EventLoop

@Suite struct MailboxTests {
    /// Numbers in the order in which a loop got them, by sender. Confined to the loop that carries it as a service.
    private final class Inbox {
        var received: [[Int]] = Array(repeating: [], count: 8)
        var total = 0
    }

    private func wait(_ semaphore: DispatchSemaphore) -> Bool {
        semaphore.wait(timeout: .now() + .nanoseconds(Int(patienceNanoseconds))) == .success
    }

    @Test func nothingIsLostOrReorderedUnderContention() throws {
        let perSender = 5_000
        let senders = 8
        let thread = try LoopThread.start(label: "test") { $0.addService(Inbox()) }
        let done = DispatchSemaphore(value: 0)
        DispatchQueue.concurrentPerform(iterations: senders) { sender in
            for number in 0..<perSender {
                thread.mailbox.post { loop in
                    guard let inbox = loop.service(Inbox.self) else { return }
                    inbox.received[sender].append(number)
                    inbox.total += 1
                    if inbox.total == senders * perSender { done.signal() }
                }
            }
        }
        #expect(wait(done))
        let copy = Mutex<[[Int]]>([])
        thread.mailbox.post { loop in
            let received = loop.service(Inbox.self)?.received ?? []
            copy.withLock { $0 = received }
            done.signal()
        }
        #expect(wait(done))
        #expect(copy.withLock { $0 } == Array(repeating: Array(0..<perSender), count: senders))
        thread.stopAndWait()
    }

    @Test func aMessageMayPostAnother() throws {
        let thread = try LoopThread.start(label: "test") { _ in }
        let order = Mutex<[Int]>([])
        let done = DispatchSemaphore(value: 0)
        thread.mailbox.post { loop in
            loop.mailbox.post { _ in
                order.withLock { $0.append(2) }
                done.signal()
            }
            order.withLock { $0.append(1) }
        }
        #expect(wait(done))
        #expect(order.withLock { $0 } == [1, 2])
        thread.stopAndWait()
    }

    @Test func messagesBeforeTheStopAreRun() throws {
        let thread = try LoopThread.start(label: "test") { _ in }
        let count = Mutex(0)
        for _ in 0..<1_000 { thread.mailbox.post { _ in count.withLock { $0 += 1 } } }
        thread.stopAndWait()
        #expect(count.withLock { $0 } == 1_000)
    }

    @Test func aFailedSetUpIsThrownAtTheStarter() {
        struct Refused: Error, Equatable {}
        #expect(throws: Refused()) { try LoopThread.start(label: "test") { _ in throw Refused() } }
    }

    @Test func setUpIsThroughWhenStartReturns() throws {
        let isReady = Mutex(false)
        let thread = try LoopThread.start(label: "test") { loop in
            loop.addService(Inbox())
            let found = loop.service(Inbox.self) != nil && loop.service(Watchdog.self) == nil
            isReady.withLock { $0 = found }
        }
        #expect(isReady.withLock { $0 })
        thread.stopAndWait()
    }
}
