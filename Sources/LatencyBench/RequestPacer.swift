import HeapModule

/// Which request is to be sent now: the schedule, sessions, and a limit on what is under way. A value without I/O or clock.
///
/// A request is *due* at a time that only the schedule knows (or, for a session's next turn, the end of the answer before plus the
/// think time). If the limit makes it wait beyond that, the wait belongs to the user's latency: it is counted from when it was due.
public struct RequestPacer: Sendable {
    public enum Mode: Sendable, Equatable {
        /// Requests are due at their times; at most so many are under way, nil: any number.
        case open(limit: Int?)
        /// Always so many under way, whatever the schedule says: a request is due when another has ended.
        case closed(concurrency: Int)

        /// The part of its limit that part `number` of `parts` gets, so that all parts together have the whole of it.
        public func share(_ number: Int, of parts: Int) -> Mode {
            func part(_ whole: Int) -> Int { whole / parts + (number < whole % parts ? 1 : 0) }
            return switch self {
            case .open(let limit): .open(limit: limit.map(part))
            case .closed(let concurrency): .closed(concurrency: part(concurrency))
            }
        }

        /// What may be under way at once; nil: any number.
        public var limit: Int? {
            switch self {
            case .open(let limit): limit
            case .closed(let concurrency): concurrency
            }
        }
    }

    public struct Issue: Sendable, Equatable {
        public var index: Int
        /// When it was due, on the caller's clock.
        public var dueNanoseconds: UInt64
    }

    private struct Due: Comparable, Sendable {
        var at: UInt64
        var index: Int
        static func < (left: Self, right: Self) -> Bool { (left.at, left.index) < (right.at, right.index) }
    }

    public let mode: Mode
    private let offsets: [UInt64]
    private let nextTurn: [Int32]
    private let thinkNanoseconds: [UInt64]
    private let firsts: [Int32]
    private var cursor = 0
    private var followUps = Heap<Due>()
    private let startNanoseconds: UInt64
    public private(set) var inFlight = 0
    /// The latest time at which a request that is known was or will be due: by the schedule, or as a session's next turn.
    public private(set) var lastDueNanoseconds: UInt64
    /// Sessions whose next turn is not due yet, or under way.
    public private(set) var remaining: Int

    /// - Parameters:
    ///   - offsets: nanoseconds since the start, per request; of a session only the first counts.
    ///   - nextTurn: per request the index of its session's next one, or -1.
    ///   - thinkNanoseconds: per request the pause between the answer before and it.
    ///   - indices: the requests that are this pacer's, in the order of their times; nil: all. Whole sessions.
    public init(
        mode: Mode, startNanoseconds: UInt64, offsets: [UInt64], nextTurn: [Int32], thinkNanoseconds: [UInt64], indices: [Int32]? = nil
    ) {
        self.mode = mode
        self.offsets = offsets
        self.nextTurn = nextTurn
        self.thinkNanoseconds = thinkNanoseconds
        self.startNanoseconds = startNanoseconds
        var isFollowUp = [Bool](repeating: false, count: offsets.count)
        for next in nextTurn where next >= 0 { isFollowUp[Int(next)] = true }
        let own = indices ?? offsets.indices.map { Int32($0) }
        remaining = own.count
        firsts = own.filter { !isFollowUp[Int($0)] }
        lastDueNanoseconds = startNanoseconds &+ (firsts.map { offsets[Int($0)] }.max() ?? 0)
    }

    /// The next request that is due by `now` and may be under way; it is counted as sent.
    public mutating func take(at now: UInt64) -> Issue? {
        switch mode {
        case .open(let limit):
            if let limit, inFlight >= limit { return nil }
            guard let due = nextDueNanoseconds, due <= now else { return nil }
            inFlight += 1
            if let followUp = followUps.min, followUp.at == due {
                followUps.removeMin()
                return Issue(index: followUp.index, dueNanoseconds: due)
            }
            defer { cursor += 1 }
            return Issue(index: Int(firsts[cursor]), dueNanoseconds: due)
        case .closed(let concurrency):
            guard inFlight < concurrency, now >= startNanoseconds else { return nil }
            if let followUp = followUps.min, followUp.at <= now {
                followUps.removeMin()
                inFlight += 1
                return Issue(index: followUp.index, dueNanoseconds: followUp.at)
            }
            guard cursor < firsts.count else { return nil }
            defer { cursor += 1 }
            inFlight += 1
            return Issue(index: Int(firsts[cursor]), dueNanoseconds: now)
        }
    }

    /// The answer to `index` is over; its session goes on unless `endsSession`.
    public mutating func finished(_ index: Int, at now: UInt64, endsSession: Bool = false) {
        inFlight -= 1
        remaining -= 1
        var next = Int(nextTurn[index])
        guard next >= 0 else { return }
        if endsSession {
            // What would have been said after a failed answer is not said.
            while next >= 0 {
                remaining -= 1
                next = Int(nextTurn[next])
            }
        } else {
            let due = now &+ thinkNanoseconds[next]
            followUps.insert(Due(at: due, index: next))
            lastDueNanoseconds = max(lastDueNanoseconds, due)
        }
    }

    /// When `take` may have something that it has not now; nil: not before something ends.
    public var nextDueNanoseconds: UInt64? {
        let scheduled: UInt64? =
            cursor < firsts.count ? (isClosed ? startNanoseconds : startNanoseconds &+ offsets[Int(firsts[cursor])]) : nil
        guard let followUp = followUps.min?.at else { return scheduled }
        return min(scheduled ?? .max, followUp)
    }

    /// The index that the schedule gives after `count` others; for preparing it ahead. Later turns of sessions are not among them.
    public func scheduledIndex(ahead count: Int) -> Int? { cursor + count < firsts.count ? Int(firsts[cursor + count]) : nil }

    private var isClosed: Bool { if case .closed = mode { true } else { false } }
}
