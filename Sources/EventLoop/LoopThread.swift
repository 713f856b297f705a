import Dispatch

/// A loop on a thread of its own: one long block on a serial Dispatch queue. A serial queue has the overcommitting root queue
/// as its target, so a block that never returns takes no worker from anybody else.
public struct LoopThread: Sendable {
    public let mailbox: Mailbox
    /// What came of `realTime`.
    public let schedule: ThreadSchedule
    private let finished: DispatchGroup

    /// Makes a loop, runs `setUp` on it, and serves it until it is stopped. Returns once `setUp` is through, or throws what it threw.
    /// - Parameter realTime: how its thread is scheduled, `setUp` included; throws where `on` is refused.
    public static func start(label: String, realTime: RealTimeRequest = .off, setUp: @escaping @Sendable (EventLoop) throws -> Void)
        throws -> LoopThread
    {
        let queue = DispatchQueue(label: label, qos: .userInteractive)
        let finished = DispatchGroup()
        let outcome = StartOutcome()
        finished.enter()
        queue.async {
            defer { finished.leave() }
            do {
                let schedule = try ThreadSchedule.enter(realTime)
                // The thread is Dispatch's, which gives it other work afterwards.
                defer { schedule.leave() }
                let loop = try EventLoop()
                try setUp(loop)
                outcome.resolve(.success(Started(mailbox: loop.mailbox, schedule: schedule)))
                loop.run()
            } catch {
                outcome.resolve(.failure(error))
            }
        }
        let started = try outcome.wait().get()
        return LoopThread(mailbox: started.mailbox, schedule: started.schedule, finished: finished)
    }

    fileprivate struct Started {
        let mailbox: Mailbox
        let schedule: ThreadSchedule
    }

    /// Asks the loop to stop and waits until its thread has left it.
    public func stopAndWait() {
        mailbox.post { $0.stop() }
        finished.wait()
    }
}

/// Hands the result of a loop's start from its thread to the starter.
/// Unchecked: `result` is written once before `signal()` and read only after `wait()`.
private final class StartOutcome: @unchecked Sendable {
    private let ready = DispatchSemaphore(value: 0)
    private var result: Result<LoopThread.Started, any Error>?

    func resolve(_ result: Result<LoopThread.Started, any Error>) {
        self.result = result
        ready.signal()
    }

    func wait() -> Result<LoopThread.Started, any Error> {
        ready.wait()
        return result ?? .failure(SocketError(call: "start", code: 0))
    }
}
