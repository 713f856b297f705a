/// A figure that loses its meaning with age.
struct AgedValue: BitwiseCopyable {
    var value = 0.0
    /// When it was true; 0: never.
    var at: UInt64 = 0
    /// One over the age in seconds at which nothing is left of it.
    var inverseLife = 0.0

    /// exp(−age/τ) as (1 − age/4τ)⁴, which costs no call and reaches zero at four times τ.
    @inline(__always)
    func weight(now: UInt64) -> Double {
        guard at != 0 else { return 0 }
        let left = max(1 - now.seconds(since: at) * inverseLife, 0)
        return left * left * left * left
    }

    /// The figure as it stands now: what is no longer known of it is taken to be like `mean`.
    @inline(__always)
    func value(now: UInt64, mean: Double) -> Double { mean + (value - mean) * weight(now: now) }
}

extension AgedValue {
    /// - Parameter timeConstant: τ in seconds.
    init(_ value: Double, at time: UInt64, timeConstant: Double) {
        self.init(value: value, at: max(time, 1), inverseLife: 0.25 / timeConstant)
    }
}

/// What others have on one group, by its latest reports.
struct OthersLoad: BitwiseCopyable {
    /// Sequences without a first token, as far as the engine tells, and their uncached tokens; other sequences, and tokens of the KV cache that
    /// all of them hold.
    var waiting = AgedValue()
    var queuedTokens = AgedValue()
    var running = AgedValue()
    var activeTokens = AgedValue()

    /// What was reported, for people: negative is not said.
    var reportedRunning = -1.0
    var reportedWaiting = -1.0
    var reportedAwaitingFirstToken = -1.0
    var reportedPrefillTokens = -1.0
    var reportedQueuedTokens = -1.0
    var toldQueuedTokensAt: UInt64 = 0
    var reportedInFlight = -1.0
    var reportedKVUsage = -1.0
    var reportedAt: UInt64 = 0
    /// When the engine last said who is being prefilled; 0: never.
    var toldPrefillAt: UInt64 = 0
    var reports: UInt64 = 0
}

/// What others have on a group on average: what a group has of which nothing is known, or not any more.
///
/// Were an old report's load to fade to nothing, the group heard of longest ago would look the emptiest and draw everyone.
struct FleetOthers: BitwiseCopyable {
    var waiting = 0.0
    var queuedTokens = 0.0
    var running = 0.0
    var activeTokens = 0.0
    private var reports = 0.0
    private var latest = AgedValue()

    /// Seconds after which the mean itself fades when nobody reports any more.
    private static let timeConstant = 15.0

    /// One group's figures enter the mean; one lying group moves it by little: what is beyond four times the mean counts as that.
    mutating func observe(
        waiting: Double?, queuedTokens: Double?, running: Double?, activeTokens: Double?, groups: Int, at time: UInt64
    ) {
        reports = min(reports + 1, 1_000_000)
        let share = max(1 / reports, 1 / Double(max(groups, 8)))
        let isFirst = reports == 1
        func move(_ mean: inout Double, to value: Double?, floor: Double) {
            guard let value else { return }
            mean += share * ((isFirst ? value : min(value, 4 * mean + floor)) - mean)
        }
        move(&self.waiting, to: waiting, floor: 4)
        move(&self.queuedTokens, to: queuedTokens, floor: 65_536)
        move(&self.running, to: running, floor: 16)
        move(&self.activeTokens, to: activeTokens, floor: 65_536)
        latest = AgedValue(0, at: max(time, latest.at), timeConstant: Self.timeConstant)
    }

    /// How much the mean still says.
    func weight(now: UInt64) -> Double { latest.weight(now: now) }
}
