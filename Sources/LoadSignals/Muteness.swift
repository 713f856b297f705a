/// How long a leader is let alone that has nothing to say of its load, wherever it is asked: a server of another kind stays one until
/// another process takes its place. TensorRT-LLM looks like one until its first request has ended, so work of ours makes the pauses short.
struct Muteness {
    /// The first, in nanoseconds.
    private let pause: UInt64
    /// Rounds in a row of every question there is, none of them answered.
    private var rounds: UInt64 = 0
    private var hasFailed = false
    /// When the next question is due at the latest, as long as it has requests of ours.
    private(set) var dueAtWithRequests = UInt64.max

    /// From one minute to eight.
    private static let mostDoublings: UInt64 = 3

    init(pause: UInt64) { self.pause = pause }

    /// Nanoseconds from one more such round, at `now`, to the next; no fewer than the `interval`.
    mutating func nextPause(now: UInt64, interval: UInt64) -> UInt64 {
        defer { rounds = min(rounds + 1, Self.mostDoublings) }
        dueAtWithRequests = now &+ max(pause, interval)
        return max(pause << rounds, interval)
    }

    /// It has told something, or is gone.
    mutating func end() { self = Muteness(pause: pause) }

    /// - Parameter failures: in a row, of requests that could not reach it.
    /// - Returns: whether it failed when it was looked at last, and serves again.
    mutating func hasComeBack(failures: Int) -> Bool {
        guard failures == 0, hasFailed else {
            hasFailed = failures > 0
            return false
        }
        end()
        return true
    }
}
