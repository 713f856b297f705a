import Testing

@testable import LoadSignals

@Suite struct MutenessTests {
    private let minute: UInt64 = 60_000_000_000

    @Test func itIsAskedEverMoreSeldomAndNeverGivenUp() {
        var mute = Muteness(pause: minute)
        let pauses = (0..<200).map { _ in mute.nextPause(now: 0, interval: 0) / minute }
        #expect(pauses.prefix(6) == [1, 2, 4, 8, 8, 8] && pauses.last == 8)
    }

    @Test func oneThatHasToldOrWasGoneIsNew() {
        var mute = Muteness(pause: minute)
        for _ in 0..<5 { _ = mute.nextPause(now: 0, interval: 0) }
        mute.end()
        let pause = mute.nextPause(now: 0, interval: 0)
        #expect(pause == minute)
    }

    @Test func oneThatFailedRequestsAndServesAgainHasComeBack() {
        var mute = Muteness(pause: minute)
        for _ in 0..<5 { _ = mute.nextPause(now: 0, interval: 0) }
        let returns = [0, 0, 1, 4, 0, 0].map { mute.hasComeBack(failures: $0) }
        #expect(returns == [false, false, false, false, true, false])
        let pause = mute.nextPause(now: 0, interval: 0)
        #expect(pause == minute, "another process may say more")
    }

    @Test func whatFailedBeforeItToldIsOver() {
        var mute = Muteness(pause: minute)
        _ = mute.hasComeBack(failures: 2)
        mute.end()
        let hasComeBack = mute.hasComeBack(failures: 0)
        #expect(!hasComeBack)
    }

    @Test func oneThatHasRequestsOfOursIsAskedEveryMinute() {
        var mute = Muteness(pause: minute)
        for round in 1...5 as ClosedRange<UInt64> {
            _ = mute.nextPause(now: round * 10 * minute, interval: 0)
            #expect(mute.dueAtWithRequests == (round * 10 + 1) * minute)
        }
    }

    @Test func noneIsAskedMoreOftenThanIsSet() {
        var mute = Muteness(pause: minute)
        let pauses = (0..<4).map { _ in mute.nextPause(now: minute, interval: 3 * minute) / minute }
        #expect(pauses == [3, 3, 4, 8])
        #expect(mute.dueAtWithRequests == 4 * minute)
    }
}
