import Foundation

/// Reads request bodies as vLLM's web framework does, its errors included.
enum JSONBody {
    static func decode<Body: Decodable>(_ type: Body.Type, from json: Data) throws(WireError) -> Body {
        guard !json.isEmpty else { throw .validation(kind: "missing", location: "body", reason: "Field required") }
        do {
            return try JSONDecoder().decode(type, from: lastKeysWin(json))
        } catch let error as DecodingError {
            throw explain(error)
        } catch {
            throw .validation(kind: "json_invalid", location: "body", reason: "JSON decode error")
        }
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

    private static func explain(_ error: DecodingError) -> WireError {
        func location(_ path: [any CodingKey]) -> String {
            (["body"] + path.map { $0.intValue.map { "\($0)" } ?? $0.stringValue }).joined(separator: ".")
        }
        switch error {
        case .typeMismatch(_, let context), .valueNotFound(_, let context):
            return .validation(kind: "type_error", location: location(context.codingPath), reason: "Input should be of another type")
        case .keyNotFound(let key, let context):
            return .validation(kind: "missing", location: location(context.codingPath + [key]), reason: "Field required")
        case .dataCorrupted(let context) where !context.codingPath.isEmpty:
            return .validation(kind: "value_error", location: location(context.codingPath), reason: "Input should be of another type")
        default:
            return .validation(kind: "json_invalid", location: "body", reason: "JSON decode error")
        }
    }
}
