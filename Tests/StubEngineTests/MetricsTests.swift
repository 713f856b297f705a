import EngineModel
import EventLoop
import Foundation
import HTTPTransport
import Testing

@testable import StubEngine

/// What a text of metrics says of its families: type, labels of its samples, bounds of its buckets.
private struct Family: Equatable, CustomStringConvertible {
    var type = ""
    var labels: Set<String> = []
    var bounds: [String] = []

    var description: String { "\(type) \(labels.sorted()) \(bounds)" }
}

private func families(_ text: String) -> [String: Family] {
    var result: [String: Family] = [:]
    for line in text.split(separator: "\n") {
        let words = line.split(separator: " ")
        if line.hasPrefix("# TYPE ") {
            result[String(words[2]), default: Family()].type = String(words[3])
        } else if !line.hasPrefix("#") {
            let end = line.firstIndex { $0 == "{" || $0 == " " } ?? line.endIndex
            let sample = String(line[..<end])
            let owner = result[sample] != nil ? sample : String(sample.split(separator: "_").dropLast().joined(separator: "_"))
            guard line[end] == "{" else { continue }
            for pair in labels(of: line[line.index(after: end)...]) {
                if pair.name != "le" { result[owner]?.labels.insert(pair.name) }
                if pair.name == "le", result[owner]?.bounds.contains(pair.value) == false { result[owner]?.bounds.append(pair.value) }
            }
        }
    }
    return result
}

/// `name="value",…}`; values may hold commas.
private func labels(of text: Substring) -> [(name: String, value: String)] {
    var rest = text
    var result: [(name: String, value: String)] = []
    while let equals = rest.firstIndex(of: "="), let end = rest[rest.index(equals, offsetBy: 2)...].firstIndex(of: "\"") {
        result.append((String(rest[..<equals]), String(rest[rest.index(equals, offsetBy: 2)..<end])))
        let next = rest.index(after: end)
        guard next < rest.endIndex, rest[next] == "," else { break }
        rest = rest[rest.index(after: next)...]
    }
    return result
}

@Suite struct MetricsTests {
    private func makeFleet(_ change: (inout StubConfiguration) -> Void = { _ in }) throws -> (EventLoop, StubFleet) {
        let loop = try EventLoop()
        var configuration = StubConfiguration(models: ["tiny"])
        change(&configuration)
        let address = try #require(SocketAddress("127.0.0.1:0"))
        return (loop, try StubFleet(loop: loop, address: address, replicas: 2, configuration: configuration))
    }

    /// Bounds of lengths follow from the model's context; the recorded engine's was 2,048.
    @Test(.enabled(if: Recordings.folder != nil)) func familiesTypesLabelsAndBucketsAreTheRecordedOnes() throws {
        let (loop, fleet) = try makeFleet { $0.maximumModelTokens = 2_048 }
        fleet.stubs[0].httpMetrics.answered(
            handler: "/v1/models", method: "GET", status: 200, requestBytes: 0, responseBytes: 10, nanoseconds: 1_000)
        let ours = families(fleet.stubs[0].metricsText(isStale: false))
        let recorded = families(try #require(try Recordings.body("vllm/get_metrics_end.resp")))
        #expect(recorded.count > 70)
        for (name, family) in recorded { #expect(ours[name] == family, "\(name)") }
        #expect(Set(ours.keys.filter { !$0.hasPrefix("stub:") }) == Set(recorded.keys))
        withExtendedLifetime((loop, fleet)) {}
    }

    @Test func whatAnEngineDoesIsCounted() throws {
        let (loop, fleet) = try makeFleet { $0.startupNanoseconds = 2_500_000_000 }
        let host = fleet.stubs[0].host
        host.metrics.requestRejected(forTokens: true)
        host.metrics.tokensWritten(3, lateByNanoseconds: 1_200_000)
        let text = fleet.stubs[0].metricsText(isStale: false)
        #expect(text.contains(#"vllm:admission_rejections_total{model_name="tiny",reason="max_num_queued_tokens"} 1.0"#))
        #expect(text.contains(#"stub:token_lateness_seconds_bucket{engine="0",le="0.0015",model_name="tiny"} 3.0"#))
        #expect(text.contains(#"stub:token_lateness_seconds_bucket{engine="0",le="0.001",model_name="tiny"} 0.0"#))
        #expect(text.contains(#"stub:startup_seconds{engine="0",model_name="tiny"} 2.5"#))
        #expect(!text.contains("vllm:lora_requests_info"))
        // A stale one says what was said last; a reset begins anew.
        host.resetMetrics()
        #expect(fleet.stubs[0].metricsText(isStale: true) == text)
        #expect(fleet.stubs[0].metricsText(isStale: false).contains(#"reason="max_num_queued_tokens"} 0.0"#))
        withExtendedLifetime((loop, fleet)) {}
    }

    @Test func adaptersAreToldWithTheTimeWhenTheyWereSeen() throws {
        let (loop, fleet) = try makeFleet { $0.engine.lora = LoRASettings(slots: 2) }
        let host = fleet.stubs[0].host
        host.metrics.adaptersChanged(running: ["a", "b"], waiting: ["c"], nowNanoseconds: 1_500_000_000)
        host.metrics.adaptersChanged(running: [], waiting: [], nowNanoseconds: 2_000_000_000)
        let text = fleet.stubs[0].metricsText(isStale: false)
        #expect(text.contains(#"vllm:lora_requests_info{max_lora="2",running_lora_adapters="a,b",waiting_lora_adapters="c"} 1.5"#))
        #expect(text.contains(#"vllm:lora_requests_info{max_lora="2",running_lora_adapters="",waiting_lora_adapters=""} 2.0"#))
        withExtendedLifetime((loop, fleet)) {}
    }

    @Test func ranksAreLabels() throws {
        let (loop, fleet) = try makeFleet { $0.dataParallelSize = 2 }
        #expect(fleet.stubs[1].metricsText(isStale: false).contains(#"vllm:num_requests_running{engine="1",model_name="tiny"} 0.0"#))
        withExtendedLifetime((loop, fleet)) {}
    }

    @Test func labelsAreEscaped() {
        var text = MetricsText(model: "a\"b\\c\nd", rank: 0, createdNanoseconds: 0)
        text.gauge("x", "An x.", 1)
        #expect(text.text.hasSuffix(#"x{engine="0",model_name="a\"b\\c\nd"} 1.0"# + "\n"))
    }

    @Test func aHistogramCountsUpToItsBounds() {
        var histogram = Histogram(bounds: [1, 2])
        for value in [0.5, 1, 1.5, 2, 3] { histogram.observe(value) }
        histogram.observe(2, count: 4)
        #expect(histogram.buckets == [2, 6])
        #expect(histogram.count == 9)
        #expect(histogram.sum == 16)
        #expect(Histogram.lengths(upTo: 40) == [1, 2, 5, 10, 20])
    }

    @Test(
        arguments: [
            ("oscillate:0:100:10s", [0, 50, 100, 50, 0]), ("ramp:10:20:10s", [10, 15, 20, 20, 20]),
            ("rampreset:0:8:10s", [0, 4, 0, 4, 0]), ("squarewave:1:2:10s", [1, 2, 1, 2, 1]), ("ramp:0:1:5000ms", [0, 1, 1, 1, 1]),
        ] as [(String, [Double])]) func aFakeMetricMoves(text: String, expected: [Double]) throws
    {
        let fake = try FakeMetric(name: "x", value: .string(text))
        let seconds: [UInt64] = text.hasPrefix("oscillate") ? [0, 25, 50, 75, 100] : [0, 50, 100, 150, 200]
        #expect(seconds.map { fake.value(afterNanoseconds: $0 * 100_000_000) } == expected)
    }

    @Test func thereIsABoundToFakeMetrics() throws {
        func names(_ count: Int) -> [String: JSONValue] {
            Dictionary(uniqueKeysWithValues: (0..<count).map { ("x\($0)", .number(1)) })
        }
        #expect(try FakeMetric.table(names(FakeMetric.maximumCount)).count == FakeMetric.maximumCount)
        #expect(throws: FaultError.self) { try FakeMetric.table(names(FakeMetric.maximumCount + 1)) }
    }
}
