/// What is known of one leader and of the questions to it, for people.
public struct LeaderState: Sendable {
    public let group: String
    public private(set) var engine: EngineKind?
    /// By `ScrapeOutcome.allCases`.
    private var outcomes = [UInt64](repeating: 0, count: ScrapeOutcome.allCases.count)
    public private(set) var lastOutcome: ScrapeOutcome?
    public internal(set) var scrapeSeconds = 0.0
    public internal(set) var scrapeBytes: UInt64 = 0
    /// Since the first reading, over restarts; nil: the engine does not count them.
    public private(set) var prefixQueries: Double?
    public private(set) var prefixHits: Double?
    public private(set) var preemptions: Double?
    public private(set) var restarts: UInt64 = 0
    public private(set) var isAsleep = false
    public private(set) var runningAdapters: [String] = []
    public private(set) var waitingAdapters: [String] = []

    init(group: String) { self.group = group }

    mutating func count(_ outcome: ScrapeOutcome) {
        lastOutcome = outcome
        if let place = ScrapeOutcome.allCases.firstIndex(of: outcome) { outcomes[place] &+= 1 }
    }

    /// Those that occurred.
    public var counts: [(outcome: ScrapeOutcome, count: UInt64)] { zip(ScrapeOutcome.allCases, outcomes).filter { $0.1 > 0 }.map { $0 } }

    mutating func take(_ reading: EngineReading, _ history: ReadingHistory) {
        engine = reading.engine
        prefixQueries = history.prefixQueries.total
        prefixHits = history.prefixHits.total
        preemptions = history.preemptions.total
        restarts = history.restarts
        isAsleep = reading.isAsleep
        runningAdapters = reading.adapters?.running ?? []
        waitingAdapters = reading.adapters?.waiting ?? []
    }
}
