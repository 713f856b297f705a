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
    public init() {}
}

extension LoadPlan {
    /// Reads a trace by its content: Mooncake's JSONL (`timestamp` in ms, `hash_ids` of blocks of 512 tokens), AIPerf's sessions (`session_id`,
    /// hash ids of each turn's own blocks, `delay` in ms), Azure's CSV (`TIMESTAMP,ContextTokens,GeneratedTokens`) and BurstGPT's
    /// (`Timestamp,Model,Request tokens,Response tokens`).
    public init(trace text: String, file: String, options: TraceOptions) throws(TraceError) {
        let lines = text.split(whereSeparator: \.isNewline)
        guard let first = lines.first else { throw TraceError(file, line: 1, "expected a trace, found nothing") }
        let requests: [PlannedRequest]
        let kind: String
        if first.hasPrefix("{") {
            (requests, kind) = try Self.readJSON(lines, file, options)
        } else {
            (requests, kind) = try Self.readCSV(lines, file, options)
        }
        guard !requests.isEmpty else { throw TraceError(file, line: lines.count, "expected rows to play, found none") }
        let seconds = Double(requests.map(\.offsetNanoseconds).max() ?? 0) / 1e9
        let name = (file as NSString).lastPathComponent
        self.init(
            name: name,
            parameters: [
                "format": kind, "time_scale": "\(options.timeScale)", "length_scale": "\(options.lengthScale)",
                "first_row": "\(options.skip)", "rows": "\(requests.count)",
            ], requests: requests,
            stages: [.init(startRate: seconds > 0 ? Double(requests.count) / seconds : 0, seconds: seconds)], process: "trace")
    }

    // MARK: JSONL

    private struct Row: Decodable {
        var timestamp: Double?
        var delay: Double?
        var inputLength: Int
        var outputLength: Int
        var hashIDs: [UInt64]?
        var sessionID: String?

        private enum CodingKeys: String, CodingKey {
            case timestamp, delay
            case inputLength = "input_length"
            case outputLength = "output_length"
            case hashIDs = "hash_ids"
            case sessionID = "session_id"
        }
    }

    private static let blockTokens = 512
    /// Lengths above this are no prompt but a broken file.
    private static let longestTokens = 10_000_000

    private static func readJSON(_ lines: [Substring], _ file: String, _ options: TraceOptions) throws(TraceError) -> (
        [PlannedRequest], String
    ) {
        let decoder = JSONDecoder()
        var requests: [PlannedRequest] = []
        var lastTurn: [String: Int] = [:]
        var unnamed: UInt64 = 1 << 62
        for (number, line) in lines.enumerated().dropFirst(options.skip).prefix(options.limit) {
            guard let row = try? decoder.decode(Row.self, from: Data(line.utf8)) else {
                throw TraceError(file, line: number + 1, "expected a JSON object with input_length and output_length")
            }
            guard (0...longestTokens).contains(row.inputLength), (0...longestTokens).contains(row.outputLength) else {
                throw TraceError(file, line: number + 1, "expected lengths of 0 to \(longestTokens) tokens")
            }
            let time = nanoseconds(row.timestamp ?? 0, perUnit: 1e6, options)
            unnamed += 1
            let prompt = blocks(row.hashIDs ?? [unnamed], tokens: row.inputLength, options)
            var request = PlannedRequest(offsetNanoseconds: time, user: prompt, outputTokens: scaled(row.outputLength, options))
            if let session = row.sessionID {
                if let before = lastTurn[session] {
                    requests[before].nextTurn = Int32(requests.count)
                    request.thinkNanoseconds = nanoseconds(row.delay ?? 0, perUnit: 1e6, options)
                    request.offsetNanoseconds = requests[before].offsetNanoseconds
                }
                lastTurn[session] = requests.count
            }
            requests.append(request)
        }
        if lastTurn.isEmpty { requests.sort { $0.offsetNanoseconds < $1.offsetNanoseconds } }
        return (fromZero(requests), lastTurn.isEmpty ? "mooncake" : "aiperf")
    }

    /// All blocks are whole but the last, which has the rest.
    private static func blocks(_ ids: [UInt64], tokens: Int, _ options: TraceOptions) -> [PromptBlock] {
        let whole = scaled(blockTokens, options)
        var rest = scaled(tokens, options)
        return ids.enumerated().compactMap { index, id in
            let count = index == ids.count - 1 ? rest : min(whole, rest)
            rest -= count
            return count > 0 ? PromptBlock(id: id, tokens: count) : nil
        }
    }

    private static func scaled(_ tokens: Int, _ options: TraceOptions) -> Int {
        tokens == 0 ? 0 : max(1, Int((Double(tokens) * options.lengthScale).rounded()))
    }

    private static func nanoseconds(_ value: Double, perUnit: Double, _ options: TraceOptions) -> UInt64 {
        let scaled = value * perUnit * options.timeScale
        return scaled.isFinite ? UInt64(min(max(0, scaled), 9e18)) : 0
    }

    private static func fromZero(_ requests: [PlannedRequest]) -> [PlannedRequest] {
        let first = requests.map(\.offsetNanoseconds).min() ?? 0
        return requests.map { request in
            var request = request
            request.offsetNanoseconds -= first
            return request
        }
    }

    // MARK: CSV

    private static func readCSV(_ lines: [Substring], _ file: String, _ options: TraceOptions) throws(TraceError) -> (
        [PlannedRequest], String
    ) {
        let names = lines[0].split(separator: ",", omittingEmptySubsequences: false).map {
            $0.trimmingCharacters(in: .whitespaces).lowercased()
        }
        func column(_ wanted: [String]) -> Int? { names.firstIndex { wanted.contains($0) } }
        guard let time = column(["timestamp"]), let input = column(["contexttokens", "request tokens"]),
            let output = column(["generatedtokens", "response tokens"])
        else { throw TraceError(file, line: 1, "expected the columns of Azure's or BurstGPT's traces, found '\(lines[0])'") }
        var requests: [PlannedRequest] = []
        for (number, line) in lines.enumerated().dropFirst().dropFirst(options.skip).prefix(options.limit) {
            let cells = line.split(separator: ",", omittingEmptySubsequences: false)
            guard cells.count > max(time, input, output), let seconds = seconds(cells[time]), let prompt = Int(cells[input]),
                let answer = Int(cells[output]), (0...longestTokens).contains(prompt), (0...longestTokens).contains(answer)
            else { throw TraceError(file, line: number + 1, "expected a time and two lengths, found '\(line)'") }
            requests.append(
                PlannedRequest(
                    offsetNanoseconds: nanoseconds(seconds, perUnit: 1e9, options),
                    user: [PromptBlock(id: 1 << 62 | UInt64(number), tokens: max(1, scaled(prompt, options)))],
                    outputTokens: scaled(answer, options)))
        }
        requests.sort { $0.offsetNanoseconds < $1.offsetNanoseconds }
        return (fromZero(requests), names.contains("contexttokens") ? "azure" : "burstgpt")
    }

    /// Seconds, or a date with a time of day; dates count from the year 2001, which keeps their fractions exact enough.
    private static func seconds(_ text: Substring) -> Double? {
        if let value = Double(text) { return value }
        let parts = text.split(whereSeparator: { "-: T".contains($0) })
        guard parts.count == 6, let second = Double(parts[5]) else { return nil }
        let whole = parts.prefix(5).compactMap { Int($0) }
        guard whole.count == 5 else { return nil }
        var calendar = Calendar(identifier: .gregorian)
        calendar.timeZone = .gmt
        let minute = calendar.date(
            from: DateComponents(year: whole[0], month: whole[1], day: whole[2], hour: whole[3], minute: whole[4]))
        return minute.map { $0.timeIntervalSinceReferenceDate + second }
    }
}
