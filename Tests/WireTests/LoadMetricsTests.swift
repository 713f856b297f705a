import Foundation
import Testing

@testable import Wire

@Suite struct LoadMetricsTests {
    private func read(_ text: String, isBinary: Bool = false) -> LoadMetrics? {
        Array(text.utf8).withUnsafeBytes { LoadMetrics($0, isBinary: isBinary) }
    }

    @Test(arguments: [
        "TEXT named_metrics.num_requests_waiting=3.0, named_metrics.kv_cache_usage_perc=0.5",
        "text num_requests_waiting=3,kv_cache_usage_perc=0.5,cpu_utilization=0.9",
        #"JSON {"named_metrics": {"num_requests_waiting": 3.0, "kv_cache_usage_perc": 0.5}}"#,
        #"JSON {"cpu_utilization":0.1,"a\"b":7,"named_metrics":{"vllm:num_requests_waiting":3,"kv_cache_utilization":5e-1}}"#,
    ]) func textAndJSON(value: String) {
        #expect(read(value)?.waiting == 3 && read(value)?.kvUsage == 0.5 && read(value)?.running == nil)
    }

    @Test func ranksThatRepeatANameAddUp() {
        let metrics = read("TEXT num_requests_waiting=3.0, num_requests_waiting=4.0, kv_cache_usage_perc=0.5, kv_cache_usage_perc=0.7")
        #expect(metrics?.waiting == 7 && metrics?.kvUsage == 0.6)
    }

    @Test func tritonTellsItsCapacity() {
        let metrics = read("TEXT named_metrics.kv_cache_utilization=0.25, named_metrics.max_token_capacity=4096")
        #expect(metrics?.kvUsage == 0.25 && metrics?.capacityTokens == 4_096)
    }

    /// One entry of a map<string, double> in field `number` of a message.
    private func entry(_ number: UInt8, _ name: String, _ value: Double) -> [UInt8] {
        let inner =
            [10, UInt8(name.utf8.count)] + Array(name.utf8) + [17] + withUnsafeBytes(of: value.bitPattern.littleEndian) { Array($0) }
        return [number << 3 | 2, UInt8(inner.count)] + inner
    }

    @Test func binary() {
        let cpu: [UInt8] = [9, 0, 0, 0, 0, 0, 0, 224, 63, 24, 150, 1]
        let report = cpu + entry(8, "num_requests_waiting", 3) + entry(5, "kv_cache_usage_perc", 0.5)
        let text = Data(report).base64EncodedString()
        for metrics in [read("BIN " + text), read(text, isBinary: true), read(text.replacing("=", with: ""), isBinary: true)] {
            #expect(metrics?.waiting == 3 && metrics?.kvUsage == 0.5)
        }
        // A message that is cut says what came before the cut, and never reads beyond it.
        for length in 0..<report.count {
            let metrics = read("BIN " + Data(report[..<length]).base64EncodedString())
            #expect(metrics?.waiting == (length >= cpu.count + entry(8, "num_requests_waiting", 3).count ? 3 : nil))
        }
    }

    @Test(arguments: [
        "", "TEXT", "TEXT ", "TEXT =,=,,", "TEXT num_requests_waiting=", "TEXT num_requests_waiting=x", "TEXT num_requests_waiting=-1",
        "TEXT num_requests_waiting=NaN", "TEXT num_requests_waiting=+Inf", "JSON {", #"JSON {"num_requests_waiting"#,
        #"JSON {"num_requests_waiting":"3"}"#, #"JSON {"num_requests_waiting\"#, "BIN !!!!", "BIN QgA", "XML <a/>",
        "TEXT num_requests_waiting=1e", "TEXT cpu_utilization=0.5",
    ]) func whatSaysNothing(value: String) { #expect(read(value) == nil) }

    @Test func aLongReportIsNotRead() {
        let report = "TEXT num_requests_waiting=3,"
        #expect(read(report + String(repeating: " ", count: LoadMetrics.mostBytes - report.utf8.count)) != nil)
        #expect(read(report + String(repeating: " ", count: LoadMetrics.mostBytes + 1 - report.utf8.count)) == nil)
    }
}
