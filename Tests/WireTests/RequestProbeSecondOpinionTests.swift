import Foundation
import Testing

@testable import Wire

/// The faster pass over a body reads what simdjson reads, and takes for JSON what simdjson takes: on bodies as clients send them, on each
/// of these cut anywhere, with any byte anywhere, and on mutants of them, whatever bytes stand after the body.
@Suite struct RequestProbeSecondOpinionTests {
    private static let bodies: [String] = [
        #"{"model":"m","messages":[{"role":"user","content":"Say \"hi\"\n\tto \\ us\/\b\f\r"}],"stream":true,"max_tokens":16}"#,
        #" { "model" : "a/b" , "prompt" : [ 1 , 22 , 333 ] , "temperature" : 0.70 , "seed" : -42 , "n":2, "x":[], "y":{} } "#,
        #"{"model":"m","prompt":"é ü 漢字 😀 \u00e9\u6f22\ud83d\ude00 \u0000","user":"u\u0041","cache_salt":"s","lora":{"a":[true,false,null]}}"#,
        #"{"a":-0,"b":0.0,"c":-0.5,"d":1e3,"e":123456789012345678,"f":1234567890123456789,"g":9007199254740993.0,"h":0.30000000000000004}"#,
        #"{"temperature":123456789.123456789,"seed":999999999999999999,"max_tokens":5.0,"stream_options":{"include_usage":true},"p":-1.25}"#,
        #"{"prompt":"\ud800","input":"\udc00 \ud83d \ud83dx\ud83d\u0041","messages":"x","instructions":"0123456789abcdef0123456789abcde\n\"f"}"#,
        #"[1,"two",{"three":[4.5,[[]]]},true,null]"#, #""just text""#, "17", "", "  ", "nul", "true", #"{"a":1}}"#, #"{"a":1,}"#, "[1 2]",
        "01", "1.",
        "-", "\u{FEFF}{}", "{\"a\":\"tab\there\"}", "{\"a\":\"\u{7F}\"}",
    ]
    /// What stands after a body: nothing there may be taken for a part of it.
    private static let paddings = [#"""#, "}", "]", " ", "1", "\\", "e", "\u{0}"].map { $0.utf8.first! }

    private static func watching(libraryOnly: Bool) -> RequestProbe {
        RequestProbe(
            maximumChunks: 64, chunkBytes: 16, watching: ["a", "b", "c", "d", "e", "f", "g", "h"].map { Array($0.utf8) },
            libraryOnly: libraryOnly)
    }

    private let ours = Self.watching(libraryOnly: false)
    private let library = Self.watching(libraryOnly: true)

    private func compare(_ body: [UInt8], _ padding: UInt8, sourceLocation: SourceLocation = #_sourceLocation) -> Bool {
        let mine = Reading(body, padding, ours)
        let theirs = Reading(body, padding, library)
        if mine != theirs {
            Issue.record(
                "\(String(decoding: body, as: UTF8.self).debugDescription): \(mine), not \(theirs)", sourceLocation: sourceLocation)
        }
        return mine.isJSON
    }

    @Test(arguments: bodies) func cutAnywhereAndWithAnyByteAnywhere(body: String) {
        let whole = Array(body.utf8)
        for padding in Self.paddings {
            for length in 0...whole.count { _ = compare(Array(whole[..<length]), padding) }
        }
        for place in whole.indices {
            for byte in UInt8.min...UInt8.max {
                var changed = whole
                changed[place] = byte
                _ = compare(changed, Self.paddings[place % Self.paddings.count])
            }
        }
    }

    @Test(arguments: UInt64(1)...4) func mutants(seed: UInt64) {
        var random = SplitMix64(state: seed)
        let alphabet = Array(#"{}[]":,\un0123456789.-+eE tfrul"#.utf8) + [0x0A, 0x1F, 0x80, 0xC3, 0xED, 0xA0, 0xF0, 0xFF]
        var taken = 0
        for _ in 0..<10_000 {
            var body = Array(Self.bodies[Int(random.next() % 7)].utf8)
            for _ in 0..<(1 + random.next() % 3) {
                let place = Int(random.next() % UInt64(body.count))
                let end = min(body.count, place + Int(random.next() % 40))
                switch random.next() % 4 {
                case 0: body[place] = alphabet[Int(random.next() % UInt64(alphabet.count))]
                case 1: body.insert(alphabet[Int(random.next() % UInt64(alphabet.count))], at: place)
                case 2: body.insert(contentsOf: body[place..<end], at: Int(random.next() % UInt64(body.count)))
                default: body.removeSubrange(place..<end)
                }
                if body.isEmpty { body = [0x20] }
            }
            if compare(body, Self.paddings[Int(random.next() % UInt64(Self.paddings.count))]) { taken += 1 }
        }
        #expect(taken > 500)
    }

    @Test(arguments: [63, 64, 65, 511, 512, 513]) func nesting(depth: Int) {
        let open = String(repeating: "[", count: depth)
        let close = String(repeating: "]", count: depth)
        #expect(compare(Array("\(open)\(close)".utf8), 0x20) == (depth <= 512))
    }

    /// As dense as JSON can be, at and around the sizes at which buffers grow, and in memory of exactly that size: `"",` fills the room of
    /// texts, `1,` that of the tape, and a long text both passes' bound of what a reader keeps.
    @Test(arguments: [16_384, 32_768, 1 << 20, 1 << 21]) func dense(bytes: Int) {
        for (opening, unit, closing) in [
            ("[", "\"\",", "\"\"]"), ("[", "1,", "1]"), ("{", "\"\":1,", "\"\":1}"), ("[", "[],", "[]]"), ("\"", "x", "\""),
            ("\"", "\\n", "\""),
            ("{\"prompt\":\"", "漢", "\"}"), ("[\"", "\\u00e9", "\"]"),
        ] {
            for size in (bytes - 3)...(bytes + 3) {
                let units = (size - opening.utf8.count - closing.utf8.count) / unit.utf8.count
                var body = Array((opening + String(repeating: unit, count: units) + closing).utf8)
                body += [UInt8](repeating: 0x20, count: size - body.count)
                #expect(compare(body, 0x22))
            }
        }
    }

    /// A long text with one interesting byte at each place of two blocks.
    @Test func placesInABlock() {
        for place in 0..<70 {
            for insert in ["\"", "\\n", "\\\"", "\u{1}", "é", "\\u00e9", "\\ud83d\\ude00", "\\", "\\u12"] {
                let text = String(repeating: "x", count: place) + insert + String(repeating: "y", count: 70 - place)
                _ = compare(Array(#"{"model":"\#(text)","prompt":"\#(text)"}"#.utf8), 0x22)
            }
        }
    }
}

/// All that a probe found.
private struct Reading: Equatable {
    var isJSON: Bool
    var model: [UInt8]?, user: [UInt8]?, cacheSalt: [UInt8]?
    var stream: Bool, includeUsage: Bool
    var maxTokens: Int?, n: Int, seed: Int?, temperature: UInt64?
    var promptBytes: Int, hashes: [UInt64], watched: [UInt64]

    init(_ body: [UInt8], _ padding: UInt8, _ probe: RequestProbe) {
        let padded = body + [UInt8](repeating: padding, count: RequestProbe.padding)
        self = padded.withUnsafeBytes { bytes in
            probe.probe(UnsafeRawBufferPointer(rebasing: bytes[..<body.count]), seed: 7)
            return Reading(probe)
        }
    }

    private init(_ probe: RequestProbe) {
        isJSON = probe.isJSON
        model = probe.model.map { Array($0) }
        user = probe.user.map { Array($0) }
        cacheSalt = probe.cacheSalt.map { Array($0) }
        stream = probe.stream
        includeUsage = probe.includeUsage
        maxTokens = probe.maxTokens
        n = probe.n
        seed = probe.seed
        temperature = probe.temperature.map(\.bitPattern)
        promptBytes = probe.promptBytes
        hashes = Array(probe.prefixHashes)
        watched = (0..<RequestProbe.mostWatched).map { probe.watched($0) }
    }
}
