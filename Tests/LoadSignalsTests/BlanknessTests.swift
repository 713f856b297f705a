import Testing

@testable import LoadSignals

/// One engine's readings, one after the other.
private final class Engine {
    private let service: LoadService
    private let tellers: LoadTellers
    private var blankness = Blankness()

    init(_ tellers: LoadTellers, _ service: LoadService = .vllm) {
        self.service = service
        self.tellers = tellers
    }

    func isBelieved(blank: Bool, ownRequests: Int = 0) -> Bool {
        var reading = EngineReading()
        reading.isBlank = blank
        return blankness.believes(reading, of: service, ownRequests: ownRequests, tellers)
    }
}

@Suite struct BlanknessTests {
    private let tellers = LoadTellers()

    @Test func zerosAreNoLoadOfAnEngineThatHasToldAny() {
        let engine = Engine(tellers)
        #expect(!engine.isBelieved(blank: true))
        #expect(engine.isBelieved(blank: false))
        for _ in 0..<10 { #expect(engine.isBelieved(blank: true, ownRequests: 4)) }
    }

    @Test func itsLikesAreBelievedAndNoOthers() {
        #expect(Engine(tellers).isBelieved(blank: false))
        #expect(Engine(tellers).isBelieved(blank: true))
        #expect(!Engine(tellers, .sglang).isBelieved(blank: true))
        #expect(!Engine(LoadTellers()).isBelieved(blank: true), "of another fleet")
    }

    @Test func oneThatIsBlankAtOurWorkIsMute() {
        let mute = Engine(tellers)
        #expect(Engine(tellers).isBelieved(blank: false))
        // The first readings after a request may be older than its first step.
        for blanks in 1...5 { #expect(mute.isBelieved(blank: true, ownRequests: 1) == (blanks < Blankness.blanksOfAMuteEngine)) }
        #expect(!mute.isBelieved(blank: true), "when it is idle neither")
        #expect(mute.isBelieved(blank: false, ownRequests: 1), "until it speaks")
        #expect(mute.isBelieved(blank: true, ownRequests: 1))
    }

    @Test func idleEnginesAreNotMute() {
        let idle = Engine(tellers)
        for _ in 0..<10 { #expect(!idle.isBelieved(blank: true)) }
        #expect(Engine(tellers).isBelieved(blank: false))
        #expect(idle.isBelieved(blank: true))
    }
}
