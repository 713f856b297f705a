/// What a run sums up.
struct Measured {
    private var ttft: [Float] = []
    private var tpot: [Float] = []
    private var sumTTFT = 0.0
    private var sumEndToEnd = 0.0
    private var firstArrival = UInt64.max
    private var lastEnd: UInt64 = 0
    private var outputTokens = 0
    private var promptTokens = 0
    private var cachedTokens = 0
    private var overpredicted = 0.0
    private var samples: [[Float]] = []
    private var sampleGap: UInt64 = 0
    private(set) var nextSample: UInt64 = .max
    var failed = 0
    var preemptions = 0

    /// Columns of the heat map.
    private static let sampleCount: UInt64 = 60

    /// The heat map is of the time between the arrivals `first` and `last`: with what goes before, a warm-up and the silence after it
    /// would be most of the picture.
    mutating func begin(groups: Int, first: UInt64, last: UInt64) {
        samples = Array(repeating: [], count: groups)
        sampleGap = max((last - min(first, last)) / Self.sampleCount, 1_000_000)
        nextSample = first + sampleGap
    }

    mutating func sample(_ inFlight: [Float]) {
        for (group, value) in inFlight.enumerated() { samples[group].append(value) }
        nextSample = samples[0].count >= Int(Self.sampleCount) ? .max : nextSample + sampleGap
    }

    mutating func scheduled(prompt: Int, cached: Int, predicted: Double) {
        promptTokens += prompt
        cachedTokens += cached
        overpredicted += max(predicted - Double(cached), 0)
    }

    mutating func finished(arrival: UInt64, first: UInt64, end: UInt64, tokens: Int) {
        let seconds = Double(first - arrival) / 1e9
        ttft.append(Float(seconds))
        sumTTFT += seconds
        sumEndToEnd += Double(end - arrival) / 1e9
        if tokens > 1 { tpot.append(Float(Double(end - first) / 1e9 / Double(tokens - 1))) }
        outputTokens += tokens
        firstArrival = min(firstArrival, arrival)
        lastEnd = max(lastEnd, end)
    }

    consuming func outcome(fingerprint: UInt64) -> SimulationOutcome {
        var outcome = SimulationOutcome()
        let count = Double(max(ttft.count, 1))
        ttft.sort()
        tpot.sort()
        outcome.ttft = ttft
        outcome.meanTTFT = sumTTFT / count
        outcome.meanEndToEnd = sumEndToEnd / count
        outcome.meanTPOT = tpot.reduce(0) { $0 + Double($1) } / Double(max(tpot.count, 1))
        outcome.p99TPOT = tpot.isEmpty ? 0 : Double(tpot[min(tpot.count - 1, tpot.count * 99 / 100)])
        outcome.outputTokensPerSecond = lastEnd > firstArrival ? Double(outputTokens) / (Double(lastEnd - firstArrival) / 1e9) : 0
        outcome.hitShare = Double(cachedTokens) / Double(max(promptTokens, 1))
        outcome.overpredictedShare = overpredicted / Double(max(promptTokens, 1))
        outcome.failed = failed
        outcome.preemptions = preemptions
        outcome.shares = samples
        outcome.fingerprint = fingerprint
        return outcome
    }
}
