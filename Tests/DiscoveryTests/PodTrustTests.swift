import KubernetesAPI
import Testing

@testable import Discovery

@Suite struct PodTrustTests {
    private static let overloaded = WatchFault(.overloaded, "429: busy")
    private static let second: UInt64 = 1_000_000_000

    @Test(arguments: [WatchFault.Kind.overloaded, .refused, .malformed, .silent, .unreachable, .forbidden])
    func aFeedThatFailsAtTheStartIsNotWaitedForLong(kind: WatchFault.Kind) {
        var trust = PodTrust()
        let fault = WatchFault(kind, "")
        func verdict(_ time: UInt64) -> PodTrust.Verdict {
            trust.verdict(hasSynced: false, fault: fault, faults: 1, slicesGoOn: true, now: 7 + time)
        }
        #expect(verdict(0) == .awaited)
        #expect(verdict(PodTrust.startNanoseconds - 1) == .awaited)
        #expect(verdict(PodTrust.startNanoseconds) == .without)
        #expect(trust.verdict(hasSynced: true, fault: nil, faults: 1, slicesGoOn: true, now: 9 * Self.second) == .known)
    }

    @Test func whoHasNoRightToReadPodsIsBelievedAtTheThirdRefusal() {
        var trust = PodTrust()
        let fault = WatchFault(.forbidden, "")
        #expect(trust.verdict(hasSynced: false, fault: fault, faults: 2, slicesGoOn: true, now: 1) == .awaited)
        #expect(trust.verdict(hasSynced: false, fault: fault, faults: 3, slicesGoOn: true, now: 2) == .without)
    }

    @Test func whatIsKnownCountsForAWhileAndThenNoMore() {
        var trust = PodTrust()
        func verdict(_ time: UInt64, _ fault: WatchFault?, slicesGoOn: Bool = true) -> PodTrust.Verdict {
            trust.verdict(hasSynced: true, fault: fault, faults: 9, slicesGoOn: slicesGoOn, now: 7 + time)
        }
        #expect(verdict(0, nil) == .known)
        #expect(verdict(1, Self.overloaded) == .known)
        #expect(verdict(PodTrust.faultNanoseconds, Self.overloaded) == .known)
        #expect(verdict(PodTrust.faultNanoseconds + 1, Self.overloaded) == .without)
        // Slices that fail, too, bring nobody's pods back.
        #expect(verdict(PodTrust.faultNanoseconds + 2, Self.overloaded, slicesGoOn: false) == .without)
        #expect(verdict(PodTrust.faultNanoseconds + 3, nil) == .known)
    }

    @Test func whileNothingComesFromAnywhereTheLastGoodStateStays() {
        var trust = PodTrust()
        for time in stride(from: 1, through: 10 * PodTrust.faultNanoseconds, by: Int(Self.second)) {
            #expect(trust.verdict(hasSynced: true, fault: Self.overloaded, faults: 9, slicesGoOn: false, now: time) == .known)
        }
    }
}
