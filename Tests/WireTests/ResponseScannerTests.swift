import Testing

@testable import Wire

/// What a scanner knows, as a comparable value.
struct Scanned: Equatable {
    var began: Bool
    var events: Int
    var done: Bool
    var error: Bool
    var usage: ResponseScanner.Usage?

    init(_ pieces: [ArraySlice<UInt8>], _ kind: ResponseScanner.Kind) {
        var scanner = ResponseScanner(kind: kind)
        for piece in pieces { piece.withUnsafeBytes { scanner.consume($0) } }
        scanner.finish()
        self.init(scanner)
    }

    init(_ body: String, _ kind: ResponseScanner.Kind = .eventStream) {
        self.init([Array(body.utf8)[...]], kind)
    }

    init(_ scanner: ResponseScanner) {
        began = scanner.firstEventSeen
        events = scanner.dataEvents
        done = scanner.doneSeen
        error = scanner.errorSeen
        usage = scanner.usage
    }
}

/// Scans `bytes` whole, byte by byte, and split in two at every place (at every `step`th for long bodies): all must agree.
func scanAtEverySplit(_ bytes: [UInt8], _ kind: ResponseScanner.Kind, step: Int = 1) -> Scanned {
    let whole = Scanned([bytes[...]], kind)
    #expect(Scanned(bytes.indices.map { bytes[$0...$0] }, kind) == whole)
    for split in stride(from: 0, through: bytes.count, by: step) {
        #expect(Scanned([bytes[..<split], bytes[split...]], kind) == whole, "split at \(split)")
    }
    return whole
}

@Suite struct ResponseScannerTests {
    private let chunk = #"data: {"id":"c","choices":[{"index":0,"delta":{"content":" \"usage\":{\"prompt_tokens\":1}"}}]}"#

    @Test func followsAChatStream() {
        let body = """
            : keep-alive

            \(chunk)

            \(chunk)

            data: {"id":"c","choices":[],"usage":{"prompt_tokens":114,"total_tokens":118,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":96}}}

            data: [DONE]


            """
        let scanned = scanAtEverySplit(Array(body.utf8), .eventStream)
        #expect(scanned.began && scanned.done && !scanned.error)
        #expect(scanned.events == 3)
        #expect(scanned.usage == .init(promptTokens: 114, cachedTokens: 96, completionTokens: 4))
        #expect(scanAtEverySplit(Array(body.replacing("\n", with: "\r\n").utf8), .eventStream) == scanned)
        #expect(Scanned(body.replacing("data: ", with: "data:")) == scanned)
    }

    @Test(arguments: [
        "", "\n\n", ": keep-alive\n\n", ":\n\n: data: {}\n\n", "\r\n\r\n", "event: ping\n\n", "id: 7\nretry: 10\n\n", "data:\n\n",
        "data: \r\n\r\n",
        "data: [DONE]\n\n", "database: {}\n\n", " data: {}\n\n",
    ])
    func whatIsNoEventDoesNotBegin(body: String) {
        let scanned = scanAtEverySplit(Array(body.utf8), .eventStream)
        #expect(!scanned.began && scanned.events == 0 && !scanned.error)
    }

    @Test func anUnfinishedLineIsNoEventUntilTheEnd() {
        var scanner = ResponseScanner(kind: .eventStream)
        Array(#"data: {"error":{"message":"x"}}"#.utf8).withUnsafeBytes { scanner.consume($0) }
        #expect(!scanner.firstEventSeen && !scanner.errorSeen)
        scanner.finish()
        #expect(scanner.firstEventSeen && scanner.errorSeen)
    }

    @Test func severalDataLinesAreOneEvent() {
        #expect(Scanned("data: {\ndata: }\n\ndata: {}\n\n").events == 2)
    }

    @Test(arguments: [
        (#"data: {"error": {"message": "EngineCore encountered an issue.", "code": 500}}"#, true),
        (#"data:{"error":{"message":"x"}}"#, true), (#"data: { "error" : "gone" }"#, true), (#"data: {"error":"#, true),
        ("event: error\ndata: {\"type\":\"error\",\"error\":{}}", true), (#"data: {"type":"error","error":{}}"#, true),
        (#"data: {"type": "error", "error": {}}"#, true), ("event: response.failed\ndata: {}", true),
        (#"error: {"code":500,"message":"x"}"#, true), (#"data: {"error":null,"choices":[]}"#, false),
        (#"data: {"choices":[],"error":{}}"#, false), (#"data: {"errors":[]}"#, false),
        (#"data: {"type":"error_free"}"#, false), (#": {"error":{}}"#, false), (#"data: "error""#, false),
    ])
    func errors(body: String, expected: Bool) {
        let scanned = scanAtEverySplit(Array((body + "\n\ndata: [DONE]\n\n").utf8), .eventStream)
        #expect(scanned.error == expected)
        #expect(scanned.done)
    }

    @Test(
        arguments: [
            (#"{"usage":{"prompt_tokens":5,"total_tokens":5}}"#, (5, nil, 0)),
            (#"{"usage": {"completion_tokens": 2, "prompt_tokens": 5, "prompt_tokens_details": null}, "x": 1}"#, (5, nil, 2)),
            (
                #"{"usage" : { "prompt_tokens_details":{"x":[1,2],"cached_tokens":3},"prompt_tokens" :5,"completion_tokens":2 } }"#,
                (5, 3, 2)
            ),
            (
                #"{"usage":{"input_tokens":16,"input_tokens_details":{"cached_tokens":8,"cached_tokens_per_turn":[9]},"output_tokens":4}}"#,
                (16, 8, 4)
            ),
            (
                #"{"usage":{"input_tokens":29,"output_tokens":4,"cache_creation_input_tokens":0,"cache_read_input_tokens":96}}"#,
                (125, 96, 4)
            ),
            (#"{"usage":{"input_tokens":10,"cache_creation_input_tokens":5,"cache_read_input_tokens":0,"output_tokens":1}}"#, (15, 0, 1)),
            (#"{"a":{"usage":{"input_tokens":15,"output_tokens":0}},"b":{"usage":{"output_tokens":3}}}"#, (15, nil, 3)),
            (#"{"usage":{"prompt_tokens":1,"completion_tokens":1},"usage":{"prompt_tokens":2,"completion_tokens":2}}"#, (2, nil, 2)),
            (#"{"usage":{"prompt_tokens":5,"completion_tokens":1},"usage":null}"#, (5, nil, 1)),
            (#"{"usage":{"prompt_tokens":99999999999999999999999999}}"#, (1 << 48, nil, 0)),
            (#"{"type":"usage","usage":{"s":"},\"prompt_tokens\":9,","prompt_tokens":5}}"#, (5, nil, 0)),
            (#"{"x":"\"","usage":{"prompt_tokens":5,"nested":{"prompt_tokens":6,"completion_tokens":7}}}"#, (5, nil, 0)),
        ] as [(String, (Int, Int?, Int))])
    func usageInEverySpelling(body: String, expected: (Int, Int?, Int)) {
        let usage = ResponseScanner.Usage(promptTokens: expected.0, cachedTokens: expected.1, completionTokens: expected.2)
        #expect(scanAtEverySplit(Array(body.utf8), .json).usage == usage)
        // Wherever the key stands relative to the blocks that are compared at once.
        for shift in 0..<40 {
            let shifted = String(repeating: " ", count: shift) + body + String(repeating: " ", count: 40)
            #expect(Scanned(shifted, .json).usage == usage)
        }
    }

    @Test(arguments: [
        #"{"usage":null}"#, #"{"usage":[]}"#, #"{"usage":{}}"#, #"{"usage":{"prompt_tokens":null}}"#, #"{"usage":{"prompt_tokens":-5}}"#,
        #"{"usage":{"prompt_tokens":1.5}}"#, #"{"usage":{"prompt_tokens":"5"}}"#, #"{"usages":{"prompt_tokens":5}}"#,
        #"{"usage":"{","prompt_tokens":5}"#, #"{"text":"\"usage\":{\"prompt_tokens\":5}"}"#, #"{"usage":{"prompt_tokens":5"#,
        #""usage""usage"#,
        #"{"usage":{"#, #"{"usage":{"a":[[[[[[[[[[[[[[[[[[[[1"#,
    ])
    func whatIsNoUsage(body: String) {
        #expect(scanAtEverySplit(Array(body.utf8), .json).usage == nil)
    }

    @Test func jsonBodies() {
        #expect(scanAtEverySplit(Array(#"{"error":{"message":"x"}}"#.utf8), .json).error)
        #expect(scanAtEverySplit(Array(#" { "type" : "error", "error": {}}"#.utf8), .json).error)
        #expect(!Scanned(#"{"id":"x","error":{}}"#, .json).error)
        #expect(Scanned("{", .json).began)
        #expect(!Scanned("", .json).began)
    }

    @Test func otherBodiesAreOnlyNoticed() {
        let scanned = Scanned("data: {\"error\":{}}\n\ndata: [DONE]\n\n", .other)
        #expect(scanned.began)
        #expect(scanned.events == 0 && !scanned.done && !scanned.error && scanned.usage == nil)
    }

    /// Random bytes with a taste for what matters, split at random: no trap, one result.
    @Test func splitsOfNoiseAgree() {
        var generator = SplitMix64(state: 5)
        let words = [
            "data: ", "\n", "\n\n", "\r\n", "\"usage\"", ":", "{", "}", "\"prompt_tokens\"", "7", ",", "[DONE]", "{\"error\":", "\"", "\\",
            "\"usa", "ge\"",
            "event: ", "error", "null", " ", "\u{0}", "é", "[", "]", "-", ": ",
        ]
        for kind in [ResponseScanner.Kind.eventStream, .json] {
            for _ in 0..<300 {
                let bytes = Array((0..<60).map { _ in words[Int(generator.next() % UInt64(words.count))] }.joined().utf8)
                let whole = Scanned([bytes[...]], kind)
                var pieces: [ArraySlice<UInt8>] = []
                var at = 0
                while at < bytes.count {
                    let end = min(at + Int(generator.next() % 20), bytes.count)
                    pieces.append(bytes[at..<end])
                    at = end
                }
                #expect(Scanned(pieces, kind) == whole)
            }
        }
    }
}
