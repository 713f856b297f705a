import Testing

@testable import LoadSignals

@Suite struct MutenessTests {
    private let minute: UInt64 = 60_000_000_000

    @Test func itIsAskedEverMoreSeldomAndNeverGivenUp() {
        var mute = Muteness()
        let pauses = (0..<200).map { _ in mute.nextPause() / minute }
        #expect(pauses.prefix(6) == [1, 2, 4, 8, 8, 8] && pauses.last == 8)
    }

    @Test func oneThatHasToldOrWasGoneIsNew() {
        var mute = Muteness()
        for _ in 0..<5 { _ = mute.nextPause() }
        mute.end()
        let pause = mute.nextPause()
        #expect(pause == minute)
    }

    @Test func oneThatFailedRequestsAndServesAgainHasComeBack() {
        var mute = Muteness()
        for _ in 0..<5 { _ = mute.nextPause() }
        let returns = [0, 0, 1, 4, 0, 0].map { mute.hasComeBack(failures: $0) }
        #expect(returns == [false, false, false, false, true, false])
        let pause = mute.nextPause()
        #expect(pause == minute, "another process may say more")
    }

    @Test func whatFailedBeforeItToldIsOver() {
        var mute = Muteness()
        _ = mute.hasComeBack(failures: 2)
        mute.end()
        let hasComeBack = mute.hasComeBack(failures: 0)
        #expect(!hasComeBack)
    }
}
