import EventLoop
import Testing

@testable import ReplicaSync
@testable import Routing

@Suite struct KnownReplicasTests {
    private static let second: UInt64 = 1_000_000_000
    private static let wall: UInt64 = 1_700_000_000_000_000

    private func hear(_ known: inout KnownReplicas, _ envelope: Envelope, now: UInt64 = 0, wall: UInt64 = 0) -> KnownReplicas.Verdict {
        known.hear(envelope, from: somewhere, now: now, wallMicroseconds: wall)
    }

    @Test func ourOwnAreNobodys() {
        var known = KnownReplicas(ownID: 9, checksClocks: false)
        #expect(hear(&known, .of(9)) == .own)
        known.beginAnew(as: 10)
        #expect(hear(&known, .of(9)) == .own && hear(&known, .of(10)) == .own)
        #expect(known.replicas.isEmpty)
    }

    @Test func eachDatagramCountsOnceAndInOrder() {
        var known = KnownReplicas(ownID: 9, checksClocks: false)
        #expect(hear(&known, .of(1, clock: 100, number: 40)) == .counts)
        #expect(hear(&known, .of(1, clock: 100, number: 40)) == .late)
        #expect(hear(&known, .of(1, clock: 99, number: 39)) == .late)
        #expect(hear(&known, .of(1, clock: 101, number: 41)) == .counts)
        // Two are missing, then one of them comes too late.
        #expect(hear(&known, .of(1, clock: 104, number: 44)) == .counts)
        #expect(hear(&known, .of(1, clock: 103, number: 43)) == .late)
        // Another replica's clock is its own.
        #expect(hear(&known, .of(2, clock: 5)) == .counts)
        #expect(known.replicas[1]?.datagrams == 3 && known.replicas[1]?.lost == 2)
        #expect(known.replicas[2]?.datagrams == 1 && known.replicas[2]?.lost == 0)
        // What is no news has the number of the news to come, which may be lost nevertheless.
        #expect(hear(&known, .of(1, clock: 105, number: 45, .handover)) == .counts)
        #expect(hear(&known, .of(1, clock: 106, number: 45, .handover)) == .counts)
        #expect(hear(&known, .of(1, clock: 108, number: 46)) == .counts)
        #expect(known.replicas[1]?.lost == 3)
        #expect(hear(&known, .of(3, clock: 1, number: 7, .question)) == .counts && hear(&known, .of(3, clock: 2, number: 8)) == .counts)
        #expect(known.replicas[3]?.lost == 1)
    }

    @Test func aSignedClockMustBeNearOurs() {
        var known = KnownReplicas(ownID: 9, checksClocks: true)
        for (clock, verdict) in [
            (Self.wall + 60_000_000, .counts), (Self.wall + 60_000_001, .clockApart(seconds: 60)),
            (Self.wall - 60_000_001, .clockApart(seconds: -60)), (Self.wall + 3_600_000_000, .clockApart(seconds: 3_600)),
            (0, .clockApart(seconds: -1_700_000_000)), (.max, .clockApart(seconds: Int64((UInt64.max - Self.wall) / 1_000_000))),
        ] as [(UInt64, KnownReplicas.Verdict)] {
            #expect(hear(&known, .of(1, clock: clock), wall: Self.wall) == verdict, "\(clock)")
        }
        #expect(hear(&known, .of(2, clock: Self.wall - 60_000_000), wall: Self.wall) == .counts)
        #expect(Set(known.replicas.keys) == [1, 2])
        var trusting = KnownReplicas(ownID: 9, checksClocks: false)
        #expect(hear(&trusting, .of(1, clock: 1), wall: Self.wall) == .counts)
    }

    @Test func thereIsRoomForSoManyAndForOneMoreWhenOneHasLeft() {
        var known = KnownReplicas(ownID: 0, checksClocks: false)
        for id in 1...256 as ClosedRange<UInt64> { #expect(hear(&known, .of(id)) == .counts) }
        #expect(hear(&known, .of(257)) == .tooMany)
        #expect(hear(&known, .of(256, clock: 1_001)) == .counts)
        #expect(known.forget(3) != nil)
        #expect(hear(&known, .of(257)) == .counts)
        #expect(hear(&known, .of(258)) == .tooMany)
    }

    @Test func silenceEndsAtItsBound() {
        var known = KnownReplicas(ownID: 0, checksClocks: false)
        _ = hear(&known, .of(1), now: 5 * Self.second)
        _ = hear(&known, .of(2), now: 6 * Self.second)
        #expect(known.nextSilence == 8 * Self.second)
        #expect(known.forgetSilent(now: 8 * Self.second - 1).isEmpty)
        #expect(known.forgetSilent(now: 8 * Self.second).map(\.id) == [1])
        #expect(Array(known.replicas.keys) == [2])
        #expect(known.forget(1) == nil)
    }

    @Test func whoIsGoneIsNotPlayedBack() {
        var known = KnownReplicas(ownID: 0, checksClocks: false)
        _ = hear(&known, .of(1, clock: 100))
        _ = known.forget(1)
        #expect(hear(&known, .of(1, clock: 100)) == .late && hear(&known, .of(1, clock: 50)) == .late)
        #expect(known.replicas.isEmpty)
        // One that was cut off and is back has gone on counting; what it sent meanwhile is not lost to us: nobody waited for it.
        #expect(hear(&known, .of(1, clock: 101, number: 70)) == .counts)
        #expect(known.replicas[1]?.lost == 0)
    }

    @Test func manyThatLeaveTakeBoundedMemory() {
        var known = KnownReplicas(ownID: 0, checksClocks: false)
        for id in 1...1_025 as ClosedRange<UInt64> {
            #expect(hear(&known, .of(id, clock: id)) == .counts)
            _ = known.forget(id)
        }
        // The one whose clock is the oldest made room; by then a signed one is too old anyway.
        #expect(hear(&known, .of(2, clock: 2)) == .late && hear(&known, .of(1_025, clock: 1_025)) == .late)
        #expect(hear(&known, .of(1, clock: 1)) == .counts)
    }

    @Test func boundsFitTogether() {
        #expect(ReplicaBounds.datagramBytes <= 65_507, "UDP over IPv4 carries no more")
        #expect(ReplicaBounds.datagramBytes < EventLoop.readBufferBytes, "one that is longer must be seen to be")
        #expect(2 * ReplicaBounds.heartbeatNanoseconds < ReplicaBounds.silenceNanoseconds, "two heartbeats may be lost")
        #expect(ReplicaBounds.bytesPerRead >= ReplicaBounds.datagramBytes)
        #expect(ReplicaBounds.bytesPerRead >= ReplicaBounds.handoverBytes + 2 * ReplicaBounds.payloadBytes, "a piece is read at once")
        #expect(ReplicaBounds.clockMicroseconds * 1_000 > ReplicaBounds.silenceNanoseconds)
        #expect(ReplicaBounds.handoverSilenceNanoseconds >= 50 * ReplicaBounds.handoverNanoseconds, "a loop that is late is not silent")
        #expect(ReplicaBounds.handoverTellers < ReplicaBounds.handoverQuestions)
    }
}
