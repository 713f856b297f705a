// Routing decides which tensor-parallel group answers a request. It is pure: no I/O, no clock, no global randomness; time
// (monotonic nanoseconds) and seeds are arguments, so the same code runs in the proxy and in simulation.
//
// Reading order:
//   1. `GroupDescription`, `RoutingRequest`, `Decision`: what goes in and what comes out.
//   2. `RoutingTable`: the one shared object; every call is one short critical section.
//   3. `RoutingState` and its aspects: groups, choice, booking, reports, learning.
//   4. `CostTerms`: the cost in seconds that `least-cost` minimises, term by term.
//   5. `PrefixIndex`: which group holds how much of which prompt, bounded, with one shadow LRU per group.
//
// Budget of one decision: one uncontended lock, no allocation, memory touched in proportion to the prompt's chunks and to
// the number of candidate groups.

/// How long a group that pushed back counts as saturated, in nanoseconds. An engine's queue turns over in about a second; a
/// longer memory would keep a group idle that has long caught up.
let saturationNanoseconds: UInt64 = 1_000_000_000

/// The longest that `Retry-After` can make it, in nanoseconds: engines guess the time, and a minute's rest would hand their load to others.
let longestSaturationNanoseconds: UInt64 = 10_000_000_000

/// How long a group stays out after its first failure in a row, in nanoseconds; each further failure doubles it.
let firstEjectionNanoseconds: UInt64 = 1_000_000_000

/// The longest time a group stays out before one request probes it, in nanoseconds.
let longestEjectionNanoseconds: UInt64 = 30_000_000_000

/// The least work that any request is charged with, in tokens: one KV block. The engine always recomputes a prompt's last
/// block, and requests without a prompt must still count, or they would all look free and go to one group.
let leastRequestTokens = 16.0

extension UInt64 {
    /// The duration from `earlier` to `self` in seconds, 0 when `earlier` is later.
    @inline(__always)
    func seconds(since earlier: UInt64) -> Double {
        self > earlier ? Double(self &- earlier) * 1e-9 : 0
    }
}
