import Foundation

/// A request of a JSONL trace: a line of its own, or one of a line's `turns`.
private struct TraceTurn: Decodable {
    var timestamp: Double?
    var delay: Double?
    var inputLength: Int?
    var outputLength: Int?
    var hashIDs: [UInt64]?
    var text: String?
    var sessionID: String?
    /// Bailian's, whose other units go with it.
    var chatID: Int?
    var turns: [TraceTurn]?

    private enum CodingKeys: String, CodingKey {
        case timestamp, delay, text, turns
        case inputLength = "input_length"
        case outputLength = "output_length"
        case hashIDs = "hash_ids"
        case textInput = "text_input"
        case sessionID = "session_id"
        case chatID = "chat_id"
    }

    init(from decoder: any Decoder) throws {
        let row = try decoder.container(keyedBy: CodingKeys.self)
        timestamp = try row.decodeIfPresent(Double.self, forKey: .timestamp)
        delay = try row.decodeIfPresent(Double.self, forKey: .delay)
        inputLength = try row.decodeIfPresent(Int.self, forKey: .inputLength)
        outputLength = try row.decodeIfPresent(Int.self, forKey: .outputLength)
        hashIDs = try row.decodeIfPresent([UInt64].self, forKey: .hashIDs)
        text = try row.decodeIfPresent(String.self, forKey: .text) ?? row.decodeIfPresent(String.self, forKey: .textInput)
        sessionID = try row.decodeIfPresent(String.self, forKey: .sessionID)
        chatID = try row.decodeIfPresent(Int.self, forKey: .chatID)
        turns = try row.decodeIfPresent([TraceTurn].self, forKey: .turns)
    }
}

extension LoadPlan {
    /// vLLM bench's answers where nothing is said of them.
    private static let defaultAnswerTokens = 128
    /// Words of one block of text: texts that begin alike share all blocks up to where they part.
    private static let wordsPerBlock = 16

    /// What has been read so far.
    private struct JSONTrace {
        let file: String
        let options: TraceOptions
        var requests: [PlannedRequest] = []
        var lastTurn: [String: Int] = [:]
        var unnamed: UInt64 = 1 << 62
        var hasText = false
        var isBailian = false
    }

    static func readJSON(_ lines: [TraceLine], _ file: String, _ options: TraceOptions) throws(TraceError) -> ([PlannedRequest], String) {
        let decoder = JSONDecoder()
        var trace = JSONTrace(file: file, options: options)
        for line in lines.dropFirst(options.skip).prefix(options.limit) {
            guard let row = try? decoder.decode(TraceTurn.self, from: Data(line.text.utf8)) else {
                throw TraceError(file, line: line.number, expectation)
            }
            guard let turns = row.turns else {
                try add(row, session: row.sessionID, line.number, &trace)
                continue
            }
            // A line is a whole session, whether it has a name or not.
            let session = row.sessionID ?? "line \(line.number)"
            for turn in turns { try add(turn, session: session, line.number, &trace) }
        }
        if trace.lastTurn.isEmpty { trace.requests.sort { $0.offsetNanoseconds < $1.offsetNanoseconds } }
        let kind = trace.isBailian ? "bailian" : trace.lastTurn.isEmpty ? "mooncake" : "aiperf"
        return (trace.requests, trace.hasText ? "\(kind), text as made-up words" : kind)
    }

    private static let expectation = "expected a JSON object with input_length and output_length, with text, or with turns of these"

    private static func add(_ turn: TraceTurn, session: String?, _ line: Int, _ trace: inout JSONTrace) throws(TraceError) {
        let options = trace.options
        let prompt: [PromptBlock]
        if let text = turn.text {
            prompt = textBlocks(text, options)
            trace.hasText = true
        } else {
            guard let length = turn.inputLength, turn.outputLength != nil else { throw TraceError(trace.file, line: line, expectation) }
            guard (0...longestTokens).contains(length) else {
                throw TraceError(trace.file, line: line, "expected lengths of 0 to \(longestTokens) tokens")
            }
            trace.unnamed += 1
            let whole = options.blockTokens ?? (turn.chatID == nil ? 512 : 16)
            prompt = blocks(turn.hashIDs ?? [trace.unnamed], of: whole, tokens: length, options)
        }
        let answer = turn.outputLength ?? defaultAnswerTokens
        guard (0...longestTokens).contains(answer) else {
            throw TraceError(trace.file, line: line, "expected lengths of 0 to \(longestTokens) tokens")
        }
        trace.isBailian = trace.isBailian || turn.chatID != nil
        let time = nanoseconds(turn.timestamp ?? 0, perUnit: turn.chatID == nil ? 1e6 : 1e9, options)
        var request = PlannedRequest(offsetNanoseconds: time, user: prompt, outputTokens: scaled(answer, options))
        if let session {
            if let before = trace.lastTurn[session] {
                trace.requests[before].nextTurn = Int32(trace.requests.count)
                request.thinkNanoseconds = nanoseconds(turn.delay ?? 0, perUnit: 1e6, options)
                guard request.thinkNanoseconds <= longestNanoseconds else {
                    throw TraceError(trace.file, line: line, "expected a delay of up to a year")
                }
                request.offsetNanoseconds = trace.requests[before].offsetNanoseconds
            }
            trace.lastTurn[session] = trace.requests.count
        }
        trace.requests.append(request)
    }

    /// All blocks are whole but the last, which has the rest.
    private static func blocks(_ ids: [UInt64], of size: Int, tokens: Int, _ options: TraceOptions) -> [PromptBlock] {
        let whole = scaled(size, options)
        var rest = scaled(tokens, options)
        return ids.enumerated().compactMap { index, id in
            let count = index == ids.count - 1 ? rest : min(whole, rest)
            rest -= count
            return count > 0 ? PromptBlock(id: id, tokens: count) : nil
        }
    }

    /// As many made-up words as the text has, alike where it is: an engine that is simulated needs no more, and a report keeps nobody's words.
    private static func textBlocks(_ text: String, _ options: TraceOptions) -> [PromptBlock] {
        let words = text.split(whereSeparator: \.isWhitespace)
        guard !words.isEmpty else { return [PromptBlock(id: 1 << 62, tokens: 1)] }
        return stride(from: 0, to: words.count, by: wordsPerBlock).map { start in
            let part = words[start..<min(words.count, start + wordsPerBlock)]
            var hash = ContentHash()
            for word in part { hash.add("\(word) ") }
            return PromptBlock(id: hash.value, tokens: scaled(part.count, options))
        }
    }
}
