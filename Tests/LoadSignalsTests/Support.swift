import Foundation

@testable import LoadSignals

/// Answers of real engines, where the recordings are.
enum Recordings {
    static let folder = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../../../shared/engine-recordings")
        .standardizedFileURL
    static var areThere: Bool { FileManager.default.fileExists(atPath: folder.path) }

    /// The body of a recorded answer.
    static func body(_ name: String) throws -> [UInt8] {
        let data = try Data(contentsOf: folder.appending(path: name))
        guard let end = data.range(of: Data("\r\n\r\n".utf8)) else { return [] }
        return Array(data[end.upperBound...])
    }
}

/// What comes of a text in pieces of `size` bytes.
func read(_ bytes: [UInt8], pieces size: Int = .max) -> (reading: EngineReading, malformed: Int) {
    var scanner = MetricsTextScanner()
    var reading = EngineReading()
    bytes.withUnsafeBytes { bytes in
        var at = 0
        while at < bytes.count {
            let end = at + min(size, bytes.count - at)
            scanner.consume(UnsafeRawBufferPointer(rebasing: bytes[at..<end]), into: &reading)
            at = end
        }
    }
    scanner.finish()
    return (reading, scanner.malformedLines)
}

func read(_ text: String) -> EngineReading { read(Array(text.utf8)).reading }
