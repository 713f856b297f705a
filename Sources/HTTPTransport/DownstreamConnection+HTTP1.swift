import EventLoop
import Glibc
import Wire

/// How the answer under way is framed.
struct HTTP1Response {
    var isChunked = false
    /// A HEAD request's answer, 204 or 304: bytes of a body are swallowed.
    var hasNoBody = false
    var keepsAlive = true
    var requestKeepsAlive = true
    /// Bytes that the declared length still wants; nil when none was declared.
    var remaining: Int?
}

extension DownstreamConnection {
    // MARK: Requests

    func processHTTP1(_ bytes: UnsafeMutableRawBufferPointer) -> Int {
        var taken = 0
        while taken < bytes.count, !isClosed {
            let rest = UnsafeMutableRawBufferPointer(rebasing: bytes[taken...])
            switch phase {
            case .head:
                // A client that sends requests and reads no answers waits here.
                guard !isAboveHighWater, let length = processHead(rest) else { return taken }
                taken &+= length
            case .body(let remaining):
                guard !(exchange?.isBodyPaused ?? false) else { return taken }
                let count = min(remaining, rest.count)
                taken &+= count
                setDeadline(loop.now &+ limits.downstreamIdleTimeoutNanoseconds)
                phase = .body(remaining: remaining &- count)
                exchange?.bodyReceived(UnsafeRawBufferPointer(rebasing: rest[..<count]))
                if count == remaining { endRequest() }
            case .chunkedBody:
                guard !(exchange?.isBodyPaused ?? false) else { return taken }
                guard let count = processChunks(rest) else { return bytes.count }
                taken &+= count
            case .lingering:
                return bytes.count
            case .answering, .detecting, .http2:
                return taken
            }
        }
        return taken
    }

    /// Returns the head's length; nil when it is not all here, or was refused.
    private func processHead(_ bytes: UnsafeMutableRawBufferPointer) -> Int? {
        // RFC 9112, 2.2: an empty line before a request is to be ignored.
        if bytes.count >= 2, bytes[0] == 13, bytes[1] == 10 { return 2 }
        do throws(HTTP1Defect) {
            let view = UnsafeRawBufferPointer(bytes)
            guard let length = try parser.measureHead(view) else {
                // From the first byte on: a byte now and then moves nothing.
                if !isHeadTimed { setDeadline(loop.now &+ limits.requestHeadTimeoutNanoseconds) }
                isHeadTimed = true
                return nil
            }
            let exchange = makeExchange()
            let framing = try parser.parseRequest(UnsafeRawBufferPointer(rebasing: view[..<length]), into: exchange.request)
            guard exchange.request.method != .connect else { throw HTTP1Defect.malformed }
            begin(exchange, framing: framing)
            return length
        } catch {
            refuse(Refusal(error))
            return nil
        }
    }

    private func begin(_ exchange: DownstreamExchange, framing: BodyFraming) {
        let request = exchange.request
        isHeadTimed = false
        exchange.connection = self
        exchange.isRequestComplete = framing == .none
        self.exchange = exchange
        response = HTTP1Response()
        response.requestKeepsAlive =
            parser.connectionPersists(request.headers, isHTTP10: request.version == .http10) && keepsAliveAllowed
        setDeadline(loop.now &+ limits.downstreamIdleTimeoutNanoseconds)
        switch framing {
        case .length(let length): phase = .body(remaining: length)
        case .chunked:
            phase = .chunkedBody
            chunkedDecoder = ChunkedDecoder()
        case .none, .untilClose: phase = .answering
        }
        let expectsContinue = framing != .none && request.headers.value(.expect)?.equalsIgnoringCase("100-continue") == true
        exchange.headReceived()
        guard self.exchange === exchange, !isClosed else { return }
        if framing == .none {
            endRequest()
        } else if expectsContinue, !exchange.isResponseStarted, request.version == .http11 {
            output.append("HTTP/1.1 100 Continue\r\n\r\n")
            flushLater()
        }
    }

    /// Returns the input taken; nil when the body was broken and the connection is being closed.
    private func processChunks(_ bytes: UnsafeMutableRawBufferPointer) -> Int? {
        do throws(HTTP1Defect) {
            guard let progress = try chunkedDecoder?.decode(bytes) else { return nil }
            setDeadline(loop.now &+ limits.downstreamIdleTimeoutNanoseconds)
            if progress.bodyBytes > 0 {
                exchange?.bodyReceived(UnsafeRawBufferPointer(rebasing: bytes[..<progress.bodyBytes]))
            }
            if progress.isComplete {
                chunkedDecoder = nil
                endRequest()
            }
            return progress.inputBytes
        } catch {
            if let exchange, !exchange.isResponseStarted {
                self.exchange = nil
                exchange.connection = nil
                exchange.cancelled()
                refuse(Refusal(error))
            } else {
                close()
            }
            return nil
        }
    }

    private func endRequest() {
        guard let exchange else {
            // Answered before its body was all here; now it is, and the connection may go on.
            if case .lingering = phase { return }
            nextRequest()
            return
        }
        phase = .answering
        setDeadline(loop.now &+ limits.downstreamIdleTimeoutNanoseconds)
        exchange.isRequestComplete = true
        exchange.requestEnded()
    }

    func refuse(_ refusal: Refusal) {
        application.requestRefused(status: refusal.status, client: peerAddress)
        output.append("HTTP/1.1 ")
        output.append(decimal: refusal.status)
        output.append(" ")
        output.append(reasonPhrase(refusal.status))
        output.append("\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: ")
        output.append(decimal: refusal.body.utf8CodeUnitCount)
        output.append("\r\n\r\n")
        output.append(refusal.body)
        phase = .lingering
        closesAfterFlush = true
        setDeadline(loop.now &+ limits.downstreamIdleTimeoutNanoseconds)
        flushLater()
    }

    // MARK: Responses

    func writeHTTP1Head(status: Int, headers: HeaderBlock, of exchange: DownstreamExchange, ended: Bool) {
        let request = exchange.request
        output.append("HTTP/1.1 ")
        output.append(decimal: status)
        output.append(" ")
        output.append(reasonPhrase(status))
        output.append("\r\n")
        var declared: Int?
        for index in 0..<headers.count {
            let known = headers.known(at: index)
            if known.isHopByHop { continue }
            if known == .contentLength { declared = headers.value(at: index).decimalValue }
            output.append(headers.name(at: index))
            output.append(": ")
            output.append(headers.value(at: index))
            output.append("\r\n")
        }
        response.hasNoBody = request.method == .head || status == 204 || status == 304
        response.remaining = declared
        if declared == nil, !response.hasNoBody {
            if ended {
                output.append("content-length: 0\r\n")
            } else if request.version == .http11 {
                response.isChunked = true
                output.append("transfer-encoding: chunked\r\n")
            } else {
                // HTTP/1.0 knows no chunks: the end of the body is the end of the connection.
                response.requestKeepsAlive = false
            }
        }
        response.keepsAlive = response.requestKeepsAlive && exchange.isRequestComplete && keepsAliveAllowed
        if !response.keepsAlive {
            output.append("connection: close\r\n")
        } else if request.version == .http10 {
            output.append("connection: keep-alive\r\n")
        }
        output.append("\r\n")
        flushLater()
    }

    func writeHTTP1Body(_ bytes: UnsafeRawBufferPointer) -> Bool {
        guard !response.hasNoBody else { return true }
        if response.isChunked {
            output.append(hexadecimal: bytes.count)
            output.append("\r\n")
            write(bytes)
            output.append("\r\n")
        } else {
            var bytes = bytes
            if let remaining = response.remaining {
                // More than was declared would be read as the next answer.
                if bytes.count > remaining { bytes = UnsafeRawBufferPointer(rebasing: bytes[..<remaining]) }
                response.remaining = remaining &- bytes.count
            }
            write(bytes)
        }
        return !isAboveHighWater
    }

    func finishHTTP1Response() {
        guard let exchange else { return }
        if response.isChunked { output.append("0\r\n\r\n") }
        if !response.hasNoBody, let remaining = response.remaining, remaining > 0 { return abortHTTP1Response() }
        self.exchange = nil
        exchange.connection = nil
        flushLater()
        if !response.keepsAlive || !keepsAliveAllowed || closesAfterFlush {
            phase = exchange.isRequestComplete ? .answering : .lingering
            closesAfterFlush = true
        } else {
            nextRequest()
        }
    }

    func abortHTTP1Response() {
        exchange?.connection = nil
        exchange = nil
        flush()
        guard !isClosed else { return }
        // A body that ends by close would look whole: a reset says that it is not.
        if !response.isChunked, response.remaining == nil { socket?.resetOnClose() }
        close()
    }

    private func nextRequest() {
        phase = .head
        setDeadline(loop.now &+ limits.keepAliveTimeoutNanoseconds)
        resumeInput()
    }
}

/// RFC 9110, section 15.
func reasonPhrase(_ status: Int) -> StaticString {
    switch status {
    case 200: "OK"
    case 201: "Created"
    case 202: "Accepted"
    case 204: "No Content"
    case 206: "Partial Content"
    case 301: "Moved Permanently"
    case 302: "Found"
    case 303: "See Other"
    case 304: "Not Modified"
    case 307: "Temporary Redirect"
    case 308: "Permanent Redirect"
    case 400: "Bad Request"
    case 401: "Unauthorized"
    case 403: "Forbidden"
    case 404: "Not Found"
    case 405: "Method Not Allowed"
    case 408: "Request Timeout"
    case 409: "Conflict"
    case 411: "Length Required"
    case 413: "Content Too Large"
    case 415: "Unsupported Media Type"
    case 422: "Unprocessable Content"
    case 429: "Too Many Requests"
    case 431: "Request Header Fields Too Large"
    case 500: "Internal Server Error"
    case 501: "Not Implemented"
    case 502: "Bad Gateway"
    case 503: "Service Unavailable"
    case 504: "Gateway Timeout"
    case 505: "HTTP Version Not Supported"
    default: "Unknown"
    }
}
