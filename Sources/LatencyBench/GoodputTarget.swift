/// What an answer must keep for its request to count as good. Times in milliseconds; nil: anything.
public struct GoodputTarget: Codable, Sendable, Equatable {
    public var name: String
    public var ttftMilliseconds: Double?
    public var tpotMilliseconds: Double?
    public var endToEndMilliseconds: Double?

    /// MLPerf Inference's server and interactive scenarios (loadgen/mlperf.conf): time to first token and time per output token at p99.
    private static let presets: [String: (Double, Double)] = [
        "mlperf-llama2-70b": (2_000, 200), "mlperf-llama2-70b-interactive": (450, 40), "mlperf-llama3.1-8b": (2_000, 100),
        "mlperf-llama3.1-8b-interactive": (500, 30), "mlperf-llama3.1-405b": (6_000, 175),
        "mlperf-llama3.1-405b-interactive": (4_500, 80), "mlperf-deepseek-r1": (2_000, 80),
        "mlperf-deepseek-r1-interactive": (1_500, 15), "mlperf-gpt-oss-120b": (3_000, 80),
        "mlperf-gpt-oss-120b-interactive": (2_000, 15),
    ]

    public static var presetNames: [String] { presets.keys.sorted() }

    /// Takes a preset's name, or `ttft:200,tpot:50,e2e:5000` in milliseconds; nil when it is neither.
    public init?(_ text: String) {
        name = text
        if let preset = Self.presets[text] {
            (ttftMilliseconds, tpotMilliseconds) = preset
            return
        }
        for part in text.split(whereSeparator: { $0 == "," || $0 == " " }) {
            let pair = part.split(separator: ":")
            guard pair.count == 2, let value = Double(pair[1]), value > 0, value.isFinite else { return nil }
            switch pair[0] {
            case "ttft": ttftMilliseconds = value
            case "tpot": tpotMilliseconds = value
            case "e2e", "e2el": endToEndMilliseconds = value
            default: return nil
            }
        }
        if ttftMilliseconds == nil, tpotMilliseconds == nil, endToEndMilliseconds == nil { return nil }
    }

    /// Whether `record` kept it, counted from when the request was due.
    public func holds(_ record: RequestRecord) -> Bool {
        func within(_ nanoseconds: UInt64?, _ milliseconds: Double?) -> Bool {
            guard let milliseconds, let nanoseconds else { return true }
            return Double(nanoseconds) <= milliseconds * 1e6
        }
        return record.outcome == .good && within(record.timeToFirstToken, ttftMilliseconds)
            && within(record.timePerOutputToken, tpotMilliseconds) && within(record.endToEnd, endToEndMilliseconds)
    }
}
