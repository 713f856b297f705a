import Foundation
import Histogram
import Reporting
import Testing
import Workload

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

    /// Blanks about a colon are JSON; a key as a value, and one behind an empty string, are none of ours.
    @Test(arguments: [
        (#"data: {"choices" : [{"delta" : {"content" : "x"}}]}"#, "x"), ("data: {\"text\"\t:\t\"y\"}", "y"),
        (#"data: {"content":"","delta":{"content" :"z"}}"#, "z"), (#"data: {"type":"content","other":"v"}"#, ""),
        (#"data: {"content""#, ""),
        (#"data: {"content" :"#, ""),
    ]) func blanksAboutAColonAreJSON(line: String, expected: String) {
        var reader = ContentReader(keepsText: true)
        Array((line + "\n").utf8).withUnsafeBytes { reader.consume($0) }
        #expect(String(decoding: reader.text, as: UTF8.self) == expected)
        #expect(reader.contentEvents == (expected.isEmpty ? 0 : 1))
    }

    @Test func aBrokenLineIsNoTrap() {
        for text in ["data: {\"content\":\"\\", "data: {\"content\":", "data: {\"content\":\"abc", "data: \"text\":\""] {
            var reader = ContentReader(keepsText: true)
            Array((text + "\n").utf8).withUnsafeBytes { reader.consume($0) }
            #expect(reader.contentEvents <= 1)
        }
    }
}

@Suite struct RecordTests {
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
