/// How fast a request's body comes: enough in each term, or it is given up. Who sends a byte now and then is never silent for long, and would
/// hold a request for ever.
///
/// A value without a clock; times in nanoseconds. Budget per read of a body: two additions.
struct BodyPace {
    private var termBegan: UInt64
    private var movedAt: UInt64
    private var bytes = 0

    enum Verdict: Equatable {
        /// Look again then.
        case fine(until: UInt64)
        case tooSlow
    }

    init(now: UInt64) {
        termBegan = now
        movedAt = now
    }

    mutating func received(_ count: Int, at now: UInt64) {
        movedAt = now
        bytes &+= count
    }

    /// To be called when the time that the last verdict named has come; the first is the beginning and `term`.
    /// - Parameters:
    ///   - term: nothing may fail to come for longer, and each has to bring its share.
    ///   - bytesPerSecond: that share; 0 asks for no more than a byte now and then.
    mutating func judge(at now: UInt64, term: UInt64, bytesPerSecond: Int) -> Verdict {
        let silenceEnds = movedAt &+ term
        guard now < silenceEnds else { return .tooSlow }
        guard bytesPerSecond > 0 else { return .fine(until: silenceEnds) }
        if now &- termBegan >= term {
            let wanted = Double(bytesPerSecond) * Double(now &- termBegan) / 1e9
            guard Double(bytes) >= wanted else { return .tooSlow }
            termBegan = now
            bytes = 0
        }
        return .fine(until: min(silenceEnds, termBegan &+ term))
    }

    /// Until then nothing could come.
    mutating func excuse(until time: UInt64) {
        if time > termBegan { restart(at: max(time, movedAt)) }
    }

    /// It was we who took nothing: what came before does not count against the client.
    mutating func restart(at now: UInt64) { self = BodyPace(now: now) }
}
