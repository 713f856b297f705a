import KubernetesAPI

/// Whether pods count. Slices say who serves, and pods make that better; but for an InferencePool, which has nothing else, a feed of
/// pods that fails must not hold up what slices tell. Pure.
struct PodTrust {
    enum Verdict: Equatable { case awaited, known, without }

    /// A server that has just started refuses everybody before it has read its roles.
    static let refusalsBelieved: UInt64 = 3
    /// How long pods are waited for at the start while something is wrong.
    static let startNanoseconds: UInt64 = 5_000_000_000
    /// How long what is known of pods counts while something is wrong and slices go on.
    static let faultNanoseconds: UInt64 = 30_000_000_000

    /// Since when pods alone are faulty.
    private var faultySince: UInt64?
    private var isWithout = false

    /// - Parameters:
    ///   - hasSynced: whether all pods were known once.
    ///   - fault: of the feed of pods.
    ///   - faults: how many it had.
    ///   - slicesGoOn: nothing is wrong with slices. Otherwise nothing new comes from anywhere, and the last good state stays.
    mutating func verdict(hasSynced: Bool, fault: WatchFault?, faults: UInt64, slicesGoOn: Bool, now: UInt64) -> Verdict {
        guard let fault else {
            (faultySince, isWithout) = (nil, false)
            return hasSynced ? .known : .awaited
        }
        if !isWithout {
            faultySince = slicesGoOn ? faultySince ?? now : nil
            let isRefused = fault.kind == .forbidden || fault.kind == .notServed
            let patience = hasSynced ? Self.faultNanoseconds : Self.startNanoseconds
            isWithout = faultySince.map { now &- $0 >= patience } ?? false
            if !hasSynced, isRefused, faults >= Self.refusalsBelieved { isWithout = true }
        }
        return isWithout ? .without : hasSynced ? .known : .awaited
    }
}
