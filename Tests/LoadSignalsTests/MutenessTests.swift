import Testing

@testable import LoadSignals

@Suite struct MutenessTests {
    private let minute: UInt64 = 60_000_000_000

    @Test func itIsAskedEverMoreSeldomAndNeverGivenUp() {
        var mute = Muteness()
        #expect((0..<6).map { _ in mute.nextPause() / minute } == [1, 2, 4, 8, 8, 8])
        for _ in 0..<200 { _ = mute.nextPause() }
        #expect(mute.nextPause() == 8 * minute)
    }

    @Test func oneThatHasToldOrWasGoneIsNew() {
        var mute = Muteness()
        for _ in 0..<5 { _ = mute.nextPause() }
        mute.end()
        #expect(mute.nextPause() == minute)
    }

    @Test func oneThatFailedRequestsAndServesAgainHasComeBack() {
        var mute = Muteness()
        for _ in 0..<5 { _ = mute.nextPause() }
        func looks(_ failures: Int...) -> [Bool] { failures.map { mute.hasComeBack(failures: $0) } }
        #expect(looks(0, 0, 1, 4, 0, 0) == [false, false, false, false, true, false])
        #expect(mute.nextPause() == minute, "another process may say more")
    }

    @Test func whatFailedBeforeItToldIsOver() {
        var mute = Muteness()
        #expect(!mute.hasComeBack(failures: 2))
        mute.end()
        #expect(!mute.hasComeBack(failures: 0))
    }
}
