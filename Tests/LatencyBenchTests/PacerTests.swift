@testable import LatencyBench
import Testing

@Suite struct PacerTests {
    private let millisecond: UInt64 = 1_000_000

    /// A server of one worker, 5 ms per request, that does nothing between 2 s and 3 s; in virtual time.
    private func play(_ mode: RequestPacer.Mode) -> (scheduled: [UInt64], sent: [UInt64]) {
        let offsets = (0..<500).map { UInt64($0) * 10 * millisecond }
        var pacer = RequestPacer(
            mode: mode, startNanoseconds: 0, offsets: offsets, nextTurn: Array(repeating: -1, count: 500),
            thinkNanoseconds: Array(repeating: 0, count: 500))
        var (scheduled, sent): ([UInt64], [UInt64]) = ([], [])
        var under: [(index: Int, due: UInt64, sent: UInt64, ends: UInt64)] = []
        var (now, freeAt): (UInt64, UInt64) = (0, 0)
        while pacer.remaining > 0 {
            while let issue = pacer.take(at: now) {
                var start = max(now, freeAt)
                if start >= 2_000 * millisecond, start < 3_000 * millisecond { start = 3_000 * millisecond }
                freeAt = start + 5 * millisecond
                under.append((issue.index, issue.dueNanoseconds, now, freeAt))
            }
            let end = under.map(\.ends).min() ?? .max
            now = min(end, pacer.inFlight == 0 || mode == .open(limit: nil) ? pacer.nextDueNanoseconds ?? .max : end)
            for one in under where one.ends == now {
                scheduled.append(now - one.due)
                sent.append(now - one.sent)
                pacer.finished(one.index, at: now)
            }
            under.removeAll { $0.ends == now }
        }
        return (scheduled.sorted(), sent.sorted())
    }

    /// Behind a limit of one, as behind vLLM bench's semaphore, 499 of 500 requests wait in the generator where the send's clock does
    /// not see them.
    @Test func aStallOfASecondShowsOnTheScheduleAndHidesOnTheSend() {
        let (scheduled, sent) = play(.open(limit: 1))
        #expect(sent[494] == 5 * millisecond, "p99 from the send")
        #expect(scheduled[499] == 1_005 * millisecond, "the request that was due when the stall began")
        // The queue of 100 empties at 5 ms a request while one comes in 10 ms: the fifth-longest wait is 20 ms shorter.
        #expect(scheduled[494] == 980 * millisecond, "p99 from the schedule")
    }

    @Test func withoutALimitBothClocksSeeTheStall() {
        let (scheduled, sent) = play(.open(limit: nil))
        #expect(scheduled == sent)
        #expect(scheduled[494] == 980 * millisecond)
    }

    /// A drain is counted from here: a session whose next turn is known is not over before it.
    @Test func theLastDueTimeMovesWithSessions() {
        var pacer = RequestPacer(
            mode: .open(limit: nil), startNanoseconds: 1_000, offsets: [0, 0, 50], nextTurn: [1, -1, -1], thinkNanoseconds: [0, 300, 0])
        #expect(pacer.lastDueNanoseconds == 1_050)
        _ = pacer.take(at: 1_000)
        pacer.finished(0, at: 1_900)
        #expect(pacer.lastDueNanoseconds == 2_200)
        let empty = RequestPacer(mode: .open(limit: nil), startNanoseconds: 7, offsets: [], nextTurn: [], thinkNanoseconds: [])
        #expect(empty.lastDueNanoseconds == 7 && empty.remaining == 0)
    }

    @Test func aSessionGoesOnAfterItsAnswerAndItsThinking() {
        var pacer = RequestPacer(
            mode: .open(limit: nil), startNanoseconds: 1_000, offsets: [0, 0, 50], nextTurn: [1, -1, -1],
            thinkNanoseconds: [0, 300, 0])
        #expect(pacer.take(at: 999) == nil)
        #expect(pacer.take(at: 1_000) == .init(index: 0, dueNanoseconds: 1_000))
        #expect(pacer.take(at: 1_000) == nil)
        #expect(pacer.nextDueNanoseconds == 1_050)
        #expect(pacer.take(at: 1_060) == .init(index: 2, dueNanoseconds: 1_050))
        pacer.finished(0, at: 2_000)
        #expect(pacer.nextDueNanoseconds == 2_300)
        #expect(pacer.take(at: 2_300) == .init(index: 1, dueNanoseconds: 2_300))
        pacer.finished(1, at: 2_400)
        pacer.finished(2, at: 2_400)
        #expect(pacer.remaining == 0)
    }

    @Test func aFailedTurnEndsItsSession() {
        var pacer = RequestPacer(
            mode: .open(limit: nil), startNanoseconds: 0, offsets: [0, 0, 0], nextTurn: [1, 2, -1], thinkNanoseconds: [0, 0, 0])
        #expect(pacer.take(at: 0)?.index == 0)
        pacer.finished(0, at: 5, endsSession: true)
        #expect(pacer.remaining == 0)
        #expect(pacer.nextDueNanoseconds == nil)
    }

    @Test func aClosedLoopKeepsItsNumberUnderWay() {
        var pacer = RequestPacer(
            mode: .closed(concurrency: 2), startNanoseconds: 10, offsets: [0, 0, 0], nextTurn: [-1, -1, -1], thinkNanoseconds: [0, 0, 0])
        #expect(pacer.take(at: 9) == nil)
        #expect(pacer.take(at: 20)?.dueNanoseconds == 20)
        #expect(pacer.take(at: 20)?.index == 1)
        #expect(pacer.take(at: 20) == nil)
        pacer.finished(0, at: 70)
        #expect(pacer.take(at: 70) == .init(index: 2, dueNanoseconds: 70))
    }
}
