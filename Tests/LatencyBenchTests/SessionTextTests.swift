import Testing
import Workload

@testable import LatencyBench

/// Later turns of a session repeat what was said before, whatever the protocol.
@Suite struct SessionTextTests {
    private let plan: LoadPlan = {
        var first = PlannedRequest(
            offsetNanoseconds: 0, system: [.init(id: 7, tokens: 5)], user: [.init(id: 8, tokens: 5)], outputTokens: 1)
        first.nextTurn = 1
        let second = PlannedRequest(offsetNanoseconds: 0, user: [.init(id: 9, tokens: 5)], outputTokens: 1)
        return LoadPlan(
            name: "test", parameters: [:], requests: [first, second], stages: [.init(startRate: 1, seconds: 1)], process: "test")
    }()

    private func text(_ ids: UInt64...) -> String {
        var bytes: [UInt8] = []
        for id in ids { PromptText.append(id: id, tokens: 5, to: &bytes) }
        return String(decoding: bytes, as: UTF8.self)
    }

    private func bodies(_ api: LoadTarget.API, answer: String) -> [String] {
        var settings = LoadSettings()
        settings.api = api
        var writer = RequestWriter(settings)
        var body: [UInt8] = []
        return [0, 1].map { index in
            writer.write(index, of: plan, to: &body)
            writer.remember(index, of: plan, answer: Array(answer.utf8))
            return String(decoding: body, as: UTF8.self)
        }
    }

    @Test(arguments: [LoadTarget.API.text, .infer]) func aTurnRepeatsAllBefore(_ api: LoadTarget.API) {
        let bodies = bodies(api, answer: " an answer")
        #expect(bodies[0].contains(text(7, 8)))
        #expect(bodies[1].contains(text(7, 8) + " an answer" + text(9)))
    }

    @Test func aFailedTurnLeavesNothingBehind() {
        var settings = LoadSettings()
        settings.api = .text
        var writer = RequestWriter(settings)
        writer.remember(0, of: plan, answer: Array("x".utf8))
        writer.forget(1)
        var body: [UInt8] = []
        writer.write(1, of: plan, to: &body)
        #expect(String(decoding: body, as: UTF8.self).contains("\"prompt\":\"" + text(9)))
    }

    /// A field of protobuf with a length, for lengths below 128.
    private func field(_ number: UInt8, _ bytes: [UInt8]) -> [UInt8] { [number << 3 | 2, UInt8(bytes.count)] + bytes }

    private func read(_ bytes: [UInt8], isStreamed: Bool = false) -> String? {
        bytes.withUnsafeBytes { InferenceResponseMessage.text(in: $0, isStreamed: isStreamed) }.map { String(decoding: $0, as: UTF8.self) }
    }

    @Test func theTextOfAnAnswerIsReadInBothForms() {
        let head = field(1, Array("text_output".utf8)) + field(2, Array("BYTES".utf8))
        let plain = field(5, head + field(5, field(8, Array("words".utf8))))
        #expect(read(plain) == "words")
        #expect(read(field(2, plain), isStreamed: true) == "words")
        #expect(read(field(5, head) + field(6, [5, 0, 0, 0] + Array("words".utf8))) == "words")
        // An element that says it is longer than all there is.
        #expect(read(field(5, head) + field(6, [255, 255, 255, 255] + Array("wo".utf8))) == "wo")
        let broken: [[UInt8]] = [[], field(5, head), field(5, head) + field(6, [1, 0]), [0xff, 0xff], field(1, Array("model".utf8))]
        for broken in broken {
            #expect(read(broken) == nil && read(broken, isStreamed: true) == nil)
        }
    }
}
