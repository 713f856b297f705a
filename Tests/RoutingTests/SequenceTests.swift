import Testing

@testable import Routing

/// Requests for several answers: the engine runs as many sequences, and counts them so.
@Suite struct SequenceTests {
    private func load(_ table: RoutingTable, _ report: LoadReport, now: UInt64) throws -> GroupState {
        table.reportLoad(report, of: try #require(table.state("g0")?.id), now: now)
        return try #require(table.state("g0", now: now))
    }

    @Test func theyAreOursAndNotOthers() throws {
        let table = RoutingTable(equalGroups(1))
        let eight = try table.pick(.distinct(0, chunkCount: 4), sequences: 8, now: 1).get()
        #expect(table.state("g0")?.inFlight == 8 && table.state("g0")?.awaitingFirstToken == 8)
        #expect(try load(table, LoadReport(running: 0, waiting: 8, madeAt: second), now: second).othersWaiting == 0)
        table.firstToken(eight.lease, now: second)
        #expect(table.state("g0")?.awaitingFirstToken == 0)
        let running = try load(table, LoadReport(running: 11, waiting: 0, madeAt: 3 * second), now: 3 * second)
        #expect((2.9...3).contains(running.othersRunning))
    }

    /// vLLM's `/load` counts HTTP requests.
    @Test func anHTTPRequestIsOneAllTheSame() throws {
        let table = RoutingTable(equalGroups(1))
        _ = try table.pick(.distinct(0, chunkCount: 4), sequences: 8, now: 1).get()
        #expect((4.9...5).contains(try load(table, LoadReport(inFlight: 6, madeAt: second), now: second).othersRunning))
    }

    @Test(arguments: [1, 2, 128, 129, 16_384, .max, 0, -1])
    func whatTheyTakeIsGivenBack(asked: Int) throws {
        let table = RoutingTable(equalGroups(1))
        let counted = min(max(asked, 1), RoutingRequest.mostSequences)
        let decisions = try (0..<3).map { try table.pick(.distinct($0, chunkCount: 4), maxOutputTokens: 10, sequences: asked).get() }
        #expect(table.state("g0")?.inFlight == 3 * counted)
        #expect(table.state("g0")?.activeKVTokens == 3 * (256 + 10 * counted))
        table.firstToken(decisions[0].lease, now: second)
        table.firstToken(decisions[1].lease, now: second)
        table.streamed(decisions[0].lease, events: 5_000, now: 2 * second)
        let usage = Usage(promptTokens: 256, cachedTokens: 0, completionTokens: 10 * counted)
        table.settle(decisions[0].lease, usage: usage, events: 5_000, now: 3 * second)
        table.cancel(decisions[1].lease, now: 3 * second)
        table.cancel(decisions[2].lease, now: 3 * second)
        let state = try #require(table.state("g0"))
        #expect([state.inFlight, state.awaitingFirstToken, state.activeKVTokens, state.queuedUncachedTokens] == [0, 0, 0, 0])
    }

    /// Eight at a time come eight times as fast, and are eight times as long together.
    @Test func theyTeachLengthsOfOneAndNothingOfSteps() throws {
        let one = RoutingTable(equalGroups(1))
        let eight = RoutingTable(equalGroups(1))
        for (table, sequences) in [(one, 1), (eight, 8)] {
            for turn in 0..<200 {
                let now = UInt64(turn) * second
                let decision = try table.pick(.distinct(turn, chunkCount: 4), sequences: sequences, now: now).get()
                table.firstToken(decision.lease, now: now + millisecond)
                let usage = Usage(promptTokens: 256, cachedTokens: 0, completionTokens: 40 * sequences)
                // As fast as described: 20 ms a step.
                table.settle(decision.lease, usage: usage, events: 40 * sequences, now: now + millisecond + 39 * 20 * millisecond)
            }
        }
        let explained = [one, eight].map { $0.explain(.distinct(9_999, chunkCount: 4), now: 300 * second) }
        #expect(explained[0].outputTokens == explained[1].outputTokens)
        let decode = explained.map { $0.groups[0].terms.decode }
        #expect(abs(decode[0] - decode[1]) < 0.1 * decode[0])
    }
}
