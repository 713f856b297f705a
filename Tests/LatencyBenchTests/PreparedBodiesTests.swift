import Testing
import Workload

@testable import LatencyBench

@Suite struct PreparedBodiesTests {
    private let plan = LoadPlan(
        name: "test", parameters: [:],
        requests: (0..<4).map { .init(offsetNanoseconds: UInt64($0), user: [.init(id: UInt64($0), tokens: 100)], outputTokens: 1) },
        stages: [.init(startRate: 1, seconds: 1)], process: "test")
    private let writer = RequestWriter(LoadSettings())

    private func written(_ index: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        writer.write(index, of: plan, to: &bytes)
        return bytes
    }

    /// Ready or not, and out of turn as a session's later turn is: what is taken is what belongs to the request.
    @Test func whatIsTakenIsTheRequestsOwn() {
        var bodies = PreparedBodies()
        for index in 0..<2 { bodies.prepare(index, of: plan, by: writer) }
        #expect(bodies.count == 2)
        for (index, left) in [(0, 1), (3, 1), (1, 0), (2, 0)] {
            bodies.take(index, of: plan, by: writer)
            #expect(bodies.current == written(index))
            #expect(bodies.count == left)
        }
    }

    @Test func itIsFullAtItsBound() {
        var bodies = PreparedBodies(maximumBytes: written(0).count + written(1).count)
        bodies.prepare(0, of: plan, by: writer)
        #expect(!bodies.isFull)
        bodies.prepare(1, of: plan, by: writer)
        #expect(bodies.isFull)
        bodies.take(0, of: plan, by: writer)
        #expect(!bodies.isFull)
    }
}
