/// How long a leader is let alone that has nothing to say of its load, wherever it is asked: a server of another kind stays one until
/// another process takes its place.
struct Muteness {
    /// Rounds in a row of every question there is, none of them answered.
    private var rounds: UInt64 = 0
    private var hasFailed = false

    /// Doublings of `LoadSignalSettings.longestPauseNanoseconds`, to eight minutes.
    private static let mostDoublings: UInt64 = 3

    /// Nanoseconds from one more such round to the next.
    mutating func nextPause() -> UInt64 {
        defer { rounds = min(rounds + 1, Self.mostDoublings) }
        return LoadSignalSettings.longestPauseNanoseconds << rounds
    }

    /// It has told something, or is gone.
    mutating func end() { self = Muteness() }

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
