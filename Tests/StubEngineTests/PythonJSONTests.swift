import Testing

@testable import StubEngine

/// What CPython 3.11 says of each text.
@Suite struct PythonJSONTests {
    @Test(
        arguments: [
            ("", "Expecting value", 0), ("  ", "Expecting value", 2), ("{", "Expecting property name enclosed in double quotes", 1),
            ("{\"a\"", "Expecting ':' delimiter", 4), ("{\"a\":", "Expecting value", 5), ("{\"a\": ", "Expecting value", 6),
            ("{\"a\":1", "Expecting ',' delimiter", 6), ("{\"a\":1,", "Expecting property name enclosed in double quotes", 7),
            ("{\"a\":1,}", "Expecting property name enclosed in double quotes", 7),
            ("{a:1}", "Expecting property name enclosed in double quotes", 1), ("{\"a\" 1}", "Expecting ':' delimiter", 5),
            ("[", "Expecting value", 1), ("[1", "Expecting ',' delimiter", 2), ("[1,", "Expecting value", 3),
            ("[1,]", "Expecting value", 3), ("[1 2]", "Expecting ',' delimiter", 3), ("[}", "Expecting value", 1),
            ("\"abc", "Unterminated string starting at", 0), ("\"a\nb\"", "Invalid control character at", 2),
            ("\"\\x\"", "Invalid \\escape", 1), ("\"\\u12\"", "Invalid \\uXXXX escape", 2), ("\"\\u12G4\"", "Invalid \\uXXXX escape", 2),
            ("\"\\u1234", "Invalid \\uXXXX escape", 2), ("-", "Expecting value", 0), ("-x", "Expecting value", 0), ("01", "Extra data", 1),
            ("1.", "Extra data", 1), ("1.e5", "Extra data", 1), ("1e", "Extra data", 1), ("tru", "Expecting value", 0),
            ("nul", "Expecting value", 0), ("1 2", "Extra data", 2), ("{} x", "Extra data", 3),
            ("{\"ä\": 1, \"ö\" 2}", "Expecting ':' delimiter", 13), ("{\"a\":\"\\", "Unterminated string starting at", 5),
            ("[1,2,3", "Expecting ',' delimiter", 6), ("{\"model\": \"tiny-llama\", \"prompt\": ", "Expecting value", 34),
            ("not json", "Expecting value", 0),
        ] as [(String, String, Int)])
    func aDefectIsFoundWherePythonFindsIt(text: String, message: String, position: Int) {
        #expect(PythonJSON.check(Array(text.utf8)).defect == PythonJSON.Defect(message: message, position: position))
    }

    @Test(arguments: [
        "0", "-1.5e+3", " [1, 2.0E5, {}] ", #"{"a": [], "b": {"c": null}}"#, #""\u00e4\n\/""#, "NaN", "[-Infinity, Infinity, true, false]",
    ]) func whatPythonReadsHasNone(text: String) {
        let found = PythonJSON.check(Array(text.utf8))
        #expect(found.defect == nil)
        #expect(!found.hasLoneSurrogate)
    }

    @Test(arguments: [
        (#""\ud800""#, true), (#""\ud83d\ude00""#, false), (#""\ude00""#, true), (#""\ud83dx""#, true), (#""\ud83d\n""#, true),
        (#""\ud83d\ud83d\ude00""#, true), (#"["\ud83d\ude00", "\udfff"]"#, true),
    ]) func halfASurrogatePairIsSeen(text: String, isLone: Bool) {
        let found = PythonJSON.check(Array(text.utf8))
        #expect(found.defect == nil)
        #expect(found.hasLoneSurrogate == isLone)
    }

    @Test func depthIsBounded() {
        #expect(PythonJSON.check(Array((String(repeating: "[", count: 511) + String(repeating: "]", count: 511)).utf8)).defect == nil)
        #expect(PythonJSON.check(Array(String(repeating: "[", count: 1 << 20).utf8)).defect?.position == 512)
    }

    @Test func messagesAreQuotedAsPythonQuotesThem() {
        let colon = WireError.invalidJSON(PythonJSON.Defect(message: "Expecting ':' delimiter", position: 4))
        #expect(colon.message.hasSuffix(#"'ctx': {'error': "Expecting ':' delimiter"}}"#))
        let escape = WireError.invalidJSON(PythonJSON.Defect(message: #"Invalid \escape"#, position: 1))
        #expect(escape.message.hasSuffix(#"'ctx': {'error': 'Invalid \\escape'}}"#))
        #expect(escape.param == "body.1")
    }
}
