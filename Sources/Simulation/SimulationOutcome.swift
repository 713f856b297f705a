/// What one run measured. Times in seconds; requests of the warm-up are left out.
public struct SimulationOutcome: Sendable {
    /// Sorted.
    public var ttft: [Float] = []
    public var meanTTFT = 0.0
    /// Time per output token after the first, mean over requests, and its 99th percentile.
    public var meanTPOT = 0.0
    public var p99TPOT = 0.0
    public var meanEndToEnd = 0.0
    /// Output tokens of measured requests over the time from the first one's arrival to the last one's end.
    public var outputTokensPerSecond = 0.0
    /// Share of prompt tokens found in a cache.
    public var hitShare = 0.0
    /// Mean of how far predicted cached tokens were above what was found, as a share of prompt tokens.
    public var overpredictedShare = 0.0
    public var failed = 0
    public var preemptions = 0
    /// Sequences in flight by group, those of the warm-up too, at every sixtieth of the time in which measured requests arrive.
    public var shares: [[Float]] = []
    /// Over everything that was decided, in order; equal runs have equal ones.
    public var fingerprint: UInt64 = 0

    public func ttft(percentile: Double) -> Double {
        ttft.isEmpty ? 0 : Double(ttft[min(ttft.count - 1, Int(percentile / 100 * Double(ttft.count)))])
    }
}
