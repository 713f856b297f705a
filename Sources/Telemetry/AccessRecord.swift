/// One finished exchange, as the access log tells it. Every pointer need only be valid while `AccessLogWriter.append`
/// runs; an empty string and nil are printed as `null`.
public struct AccessRecord {
    /// Nanoseconds since 1970, UTC, when the exchange ended.
    public var wallClockNanoseconds: UInt64 = 0
    public var requestID = UnsafeRawBufferPointer(start: nil, count: 0)
    public var method = UnsafeRawBufferPointer(start: nil, count: 0)
    /// Without the query, which may hold what no log should.
    public var path = UnsafeRawBufferPointer(start: nil, count: 0)
    /// `HTTP/1.1`, `HTTP/2` or `gRPC`.
    public var protocolName: StaticString = ""
    /// What the client was told; 0: nothing.
    public var status = 0
    public var model = UnsafeRawBufferPointer(start: nil, count: 0)
    public var group = UnsafeRawBufferPointer(start: nil, count: 0)
    public var endpoint = UnsafeRawBufferPointer(start: nil, count: 0)
    /// What decided the choice of the group.
    public var reason: StaticString = ""
    public var attempts = 0
    public var isStream = false
    public var bytesIn: UInt64 = 0
    public var bytesOut: UInt64 = 0
    public var promptTokens: Int?
    public var cachedTokens: Int?
    public var completionTokens: Int?
    /// How long it waited in the router.
    public var heldNanoseconds: UInt64 = 0
    public var timeToFirstTokenNanoseconds: UInt64?
    public var durationNanoseconds: UInt64 = 0
    /// The peer's address.
    public var client = UnsafeRawBufferPointer(start: nil, count: 0)
    public var outcome = ExchangeOutcome.completed

    public init() {}
}

extension LineBuffer {
    /// One JSON object and a newline. The clips below, and numbers of at most 20 digits, keep it under
    /// `AccessLogWriter.maximumLineBytes`.
    mutating func append(_ record: borrowing AccessRecord) {
        append("{\"time\":\"")
        appendTimestamp(record.wallClockNanoseconds)
        append("\"")
        appendField(",\"request_id\":", record.requestID, atMost: 128)
        appendField(",\"method\":", record.method, atMost: 32)
        appendField(",\"path\":", record.path, atMost: 1_536)
        appendField(",\"protocol\":", UnsafeRawBufferPointer(record.protocolName), atMost: 16)
        appendField(",\"status\":", UInt64(max(0, record.status)))
        appendField(",\"model\":", record.model, atMost: 256)
        appendField(",\"group\":", record.group, atMost: 256)
        appendField(",\"endpoint\":", record.endpoint, atMost: 288)
        appendField(",\"reason\":", UnsafeRawBufferPointer(record.reason), atMost: 32)
        appendField(",\"attempts\":", UInt64(max(0, record.attempts)))
        append(record.isStream ? ",\"stream\":true" : ",\"stream\":false")
        appendField(",\"bytes_in\":", record.bytesIn)
        appendField(",\"bytes_out\":", record.bytesOut)
        appendField(",\"prompt_tokens\":", record.promptTokens.map { UInt64(max(0, $0)) })
        appendField(",\"cached_tokens\":", record.cachedTokens.map { UInt64(max(0, $0)) })
        appendField(",\"completion_tokens\":", record.completionTokens.map { UInt64(max(0, $0)) })
        append(",\"held_ms\":")
        appendMilliseconds(record.heldNanoseconds)
        append(",\"ttft_ms\":")
        appendMilliseconds(record.timeToFirstTokenNanoseconds)
        append(",\"duration_ms\":")
        appendMilliseconds(record.durationNanoseconds)
        appendField(",\"client\":", record.client, atMost: 64)
        appendField(",\"outcome\":", UnsafeRawBufferPointer(record.outcome.label), atMost: 32)
        append("}\n")
    }

    /// `key` with the comma before it and the colon behind it, as one literal to copy.
    private mutating func appendField(_ key: StaticString, _ value: UnsafeRawBufferPointer, atMost limit: Int) {
        append(key)
        if value.isEmpty { append("null") } else { appendJSONString(value, atMost: limit) }
    }

    private mutating func appendField(_ key: StaticString, _ value: UInt64?) {
        append(key)
        if let value { append(decimal: value) } else { append("null") }
    }

    private mutating func appendMilliseconds(_ nanoseconds: UInt64?) {
        guard let nanoseconds else { return append("null") }
        append(decimal: nanoseconds / 1_000_000)
        append(".")
        append(decimal: nanoseconds / 1_000 % 1_000, digits: 3)
    }
}

extension UnsafeRawBufferPointer {
    /// The bytes of a string literal, which are UTF-8 and never move.
    init(_ text: StaticString) {
        self.init(start: text.utf8Start, count: text.utf8CodeUnitCount)
    }
}
