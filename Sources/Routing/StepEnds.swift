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

    /// - Parameter generation: of the group that is meant: streams go on when theirs is gone, and another one is in its slot.
    @inline(__always)
    func note(slot: UInt32, generation: UInt32, now: UInt64) {
        let now = now / 1_000 & Self.timeMask
        let last = microseconds[Int(slot)].load(ordering: .relaxed)
        // A loop whose clock is behind has seen the same step.
        guard last &>> 48 == UInt64(generation & 0xffff), now > (last & Self.timeMask) &+ Self.sameStepMicroseconds else { return }
        _ = microseconds[Int(slot)].weakCompareExchange(
            expected: last, desired: last & ~Self.timeMask | now, ordering: .relaxed)
    }

    /// Nothing has been seen of the group that is in the slot from now on.
    func begin(slot: UInt32, generation: UInt32) {
        microseconds[Int(slot)].store(UInt64(generation & 0xffff) &<< 48, ordering: .relaxed)
    }

    /// Nine years of microseconds; above them the lower half of the group's generation.
    private static var timeMask: UInt64 { 1 << 48 - 1 }

    /// Seconds since then; years when none was seen.
    @inline(__always)
    func seconds(since slot: UInt32, nowMicroseconds: UInt64) -> Double {
        let last = microseconds[Int(slot)].load(ordering: .relaxed) & Self.timeMask
        // Signed: another loop's clock may be a little ahead of this one's.
        return last == 0 ? 1e9 : max(Double(Int64(bitPattern: nowMicroseconds &- last)), 0) * 1e-6
    }
}
