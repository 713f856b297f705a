/// One way in which the stub misbehaves, and when: read from `POST /admin/config` or from a request's `x-stub-fault`.
struct Fault: Sendable, Equatable {
    enum Action: Sendable, Equatable {
        /// The port is closed; connections that stand go on. For this long, or until the fault is taken away.
        case refuse(milliseconds: UInt64?)
        /// Connections are accepted and closed at once.
        case acceptClose
        /// HTTP/2 connections are offered one stream at a time.
        case streamLimit
        /// The request is read and never answered.
        case blackHole
        /// The connection ends with FIN.
        case close
        /// The connection ends with RST.
        case reset
        /// The answer ends in good order before all of it was said: no `[DONE]`.
        case truncate
        /// Nothing happens for this long, or ever again.
        case stall(milliseconds: UInt64?)
        /// What is sent leaves no faster than this.
        case trickle(bytesPerSecond: Int)
        /// A chunk whose size is no number.
        case garbage
        /// An error instead of an answer; `grpcStatus` is what a gRPC client gets.
        case error(status: Int, retryAfterSeconds: Int?, grpcStatus: Int)
        /// 200 and the body of an error.
        case errorBody
        /// The engine has died: an error as the stream's event, then `[DONE]` as if all were well.
        case errorEvent
        /// The connection ends when its second request comes.
        case closeOnReuse(resets: Bool)
        case goAway(abruptly: Bool)
        /// RST_STREAM with REFUSED_STREAM: nothing was processed.
        case refuseStream
        /// A response field of this many bytes.
        case hugeHeader(bytes: Int)
        /// `/metrics` says what it said last.
        case staleMetrics
        /// Counters begin again at zero, as after a restart.
        case resetMetrics

        /// It strikes connections, and cannot be asked for by a request that has one.
        var isOfPort: Bool {
            switch self {
            case .refuse, .acceptClose, .streamLimit: true
            default: false
            }
        }
    }

    /// Where in an answer the action happens.
    enum Point: Sendable, Equatable {
        /// Before the request is looked at.
        case request
        /// After the head of the answer.
        case head
        /// After so many events (or gRPC messages, or whole bodies).
        case events(Int)
        /// After so many bytes of the body.
        case bytes(Int)
        /// Before the event that ends a stream.
        case end
    }

    var action: Action
    var point: Point
    /// Requests whose path begins with this; nil stands for all that generate or embed.
    var path: String?
    /// Of the requests that match, 0 to 1.
    var probability = 1.0
    /// How often, then never again.
    var times: Int?
    /// Requests that match and are spared at first.
    var skip = 0
    /// Active in the first half of each such period, spared in the second.
    var periodMilliseconds: UInt64?
}

struct FaultError: Error {
    let message: String
}

extension Fault {
    /// Reads a fault from its name and fields. `action` may differ from the name, so that one action can be had twice.
    init(name: String, fields: [String: JSONValue]) throws(FaultError) {
        var reader = FieldReader(owner: "faults.\(name)", fields: fields)
        let word = try reader.text("action") ?? name
        let choice = try Self.action(word, &reader)
        action = choice.action
        point = try Self.point(&reader) ?? choice.point
        path = try reader.text("path") ?? choice.path
        probability = try reader.number("probability", 0...1) ?? 1
        times = try reader.integer("times", 0...1_000_000_000)
        skip = try reader.integer("skip", 0...1_000_000_000) ?? 0
        periodMilliseconds = try reader.integer("period_ms", 1...86_400_000).map(UInt64.init)
        try reader.refuseRest()
    }

    private typealias Choice = (action: Action, point: Point, path: String?)

    private static func action(_ word: String, _ reader: inout FieldReader) throws(FaultError) -> Choice {
        func milliseconds() throws(FaultError) -> UInt64? { try reader.integer("ms", 0...86_400_000).map(UInt64.init) }
        switch word {
        case "refuse": return (.refuse(milliseconds: try milliseconds()), .request, "")
        case "accept-close": return (.acceptClose, .request, "")
        case "stream-limit": return (.streamLimit, .request, "")
        case "black-hole": return (.blackHole, .request, nil)
        case "close": return (.close, .request, nil)
        case "reset": return (.reset, .request, nil)
        case "truncate": return (.truncate, .end, nil)
        case "stall": return (.stall(milliseconds: try milliseconds()), .request, nil)
        case "trickle":
            return (.trickle(bytesPerSecond: try reader.integer("bytes_per_second", 1...1_000_000_000) ?? 100), .request, nil)
        case "garbage": return (.garbage, .head, nil)
        case "error":
            let status = try reader.integer("status", 200...599) ?? 500
            let retry = try reader.integer("retry_after", 0...86_400)
            let code = try reader.integer("grpc_status", 1...16) ?? GRPCStatus(httpStatus: status).rawValue
            return (.error(status: status, retryAfterSeconds: retry, grpcStatus: code), .request, nil)
        case "error-body": return (.errorBody, .request, nil)
        case "error-event": return (.errorEvent, .events(1), nil)
        case "close-on-reuse": return (.closeOnReuse(resets: try reader.flag("reset") ?? false), .request, nil)
        case "goaway": return (.goAway(abruptly: try reader.flag("abrupt") ?? false), .request, nil)
        case "refuse-stream": return (.refuseStream, .request, nil)
        case "huge-header": return (.hugeHeader(bytes: try reader.integer("bytes", 1...1 << 20) ?? 70_000), .request, nil)
        case "stale-metrics": return (.staleMetrics, .request, "/metrics")
        case "reset-metrics": return (.resetMetrics, .request, "/metrics")
        default: throw FaultError(message: "\(reader.owner): unknown action '\(word)'")
        }
    }

    private static func point(_ reader: inout FieldReader) throws(FaultError) -> Point? {
        if let count = try reader.integer("after_events", 0...1_000_000_000) { return .events(count) }
        if let count = try reader.integer("after_bytes", 0...1_000_000_000) { return .bytes(count) }
        if try reader.flag("after_head") == true { return .head }
        if try reader.flag("at_end") == true { return .end }
        return nil
    }

    /// The faults of a request's `x-stub-fault`: `name;key=value;flag, name…`. Values are numbers, true, false or words.
    static func parse(header: String) throws(FaultError) -> [Fault] {
        var faults: [Fault] = []
        for item in header.split(separator: ",") {
            let parts = item.split(separator: ";").map { $0.trimmingBlanks() }
            guard let name = parts.first, !name.isEmpty else { throw FaultError(message: "x-stub-fault: a name is missing") }
            var fields: [String: JSONValue] = [:]
            for part in parts.dropFirst() {
                let pair = part.split(separator: "=", maxSplits: 1).map { $0.trimmingBlanks() }
                guard let key = pair.first else { continue }
                fields[key] = pair.count == 1 ? .bool(true) : JSONValue(word: pair[1])
            }
            var fault = try Fault(name: name, fields: fields)
            guard !fault.action.isOfPort else {
                throw FaultError(message: "x-stub-fault: '\(name)' is of the port, not of a request: set it with POST /admin/config")
            }
            // The header itself says which request is meant.
            fault.path = ""
            faults.append(fault)
        }
        return faults
    }
}

extension Substring {
    fileprivate func trimmingBlanks() -> String {
        var text = self
        while text.first == " " { text.removeFirst() }
        while text.last == " " { text.removeLast() }
        return String(text)
    }
}

/// Takes fields from a JSON object, with bounds and messages that name the place, and says what is left over.
struct FieldReader {
    let owner: String
    private var fields: [String: JSONValue]

    init(owner: String, fields: [String: JSONValue]) {
        self.owner = owner
        self.fields = fields
    }

    mutating func take(_ key: String) -> JSONValue? {
        let value = fields.removeValue(forKey: key)
        if case .null = value { return nil }
        return value
    }

    mutating func text(_ key: String) throws(FaultError) -> String? {
        guard let value = take(key) else { return nil }
        guard case .string(let text) = value else { throw wrong(key, "a string") }
        return text
    }

    mutating func flag(_ key: String) throws(FaultError) -> Bool? {
        guard let value = take(key) else { return nil }
        guard case .bool(let flag) = value else { throw wrong(key, "true or false") }
        return flag
    }

    mutating func number(_ key: String, _ range: ClosedRange<Double>) throws(FaultError) -> Double? {
        guard let value = take(key) else { return nil }
        guard case .number(let number) = value, range.contains(number) else {
            throw wrong(key, "a number from \(range.lowerBound) to \(range.upperBound)")
        }
        return number
    }

    mutating func integer(_ key: String, _ range: ClosedRange<Int>) throws(FaultError) -> Int? {
        guard let value = take(key) else { return nil }
        guard case .number(let number) = value, let whole = Int(exactly: number), range.contains(whole) else {
            throw wrong(key, "a whole number from \(range.lowerBound) to \(range.upperBound)")
        }
        return whole
    }

    mutating func object(_ key: String) throws(FaultError) -> [String: JSONValue]? {
        guard let value = take(key) else { return nil }
        guard case .object(let object) = value else { throw wrong(key, "an object") }
        return object
    }

    func refuseRest() throws(FaultError) {
        guard let key = fields.keys.min() else { return }
        throw FaultError(message: "\(owner): unknown field '\(key)'")
    }

    private func wrong(_ key: String, _ expected: String) -> FaultError {
        FaultError(message: "\(owner).\(key): expected \(expected)")
    }
}
