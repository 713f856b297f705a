import Foundation
import Testing

@testable import StubEngine

@Suite struct JSONTests {
    @Test(arguments: ["", "plain", "a \"b\" \\ /", "\n\r\t\u{8}\u{1f}\u{0}", "äöü € 😀", "\u{7f}\u{2028}"])
    func aStringIsReadBackAsItWas(text: String) throws {
        let quoted = JSONText.string(text)
        #expect(try JSONDecoder().decode([String].self, from: Data("[\(quoted)]".utf8)) == [text])
        #expect(quoted.utf8.allSatisfy { $0 >= 0x20 })
    }

    @Test func nothingIsNull() { #expect(JSONText.string(String?.none) == "null") }

    @Test(arguments: [0, 7, 10, 99, 1_234_567_890]) func digits(number: Int) {
        var bytes = Array("x".utf8)
        bytes.append(decimal: number)
        #expect(String(decoding: bytes, as: UTF8.self) == "x\(number)")
    }

    @Test func aValueIsWrittenInOneForm() throws {
        #expect(try value(#"{ "b": [1, 2.5, true, null], "a": {"x": "y\n"} }"#).text == #"{"a":{"x":"y\n"},"b":[1,2.5,true,null]}"#)
        #expect(JSONValue(word: "true") == .bool(true))
        #expect(JSONValue(word: "3") == .number(3))
        #expect(JSONValue(word: "3s") == .string("3s"))
    }

    /// The examples of RFC 7396, appendix A.
    @Test(arguments: [
        (#"{"a":"b"}"#, #"{"a":"c"}"#, #"{"a":"c"}"#), (#"{"a":"b"}"#, #"{"b":"c"}"#, #"{"a":"b","b":"c"}"#),
        (#"{"a":"b"}"#, #"{"a":null}"#, "{}"), (#"{"a":"b","b":"c"}"#, #"{"a":null}"#, #"{"b":"c"}"#),
        (#"{"a":["b"]}"#, #"{"a":"c"}"#, #"{"a":"c"}"#), (#"{"a":"c"}"#, #"{"a":["b"]}"#, #"{"a":["b"]}"#),
        (#"{"a":{"b":"c"}}"#, #"{"a":{"b":"d","c":null}}"#, #"{"a":{"b":"d"}}"#), (#"{"a":[{"b":"c"}]}"#, #"{"a":[1]}"#, #"{"a":[1]}"#),
        (#"["a","b"]"#, #"["c","d"]"#, #"["c","d"]"#), (#"{"a":"b"}"#, #"["c"]"#, #"["c"]"#),
        (#"{"e":null}"#, #"{"a":1}"#, #"{"a":1,"e":null}"#),
        (#"[1,2]"#, #"{"a":"b","c":null}"#, #"{"a":"b"}"#), ("{}", #"{"a":{"bb":{"ccc":null}}}"#, #"{"a":{"bb":{}}}"#),
    ])
    func mergePatch(document: String, patch: String, result: String) throws {
        #expect(try value(document).merged(with: try value(patch)).text == result)
    }
}
