import CLinux
import Glibc
import Synchronization

/// The only way into a loop from another thread: messages run on the loop, in order.
public final class Mailbox: Sendable {
    public typealias Message = @Sendable (EventLoop) -> Void

    private let messages = Mutex<[Message]>([])
    let descriptor: CInt

    init() throws(SocketError) {
        descriptor = swl_eventfd()
        guard descriptor >= 0 else { throw SocketError(call: "eventfd", code: errno) }
    }

    deinit { close(descriptor) }

    /// Runs `message` on the loop. A loop that has stopped never runs it.
    public func post(_ message: @escaping Message) {
        let wasEmpty = messages.withLock { messages in
            messages.append(message)
            return messages.count == 1
        }
        guard wasEmpty else { return }
        var one: UInt64 = 1
        // Fails only when the counter is full, and then the loop is awake anyway.
        _ = write(descriptor, &one, MemoryLayout<UInt64>.size)
    }

    func deliver(to loop: EventLoop) {
        var counter: UInt64 = 0
        _ = read(descriptor, &counter, MemoryLayout<UInt64>.size)
        let batch = messages.withLock { messages in
            let batch = messages
            messages = []
            return batch
        }
        for message in batch { message(loop) }
    }
}
