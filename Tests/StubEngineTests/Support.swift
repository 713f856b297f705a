import EngineModel
import EventLoop
import Foundation

@testable import StubEngine

func value(_ json: String) throws -> JSONValue { try JSONDecoder().decode(JSONValue.self, from: Data(json.utf8)) }

/// Recorded answers of real engines, which lie beside the repository; nil where they do not.
enum Recordings {
    static let folder: URL? = {
        let repository = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        let folder = repository.deletingLastPathComponent().appending(path: "shared/engine-recordings")
        return FileManager.default.fileExists(atPath: folder.path) ? folder : nil
    }()

    /// The body of a recorded HTTP answer.
    static func body(_ path: String) throws -> String? {
        guard let folder else { return nil }
        let text = String(decoding: try Data(contentsOf: folder.appending(path: path)), as: UTF8.self).replacingOccurrences(
            of: "\r\n", with: "\n")
        guard let end = text.range(of: "\n\n") else { return text }
        return String(text[end.upperBound...])
    }
}
