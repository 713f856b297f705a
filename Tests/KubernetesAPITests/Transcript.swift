import Foundation

@testable import KubernetesAPI

/// A recording of a real API server (Kubernetes 1.36): exact response bytes, chunked framing included.
struct Transcript {
    static let folder = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .appending(path: "Recordings/kubernetes").standardizedFileURL

    var status: Int
    var headers: [String: String]
    /// Without its chunked framing.
    var body: [UInt8]

    init(_ name: String) throws {
        let text = try Data(contentsOf: Self.folder.appending(path: name + ".http"))
        let begin = text.range(of: Data("### ---- response bytes follow\n".utf8))!.upperBound
        let end = text.range(of: Data("\n### ---- end".utf8), options: .backwards)!.lowerBound
        let response = text[begin..<max(begin, end)]
        let headEnd = response.range(of: Data("\r\n\r\n".utf8))?.lowerBound ?? response.endIndex
        let lines = String(decoding: response[..<headEnd], as: UTF8.self).components(separatedBy: "\r\n")
        status = Int(lines[0].split(separator: " ").dropFirst().first ?? "") ?? 0
        headers = [:]
        for line in lines.dropFirst() {
            let parts = line.split(separator: ":", maxSplits: 1)
            if parts.count == 2 { headers[parts[0].lowercased()] = parts[1].trimmingCharacters(in: .whitespaces) }
        }
        var rest = headEnd == response.endIndex ? Data() : response[(headEnd + 4)...]
        body = []
        guard headers["transfer-encoding"] == "chunked" else {
            body = Array(rest)
            return
        }
        while let lineEnd = rest.range(of: Data("\r\n".utf8))?.lowerBound,
            let count = Int(String(decoding: rest[rest.startIndex..<lineEnd], as: UTF8.self), radix: 16), count > 0
        {
            let start = lineEnd + 2
            body += rest[start..<min(start + count, rest.endIndex)]
            rest = rest[min(start + count + 2, rest.endIndex)...]
        }
    }

    var retryAfterSeconds: UInt64? { headers["retry-after"].flatMap { UInt64($0) } }

    /// The lines of a watch, each with its end.
    var lines: [[UInt8]] { body.split(separator: UInt8(ascii: "\n")).map { Array($0) + [UInt8(ascii: "\n")] } }
}

extension ListPage {
    /// Those that could be read.
    var objects: [Object] { (items ?? []).compactMap { if case .object(let object) = $0 { object } else { nil } } }
}
