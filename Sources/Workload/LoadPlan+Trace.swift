import Foundation

/// Why a trace file is none.
public struct TraceError: Error, CustomStringConvertible {
    public let description: String
    init(_ file: String, line: Int, _ text: String) { description = "\(file):\(line): \(text)" }
}

/// How a trace is played.
public struct TraceOptions: Sendable {
    /// Times are multiplied by it: 0.5 plays twice as fast.
    public var timeScale = 1.0
    /// Rows to leave out from the start: what a trace's requests share grows over its length.
    public var skip = 0
    /// Rows to play after those.
    public var limit = Int.max
    /// Lengths are multiplied by it: what a real fleet takes is too much for a laptop's.
    public var lengthScale = 1.0
    /// Length of a hash id's block; nil: what the format has.
    public var blockTokens: Int?
    public init() {}
}

/// A row of a file that is not blank, by the number of its line.
struct TraceLine {
    var number: Int
    var text: Substring
}

extension LoadPlan {
    /// Reads a trace by its content: Mooncake's JSONL (`timestamp` in ms, `hash_ids` of blocks of 512 tokens), Bailian's (`chat_id`, `timestamp`
    /// in s, blocks of 16), AIPerf's sessions (`session_id`, a line for each turn or `turns`, hash ids or text of each turn's own, `delay` in
    /// ms), Azure's CSV (`TIMESTAMP,ContextTokens,GeneratedTokens`) and BurstGPT's (`Timestamp,Model,Request tokens,Response tokens`).
    public init(trace text: String, file: String, options: TraceOptions) throws(TraceError) {
        let lines = text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline).enumerated()
            .filter { !$0.element.allSatisfy(\.isWhitespace) }.map { TraceLine(number: $0.offset + 1, text: $0.element) }
        guard let first = lines.first, let last = lines.last else { throw TraceError(file, line: 1, "expected a trace, found nothing") }
        let isJSON = first.text.drop(while: \.isWhitespace).hasPrefix("{")
        var (requests, kind) = isJSON ? try Self.readJSON(lines, file, options) : try Self.readCSV(lines, file, options)
        guard let start = requests.map(\.offsetNanoseconds).min(), let end = requests.map(\.offsetNanoseconds).max() else {
            throw TraceError(file, line: last.number, "expected rows to play, found none")
        }
        guard end - start <= Self.longestNanoseconds else {
            throw TraceError(file, line: last.number, "expected times within a year, found \((end - start) / 86_400_000_000_000) days")
        }
        for index in requests.indices { requests[index].offsetNanoseconds -= start }
        let seconds = Double(end - start) / 1e9
        var parameters = [
            "format": kind, "time_scale": "\(options.timeScale)", "length_scale": "\(options.lengthScale)",
            "first_row": "\(options.skip)", "rows": "\(requests.count)",
        ]
        if let blockTokens = options.blockTokens { parameters["block_tokens"] = "\(blockTokens)" }
        self.init(
            name: (file as NSString).lastPathComponent, parameters: parameters, requests: requests,
            stages: [.init(startRate: seconds > 0 ? Double(requests.count) / seconds : 0, seconds: seconds)], process: "trace")
    }

    /// Nobody waits longer for a trace's end, nor for a turn.
    static let longestNanoseconds: UInt64 = 366 * 86_400_000_000_000
    /// Lengths above this are no prompt but a broken file.
    static let longestTokens = 10_000_000

    static func scaled(_ tokens: Int, _ options: TraceOptions) -> Int {
        tokens == 0 ? 0 : max(1, Int((Double(tokens) * options.lengthScale).rounded()))
    }

    static func nanoseconds(_ value: Double, perUnit: Double, _ options: TraceOptions) -> UInt64 {
        let scaled = value * perUnit * options.timeScale
        return scaled.isFinite ? UInt64(min(max(0, scaled), 9e18)) : 0
    }
}
