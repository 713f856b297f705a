/// What successive readings of one engine tell that none tells alone.
struct ReadingHistory {
    enum Verdict {
        case fresh
        /// It says that it is busy, and nothing has moved since the last reading: an answer from some cache, or an engine that hangs.
        /// What it says of its load is as old as the reading that was last fresh.
        case frozen
        /// It counts anew: the process before it is gone, and its cache with it.
        case restarted
    }

    /// A counter of the engine's as it grew since the first reading, over restarts.
    struct Count {
        private(set) var total: Double?
        private var last: Double?

        mutating func observe(_ value: Double?) {
            guard let value else { return }
            if let last { total = (total ?? 0) + (value >= last ? value - last : value) } else { total = 0 }
            last = value
        }
    }

    private(set) var prefixQueries = Count()
    private(set) var prefixHits = Count()
    private(set) var preemptions = Count()
    private(set) var restarts: UInt64 = 0
    /// What the last process had come to, right after it seemed to be gone; and how often it was there again.
    private var gone: Double?
    private var returns = 0
    /// Whether several processes take turns to answer: no two readings in a row need be of the same one.
    var isOfSeveral: Bool { returns >= Self.returnsOfSeveral }
    /// Readings in a row that say the same.
    private var alike = 0
    private var last: (progress: Double, running: Double?, waiting: Double?, kvUsage: Double?)?

    /// Counts that went back and were there again at once, after which they are several.
    static let returnsOfSeveral = 2
    /// Readings alike, of an engine without counters, from which on it counts as frozen.
    static let readingsOfFrozen = 3

    /// Sequences that run fill the cache: while its use stays the same to the last digit, none does. From counts of sequences alone nothing follows,
    /// a full batch has the same for minutes.
    private mutating func judgeWithoutCounters(_ reading: EngineReading) -> Verdict {
        let isLike =
            reading.isBusy && (reading.kvUsage ?? 0) > 0 && reading.kvUsage == last?.kvUsage && reading.running == last?.running
            && reading.waiting == last?.waiting
        last = (0, reading.running, reading.waiting, reading.kvUsage)
        alike = isLike ? alike + 1 : 1
        return alike >= Self.readingsOfFrozen ? .frozen : .fresh
    }

    mutating func judge(_ reading: EngineReading) -> Verdict {
        prefixQueries.observe(reading.prefixQueries)
        prefixHits.observe(reading.prefixHits)
        preemptions.observe(reading.preemptions)
        guard let progress = reading.progress else { return judgeWithoutCounters(reading) }
        let before = last
        last = (progress, reading.running, reading.waiting, reading.kvUsage)
        guard let before else { return .fresh }
        if let gone, progress >= gone { returns += 1 }
        gone = nil
        // Several processes behind one address take turns to answer: none of them began anew, nor does one tell of the others.
        if progress < before.progress, !isOfSeveral {
            gone = before.progress
            restarts += 1
            return .restarted
        }
        let hasMoved =
            progress != before.progress || reading.running != before.running || reading.waiting != before.waiting
            || reading.kvUsage != before.kvUsage
        return hasMoved || !reading.isBusy ? .fresh : .frozen
    }
}
