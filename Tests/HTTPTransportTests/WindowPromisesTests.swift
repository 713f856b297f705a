import EventLoop
import Testing

@testable import HTTPTransport

struct WindowPromisesTests {
    @Test("Promises up to half of the bound are made, one byte more is not, and what is given back can be promised again")
    func bound() throws {
        let promises = WindowPromises.shared(by: try EventLoop())
        #expect(promises.make(60, for: nil, beside: 0, within: 200))
        #expect(!promises.make(41, for: nil, beside: 0, within: 200))
        #expect(promises.make(40, for: nil, beside: 0, within: 200))
        promises.giveBack(60)
        #expect(promises.make(60, for: nil, beside: 0, within: 200))
        #expect(!promises.make(1, for: nil, beside: 0, within: 200))
    }

    @Test("What buffers hold and what is promised come to the bound at most")
    func held() throws {
        let promises = WindowPromises.shared(by: try EventLoop())
        #expect(!promises.make(50, for: nil, beside: 151, within: 200))
        #expect(promises.make(50, for: nil, beside: 150, within: 200))
        #expect(!promises.make(1, for: nil, beside: 150, within: 200))
    }

    @Test("No client has more than it leaves to the others")
    func shares() throws {
        let promises = WindowPromises.shared(by: try EventLoop())
        let (greedy, modest) = (WindowShare(), WindowShare())
        for _ in 0..<50 { #expect(promises.make(10, for: greedy, beside: 0, within: 2_000)) }
        #expect(!promises.make(10, for: greedy, beside: 0, within: 2_000))
        for _ in 0..<25 { #expect(promises.make(10, for: modest, beside: 0, within: 2_000)) }
        #expect(!promises.make(10, for: modest, beside: 0, within: 2_000))
        #expect(greedy.bytes == 500 && modest.bytes == 250)
        // What nobody answers for takes the rest.
        #expect(promises.make(250, for: nil, beside: 0, within: 2_000))
    }

    @Test("They are one for a loop, and another loop's are its own")
    func sharing() throws {
        let (first, second) = (try EventLoop(), try EventLoop())
        #expect(WindowPromises.shared(by: first).make(100, for: nil, beside: 0, within: 200))
        #expect(!WindowPromises.shared(by: first).make(1, for: nil, beside: 0, within: 200))
        #expect(WindowPromises.shared(by: second).make(1, for: nil, beside: 0, within: 200))
    }
}
