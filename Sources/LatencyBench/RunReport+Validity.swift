import Reporting

extension RunReport {
    static let nothingSucceeded = "no request succeeded"
    static let wereSent = "requests were sent"

    /// The half of the rule that compares the generator's lag with the latency itself; nil while the lag's p99 is within a hundredth of
    /// the TTFT's p50.
    var relativeLagReason: String? {
        guard let lag = metrics["generator_lag"], let ttft = metrics["ttft"], lag.count > 0, ttft.count > 0,
            Double(lag.p99) * 100 > Double(ttft.p50)
        else { return nil }
        return
            "the generator's own lag has a p99 of \(Self.milliseconds(lag.p99)) ms, over 1 % of the TTFT's p50 (\(Self.milliseconds(ttft.p50)) ms)"
    }

    /// What makes a run invalid of which only differences between runs in turns are used. There the latency may be the microseconds that are
    /// sought, a hundredth of which no generator keeps; its lag is on both sides and in their spread. All other reasons count.
    public var invalidReasonsOfDifferences: [String] {
        let relative = relativeLagReason
        return invalidReasons.filter { $0 != relative }
    }

    /// What makes a run invalid that is to tell whether a target holds: there the lag counts against the target's own times, of which it must
    /// be no hundredth, instead of the latency, which may be far below. That nothing succeeded, or that sessions broke off, is an answer.
    func invalidReasons(for target: GoodputTarget) -> [String] {
        let unspecific = invalidReasonsOfDifferences.filter { reason in
            !(sent > 0 && reason == Self.nothingSucceeded) && !(sessions != nil && failed > 0 && reason.hasSuffix(Self.wereSent))
        }
        let bound = [target.ttftMilliseconds, target.endToEndMilliseconds].compactMap { $0 }.min()
        guard let bound, let lag = metrics["generator_lag"], offeredRate != nil, lag.count > 0, Double(lag.p99) > bound * 1e4 else {
            return unspecific
        }
        return unspecific + [
            "the generator's own lag has a p99 of \(Self.milliseconds(lag.p99)) ms, over 1 % of the target's \(Self.number(bound)) ms"
        ]
    }
}
