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
        let body = try JSONBody.decode(AdapterBody.self, from: Data(body))
        if route == .loadAdapter {
            try host.catalogue.load(
                ModelCatalogue.Adapter(name: body.name, path: body.path ?? ""), inPlace: body.inPlace ?? false)
        } else {
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
        case .sleep: host.sleep(level: queryValue("level").flatMap { Int($0) } ?? 1)
        case .wakeUp: host.wakeUp()
        case .pause: host.pause()
        case .resume: host.resume()
        case .isSleeping: return answer(status: 200, json: "{\"is_sleeping\":\(host.sleepState != "awake")}")
        case .isPaused: return answer(status: 200, json: "{\"is_paused\":\(host.isPaused)}")
        case .resetPrefixCache: host.resetPrefixCache()
        case .abortRequests: host.abort(requestIDs: try JSONBody.decode(AbortBody.self, from: Data(body)).requestIDs)
        default: break
        }
        answer(status: 200, json: nil)
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
