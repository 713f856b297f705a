import Foundation
import Testing

@testable import Wire

@Suite(.enabled(if: Recordings.areThere, "no recordings at \(Recordings.folder.path)"))
struct RequestProbeRecordingTests {
    @Test func everyRecordedRequest() throws {
        var withPrompt = 0
        for file in Recordings.files("req") {
            let (_, body) = try Recordings.message(file)
            let probed = Probed(bytes: body)
            guard let object = try? JSONSerialization.jsonObject(with: Data(body)) as? [String: Any] else { continue }
            #expect(probed.isJSON, "\(file.lastPathComponent)")
            // Foundation lets the first of duplicate keys win, the engine the last.
            if file.lastPathComponent != "dup_keys.req" {
                #expect(probed.model == object["model"] as? String, "\(file.lastPathComponent)")
            }
            #expect(probed.stream == (object["stream"] as? Bool ?? false), "\(file.lastPathComponent)")
            let limit = object["max_completion_tokens"] ?? object["max_tokens"] ?? object["max_output_tokens"]
            if let limit = limit as? Int, limit >= 0 { #expect(probed.maxTokens == limit, "\(file.lastPathComponent)") }
            #expect(probed.temperature == object["temperature"] as? Double, "\(file.lastPathComponent)")
            let prompt = ["messages", "prompt", "input"].compactMap { object[$0] }.first
            if let prompt, !(prompt is NSNull), (prompt as? [Any])?.isEmpty != true {
                #expect(probed.promptBytes > 0, "\(file.lastPathComponent)")
                withPrompt += 1
            }
        }
        #expect(withPrompt > 100)
    }
}
