import CLinux
import Glibc

/// Finds the content in the events of a streamed chat or text completion: which events carry text, and, when asked, the text itself as
/// it stands between its quotes. The role event that opens vLLM's stream carries an empty content and is no token.
struct ContentReader {
    /// Events with text so far.
    private(set) var contentEvents = 0
    /// The text, escaped as it came; kept only if asked for.
    private(set) var text: [UInt8] = []
    private let keepsText: Bool
    /// The beginning of a line whose end has not come.
    private var rest: [UInt8] = []

    /// A line longer than this is not looked at any more; its event counts as content.
    private static let longestLine = 1 << 20
    /// Keys whose string value is output: chat, text, and the thinking of reasoning models under both of its names.
    private static let keys: [StaticString] = ["\"content\"", "\"text\"", "\"reasoning_content\"", "\"reasoning\"", "\"arguments\""]

    init(keepsText: Bool) { self.keepsText = keepsText }

    mutating func reset() {
        contentEvents = 0
        text.removeAll(keepingCapacity: true)
        rest.removeAll(keepingCapacity: true)
    }

    mutating func consume(_ bytes: UnsafeRawBufferPointer) {
        guard let base = bytes.baseAddress else { return }
        var at = 0
        while at < bytes.count {
            guard let end = memchr(base + at, 10, bytes.count - at) else {
                if rest.count < Self.longestLine {
                    rest.append(contentsOf: UnsafeRawBufferPointer(start: base + at, count: bytes.count - at))
                }
                return
            }
            let length = UnsafeRawPointer(end) - (base + at)
            let line = UnsafeRawBufferPointer(start: base + at, count: length)
            if rest.isEmpty {
                read(line)
            } else {
                rest.append(contentsOf: line)
                let whole = rest
                whole.withUnsafeBytes { read($0) }
                rest.removeAll(keepingCapacity: true)
            }
            at += length + 1
        }
    }

    /// A body that is one JSON document: its first content.
    mutating func readDocument(_ bytes: UnsafeRawBufferPointer) {
        if let value = Self.value(in: bytes) { take(value) }
    }

    private mutating func read(_ line: UnsafeRawBufferPointer) {
        guard line.count > 6, line[0] == UInt8(ascii: "d"), line[1] == UInt8(ascii: "a") else { return }
        if let value = Self.value(in: line) { take(value) }
    }

    private mutating func take(_ value: UnsafeRawBufferPointer) {
        contentEvents += 1
        if keepsText { text.append(contentsOf: value) }
    }

    /// The first string that is output and not empty, without its quotes.
    private static func value(in line: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer? {
        guard let base = line.baseAddress else { return nil }
        for key in keys {
            var from = 0
            while from < line.count, let found = swl_find(base + from, line.count - from, key.utf8Start, key.utf8CodeUnitCount) {
                from = UnsafeRawPointer(found) - base + key.utf8CodeUnitCount
                if let value = string(behindKeyAt: from, of: line) { return value }
            }
        }
        return nil
    }

    /// What stands between quotes behind a colon; blanks may stand about it (RFC 8259, section 2). Nil where no string follows, or an empty one.
    private static func string(behindKeyAt end: Int, of line: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer? {
        var at = end
        func skipBlanks() {
            while at < line.count, line[at] == 0x20 || line[at] == 0x09 || line[at] == 0x0d || line[at] == 0x0a { at += 1 }
        }
        skipBlanks()
        guard at < line.count, line[at] == UInt8(ascii: ":") else { return nil }
        at += 1
        skipBlanks()
        guard at < line.count, line[at] == UInt8(ascii: "\"") else { return nil }
        let start = at + 1
        var close = start
        while close < line.count, line[close] != UInt8(ascii: "\"") { close += line[close] == UInt8(ascii: "\\") ? 2 : 1 }
        return close > start && close <= line.count ? UnsafeRawBufferPointer(rebasing: line[start..<close]) : nil
    }
}
