import Foundation
import Testing

@testable import Telemetry

/// Calls `body` with a record whose strings are `text` throughout.
private func withRecord(_ text: [UInt8], _ body: (inout AccessRecord) -> Void) {
    text.withUnsafeBytes { bytes in
        var record = AccessRecord()
        record.requestID = bytes
        record.method = bytes
        record.path = bytes
        record.model = bytes
        record.group = bytes
        record.endpoint = bytes
        record.client = bytes
        body(&record)
    }
}

/// One line as the writer formats it, without its newline.
private func line(_ text: [UInt8], _ change: (inout AccessRecord) -> Void = { _ in }) -> String {
    var buffer = LineBuffer(capacity: AccessLogWriter.maximumLineBytes)
    withRecord(text) { record in
        change(&record)
        buffer.append(record)
    }
    let isOverfull = buffer.isOverfull
    #expect(!isOverfull)
    let text = String(decoding: buffer.bytes, as: UTF8.self)
    #expect(text.hasSuffix("}\n"))
    return String(text.dropLast())
}

private func object(_ line: String) throws -> [String: Any] {
    try #require(JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any])
}

@Suite struct AccessLineTests {
    @Test func everyFieldIsThere() throws {
        let text = line(Array("x".utf8)) { record in
            record.wallClockNanoseconds = 1_795_468_812_345_678_901
            record.protocolName = "HTTP/2"
            record.status = 200
            record.reason = "prefix"
            record.attempts = 2
            record.isStream = true
            record.bytesIn = 500
            record.bytesOut = .max
            record.promptTokens = 12
            record.cachedTokens = 0
            record.timeToFirstTokenNanoseconds = 1_234_567
            record.durationNanoseconds = 999
            record.outcome = .clientGone
        }
        let expected = """
            {"time":"2026-11-23T21:20:12.345Z","request_id":"x","method":"x","path":"x","protocol":"HTTP/2","status":200,\
            "model":"x","group":"x","endpoint":"x","reason":"prefix","attempts":2,"stream":true,"bytes_in":500,\
            "bytes_out":18446744073709551615,"prompt_tokens":12,"cached_tokens":0,"completion_tokens":null,"held_ms":0.000,"ttft_ms":1.234,\
            "duration_ms":0.000,"client":"x","outcome":"client_gone"}
            """
        #expect(text == expected)
    }

    @Test func whatIsUnknownIsNull() throws {
        let fields = try object(line([]))
        #expect(fields.count == 22)
        for key in ["request_id", "model", "group", "endpoint", "reason", "prompt_tokens", "ttft_ms"] {
            #expect(fields[key] is NSNull, "\(key)")
        }
    }

    @Test func everyByteMakesValidJSON() throws {
        for byte in UInt8.min...UInt8.max {
            let path = try #require(object(line([0x61, byte, 0x62]))["path"] as? String)
            let isAlone = byte < 0x80
            #expect(path == (isAlone ? "a\(Character(Unicode.Scalar(byte)))b" : "a\u{FFFD}b"), "\(byte)")
            let raw = line([byte])
            #expect(raw.utf8.allSatisfy { $0 >= 0x20 && $0 != 0x7F }, "\(byte)")
        }
    }

    @Test(arguments: [
        "é", "€", "🚀", "\u{7FF}\u{800}\u{FFFF}\u{10000}\u{10FFFF}", "\"\\/\u{8}\u{c}\n\r\t", "日本語",
    ]) func textSurvives(text: String) throws {
        #expect(try object(line(Array(text.utf8)))["path"] as? String == text)
    }

    @Test(
        arguments: [
            [0xC0, 0x80], [0xE0, 0x80, 0x80], [0xED, 0xA0, 0x80], [0xF4, 0x90, 0x80, 0x80], [0xF8], [0xC3], [0xE2, 0x82],
            [0xF0, 0x9F, 0x9A],
            [0xE2, 0x28, 0xA1], [0x80],
        ] as [[UInt8]]) func illFormedTextIsReplaced(bytes: [UInt8]) throws
    {
        let path = try #require(object(line([0x3C] + bytes + [0x3E]))["path"] as? String)
        #expect(path.contains("\u{FFFD}") && path.hasPrefix("<") && path.hasSuffix(">"))
    }

    @Test(arguments: [[0x61], [0x22], [0x00], [0xFF], [0xF0, 0x9F, 0x9A, 0x80], [0xC3, 0xA9]] as [[UInt8]])
    func theLongestLineFits(piece: [UInt8]) throws {
        let text = line(Array((0..<10_000).map { _ in piece }.joined())) { record in
            record.wallClockNanoseconds = .max
            record.status = .max
            record.attempts = .max
            record.bytesIn = .max
            record.bytesOut = .max
            record.promptTokens = .max
            record.cachedTokens = .max
            record.completionTokens = .max
            record.timeToFirstTokenNanoseconds = .max
            record.durationNanoseconds = .max
            record.protocolName = "0123456789012345678901234567890123456789"
            record.reason = "0123456789012345678901234567890123456789"
        }
        #expect(text.utf8.count < AccessLogWriter.maximumLineBytes)
        let path = try #require(object(text)["path"] as? String)
        #expect(path.utf8.count > 200 && path.utf8.count <= 1_536)
    }

    @Test func timesAgreeWithTheCalendar() throws {
        let formatter = ISO8601DateFormatter()
        formatter.formatOptions = [.withInternetDateTime, .withFractionalSeconds]
        var seconds: UInt64 = 0
        // Steps of a prime number of seconds over 500 years meet every month, leap days among them.
        while seconds < 500 * 31_556_952 {
            var buffer = LineBuffer(capacity: 64)
            buffer.appendTimestamp(seconds * 1_000_000_000 + 7_999_999)
            let date = Date(timeIntervalSince1970: Double(seconds) + 0.007)
            let text = String(decoding: buffer.bytes, as: UTF8.self)
            #expect(text == formatter.string(from: date))
            seconds += 39_999_983
        }
    }
}

/// Pipes and files of a test, closed with it.
private final class Descriptors {
    private(set) var reader: Int32 = -1
    private(set) var writer: Int32 = -1

    init() throws {
        signal(SIGPIPE, SIG_IGN)
        var ends: [Int32] = [-1, -1]
        try #require(pipe(&ends) == 0)
        (reader, writer) = (ends[0], ends[1])
        // Only the reading end: the writer must do without O_NONBLOCK.
        try #require(fcntl(reader, F_SETFL, O_NONBLOCK) == 0)
    }

    deinit {
        closeReader()
        close(writer)
    }

    func closeReader() {
        if reader >= 0 { close(reader) }
        reader = -1
    }

    /// Everything that waits in the pipe.
    func drain() -> String {
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = read(reader, &chunk, chunk.count)
            guard count > 0 else { return String(decoding: bytes, as: UTF8.self) }
            bytes += chunk[..<count]
        }
    }
}

@Suite struct AccessLogWriterTests {
    private func append(_ writer: AccessLogWriter, _ id: Int) {
        withRecord(Array("request-\(id)".utf8)) { record in writer.append(record) }
    }

    private func ids(_ text: String) throws -> [Int] {
        try text.split(separator: "\n").map { line in
            let id = try #require(object(String(line))["request_id"] as? String)
            return try #require(Int(id.dropFirst("request-".count)))
        }
    }

    @Test func linesWaitForTheFlush() throws {
        let descriptors = try Descriptors()
        let writer = AccessLogWriter(descriptor: descriptors.writer)
        for id in 0..<100 { append(writer, id) }
        #expect(descriptors.drain().isEmpty && writer.pendingBytes > 0)
        writer.flush()
        #expect(try ids(descriptors.drain()) == Array(0..<100))
        #expect(writer.pendingBytes == 0 && writer.linesDropped == 0)
    }

    @Test func aReaderThatStopsCostsLinesAndNoTime() throws {
        let descriptors = try Descriptors()
        let writer = AccessLogWriter(descriptor: descriptors.writer, capacityBytes: 16 << 10)
        // Far more than the pipe and the buffer hold together: a writer that waits would never come back.
        for id in 0..<2_000 {
            append(writer, id)
            if id % 7 == 0 { writer.flush() }
        }
        #expect(writer.linesDropped > 0)
        var seen: [Int] = []
        while writer.pendingBytes > 0 {
            seen += try ids(descriptors.drain())
            writer.flush()
        }
        seen += try ids(descriptors.drain())
        #expect(seen == seen.sorted() && Set(seen).count == seen.count)
        #expect(UInt64(seen.count) + writer.linesDropped == 2_000)
        append(writer, 2_000)
        writer.flush()
        #expect(try ids(descriptors.drain()) == [2_000])
    }

    @Test func aReaderThatIsGoneCostsLinesOnly() throws {
        let descriptors = try Descriptors()
        let writer = AccessLogWriter(descriptor: descriptors.writer)
        descriptors.closeReader()
        for id in 0..<10 { append(writer, id) }
        writer.flush()
        #expect(writer.linesDropped == 10 && writer.pendingBytes == 0)
    }

    @Test func aFileTakesEverything() throws {
        let path = FileManager.default.temporaryDirectory.appending(path: "swiftlet-access-\(UUID().uuidString).log").path()
        let descriptor = open(path, O_WRONLY | O_CREAT | O_APPEND, 0o600)
        defer {
            close(descriptor)
            unlink(path)
        }
        let writer = AccessLogWriter(descriptor: descriptor, capacityBytes: 0)
        for id in 0..<500 { append(writer, id) }
        writer.flush()
        #expect(try ids(String(contentsOfFile: path, encoding: .utf8)) == Array(0..<500))
        #expect(writer.linesDropped == 0)
    }

    /// A socket takes part of a line; what is refused for good afterwards must not take the rest of that line along.
    @Test func aLineThatWasBegunIsEnded() throws {
        var ends: [Int32] = [-1, -1]
        try #require(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends) == 0)
        defer { ends.forEach { close($0) } }
        try #require(fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0 && fcntl(ends[1], F_SETFL, O_NONBLOCK) == 0)
        let writer = AccessLogWriter(descriptor: ends[0])
        var received: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 1_000)
        for id in 0..<5_000 {
            append(writer, id)
            writer.flush()
            // A reader that takes a little at odd moments.
            if id % 3 == 0 {
                let count = read(ends[1], &chunk, chunk.count)
                if count > 0 { received += chunk[..<count] }
            }
        }
        while true {
            writer.flush()
            let count = read(ends[1], &chunk, chunk.count)
            if count > 0 { received += chunk[..<count] } else { break }
        }
        let seen = try ids(String(decoding: received, as: UTF8.self))
        #expect(UInt64(seen.count) + writer.linesDropped == 5_000 && seen == seen.sorted())
    }
}

@Suite struct RequestIDTests {
    private func ids(seed: UInt64, loop: Int, count: Int) -> [String] {
        var generator = RequestIDGenerator(seed: seed, loop: loop)
        var bytes = [UInt8](repeating: 0, count: RequestIDGenerator.byteCount)
        return (0..<count).map { _ in
            bytes.withUnsafeMutableBytes { generator.write(into: $0) }
            return String(decoding: bytes, as: UTF8.self)
        }
    }

    @Test func idsAreHexadecimalAndNeverTheSame() {
        let all = (0..<4).flatMap { loop in (0..<4).flatMap { seed in ids(seed: seed, loop: loop, count: 1_000) } }
        #expect(Set(all).count == 16_000)
        #expect(all.allSatisfy { $0.wholeMatch(of: /[0-9a-f]{32}/) != nil })
    }

    @Test func aSeedGivesItsOwnSequence() {
        #expect(ids(seed: 5, loop: 1, count: 3) == ids(seed: 5, loop: 1, count: 3))
        #expect(ids(seed: 5, loop: 1, count: 1) != ids(seed: 5, loop: 2, count: 1))
    }
}
