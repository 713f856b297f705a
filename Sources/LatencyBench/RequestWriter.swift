import Protos
import Wire
import Workload

/// Writes the bodies of requests. Holds what sessions have said so far, real answers included.
struct RequestWriter {
    let settings: LoadSettings
    /// What a session has said so far, by the index of the turn that comes next: of chat its messages, each with its comma; else the text.
    private var histories: [Int32: [UInt8]] = [:]

    init(_ settings: LoadSettings) { self.settings = settings }

    /// Replaces `body` by that of request `index` of `plan`.
    func write(_ index: Int, of plan: LoadPlan, to body: inout [UInt8]) {
        body.removeAll(keepingCapacity: true)
        switch settings.api {
        // The same for all: the settings have it.
        case .plain: break
        case .chat: writeChat(index, plan.requests[index], to: &body)
        case .text: writeText(index, plan.requests[index], to: &body)
        case .infer: writeInference(index, plan.requests[index], to: &body)
        }
    }

    private func writeChat(_ index: Int, _ request: PlannedRequest, to body: inout [UInt8]) {
        writeModel(to: &body)
        body.append(contentsOf: "\"messages\":[".utf8)
        if let history = histories[Int32(truncatingIfNeeded: index)] { body.append(contentsOf: history) }
        writeTurn(request, to: &body)
        body.append(UInt8(ascii: "]"))
        writeOptions(request, to: &body)
    }

    /// vLLM serves a request without a model as one for its own.
    private func writeModel(to body: inout [UInt8]) {
        body.append(UInt8(ascii: "{"))
        guard !settings.model.isEmpty else { return }
        body.append(contentsOf: "\"model\":\"".utf8)
        body.append(contentsOf: JSONEscape.utf8(settings.model))
        body.append(contentsOf: "\",".utf8)
    }

    private func writeTurn(_ request: PlannedRequest, to body: inout [UInt8]) {
        if !request.system.isEmpty {
            body.append(contentsOf: "{\"role\":\"system\",\"content\":\"".utf8)
            for block in request.system { PromptText.append(id: block.id, tokens: block.tokens, to: &body) }
            body.append(contentsOf: "\"},".utf8)
        }
        body.append(contentsOf: "{\"role\":\"user\",\"content\":\"".utf8)
        for block in request.user { PromptText.append(id: block.id, tokens: block.tokens, to: &body) }
        body.append(contentsOf: "\"}".utf8)
    }

    private func writeText(_ index: Int, _ request: PlannedRequest, to body: inout [UInt8]) {
        writeModel(to: &body)
        body.append(contentsOf: "\"prompt\":\"".utf8)
        writePrompt(index, request, to: &body)
        body.append(UInt8(ascii: "\""))
        writeOptions(request, to: &body)
    }

    /// All that the session has said, and what this turn says, as one text.
    private func writePrompt(_ index: Int, _ request: PlannedRequest, to text: inout [UInt8]) {
        if let history = histories[Int32(truncatingIfNeeded: index)] { text.append(contentsOf: history) }
        for block in request.system + request.user { PromptText.append(id: block.id, tokens: block.tokens, to: &text) }
    }

    private func writeOptions(_ request: PlannedRequest, to body: inout [UInt8]) {
        body.append(contentsOf: ",\"max_tokens\":\(max(1, request.outputTokens))".utf8)
        if settings.ignoresEnd { body.append(contentsOf: ",\"ignore_eos\":true".utf8) }
        if settings.streams { body.append(contentsOf: ",\"stream\":true,\"stream_options\":{\"include_usage\":true}".utf8) }
        body.append(UInt8(ascii: "}"))
    }

    /// Remembers what turn `index` said and was answered, for the turn that follows. `answer` is escaped as in JSON, of
    /// gRPC as it is.
    mutating func remember(_ index: Int, of plan: LoadPlan, answer: [UInt8]) {
        let request = plan.requests[index]
        guard request.nextTurn >= 0, settings.api != .plain else { return forget(index) }
        var history: [UInt8] = []
        if settings.api == .chat {
            history = histories[Int32(truncatingIfNeeded: index)] ?? []
            writeTurn(request, to: &history)
            history.append(contentsOf: ",{\"role\":\"assistant\",\"content\":\"".utf8)
            history.append(contentsOf: answer)
            history.append(contentsOf: "\"},".utf8)
        } else {
            writePrompt(index, request, to: &history)
            history.append(contentsOf: answer)
        }
        forget(index)
        histories[request.nextTurn] = history
    }

    mutating func forget(_ index: Int) { histories[Int32(truncatingIfNeeded: index)] = nil }

    // MARK: gRPC

    /// A `ModelInferRequest` with one BYTES tensor and the generation's parameters, framed (proto/inference.proto).
    private func writeInference(_ index: Int, _ request: PlannedRequest, to body: inout [UInt8]) {
        var text: [UInt8] = []
        writePrompt(index, request, to: &text)
        let message = InferenceRequestMessage.encode(
            model: settings.model, text: text, maximumTokens: max(1, request.outputTokens), ignoresEnd: settings.ignoresEnd)
        body.append(contentsOf: [UInt8](repeating: 0, count: GRPCFraming.prefixBytes))
        _ = body.withUnsafeMutableBytes { GRPCFraming.encodePrefix(messageBytes: message.count, into: $0) }
        body.append(contentsOf: message)
    }
}

/// Text as it may stand between the quotes of a JSON string (RFC 8259, section 7).
enum JSONEscape {
    static func utf8(_ text: String) -> [UInt8] {
        var result: [UInt8] = []
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"): result += [UInt8(ascii: "\\"), byte]
            case 0..<0x20: result += Array("\\u00".utf8) + [hexadecimal(byte >> 4), hexadecimal(byte & 15)]
            default: result.append(byte)
            }
        }
        return result
    }

    private static func hexadecimal(_ digit: UInt8) -> UInt8 { digit < 10 ? 48 + digit : 87 + digit }
}
