import Foundation

/// Reads request bodies as vLLM's web framework does, its errors included.
enum JSONBody {
    static func decode<Body: Decodable>(_ type: Body.Type, from json: Data) throws(WireError) -> Body {
        guard !json.isEmpty else {
            throw .validation(kind: "missing", location: "body", reason: "Field required", input: "None")
        }
        guard String(validating: json, as: UTF8.self) != nil else { throw .unreadableBody }
        let json = json.starts(with: byteOrderMark) ? Data(json.dropFirst(byteOrderMark.count)) : json
        do {
            return try JSONDecoder().decode(type, from: lastKeysWin(json))
        } catch let error as DecodingError {
            throw explain(error, in: json)
        } catch {
            throw .validation(kind: "json_invalid", location: "body", reason: "JSON decode error")
        }
    }

    private static let byteOrderMark: [UInt8] = [0xef, 0xbb, 0xbf]

    /// What vLLM says of a body instead of repeating it; nil when it is neither an object nor an array.
    static func summary(of json: Data) -> String? {
        switch try? JSONDecoder().decode(JSONValue.self, from: json) {
        case .object(let fields): "<dict of \(fields.count) items>"
        case .array(let items): "<list of \(items.count) items>"
        default: nil
        }
    }

    /// The string that stands where a number should, if one does.
    private static func string(at path: [any CodingKey], in json: Data) -> String? {
        var value = try? JSONDecoder().decode(JSONValue.self, from: json)
        for key in path { value = value?[key.stringValue] }
        if case .string(let text)? = value { return text }
        return nil
    }

    /// Of equal keys the last one counts, as in Python; `JSONDecoder` takes the first, `JSONSerialization` the last. A key's bytes,
    /// quotes included, cannot occur inside a string, so finding one twice is rare and only then costs a second pass.
    private static func lastKeysWin(_ json: Data) throws -> Data {
        let repeated = [#""model""#, #""prompt""#, #""messages""#, #""stream""#, #""max_tokens""#].contains { key in
            let key = Data(key.utf8)
            guard let first = json.range(of: key) else { return false }
            return json.range(of: key, in: first.upperBound..<json.endIndex) != nil
        }
        guard repeated else { return json }
        return try JSONSerialization.data(withJSONObject: JSONSerialization.jsonObject(with: json))
    }

    private static func explain(_ error: DecodingError, in json: Data) -> WireError {
        let found = PythonJSON.check([UInt8](json))
        if let defect = found.defect { return .invalidJSON(defect) }
        if found.hasLoneSurrogate { return .noText }
        func location(_ path: [any CodingKey]) -> String {
            (["body"] + path.map { $0.intValue.map { "\($0)" } ?? $0.stringValue }).joined(separator: ".")
        }
        switch error {
        case .typeMismatch(_, let context) where context.codingPath.isEmpty:
            return .validation(
                kind: "model_attributes_type", location: "body",
                reason: "Input should be a valid dictionary or object to extract fields from", input: summary(of: json))
        case .typeMismatch(_, let context), .valueNotFound(_, let context):
            if case .typeMismatch(let type, _) = error, type == Int.self, let text = string(at: context.codingPath, in: json) {
                return .validation(
                    kind: "int_parsing", location: location(context.codingPath),
                    reason: "Input should be a valid integer, unable to parse string as an integer", input: text)
            }
            return .validation(kind: "type_error", location: location(context.codingPath), reason: "Input should be of another type")
        case .keyNotFound(let key, let context) where context.codingPath.isEmpty: return .missing(key.stringValue, in: json)
        case .keyNotFound(let key, let context):
            return .validation(kind: "missing", location: location(context.codingPath + [key]), reason: "Field required")
        case .dataCorrupted(let context) where !context.codingPath.isEmpty:
            return .validation(kind: "value_error", location: location(context.codingPath), reason: "Input should be of another type")
        default:
            return .validation(kind: "json_invalid", location: "body", reason: "JSON decode error")
        }
    }
}
