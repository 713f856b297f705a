import EventLoop
import Testing

@testable import HTTPTransport

struct WindowPromisesTests {
    @Test("Promises up to the bound are made, one byte more is not, and what is given back can be promised again")
    func bound() throws {
        let promises = WindowPromises.shared(by: try EventLoop())
        #expect(promises.make(60, within: 100))
        #expect(!promises.make(41, within: 100))
        #expect(promises.make(40, within: 100))
        promises.giveBack(60)
        #expect(promises.make(60, within: 100))
        #expect(!promises.make(1, within: 100))
    }

    @Test("They are one for a loop, and another loop's are its own")
    func sharing() throws {
        let (first, second) = (try EventLoop(), try EventLoop())
        #expect(WindowPromises.shared(by: first).make(100, within: 100))
        #expect(!WindowPromises.shared(by: first).make(1, within: 100))
        #expect(WindowPromises.shared(by: second).make(1, within: 100))
    }
}
