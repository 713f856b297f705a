import Testing

@testable import HTTPTransport

struct BodyPaceTests {
    private static let second: UInt64 = 1_000_000_000
    /// 500 bytes a second over ten seconds.
    private static let (term, wanted) = (10 * second, 5_000)

    private func judge(_ pace: inout BodyPace, at seconds: UInt64, bytesPerSecond: Int = 500) -> BodyPace.Verdict {
        pace.judge(at: seconds * Self.second, term: Self.term, bytesPerSecond: bytesPerSecond)
    }

    @Test("A term that brings exactly its share is followed by another; one byte less ends the body")
    func edgeOfTheShare() {
        var enough = BodyPace(now: 0)
        enough.received(Self.wanted, at: 9 * Self.second)
        #expect(judge(&enough, at: 10) == .fine(until: 19 * Self.second))
        var less = BodyPace(now: 0)
        less.received(Self.wanted - 1, at: 9 * Self.second)
        #expect(judge(&less, at: 10) == .tooSlow)
    }

    @Test("A head start counts for its own term only")
    func noCredit() {
        var pace = BodyPace(now: 0)
        pace.received(1 << 30, at: Self.second)
        #expect(judge(&pace, at: 10) == .fine(until: 11 * Self.second))
        pace.received(1, at: 10 * Self.second)
        #expect(judge(&pace, at: 11) == .fine(until: 20 * Self.second))
        #expect(judge(&pace, at: 20) == .tooSlow)
    }

    @Test("Silence ends a body after a term however much came before", arguments: [0, 500])
    func silence(bytesPerSecond: Int) {
        var pace = BodyPace(now: 0)
        pace.received(1 << 20, at: 4 * Self.second)
        #expect(judge(&pace, at: 13, bytesPerSecond: bytesPerSecond) == .fine(until: 14 * Self.second))
        #expect(judge(&pace, at: 14, bytesPerSecond: bytesPerSecond) == .tooSlow)
    }

    @Test("Where no share is asked for, a byte now and then will do")
    func anyPace() {
        var pace = BodyPace(now: 0)
        for moment in stride(from: UInt64(9), to: 900, by: 9) {
            pace.received(1, at: moment * Self.second)
            #expect(judge(&pace, at: moment + 1, bytesPerSecond: 0) == .fine(until: (moment + 10) * Self.second))
        }
    }

    @Test("A look before the term's end decides nothing, and a late one asks for as much as the time is worth")
    func earlyAndLate() {
        var pace = BodyPace(now: 0)
        pace.received(1, at: Self.second)
        #expect(judge(&pace, at: 2) == .fine(until: 10 * Self.second))
        var late = BodyPace(now: 0)
        late.received(Self.wanted, at: 19 * Self.second)
        #expect(judge(&late, at: 20) == .tooSlow)
    }

    @Test("What we held back ourselves is forgotten")
    func restart() {
        var pace = BodyPace(now: 0)
        pace.restart(at: 30 * Self.second)
        #expect(judge(&pace, at: 31) == .fine(until: 40 * Self.second))
    }
}
