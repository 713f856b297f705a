/// What we had on a group at one moment.
struct OwnLoad: BitwiseCopyable {
    var requests: Int32 = 0
    var inFlight: Int32 = 0
    var awaitingFirstToken: Int32 = 0
    var activeTokens: Float = 0
    var queuedTokens: Float = 0

    func peak(with other: OwnLoad) -> OwnLoad {
        OwnLoad(
            requests: max(requests, other.requests), inFlight: max(inFlight, other.inFlight),
            awaitingFirstToken: max(awaitingFirstToken, other.awaitingFirstToken),
            activeTokens: max(activeTokens, other.activeTokens), queuedTokens: max(queuedTokens, other.queuedTokens))
    }
}

/// What we had on each group over about the last second, in ticks of 8.4 ms: a report tells of the past, and only what was ours
/// then may be taken off it.
struct OwnLoadHistory: ~Copyable {
    struct Sample: BitwiseCopyable {
        /// Zero: empty.
        var tick: UInt32
        /// In force until the first change within the tick.
        var before: OwnLoad
        var peak: OwnLoad
    }

    /// Ticks that are remembered.
    static let depth = 128
    private static let tickShift: UInt64 = 23
    /// Nanoseconds of a tick.
    static let tickNanoseconds: UInt64 = 1 << tickShift

    /// `depth` samples per group, one for each tick in which something changed.
    private var samples: LazyBuffer<Sample>

    init(groups: Int) { samples = LazyBuffer(count: groups * Self.depth) }

    private static func tick(_ time: UInt64) -> UInt64 { (time >> tickShift) &+ 1 }

    private func place(_ slot: UInt32, _ tick: UInt64) -> Int {
        Int(slot) &* Self.depth &+ Int(tick & UInt64(Self.depth &- 1))
    }

    /// Notes a change from `old` to `new`.
    func changed(_ slot: UInt32, from old: OwnLoad, to new: OwnLoad, now: UInt64) {
        let tick = Self.tick(now)
        let place = place(slot, tick)
        if samples[place].tick == UInt32(truncatingIfNeeded: tick) {
            samples[place].peak = samples[place].peak.peak(with: new)
        } else {
            samples[place] = Sample(tick: UInt32(truncatingIfNeeded: tick), before: old, peak: old.peak(with: new))
        }
    }

    /// The most that we had at any time between `from` and `through`; of times before the oldest that is known, what we had then.
    func peak(_ slot: UInt32, from: UInt64, through: UInt64, current: OwnLoad, now: UInt64) -> OwnLoad {
        let newest = Self.tick(now)
        let oldest = newest > UInt64(Self.depth) ? newest &- UInt64(Self.depth) &+ 1 : 1
        let first = max(Self.tick(from), oldest)
        let last = max(Self.tick(through), oldest)
        var result: OwnLoad?
        var tick = first
        while tick <= newest {
            let sample = samples[place(slot, tick)]
            if sample.tick == UInt32(truncatingIfNeeded: tick) {
                // The first change after the window tells what was in force throughout it.
                guard tick <= last else { return result ?? sample.before }
                result = result.map { $0.peak(with: sample.peak) } ?? sample.peak
            } else if tick >= last, let result {
                return result
            }
            tick &+= 1
        }
        return result ?? current
    }

    /// A new group has no past.
    func clear(_ slot: UInt32) {
        for tick in 0..<UInt64(Self.depth) { samples[place(slot, tick)].tick = 0 }
    }
}
