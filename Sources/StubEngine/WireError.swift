import Foundation

/// An error as vLLM words it for an OpenAI client.
struct WireError: Error, Equatable {
    var status: Int
    var message: String
    /// `BadRequestError` and its like; validation by the web framework says "Bad Request", with a space.
    var type: String
    var param: String?
    /// Starlette's own shape, for what never reached the API.
    var isDetail = false

    var body: String {
        if isDetail { return "{\"detail\":\(JSONText.string(message))}" }
        return "{\"error\":{\"message\":\(JSONText.string(message)),\"type\":\(JSONText.string(type)),"
            + "\"param\":\(JSONText.string(param)),\"code\":\(status)}}"
    }

    static func invalid(_ message: String, param: String?, value: String? = nil) -> WireError {
        let place = param.map { param in " (parameter=\(param)\(value.map { ", value=\($0)" } ?? ""))" } ?? ""
        return WireError(status: 400, message: message + place, type: "BadRequestError", param: param)
    }

    /// What the framework's own validation says: of which kind, where in the body, and why.
    /// - Parameter input: what stood there, as Python prints it.
    static func validation(kind: String, location: String, reason: String, input: String? = nil) -> WireError {
        let place = "'type': '\(kind)', 'loc': '\(location)', 'msg': '\(reason)'" + (input.map { ", 'input': '\($0)'" } ?? "")
        return WireError(status: 400, message: "1 validation error:\n  {\(place)}", type: "Bad Request", param: location)
    }

    /// A field of the body that must be there.
    static func missing(_ field: String, in json: Data) -> WireError {
        .validation(kind: "missing", location: "body.\(field)", reason: "Field required", input: JSONBody.summary(of: json))
    }

    /// A body that Python does not read as JSON.
    static func invalidJSON(_ defect: PythonJSON.Defect) -> WireError {
        // As Python prints a string: within the other quotes when it holds one.
        let quote = defect.message.contains("'") ? "\"" : "'"
        let reason = quote + defect.message.replacing("\\", with: "\\\\") + quote
        let place =
            "'type': 'json_invalid', 'loc': 'body.\(defect.position)', 'msg': 'JSON decode error', 'input': '<dict of 0 items>', "
            + "'ctx': {'error': \(reason)}"
        return WireError(status: 400, message: "1 validation error:\n  {\(place)}", type: "Bad Request", param: "body.\(defect.position)")
    }

    /// A prompt that is JSON and no text.
    static let noText = WireError(
        status: 400, message: "TextEncodeInput must be Union[TextInputSequence, Tuple[InputSequence, InputSequence]]",
        type: "BadRequestError", param: nil)

    static func invalidInput(_ message: String) -> WireError {
        WireError(status: 400, message: message, type: "InvalidUserInput", param: nil)
    }

    static func unknownResponse(_ id: String) -> WireError {
        WireError(
            status: 404, message: "Response with id '\(id)' not found.", type: "invalid_request_error", param: "response_id")
    }

    /// Neither text nor, therefore, JSON: compressed, or in another encoding than UTF-8.
    static let unreadableBody = WireError(
        status: 400, message: "There was an error parsing the body", type: "Bad Request", param: nil, isDetail: true)

    static func unknownModel(_ model: String, known: [String]) -> WireError {
        WireError(
            status: 404, message: "The model `\(model)` does not exist. Valid aliases: \(known.joined(separator: ", ")).",
            type: "NotFoundError", param: "model")
    }

    static let unsupportedMediaType = WireError(
        status: 400, message: "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed",
        type: "Bad Request", param: nil)

    /// The queue is full: `status` is 503, or 429 or 529 where other engines are imitated.
    static func busy(status: Int) -> WireError {
        WireError(
            status: status,
            message: "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance.",
            type: status == 503 ? "Service Unavailable" : "rate_limit_exceeded", param: nil)
    }

    static let deadEngine = WireError(
        status: 500, message: "EngineCore encountered an issue. See stack trace (above) for the root cause.",
        type: "InternalServerError", param: nil)

    /// What a draining vLLM says to new work.
    static let shutDown = WireError(
        status: 500, message: "cannot schedule new futures after shutdown", type: "InternalServerError", param: nil)

    /// An error that a fault asked for.
    static func fault(_ status: Int) -> WireError {
        WireError(status: status, message: "fault", type: "InternalServerError", param: nil)
    }

    /// The event `error` in a stream of `/v1/responses`, as OpenAI's reference has it.
    func responsesEvent(number: Int) -> String {
        "{\"type\":\"error\",\"code\":\"\(status)\",\"message\":\(JSONText.string(message)),\"param\":\(JSONText.string(param)),"
            + "\"sequence_number\":\(number)}"
    }

    /// The shape of `/v1/messages`, which validation errors do not have.
    var anthropicBody: String {
        guard type != "Bad Request" else { return body }
        return "{\"type\":\"error\",\"error\":{\"type\":\(JSONText.string(type)),\"message\":\(JSONText.string(message))}}"
    }
}
