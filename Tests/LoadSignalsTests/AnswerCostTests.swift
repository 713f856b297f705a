import Testing

@testable import LoadSignals

@Suite struct AnswerCostTests {
    private func seconds(_ pause: UInt64) -> Double { Double(pause) * 1e-9 }

    /// - Returns: the pause in seconds after such answers, of a question that is due every second.
    private func pause(after answers: [Double]) -> Double {
        var cost = AnswerCost()
        for answer in answers { cost.observe(seconds: answer) }
        return seconds(ScrapePace.affordable(1_000_000_000, answerSeconds: cost.seconds, share: 0.005, configured: 1_000_000_000))
    }

    @Test func anAnswerOfAMillisecondIsAffordable() { #expect(pause(after: [0.001, 0.001]) == 1) }

    @Test func anEngineGivesNoMoreThanHalfAPercent() {
        let pause = pause(after: .init(repeating: 0.05, count: 100))
        #expect(abs(pause - 10) < 0.01)
    }

    /// What it waited for was a step of the engine's, or other requests; what was asked took no longer than the quick ones.
    @Test func anAnswerThatHadToWaitIsNoCost() {
        #expect(pause(after: [0.001, 0.001, 0.04]) == 1)
        #expect(pause(after: [0.4, 0.001]) == 1)
        #expect(pause(after: [0.2]) < 5, "one is no habit")
    }

    @Test func theLongestPauseHoldsHoweverSlowItIs() {
        let pause = pause(after: .init(repeating: 1e9, count: 50))
        #expect(abs(pause - 30) < 1e-6)
        let configured: UInt64 = 60_000_000_000
        #expect(ScrapePace.affordable(configured, answerSeconds: 1, share: 0.005, configured: configured) == configured)
    }
}
