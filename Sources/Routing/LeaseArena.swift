/// One booked request: what ending it must give back, and what its answer can teach.
struct Booking: BitwiseCopyable {
    /// Odd while the booking is open; a lease of another generation is stale.
    var generation: UInt32
    /// Links free bookings, as index plus one.
    var nextFree: UInt32
    var slot: UInt32
    var groupGeneration: UInt32
    var awaitsFirstToken: Bool
    var isProbe: Bool
    var isStreamed: Bool
    /// Answers that it asks for, at least 1.
    var sequences: Int32
    /// Whether the matched part of the prompt was known to be computed when the request was booked.
    var matchIsPrefilled: Bool
    /// The client sent tokens, see `RoutingRequest.promptTokens`.
    var hasKnownTokens: Bool
    /// Neighbours among the group's unstreamed bookings, as index plus one.
    var olderUnstreamed: UInt32
    var newerUnstreamed: UInt32
    /// Order of booking over all groups.
    var sequence: UInt64
    var bookedAt: UInt64
    var presumedPrefilledAt: UInt64
    /// Whether its first token will tell of prefill alone, see `RoutingState.quietShare`.
    var isQuiet: Bool
    /// The group's rank in the prompt's order, or `OthersHits.unranked`.
    var rank: UInt8
    /// Whether so much of `uncachedTokens` is an expectation that only the answer's usage will tell what was prefilled.
    var awaitsUsage: Bool
    var firstTokenAt: UInt64 = 0
    /// Its share of `GroupLoad.decodesSince`.
    var decodesSince: UInt64 = 0
    /// Natural logarithm of the length that the fleet was taught so far of this answer, which still goes on; 0: nothing yet.
    var taughtLength = 0.0
    // Whole numbers from here to `outputTokens`, so that what is added and taken away cancels exactly.
    /// Its share of `GroupLoad.activeTokens`.
    var activeTokens: Double
    var uncachedTokens: Double
    /// Its share of `GroupLoad.queuedWork`.
    var prefillWork: Double
    /// Its share of `GroupLoad.generatedTokens`.
    var generatedTokens = 0.0
    var outputTokens: Double
    var workAheadAtBooking: Double
    var promptBytes: Double
    /// Bytes that the index held, before the hit yield is applied.
    var matchedBytes: Double
    /// Prompt tokens behind the last whole chunk.
    var tailTokens: Double
    /// What the engine was expected to hold behind the match.
    var continuation: PrefixIndex.Continuation
    /// See `RoutingRequest.promptDigest`; where it was sent, and its whole chunks.
    var promptDigest: UInt64
    var holder: UInt16
    var chunks: UInt16
    var insertion: PrefixIndex.Insertion
}

/// All open bookings: a fixed arena whose memory is touched only as far as requests were ever open at once.
struct LeaseArena: ~Copyable {
    var bookings: LazyBuffer<Booking>
    private var freeBooking: UInt32 = 0
    private var firstUnused: UInt32 = 0
    private(set) var openCount = 0
    /// Sequences of the open bookings.
    var openSequences = 0

    init(limit: Int) { bookings = LazyBuffer(count: limit) }

    var isFull: Bool { openCount >= bookings.count }

    /// Opens a booking; the caller has checked `isFull` and fills the record except for its generation.
    mutating func open() -> UInt32 {
        var index = firstUnused
        if freeBooking != 0 {
            index = freeBooking - 1
            freeBooking = bookings[index].nextFree
        } else {
            firstUnused += 1
        }
        bookings[index].generation &+= 1
        openCount += 1
        return index
    }

    /// The index of an open booking, or nil for a lease that was ended before or was never given out.
    @inline(__always)
    func index(of lease: Lease) -> UInt32? {
        guard lease.index < firstUnused, lease.generation & 1 == 1, bookings[lease.index].generation == lease.generation else { return nil }
        return lease.index
    }

    mutating func close(_ index: UInt32) {
        bookings[index].generation &+= 1
        bookings[index].nextFree = freeBooking
        freeBooking = index + 1
        openCount -= 1
    }
}
