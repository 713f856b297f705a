import Synchronization

/// When the last step of each group's engine ended, by slot. An engine sends the tokens of its whole batch as a step ends, and lets waiting
/// requests in before the next one begins: whoever passes its streams on knows how long a request would wait to be let in.
///
/// Outside of the table's lock, since all loops tell it whatever they pass on.
// @unchecked: the atomics are owned by this object alone and live as long.
final class StepEnds: @unchecked Sendable {
    private let microseconds: UnsafeMutablePointer<Atomic<UInt64>>

    init(groups: Int) {
        microseconds = .allocate(capacity: groups)
        for slot in 0..<groups { (microseconds + slot).initialize(to: Atomic(0)) }
    }

    deinit { microseconds.deallocate() }

    /// The tokens of one step come in a row, and the first are the nearest to its end.
    private static var sameStepMicroseconds: UInt64 { 2_000 }

    @inline(__always)
    func note(slot: UInt32, now: UInt64) {
        let now = now / 1_000
        let last = microseconds[Int(slot)].load(ordering: .relaxed)
        // A loop whose clock is behind has seen the same step.
        if now > last &+ Self.sameStepMicroseconds { microseconds[Int(slot)].store(now, ordering: .relaxed) }
    }

    func forget(slot: UInt32) { microseconds[Int(slot)].store(0, ordering: .relaxed) }

    /// Seconds since then; years when none was seen.
    @inline(__always)
    func seconds(since slot: UInt32, nowMicroseconds: UInt64) -> Double {
        let last = microseconds[Int(slot)].load(ordering: .relaxed)
        // Signed: another loop's clock may be a little ahead of this one's.
        return last == 0 ? 1e9 : max(Double(Int64(bitPattern: nowMicroseconds &- last)), 0) * 1e-6
    }
}
