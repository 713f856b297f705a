/// An error as vLLM words it for an OpenAI client.
struct WireError: Error, Equatable {
    var status: Int
    var message: String
    /// `BadRequestError` and its like; validation by the web framework says "Bad Request", with a space.
    var type: String
    var param: String?

    var body: String {
        "{\"error\":{\"message\":\(JSONText.string(message)),\"type\":\(JSONText.string(type)),"
            + "\"param\":\(JSONText.string(param)),\"code\":\(status)}}"
    }

    static func invalid(_ message: String, param: String?, value: String? = nil) -> WireError {
        let place = param.map { param in " (parameter=\(param)\(value.map { ", value=\($0)" } ?? ""))" } ?? ""
        return WireError(status: 400, message: message + place, type: "BadRequestError", param: param)
    }

    /// What the framework's own validation says: of which kind, where in the body, and why.
    static func validation(kind: String, location: String, reason: String) -> WireError {
        WireError(
            status: 400, message: "1 validation error:\n  {'type': '\(kind)', 'loc': '\(location)', 'msg': '\(reason)'}",
            type: "Bad Request", param: location)
    }

    static func unknownModel(_ model: String, known: [String]) -> WireError {
        WireError(
            status: 404, message: "The model `\(model)` does not exist. Valid aliases: \(known.joined(separator: ", ")).",
            type: "NotFoundError", param: "model")
    }

    static let unsupportedMediaType = WireError(
        status: 400, message: "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed",
        type: "Bad Request", param: nil)

    static let busy = WireError(
        status: 503,
        message: "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance.",
        type: "Service Unavailable", param: nil)
}
