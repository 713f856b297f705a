import Testing

@testable import HTTPTransport

struct PeerConductTests {
    private static let second: UInt64 = 1_000_000_000

    private func conduct(resetsPerSecond: Int) -> PeerConduct {
        var limits = TransportLimits()
        limits.resetsPerSecond = resetsPerSecond
        return PeerConduct(limits: limits, now: 0)
    }

    @Test("Ten times the allowance of a second may come at once, and not one more", arguments: [1, 7, 100])
    func burst(perSecond: Int) {
        var conduct = conduct(resetsPerSecond: perSecond)
        for _ in 0..<perSecond * 10 { conduct.reset(at: 1) }
        #expect(!conduct.isExhausted)
        conduct.reset(at: 1)
        #expect(conduct.isExhausted)
    }

    @Test("The allowance refills with time, up to a burst and no further")
    func refill() {
        var conduct = conduct(resetsPerSecond: 100)
        for _ in 0..<1_000 { conduct.reset(at: 0) }
        for _ in 0..<50 { conduct.reset(at: Self.second / 2) }
        #expect(!conduct.isExhausted)
        // An hour later there is a burst, not an hour's worth.
        for _ in 0..<1_000 { conduct.reset(at: 3_600 * Self.second) }
        #expect(!conduct.isExhausted)
        conduct.reset(at: 3_600 * Self.second)
        #expect(conduct.isExhausted)
    }

    @Test("Small steps of time are not rounded away")
    func smallSteps() {
        var conduct = conduct(resetsPerSecond: 100)
        // A hundred a second for a minute, each at a moment of its own, on top of a burst.
        for _ in 0..<1_000 { conduct.reset(at: 0) }
        for step in UInt64(11)...6_000 where step % 10 == 0 {
            for _ in 0..<10 { conduct.reset(at: step * 10_000_000) }
        }
        #expect(!conduct.isExhausted)
    }

    @Test("Resets and idle frames have an allowance each")
    func apart() {
        var conduct = conduct(resetsPerSecond: 1)
        for _ in 0..<TransportLimits.idleFramesPerSecond * 10 { conduct.idleFrame(at: 0) }
        for _ in 0..<10 { conduct.reset(at: 0) }
        #expect(!conduct.isExhausted)
        conduct.idleFrame(at: 0)
        #expect(conduct.isExhausted)
    }
}
