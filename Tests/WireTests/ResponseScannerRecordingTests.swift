import Foundation
import Testing

@testable import Wire

/// Bytes of real engines, read by Foundation on one side and by this module on the other.
enum Recordings {
    static let folder = URL(filePath: #filePath).deletingLastPathComponent()
        .appending(path: "../../../shared/engine-recordings").standardizedFileURL
    static var areThere: Bool { FileManager.default.fileExists(atPath: folder.path) }

    static func files(_ suffix: String) -> [URL] {
        let all = FileManager.default.enumerator(at: folder, includingPropertiesForKeys: nil)?.compactMap { $0 as? URL } ?? []
        return all.filter { $0.pathExtension == suffix }.sorted { $0.path < $1.path }
    }

    /// Head and body of one recorded message, chunked framing removed.
    static func message(_ file: URL) throws -> (head: String, body: [UInt8]) {
        let bytes = [UInt8](try Data(contentsOf: file))
        let border = Array("\r\n\r\n".utf8)
        guard let end = bytes.indices.dropLast(3).first(where: { Array(bytes[$0..<($0 + 4)]) == border }) else { return ("", []) }
        let head = String(decoding: bytes[..<end], as: UTF8.self).lowercased()
        let rest = bytes[(end + 4)...]
        return (head, head.contains("transfer-encoding: chunked") ? dechunked(rest) : Array(rest))
    }

    private static func dechunked(_ bytes: ArraySlice<UInt8>) -> [UInt8] {
        var body: [UInt8] = []
        var rest = bytes
        while let lineEnd = rest.firstIndex(of: 0x0A) {
            let line = String(decoding: rest[rest.startIndex..<lineEnd], as: UTF8.self)
            let size = Int(line.prefix { $0.isHexDigit }, radix: 16) ?? 0
            guard size > 0, lineEnd + 1 + size <= rest.endIndex else { break }
            body += rest[(lineEnd + 1)..<(lineEnd + 1 + size)]
            rest = rest[(lineEnd + 1 + size)...].dropFirst(2)
        }
        return body
    }
}

@Suite(.enabled(if: Recordings.areThere, "no recordings at \(Recordings.folder.path)"))
struct ResponseScannerRecordingTests {
    /// Every usage object of a JSON value, in any depth; order is the document's for the cases at hand.
    private func usages(_ value: Any) -> [[String: Any]] {
        if let object = value as? [String: Any] {
            return ((object["usage"] as? [String: Any]).map { [$0] } ?? []) + object.filter { $0.key != "usage" }.values.flatMap(usages)
        }
        return (value as? [Any])?.flatMap(usages) ?? []
    }

    /// Every place in short bodies, some two dozen places in long ones (which are also read byte by byte).
    private func step(_ body: [UInt8]) -> Int {
        body.count < 1500 ? 1 : body.count / 24
    }

    private func expected(_ payloads: [String]) -> ResponseScanner.Usage? {
        var result: ResponseScanner.Usage?
        for usage in payloads.flatMap({ usages((try? JSONSerialization.jsonObject(with: Data($0.utf8))) ?? 0) }) {
            let details = (usage["prompt_tokens_details"] ?? usage["input_tokens_details"]) as? [String: Any]
            let output = (usage["completion_tokens"] ?? usage["output_tokens"]) as? Int ?? 0
            let read = usage["cache_read_input_tokens"] as? Int
            if let prompt = usage["prompt_tokens"] as? Int ?? usage["input_tokens"] as? Int {
                let created = usage["cache_creation_input_tokens"] as? Int ?? 0
                result = .init(
                    promptTokens: prompt + (read ?? 0) + created, cachedTokens: read ?? details?["cached_tokens"] as? Int,
                    completionTokens: output)
            } else {
                result?.completionTokens = output
            }
        }
        return result
    }

    @Test func eventStreams() throws {
        var streams = 0
        for file in Recordings.files("resp") {
            let (head, body) = try Recordings.message(file)
            guard head.contains("text/event-stream") else { continue }
            streams += 1
            let text = String(decoding: body, as: UTF8.self)
            let lines = text.split(separator: "\n").filter { $0.hasPrefix("data: ") }.map { String($0.dropFirst(6)) }
            let payloads = lines.filter { $0 != "[DONE]" }
            let scanned = scanAtEverySplit(body, .eventStream, step: step(body))
            #expect(scanned.events == payloads.count, "\(file.lastPathComponent)")
            #expect(scanned.began == !payloads.isEmpty, "\(file.lastPathComponent)")
            #expect(scanned.done == lines.contains("[DONE]"), "\(file.lastPathComponent)")
            #expect(scanned.error == payloads.contains { $0.hasPrefix("{\"error\"") }, "\(file.lastPathComponent)")
            #expect(scanned.usage == expected(payloads), "\(file.lastPathComponent)")
        }
        #expect(streams > 20)
    }

    @Test func jsonBodies() throws {
        var withUsage = 0
        for file in Recordings.files("resp") {
            let (head, body) = try Recordings.message(file)
            guard head.contains("application/json"), body.count < 100_000 else { continue }
            let text = String(decoding: body, as: UTF8.self)
            let scanned = scanAtEverySplit(body, .json, step: step(body))
            #expect(scanned.usage == expected([text]), "\(file.lastPathComponent)")
            let isError = text.hasPrefix("{\"error\":") || text.hasPrefix("{\"type\":\"error\"")
            #expect(scanned.error == isError, "\(file.lastPathComponent)")
            withUsage += scanned.usage == nil ? 0 : 1
        }
        #expect(withUsage > 50)
    }
}
