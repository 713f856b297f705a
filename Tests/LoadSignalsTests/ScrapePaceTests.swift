import Testing

@testable import LoadSignals

@Suite struct ScrapePaceTests {
    @Test func aSmallFleetIsAskedAsOftenAsConfigured() {
        let pace = ScrapePace()
        pace.leaders = 1_000
        #expect(pace.leastPauseNanoseconds == LoadSignalSettings().intervalNanoseconds)
    }

    @Test func tenThousandLeadersShareTheBound() {
        let pace = ScrapePace()
        pace.leaders = 10_000
        let perSecond = 10_000 * 1e9 / Double(pace.leastPauseNanoseconds)
        #expect(perSecond == Double(ScrapePace.greatestRate))
    }

    @Test func pausesDifferByAFifthEitherWayAndKeepTheBound() {
        let pace = ScrapePace()
        func pauses(of nanoseconds: UInt64) -> [UInt64] { (0..<1_000).map { _ in pace.jittered(nanoseconds) }.sorted() }
        let five = pauses(of: 5_000_000_000)
        #expect(five[0] >= 4_000_000_000 && five[999] <= 6_000_000_000)
        #expect(five[100] < 4_500_000_000 && five[900] > 5_500_000_000, "they are not all alike")
        pace.leaders = 10_000
        #expect(pauses(of: 5_000_000_000)[0] >= 40_000_000_000)
    }
}
