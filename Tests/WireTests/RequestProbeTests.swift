import Glibc
import Testing

@testable import Wire

/// What a probe said, as values that outlive it.
struct Probed: Equatable {
    var isJSON: Bool
    var model: String?
    var user: String?
    var cacheSalt: String?
    var hashes: [UInt64]
    var promptBytes: Int
    var promptDigest: UInt64
    var formerTurnDigest: UInt64
    var stream: Bool
    var includeUsage: Bool
    var maxTokens: Int?
    var n: Int
    var temperature: Double?
    var seed: Int?

    init(_ probe: RequestProbe) {
        isJSON = probe.isJSON
        model = probe.model.map { String(decoding: $0, as: UTF8.self) }
        user = probe.user.map { String(decoding: $0, as: UTF8.self) }
        cacheSalt = probe.cacheSalt.map { String(decoding: $0, as: UTF8.self) }
        hashes = Array(probe.prefixHashes)
        promptBytes = probe.promptBytes
        promptDigest = probe.promptDigest
        formerTurnDigest = probe.formerTurnDigest
        stream = probe.stream
        includeUsage = probe.includeUsage
        maxTokens = probe.maxTokens
        n = probe.n
        temperature = probe.temperature
        seed = probe.seed
    }

    init(_ body: String, seed: UInt64 = 0, chunkBytes: Int = 16) {
        self.init(bytes: Array(body.utf8), seed: seed, chunkBytes: chunkBytes)
    }

    init(bytes: [UInt8], seed: UInt64 = 0, chunkBytes: Int = 16, probe: RequestProbe? = nil) {
        let probe = probe ?? RequestProbe(maximumChunks: 4096, chunkBytes: chunkBytes)
        // The padding is full of quotes and brackets: a reader that trusts it would be led astray.
        let padded = bytes + (0..<RequestProbe.padding).map { Array("\"]}{[".utf8)[$0 % 5] }
        padded.withUnsafeBytes { probe.probe(UnsafeRawBufferPointer(rebasing: $0[..<bytes.count]), seed: seed) }
        self.init(probe)
    }
}

@Suite struct RequestProbeTests {
    @Test func readsTheFieldsOfAChatRequest() {
        let probed = Probed(
            """
            {"model": "llama-3", "messages": [{"role": "user", "content": "hi"}], "stream": true, "n": 3, "seed": -5,
             "stream_options": {"include_usage": true}, "max_tokens": 77, "temperature": 0.25, "user": "u1", "cache_salt": "s"}
            """)
        #expect(probed.isJSON)
        #expect(probed.model == "llama-3")
        #expect(probed.stream && probed.includeUsage)
        #expect(probed.maxTokens == 77)
        #expect(probed.n == 3)
        #expect(probed.seed == -5)
        #expect(probed.temperature == 0.25)
        #expect(probed.user == "u1")
        #expect(probed.cacheSalt == "s")
    }

    @Test func absentFieldsHaveTheirDefaults() {
        let probed = Probed(#"{"stream_options":null,"model":null,"max_tokens":null,"temperature":null,"seed":null,"n":null}"#)
        #expect(probed.isJSON)
        #expect(probed.model == nil && probed.user == nil && probed.cacheSalt == nil)
        #expect(!probed.stream && !probed.includeUsage)
        #expect(probed.maxTokens == nil && probed.temperature == nil && probed.seed == nil)
        #expect(probed.n == 1)
        #expect(probed.promptBytes == 0)
    }

    @Test(
        arguments: [
            (#"{"max_tokens":5,"max_completion_tokens":6}"#, 6), (#"{"max_completion_tokens":6,"max_tokens":5}"#, 6),
            (#"{"max_tokens":5,"max_completion_tokens":null}"#, 5), (#"{"max_output_tokens":9}"#, 9),
            (#"{"max_tokens":5.0}"#, 5), (#"{"max_tokens":5.5}"#, nil), (#"{"max_tokens":"5"}"#, nil),
            (#"{"max_tokens":-1}"#, 0), (#"{"max_tokens":9223372036854775807}"#, 2_147_483_647),
            (#"{"max_tokens":1e300}"#, nil), (#"{"max_tokens":18446744073709551615}"#, nil),
            (#"{"max_tokens":1,"max_tokens":2}"#, 2), (#"{"max_tokens":1,"max_tokens":null}"#, nil),
        ] as [(String, Int?)])
    func maxTokens(body: String, expected: Int?) {
        let probed = Probed(body)
        #expect(probed.isJSON)
        #expect(probed.maxTokens == expected)
    }

    @Test(arguments: [
        (#"{"n":0}"#, 1), (#"{"n":-3}"#, 1), (#"{"n":99999999}"#, 16_384), (#"{"n":2.0}"#, 2), (#"{"n":[4]}"#, 1),
    ])
    func n(body: String, expected: Int) {
        #expect(Probed(body).n == expected)
    }

    @Test(arguments: [
        (#"{"prompt":"a","n":3}"#, 3), (#"{"prompt":["a","b"],"n":3}"#, 6), (#"{"prompt":[[1,2],[3]]}"#, 2), (#"{"prompt":[1,2,3]}"#, 1),
        (#"{"input":["a","b","c"]}"#, 3), (#"{"input":"a"}"#, 1), (#"{"messages":[{"role":"user","content":"a"}],"n":8}"#, 8), ("[]", 1),
        (#"{"prompt":[]}"#, 1), (#"{"prompt":["a","b"],"n":100000}"#, 16_384),
    ])
    func sequences(body: String, expected: Int) {
        let probe = RequestProbe()
        let bytes = Array(body.utf8) + [UInt8](repeating: 0, count: RequestProbe.padding)
        bytes.withUnsafeBytes { probe.probe(UnsafeRawBufferPointer(rebasing: $0[..<body.utf8.count]), seed: 0) }
        #expect(probe.sequences == expected)
    }

    @Test(arguments: [
        (#"{"prompt_logprobs":0}"#, true), (#"{"prompt_logprobs":5}"#, true), (#"{"prompt_logprobs":null}"#, false), ("{}", false),
        (#"{"prompt_logprobs":-1}"#, false), (#"{"echo":true,"logprobs":1}"#, true), (#"{"echo":true}"#, false),
        (#"{"logprobs":5}"#, false),
        (#"{"echo":false,"logprobs":5}"#, false), (#"{"cache_prompt":false}"#, true), (#"{"cache_prompt":true}"#, false),
        (#"{"logprob_start_len":0}"#, true), (#"{"logprob_start_len":-1}"#, false),
    ])
    func skipsCache(body: String, expected: Bool) {
        let probe = RequestProbe()
        let bytes = Array(body.utf8) + [UInt8](repeating: 0, count: RequestProbe.padding)
        bytes.withUnsafeBytes { probe.probe(UnsafeRawBufferPointer(rebasing: $0[..<body.utf8.count]), seed: 0) }
        #expect(probe.skipsCache == expected)
    }

    @Test func theLastOfDuplicateKeysWins() {
        #expect(Probed(#"{"model":"nope","model":"tiny-llama"}"#).model == "tiny-llama")
        #expect(Probed(#"{"model":"nope","model":7}"#).model == nil)
        #expect(Probed(#"{"stream":true,"stream":false}"#).stream == false)
        let twice = Probed(
            #"{"messages":[{"role":"user","content":"first first first first"}],"messages":[{"content":"a","role":"system","role":"user","content":"second second second"}]}"#
        )
        #expect(twice == Probed(#"{"messages":[{"role":"user","content":"second second second"}]}"#))
        #expect(!twice.hashes.isEmpty)
    }

    @Test func escapesAndByteOrderMarkAreRead() {
        #expect(Probed(#"{"mod\u0065l":"caf\u00e9 \ud83d\ude00\n"}"#).model == "café 😀\n")
        #expect(Probed("\u{FEFF}{\"model\":\"m\"}").model == "m")
        #expect(Probed(#"{"model":""}"#).model == "")
        let escaped = Probed(#"{"prompt":"\u00e9t\u00e9 \"chaud\" et tr\u00e8s long"}"#)
        #expect(escaped == Probed(#"{"prompt":"été \u0022chaud\u0022 et très long"}"#))
        #expect(!escaped.hashes.isEmpty)
    }

    @Test(arguments: [
        "", " ", "{", "}", "[", "nul", "{]", "\"", "\"\\", "{\"model\"", "{\"model\":", "{\"model\":\"m\"", "{\"model\":\"m\\\"}",
        "{\"model\":\"m\"}}", "{\"model\":\"m\",}", "{'model':'m'}", "{\"a\":01}", "{\"a\":-}", "{\"a\":1e}", "{\"a\":\"\\u12\"}",
        "{\"a\":\"\\ud800\"}", "{\"a\":99999999999999999999999999}", "{\"a\":1e999}", "{\"a\":NaN}", "{\"a\":\"\u{1}\"}",
        "\u{FEFF}", "{\"a\":1}\u{0}", "-", "1.",
    ])
    func whatIsNoJSONHasNoPrompt(body: String) {
        let probed = Probed(body)
        #expect(!probed.isJSON)
        #expect(probed.model == nil && probed.hashes.isEmpty && probed.promptBytes == 0)
    }

    @Test func invalidUTF8IsNoJSON() {
        for bad: [UInt8] in [[0xFF], [0xC0, 0x80], [0xE2, 0x82], [0xED, 0xA0, 0x80], [0xF4, 0x90, 0x80, 0x80]] {
            #expect(!Probed(bytes: Array(#"{"model":""#.utf8) + bad + Array(#""}"#.utf8)).isJSON)
        }
    }

    @Test func otherJSONIsJSONWithoutFields() {
        for body in ["[]", "7", "null", "\"x\"", "[{\"model\":\"m\"}]", "{}"] {
            let probed = Probed(body)
            #expect(probed.isJSON)
            #expect(probed.model == nil && probed.promptBytes == 0)
        }
    }

    @Test func wrongTypesAreHarmless() {
        let values = ["null", "true", "7", "-1.5", "\"x\"", "[]", "{}", "[[]]", "[{}]", "[null]", "[1,\"a\",[2,{}],{\"b\":null}]"]
        let names = [
            "model", "messages", "prompt", "input", "instructions", "system", "tools", "functions", "stream", "stream_options",
            "temperature", "seed", "n", "user", "cache_salt", "lora", "max_tokens",
        ]
        for name in names {
            for value in values { #expect(Probed("{\"\(name)\":\(value)}").isJSON) }
        }
        let fields = ["role", "content", "name", "tool_calls", "tool_call_id", "image_url", "type", "text"]
        for field in fields {
            for value in values {
                #expect(Probed("{\"messages\":[{\"role\":\"user\",\"\(field)\":\(value)}]}").isJSON)
                #expect(Probed("{\"messages\":[{\"role\":\"user\",\"content\":[{\"\(field)\":\(value)}]}]}").isJSON)
            }
        }
    }

    @Test func nestingIsBounded() {
        func nested(_ depth: Int) -> String {
            "{\"a\":" + String(repeating: "[", count: depth) + String(repeating: "]", count: depth) + "}"
        }
        #expect(Probed(nested(400)).isJSON)
        #expect(!Probed(nested(600)).isJSON)
        #expect(!Probed(String(repeating: "[", count: 100_000)).isJSON)
        #expect(!Probed(String(repeating: "{\"a\":", count: 100_000)).isJSON)
    }

    @Test func largeBodiesKeepTheirNamesAndDenseOnesAreRefused() {
        let probe = RequestProbe(maximumChunks: 16, chunkBytes: 256)
        let text = String(repeating: "abcdefgh", count: 400_000)
        let body = Array(#"{"model":"big","user":"u","cache_salt":"c","prompt":"\#(text)"}"#.utf8)
        let probed = Probed(bytes: body, probe: probe)
        #expect(probed.isJSON)
        #expect(probed.model == "big" && probed.user == "u" && probed.cacheSalt == "c")
        #expect(probed.promptBytes == text.utf8.count + 1)
        #expect(probed.hashes.count == 16)
        // Four million and some tokens are beyond the bound of a parse.
        let dense = Array(("[" + String(repeating: "1,", count: 1 << 22) + "1]").utf8)
        #expect(!Probed(bytes: dense, probe: probe).isJSON)
        #expect(Probed(bytes: Array(#"{"model":"small"}"#.utf8), probe: probe).model == "small")
    }

    @Test func clearForgets() {
        let probe = RequestProbe()
        _ = Probed(bytes: Array(#"{"model":"m","n":2,"stream":true,"prompt":"x"}"#.utf8), probe: probe)
        probe.clear()
        #expect(Probed(probe) == Probed(""))
    }

    /// Bodies that end right before memory that must not be touched, cut and mutated everywhere.
    @Test func readsNothingBeyondThePadding() throws {
        let page = Int(sysconf(Int32(_SC_PAGESIZE)))
        let memory = try #require(mmap(nil, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))
        defer { munmap(memory, 2 * page) }
        try #require(mprotect(memory + page, page, PROT_NONE) == 0)
        let whole = Array(
            #"{"model":"m\u00e9","messages":[{"role":"user","content":[{"type":"text","text":"h\\i"}]},{"tool_calls":[1.5e3,true]}],"n":-12}"#
                .utf8)
        let probe = RequestProbe(maximumChunks: 64, chunkBytes: 16)
        var generator = SplitMix64(state: 11)
        let interesting = Array("\"\\{}[],:0-e\u{0}u".utf8) + [0xFF, 0xC3]
        for round in 0..<4_000 {
            var body = Array(whole.prefix(round < whole.count ? round : whole.count))
            if round >= whole.count {
                for _ in 0...Int(generator.next() % 4) {
                    body[Int(generator.next() % UInt64(body.count))] = interesting[Int(generator.next() % UInt64(interesting.count))]
                }
            }
            let start = memory + page - RequestProbe.padding - body.count
            memset(memory, Int32(interesting[round % interesting.count]), page)
            body.withUnsafeBytes { start.copyMemory(from: $0.baseAddress ?? UnsafeRawPointer(start), byteCount: body.count) }
            probe.probe(UnsafeRawBufferPointer(start: start, count: body.count), seed: 0)
            if round < whole.count { #expect(!probe.isJSON) }
        }
    }
}
