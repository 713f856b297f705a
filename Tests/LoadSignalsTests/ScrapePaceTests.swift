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
}
