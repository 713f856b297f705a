import EventLoop
import HTTPTransport
import Routing
import Telemetry
import Wire

extension Exchange {
    /// Answers the paths that are the router's own; false for all others, which are forwarded, known or not.
    func answersLocally() -> Bool {
        guard request.method == .get || request.method == .head else { return false }
        let path = request.path
        if path.equals("/health") {
            answer(200, #"{"status":"ok"}"#)
        } else if path.equals("/readiness") {
            let isReady = worker.table.hasReadyGroup(now: worker.loop.now)
            answer(isReady ? 200 : 503, isReady ? #"{"status":"ready"}"# : #"{"status":"no_ready_group"}"#)
        } else if path.equals("/version") {
            answer(200, #"{"version":"\#(worker.settings.version)"}"#)
        } else if path.equals("/v1/models") {
            answer(200, #"{"object":"list","data":[\#(worker.table.models().map(model).joined(separator: ","))]}"#)
        } else if path.starts(with: "/v1/models/"), path.count > 11 {
            let name = percentDecoded(path.dropFirst(11))
            guard worker.table.models().contains(name) else {
                mode = .local
                fail(.modelNotFound)
                return true
            }
            answer(200, model(name))
        } else {
            return false
        }
        return true
    }

    private func answer(_ status: Int, _ text: String) {
        mode = .local
        let headers = HeaderBlock()
        headers.append("content-type", "application/json")
        headers.append("content-length", decimal: text.utf8.count)
        headers.append("x-request-id", requestID)
        var text = text
        text.withUTF8 { reply(status: status, headers: headers, body: UnsafeRawBufferPointer($0)) }
        settle(.local)
    }

    private func model(_ name: String) -> String {
        #"{"id":"\#(escapedForJSON(name))","object":"model","created":\#(worker.settings.startedAtSeconds),"owned_by":"swiftlet"}"#
    }
}

/// RFC 3986, 2.1; a broken escape stands for itself.
public func percentDecoded(_ bytes: Slice<UnsafeRawBufferPointer>) -> String {
    var decoded: [UInt8] = []
    var index = bytes.startIndex
    while index < bytes.endIndex {
        if bytes[index] == 37, index + 2 < bytes.endIndex, let high = hexValue(bytes[index + 1]), let low = hexValue(bytes[index + 2]) {
            decoded.append(high << 4 | low)
            index += 3
        } else {
            decoded.append(bytes[index])
            index += 1
        }
    }
    return String(decoding: decoded, as: UTF8.self)
}

private func hexValue(_ byte: UInt8) -> UInt8? {
    switch byte {
    case 48...57: byte - 48
    case 65...70: byte - 55
    case 97...102: byte - 87
    default: nil
    }
}

/// RFC 8259, section 7.
public func escapedForJSON(_ text: String) -> String {
    var result = ""
    for scalar in text.unicodeScalars {
        switch scalar {
        case "\"": result += "\\\""
        case "\\": result += "\\\\"
        case _ where scalar.value < 0x20:
            let digits = String(scalar.value, radix: 16)
            result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
        default: result.unicodeScalars.append(scalar)
        }
    }
    return result
}
