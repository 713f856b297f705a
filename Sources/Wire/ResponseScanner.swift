import Glibc

/// Follows one response body as it is relayed, without holding it: when did the answer begin, did it end well, what did it use.
/// Bytes may be split anywhere; the split changes nothing.
///
/// Budget: two searches over the bytes (one for line ends, one for the usage key), no allocation, under 400 bytes of state.
/// Server-sent events as in the HTML standard, section 9.2.6, with line ends LF or CRLF (no engine sends a lone CR).
public struct ResponseScanner {
    /// How the body is to be read, by its content type.
    public enum Kind: Sendable {
        /// `text/event-stream`.
        case eventStream
        /// `application/json`.
        case json
        /// gRPC messages.
        case call(InferenceCall)
        /// Anything else, also compressed bodies: only the first byte is noticed.
        case other
    }

    private static let prefixCapacity = 48

    public let kind: Kind

    /// Whether the answer has begun: for an event stream its first data event (comments and blank lines are none, nor is `[DONE]`), for
    /// gRPC the first message that carries tokens, for other bodies the first byte.
    public private(set) var firstEventSeen = false

    /// Data events seen so far, `[DONE]` excluded; messages with tokens, but not those that complete a stream by repeating it. Engines put
    /// several tokens into one event when they are behind.
    public private(set) var dataEvents = 0

    /// Whether `data: [DONE]` was seen. It is no proof of success: vLLM sends it after an error too.
    public private(set) var doneSeen = false

    /// Whether an event (or the JSON body) reports an error: a payload that begins with `{"error":` and not null, one of the messages API that begins with
    /// `{"type":"error"`, or an event named `error` or `response.failed`.
    public private(set) var errorSeen = false

    private var usageReader = UsageReader()
    private var callReader: CallReader?
    /// The current line's beginning, kept only when the line did not end in the read that began it.
    private var prefix = InlineArray<48, UInt8>(repeating: 0)
    private var prefixCount = 0
    private var lineIsOpen = false
    private var eventHasData = false

    public init(kind: Kind) {
        self.kind = kind
        if case .call(let call) = kind { callReader = CallReader(call) }
    }

    /// The last usage report, if any came.
    public var usage: Usage? { callReader?.usage ?? usageReader.usage }

    /// Reads the next bytes of the body, after chunked framing is removed.
    public mutating func consume(_ bytes: UnsafeRawBufferPointer) {
        guard let base = bytes.baseAddress, bytes.count > 0 else { return }
        switch kind {
        case .eventStream:
            usageReader.consume(bytes)
            consumeLines(base, bytes.count)
        case .json:
            usageReader.consume(bytes)
            firstEventSeen = true
            keep(base, bytes.count)
        case .call:
            callReader?.consume(bytes)
            dataEvents = callReader?.events ?? 0
            firstEventSeen = callReader?.hasTokens ?? false
        case .other:
            firstEventSeen = true
        }
    }

    /// Says that the body has ended; a last line without a line end counts.
    public mutating func finish() {
        switch kind {
        case .eventStream where lineIsOpen:
            endKeptLine()
        case .json:
            let isError = withKeptPrefix { Self.isError($0) }
            errorSeen = errorSeen || isError
        case .eventStream, .call, .other:
            break
        }
    }
}

// MARK: - Lines

extension ResponseScanner {
    private mutating func consumeLines(_ base: UnsafeRawPointer, _ count: Int) {
        let newline: UInt8 = 0x0A
        var at = 0
        while at < count {
            let start = base + at
            // Half of all lines are the blank ones between events: no search for those.
            let length: Int
            if !lineIsOpen, start.load(as: UInt8.self) == newline {
                length = 0
            } else if let end = memchr(start, Int32(newline), count - at) {
                length = UnsafeRawPointer(end) - start
            } else {
                keep(start, count - at)
                lineIsOpen = true
                return
            }
            if lineIsOpen {
                keep(start, length)
                endKeptLine()
            } else {
                endLine(UnsafeRawBufferPointer(start: start, count: min(length, Self.prefixCapacity)))
            }
            at += length + 1
        }
    }

    private mutating func keep(_ start: UnsafeRawPointer, _ count: Int) {
        let taken = min(count, Self.prefixCapacity - prefixCount)
        guard taken > 0 else { return }
        let place = prefixCount
        var bytes = prefix.mutableSpan
        bytes.withUnsafeMutableBytes { _ = memcpy($0.baseAddress! + place, start, taken) }
        prefixCount += taken
    }

    private func withKeptPrefix<Result>(_ body: (UnsafeRawBufferPointer) -> Result) -> Result {
        prefix.span.withUnsafeBytes { body(UnsafeRawBufferPointer(rebasing: $0[..<prefixCount])) }
    }

    private mutating func endKeptLine() {
        // Copied out: the line is read while `self` changes.
        let kept = prefix
        let count = prefixCount
        prefixCount = 0
        lineIsOpen = false
        kept.span.withUnsafeBytes { endLine(UnsafeRawBufferPointer(rebasing: $0[..<count])) }
    }

    /// Reads one line, of which `line` is the whole or the first 48 bytes.
    private mutating func endLine(_ line: UnsafeRawBufferPointer) {
        guard let first = line.first, !(first == UInt8(ascii: "\r") && line.count == 1) else {
            eventHasData = false
            return
        }
        if first == UInt8(ascii: "d"), let payload = Self.value(of: line, field: "data:") {
            endDataLine(payload)
        } else if first == UInt8(ascii: "e") {
            if let name = Self.value(of: line, field: "event:") {
                if Self.begins(name, "error") || Self.begins(name, "response.failed") { errorSeen = true }
            } else if Self.begins(line, "error:") {
                // Older llama.cpp puts the error's JSON into a field of its own.
                errorSeen = true
            }
        }
    }

    private mutating func endDataLine(_ payload: UnsafeRawBufferPointer) {
        // A second data line continues the same event.
        guard !eventHasData, let first = payload.first, first != UInt8(ascii: "\r") else { return }
        eventHasData = true
        if Self.begins(payload, "[DONE]") {
            doneSeen = true
            return
        }
        dataEvents += 1
        firstEventSeen = true
        if Self.isError(payload) { errorSeen = true }
    }

    private static func value(of line: UnsafeRawBufferPointer, field: StaticString) -> UnsafeRawBufferPointer? {
        guard begins(line, field) else { return nil }
        var start = field.utf8CodeUnitCount
        if start < line.count, line[start] == UInt8(ascii: " ") { start += 1 }
        return UnsafeRawBufferPointer(rebasing: line[start...])
    }

    private static func begins(_ bytes: UnsafeRawBufferPointer, _ literal: StaticString) -> Bool {
        guard let base = bytes.baseAddress, bytes.count >= literal.utf8CodeUnitCount else { return false }
        return memcmp(base, literal.utf8Start, literal.utf8CodeUnitCount) == 0
    }

    private static func isError(_ payload: UnsafeRawBufferPointer) -> Bool {
        if begins(payload, "{\"choices") || begins(payload, "{\"id\"") { return false }
        if let next = matchIgnoringBlanks(payload, "{\"error\":") {
            return next >= payload.count || payload[next] != UInt8(ascii: "n")
        }
        return matchIgnoringBlanks(payload, "{\"type\":\"error\"") != nil
    }

    /// Where the next byte that is no blank follows `pattern`, or nil if `bytes` does not begin with it.
    private static func matchIgnoringBlanks(_ bytes: UnsafeRawBufferPointer, _ pattern: StaticString) -> Int? {
        var at = 0
        let skipBlanks = { (at: inout Int) in
            while at < bytes.count, bytes[at] == 0x20 || (bytes[at] >= 0x09 && bytes[at] <= 0x0D) { at += 1 }
        }
        for offset in 0..<pattern.utf8CodeUnitCount {
            skipBlanks(&at)
            guard at < bytes.count, bytes[at] == pattern.utf8Start[offset] else { return nil }
            at += 1
        }
        skipBlanks(&at)
        return at
    }
}
