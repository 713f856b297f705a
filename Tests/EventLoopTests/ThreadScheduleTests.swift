import Glibc
import Synchronization
import Testing

@testable import EventLoop

@Suite struct ThreadScheduleTests {
    @Test func autoLeavesACoreToOthers() {
        for (loops, cores, expected) in [
            (1, 1, RealTimeRequest.auto), (1, 2, .auto), (2, 2, .off), (2, 1, .off), (3, 4, .auto), (4, 4, .off),
        ] {
            #expect(RealTimeRequest.auto.resolved(loops: loops, cores: cores) == expected)
            #expect(RealTimeRequest.on.resolved(loops: loops, cores: cores) == .on)
            #expect(RealTimeRequest.off.resolved(loops: loops, cores: cores) == .off)
        }
    }

    /// Whether this system permits it or not, `auto` starts, and says what came of it.
    @Test func autoSaysWhatCameOfIt() throws {
        let inside = Mutex(ThreadSchedule.ordinary)
        let thread = try LoopThread.start(label: "test", realTime: .auto) { _ in inside.withLock { $0 = .current } }
        defer { thread.stopAndWait() }
        switch thread.schedule {
        case .realTime(let priority):
            #expect(priority == RealTimeRequest.priority)
            #expect(inside.withLock { $0 } == thread.schedule)
        case .refused(let code):
            #expect(code == EPERM)
            #expect(inside.withLock { $0 } == .ordinary)
            #expect(throws: SocketError.self) { try LoopThread.start(label: "test", realTime: .on) { _ in } }
        case .ordinary: Issue.record("neither granted nor refused")
        }
    }

    @Test func offIsOrdinary() throws {
        let thread = try LoopThread.start(label: "test") { _ in }
        defer { thread.stopAndWait() }
        #expect(thread.schedule == .ordinary)
    }

    /// The thread goes back to a pool, and what it starts meanwhile serves others.
    @Test func itIsNeitherKeptNorInherited() throws {
        let schedule = try ThreadSchedule.enter(.auto)
        let child = Mutex(ThreadSchedule.refused(code: 0))
        let thread = try LoopThread.start(label: "test") { _ in child.withLock { $0 = .current } }
        thread.stopAndWait()
        schedule.leave()
        #expect(child.withLock { $0 } == .ordinary)
        #expect(ThreadSchedule.current == .ordinary)
    }

    @Test func itIsNamedInWords() {
        #expect("\(ThreadSchedule.ordinary)" == "ordinary")
        #expect("\(ThreadSchedule.realTime(priority: 10))" == "real-time (SCHED_RR 10)")
        #expect("\(ThreadSchedule.refused(code: EPERM))" == "ordinary (real-time was refused: Operation not permitted)")
    }
}
