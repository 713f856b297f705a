import Foundation
import Histogram
import Reporting
import Testing

@testable import LatencyBench

@Suite struct ContentReaderTests {
    private let stream = """
        : a comment
        data: {"choices":[{"delta":{"role":"assistant","content":""}}]}

        data: {"choices":[{"delta":{"content":" one \\"quoted\\\\"}}]}

        data: {"choices":[{"delta":{"reasoning_content":"hm","content":null}}]}

        data: {"choices":[{"text":"two"}]}

        data: {"choices":[],"usage":{"prompt_tokens":1}}

        data: [DONE]


        """

    /// However the bytes are cut, the same comes out; the role event and the usage are no tokens.
    @Test func contentIsFoundHoweverBytesAreCut() {
        let bytes = Array(stream.utf8)
        for size in [1, 2, 3, 7, 50, bytes.count] {
            var reader = ContentReader(keepsText: true)
            for start in stride(from: 0, to: bytes.count, by: size) {
                bytes[start..<min(bytes.count, start + size)].withUnsafeBytes { reader.consume($0) }
            }
            #expect(reader.contentEvents == 3)
            #expect(String(decoding: reader.text, as: UTF8.self) == #" one \"quoted\\hmtwo"#)
        }
    }

    @Test func aBrokenLineIsNoTrap() {
        for text in ["data: {\"content\":\"\\", "data: {\"content\":", "data: {\"content\":\"abc", "data: \"text\":\""] {
            var reader = ContentReader(keepsText: true)
            Array((text + "\n").utf8).withUnsafeBytes { reader.consume($0) }
            #expect(reader.contentEvents <= 1)
        }
    }
}

@Suite struct TraceTests {
    private func plan(_ text: String, _ change: (inout TraceOptions) -> Void = { _ in }) throws -> LoadPlan {
        var options = TraceOptions()
        change(&options)
        return try LoadPlan(trace: text, file: "t", options: options)
    }

    @Test func mooncakesRowsAreBlocksOf512() throws {
        let plan = try plan(
            """
            {"timestamp": 27000, "input_length": 1100, "output_length": 9, "hash_ids": [1, 2, 3]}
            {"timestamp": 30000, "input_length": 600, "output_length": 0, "hash_ids": [1, 4]}
            """
        ) { $0.timeScale = 0.5 }
        #expect(plan.requests.map(\.offsetNanoseconds) == [0, 1_500_000_000])
        #expect(plan.requests[0].user == [.init(id: 1, tokens: 512), .init(id: 2, tokens: 512), .init(id: 3, tokens: 76)])
        #expect(plan.requests[1].user == [.init(id: 1, tokens: 512), .init(id: 4, tokens: 88)])
        #expect(plan.requests[0].outputTokens == 9)
        #expect(abs(plan.idealHitRate - 512.0 / 1_700) < 1e-9)
    }

    @Test func aiperfsTurnsAreChained() throws {
        let plan = try plan(
            """
            {"session_id":"a","input_length":600,"output_length":8,"hash_ids":[0,1],"timestamp":0.0}
            {"session_id":"b","input_length":10,"output_length":8,"hash_ids":[2],"timestamp":500}
            {"session_id":"a","input_length":20,"output_length":5,"hash_ids":[3],"delay":2500}
            """)
        #expect(plan.requests.map(\.nextTurn) == [2, -1, -1])
        #expect(plan.requests[2].thinkNanoseconds == 2_500_000_000)
        #expect(plan.requests[1].offsetNanoseconds == 500_000_000)
    }

    @Test func azuresAndBurstGPTsColumnsAreRead() throws {
        let azure = try plan(
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n")
        #expect(azure.requests.map(\.plannedTokens) == [374, 396])
        #expect(abs(Double(azure.requests[1].offsetNanoseconds) - 4.314579e9) < 1_000)
        let burst = try plan(
            "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,C\n7.5,GPT-4,10,5,15,C")
        #expect(burst.requests.map(\.offsetNanoseconds) == [0, 2_500_000_000])
        #expect(burst.requests[0].outputTokens == 18)
    }

    @Test(arguments: [
        ("", "t:1: expected a trace, found nothing"),
        ("{\"input_length\":1}", "t:1: expected a JSON object with input_length and output_length"),
        ("a,b\n1,2", "t:1: expected the columns of Azure's or BurstGPT's traces, found 'a,b'"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n1,-5,2", "t:2: expected a time and two lengths, found '1,-5,2'"),
        ("{\"input_length\":99999999999,\"output_length\":1}", "t:1: expected lengths of 0 to 10000000 tokens"),
    ]) func aMistakeIsNamedByItsLine(text: String, expected: String) {
        #expect { try plan(text) } throws: { "\($0)" == expected }
    }

    @Test func equalParametersAreEqualContent() {
        func plan(_ seed: UInt64, _ salt: UInt64) -> LoadPlan {
            let schedule = ArrivalSchedule(.poisson, stages: [.init(startRate: 50, seconds: 2)], seed: seed)
            return LoadPlan(
                name: "x", shape: SyntheticShape.named["b2b-saas"]!, schedule: schedule, process: "poisson", seed: seed, salt: salt)
        }
        #expect(plan(1, 0).contentHash == plan(1, 0).contentHash)
        #expect(plan(1, 0).contentHash != plan(1, 1).contentHash)
        #expect(plan(1, 0).scheduleHash == plan(1, 1).scheduleHash)
    }
}

@Suite struct ComparisonTests {
    /// Runs of a thousand exponential latencies about `mean` µs, each run with its own luck.
    private func runs(_ mean: Double, seed: UInt64, luck: Double = 0.05) -> [LatencyHistogram] {
        var generator = SeededGenerator(seed: seed)
        return (0..<8).map { _ in
            var histogram = LatencyHistogram.latency()
            let own = mean * (1 + luck * Double.random(in: -1...1, using: &generator))
            for _ in 0..<1_000 { histogram.note(UInt64(-log(1 - Double.random(in: 0..<1, using: &generator)) * own * 1_000)) }
            return histogram
        }
    }

    @Test func nothingIsClaimedOfTheSame() {
        let claimed = (0..<20).flatMap { seed in
            PairedComparison.differences(runs(500, seed: UInt64(seed)), runs(500, seed: UInt64(seed) + 100), samples: 200).filter(
                \.isClaimed)
        }
        // One interval in twenty may miss by its own promise, and eight runs a side promise a little too much.
        #expect(claimed.count <= 20 * 5 / 5)
    }

    @Test func aDifferenceIsFoundAndItsIntervalHoldsIt() throws {
        let median = try #require(PairedComparison.differences(runs(500, seed: 1), runs(700, seed: 2)).first { $0.name == "p50" })
        #expect(median.isClaimed)
        #expect(median.low < 200_000 * log(2) && 200_000 * log(2) < median.high)
    }

    @Test func theOrderIsABBA() {
        #expect(PairedComparison.order(repeats: 4) == [false, true, true, false, false, true, true, false])
    }

    @Test func goodputTargetsAreRead() throws {
        let target = try #require(GoodputTarget("ttft:200,tpot:50"))
        #expect(target.ttftMilliseconds == 200 && target.tpotMilliseconds == 50 && target.endToEndMilliseconds == nil)
        #expect(GoodputTarget("mlperf-llama2-70b-interactive")?.ttftMilliseconds == 450)
        for text in ["", "ttft", "ttft:0", "latency:5", "ttft:-1", "ttft:nan"] { #expect(GoodputTarget(text) == nil) }
        var record = RequestRecord(index: 0, stage: 0, dueNanoseconds: 0, sentNanoseconds: 150_000_000)
        record.outcome = .good
        record.firstTokenNanoseconds = 200_000_000
        record.lastTokenNanoseconds = 700_000_000
        record.endNanoseconds = 700_000_000
        record.outputTokens = 11
        #expect(target.holds(record))
        record.outputTokens = 10
        #expect(!target.holds(record))
        record.outputTokens = 11
        record.firstTokenNanoseconds = 200_000_001
        #expect(!target.holds(record))
    }

    @Test func measurementsOfTwoLoopsAddUp() {
        func part(_ names: [String]) -> RunMeasurements {
            var part = RunMeasurements()
            for (index, name) in names.enumerated() {
                var record = RequestRecord(index: index, stage: 0, dueNanoseconds: 5, sentNanoseconds: 6)
                record.outcome = .good
                record.endNanoseconds = 10_000
                record.backend = Array(name.utf8).withUnsafeBytes { part.backend(named: $0) }
                part.add(record, recordLimit: 2)
            }
            return part
        }
        var sum = part(["a", "b", "b"])
        sum.add(part(["b", "c"]))
        #expect(Dictionary(uniqueKeysWithValues: zip(sum.backends, sum.requestsByBackend)) == ["a": 1, "b": 3, "c": 1])
        #expect(sum.records.map { sum.backends[$0.backend] } == ["a", "b", "b", "c"])
        #expect(sum.recordsLeftOut == 1 && sum.good == 5 && sum.endToEnd.totalCount == 5)
    }
}
