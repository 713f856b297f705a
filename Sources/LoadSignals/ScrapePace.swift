/// How often one leader may be asked, given how many there are: a router's questions to all of them together have a bound, so
/// that a fleet of thousands costs the router no more than one of hundreds, and is known a little later. Confined to the control loop.
final class ScrapePace {
    /// Questions per second to all leaders together.
    static let greatestRate: UInt64 = 200

    var leaders = 0

    /// The least time between two questions to one leader, in nanoseconds.
    var leastPauseNanoseconds: UInt64 { UInt64(leaders) &* (1_000_000_000 / Self.greatestRate) }

    /// A pause of about so many nanoseconds, so that replicas of the router, started together, do not ask together.
    func jittered(_ nanoseconds: UInt64) -> UInt64 {
        UInt64(Double(max(nanoseconds, leastPauseNanoseconds)) * Double.random(in: 0.8...1.2))
    }

    /// A pause of `pause` or, where an engine takes so long for an answer that it would spend more than `share` of its time on it, a longer
    /// one; of no more than the longest that there is, or the `configured`. All in nanoseconds.
    static func affordable(_ pause: UInt64, answerSeconds: Double, share: Double, configured: UInt64) -> UInt64 {
        let affordable = UInt64(min(answerSeconds, 60) / share * 1e9)
        return min(max(pause, affordable), max(LoadSignalSettings.longestIntervalNanoseconds, configured))
    }
}
