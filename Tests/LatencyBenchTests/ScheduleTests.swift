import Foundation
@testable import LatencyBench
import Testing

@Suite struct ScheduleTests {
    private func gaps(_ process: ArrivalSchedule.Process) -> [Double] {
        let schedule = ArrivalSchedule(process, stages: [.init(startRate: 1_000, seconds: 40)], seed: 7)
        let times = schedule.arrivals.map { Double($0.offsetNanoseconds) / 1e9 }
        return zip(times.dropFirst(), times).map { $0 - $1 }
    }

    private func moments(_ values: [Double]) -> (mean: Double, variation: Double) {
        let mean = values.reduce(0, +) / Double(values.count)
        let variance = values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(values.count)
        return (mean, variance.squareRoot() / mean)
    }

    @Test(arguments: [
        (ArrivalSchedule.Process.constant, 0.0), (.poisson, 1), (.gamma(coefficientOfVariation: 0.5), 0.5),
        (.gamma(coefficientOfVariation: 2), 2), (.weibull(shape: 1), 1), (.weibull(shape: 2), 0.5227),
    ]) func gapsHaveTheirMeanAndScatter(process: ArrivalSchedule.Process, variation: Double) {
        let found = moments(gaps(process))
        #expect(abs(found.mean * 1_000 - 1) < 0.03)
        #expect(abs(found.variation - variation) < 0.02 + 0.04 * variation)
    }

    @Test func aScheduleIsItsSeed() {
        func schedule(_ seed: UInt64) -> ArrivalSchedule { .init(.poisson, stages: [.init(startRate: 50, seconds: 5)], seed: seed) }
        #expect(schedule(1) == schedule(1))
        #expect(schedule(1).hash == schedule(1).hash)
        #expect(schedule(1).hash != schedule(2).hash)
    }

    @Test func aConstantStageHasAllItsRequestsAndARampItsRates() {
        let constant = ArrivalSchedule(.constant, stages: [.init(startRate: 30, seconds: 7)], seed: 1)
        #expect(constant.arrivals.count == 210)
        let ramp = ArrivalSchedule(.constant, stages: [.init(startRate: 0, endRate: 100, seconds: 10)], seed: 1)
        #expect(ramp.arrivals.count == 500)
        // Under a ramp from nothing a quarter of the requests comes in the first half.
        #expect(ramp.arrivals.filter { $0.offsetNanoseconds <= 5_000_000_000 }.count == 125)
    }

    @Test func stagesFollowOneAnotherWithTheirGaps() throws {
        let schedule = ArrivalSchedule(
            .poisson, stages: [.init(startRate: 100, seconds: 1, gapSeconds: 2), .init(startRate: 200, seconds: 1)], seed: 3)
        let second = schedule.arrivals.filter { $0.stage == 1 }
        #expect(try #require(second.first).offsetNanoseconds >= 3_000_000_000)
        #expect(try #require(schedule.arrivals.last).offsetNanoseconds <= 4_000_000_000)
        #expect(schedule.durationNanoseconds == 4_000_000_000)
    }

    @Test func aTraceIsSortedAndScaled() {
        let schedule = ArrivalSchedule(traceOffsetsNanoseconds: [3_000, 1_000, 2_000], scale: 2)
        #expect(schedule.arrivals.map(\.offsetNanoseconds) == [0, 2_000, 4_000])
    }

    @Test func equalIdsAreEqualTextAndOneTokenAWord() {
        func text(_ id: UInt64, _ tokens: Int) -> [UInt8] {
            var text: [UInt8] = []
            PromptText.append(id: id, tokens: tokens, to: &text)
            return text
        }
        #expect(text(7, 512) == text(7, 512))
        #expect(text(7, 512) != text(8, 512))
        #expect(text(7, 512).starts(with: text(7, 100)))
        for tokens in [0, 1, 5, 512, 513] { #expect(text(9, tokens).filter { $0 == 0x20 }.count == tokens) }
    }
}

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
