import EngineModel
import Foundation
import HTTPTransport
import Wire

/// What operators do to a running engine.
extension StubExchange {
    private struct AdapterBody: Decodable {
        var name: String
        var path: String?
        var inPlace: Bool?

        enum CodingKeys: String, CodingKey {
            case name = "lora_name"
            case path = "lora_path"
            case inPlace = "load_inplace"
        }
    }

    /// Success is plain text without a content type, as with vLLM.
    func changeAdapters(_ route: Route) throws(WireError) {
        guard host.configuration.maximumAdapters > 0 else {
            throw WireError(status: 404, message: "LoRA is not enabled.", type: "NotFoundError", param: nil)
        }
        let json = Data(body)
        let body = try JSONBody.decode(AdapterBody.self, from: json)
        if route == .loadAdapter {
            guard let path = body.path else { throw .missing("lora_path", in: json) }
            guard !body.name.isEmpty, !path.isEmpty else {
                throw .invalidInput("Both 'lora_name' and 'lora_path' must be provided.")
            }
            try host.catalogue.load(ModelCatalogue.Adapter(name: body.name, path: path), inPlace: body.inPlace ?? false)
        } else {
            guard !body.name.isEmpty else { throw .invalidInput("'lora_name' needs to be provided to unload a LoRA adapter.") }
            try host.unloadAdapter(named: body.name)
        }
        let verb = route == .loadAdapter ? "added" : "removed"
        send(
            status: 200, headers: makeHeaders(), type: nil, body: "Success: LoRA adapter '\(body.name)' \(verb) successfully.")
    }

    private struct AbortBody: Decodable {
        var requestIDs: [String]

        enum CodingKeys: String, CodingKey { case requestIDs = "request_ids" }
    }

    func operate(_ route: Route) throws(WireError) {
        switch route {
        case .sleep:
            let level = try sleepLevel
            host.sleep(level: level)
            answer(status: 200, json: "{\"status\":\"sleeping\",\"level\":\(level)}")
        case .wakeUp:
            // The answer comes when the weights are back: then this is called again.
            if let end = host.wakeUp() { return wait(until: end) }
            answer(status: 200, json: "{\"status\":\"awake\",\"tags\":null}")
        case .pause:
            host.pause()
            answer(status: 200, json: "{\"status\":\"paused\"}")
        case .resume:
            host.resume()
            answer(status: 200, json: "{\"status\":\"resumed\"}")
        case .isSleeping: answer(status: 200, json: "{\"is_sleeping\":\(host.sleepState != "awake")}")
        case .isPaused: answer(status: 200, json: "{\"is_paused\":\(host.isPaused)}")
        case .resetPrefixCache: answer(status: 200, json: "{\"success\":\(host.resetPrefixCache())}")
        case .abortRequests:
            let count = host.abort(requestIDs: try JSONBody.decode(AbortBody.self, from: Data(body)).requestIDs)
            answer(status: 200, json: "{\"status\":\"aborted\",\"aborted\":\(count)}")
        default: answer(status: 404, json: "{\"detail\":\"Not Found\"}")
        }
    }

    /// As Python reads an integer, and says that it cannot.
    private var sleepLevel: Int {
        get throws(WireError) {
            let text = queryValue("level") ?? "1"
            guard let level = Int(text) else {
                throw WireError(
                    status: 400, message: "invalid literal for int() with base 10: '\(text)'", type: "BadRequestError", param: nil)
            }
            return level
        }
    }

    /// `GET` shows the settings that can be changed while the stub runs, `POST` merges a JSON object into them (RFC 7396), here or
    /// on other engines of the process: `?replica=3`, `?replica=all`.
    func configure() {
        do throws(FaultError) {
            let targets = try stub.targets(replica: queryValue("replica"))
            if request.method == .post {
                guard let patch = try? JSONDecoder().decode(JSONValue.self, from: Data(body)) else {
                    throw FaultError(message: "expected a JSON object")
                }
                for target in targets { try target.configure(patch) }
            }
            let texts = targets.map(\.configurationText)
            answer(status: 200, json: texts.count == 1 ? texts[0] : "[" + texts.joined(separator: ",") + "]")
        } catch {
            answer(status: 400, json: WireError.invalid(error.message, param: nil).body)
        }
    }

    private func queryValue(_ name: String) -> String? {
        let target = String(decoding: request.target, as: UTF8.self)
        guard let query = target.split(separator: "?", maxSplits: 1).dropFirst().first else { return nil }
        for pair in query.split(separator: "&") {
            let parts = pair.split(separator: "=", maxSplits: 1)
            if parts.count == 2, parts[0] == name { return String(parts[1]) }
        }
        return nil
    }
}
