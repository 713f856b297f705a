/// How well a HTTP/2 client behaves: two allowances that refill with time and that frames without use take from. Each such frame
/// costs its sender next to nothing and us some work; in good order they are few.
struct PeerConduct {
    private var resets: Allowance
    private var idleFrames: Allowance

    init(limits: TransportLimits, now: UInt64) {
        resets = Allowance(perSecond: limits.resetsPerSecond, now: now)
        idleFrames = Allowance(perSecond: TransportLimits.idleFramesPerSecond, now: now)
    }

    /// What may come at once, of something that may come so often in a second.
    static func burst(_ perSecond: Int) -> Int { perSecond &* 10 }

    var isExhausted: Bool { resets.isExhausted || idleFrames.isExhausted }

    mutating func reset(at now: UInt64) { resets.take(at: now) }
    mutating func idleFrame(at now: UInt64) { idleFrames.take(at: now) }
}

/// A token bucket, filled when it is asked.
private struct Allowance {
    private let perSecond: Int
    private var left: Int
    private var filledAt: UInt64
    private(set) var isExhausted = false

    init(perSecond: Int, now: UInt64) {
        self.perSecond = perSecond
        left = PeerConduct.burst(perSecond)
        filledAt = now
    }

    mutating func take(at now: UInt64) {
        // In whole tenths of a second, so that small steps are not rounded away.
        let tenths = (now &- filledAt) / 100_000_000
        if tenths > 0 {
            filledAt &+= tenths &* 100_000_000
            left = min(PeerConduct.burst(perSecond), left &+ Int(min(tenths, 1_000)) &* perSecond / 10)
        }
        left &-= 1
        if left < 0 { isExhausted = true }
    }
}
