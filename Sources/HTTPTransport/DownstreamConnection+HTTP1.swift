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
                bodyPace.received(count, at: loop.now)
                phase = .body(remaining: remaining &- count)
                exchange?.bodyReceived(UnsafeRawBufferPointer(rebasing: rest[..<count]))
                if count == remaining { endRequest() }
            case .chunkedBody:
                guard !(exchange?.isBodyPaused ?? false) else { return taken }
                guard let count = processChunks(rest) else { return bytes.count }
                taken &+= count
            case .trailers:
                guard !(exchange?.isBodyPaused ?? false), let count = processTrailers(UnsafeRawBufferPointer(rest)) else { return taken }
                taken &+= count
            case .tunnel:
                guard wantsTunnelInput else { return taken }
                processTunnel(UnsafeRawBufferPointer(rest))
                return bytes.count
            case .lingering:
                linger()
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
                timeHead()
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
        bodyPace = BodyPace(now: loop.now)
        setDeadline(loop.now &+ limits.requestBodyTimeoutNanoseconds)
        switch framing {
        case .length(let length): phase = .body(remaining: length)
        case .chunked:
            phase = .chunkedBody
            chunkedDecoder = ChunkedDecoder()
        case .none, .untilClose: phase = .answering
        }
        exchange.headReceived()
        guard self.exchange === exchange, !isClosed else { return }
        if framing == .none { endRequest() } else { exchange.continueIfExpected() }
    }

    /// Returns the input taken; nil when the body was broken and the connection is being closed.
    private func processChunks(_ bytes: UnsafeMutableRawBufferPointer) -> Int? {
        do throws(HTTP1Defect) {
            guard let progress = try chunkedDecoder?.decode(bytes) else { return nil }
            bodyPace.received(progress.inputBytes, at: loop.now)
            if progress.bodyBytes > 0 {
                exchange?.bodyReceived(UnsafeRawBufferPointer(rebasing: bytes[..<progress.bodyBytes]))
            }
            if progress.isComplete {
                chunkedDecoder = nil
                if case .chunkedBody = phase { phase = .trailers }
            }
            return progress.inputBytes
        } catch {
            refuseRest(Refusal(error))
            return nil
        }
    }

    /// Returns the section's length; nil when it is not all here, or was refused.
    private func processTrailers(_ bytes: UnsafeRawBufferPointer) -> Int? {
        do throws(HTTP1Defect) {
            guard let length = try parser.measureTrailers(bytes) else { return nil }
            if length > 2, let request = exchange?.request {
                try parser.parseTrailers(UnsafeRawBufferPointer(rebasing: bytes[..<length]), into: request.trailers)
                request.hasTrailers = true
            }
            endRequest()
            return length
        } catch {
            refuseRest(Refusal(error))
            return nil
        }
    }

    /// Gives up a request of which the head was taken.
    func refuseRest(_ refusal: Refusal) {
        guard let exchange, !exchange.isResponseStarted else { return close() }
        self.exchange = nil
        exchange.connection = nil
        exchange.cancelled()
        refuse(refusal)
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
        isRefused = true
        closesAfterFlush = true
        setDeadline(loop.now &+ limits.downstreamIdleTimeoutNanoseconds)
        flushLater()
    }

    // MARK: Responses

    func writeHTTP1Head(status: Int, headers: HeaderBlock, of exchange: DownstreamExchange, ended: Bool) {
        let request = exchange.request
        let declared = headers.value(.contentLength)?.decimalValue
        response.hasNoBody = request.method == .head || status == 204 || status == 304
        response.remaining = declared
        let isFramed = declared != nil || response.hasNoBody
        response.isChunked = !isFramed && !ended && request.version == .http11
        // Of no known length: it comes as it is made.
        sendsEachEvent = !isFramed && !ended
        // HTTP/1.0 knows no chunks: the end of the body is the end of the connection.
        if !isFramed, !ended, !response.isChunked { response.requestKeepsAlive = false }
        response.keepsAlive = response.requestKeepsAlive && exchange.isRequestComplete && keepsAliveAllowed
        // The block holds every byte of the fields.
        output.append(atMost: headers.byteCount &+ headers.count &* 4 &+ 160) { line in
            line.write("HTTP/1.1 ")
            line.write(decimal: status)
            line.write(" ")
            line.write(reasonPhrase(status))
            line.write("\r\n")
            for index in 0..<headers.count {
                let known = headers.known(at: index)
                if known.isHopByHop { continue }
                // RFC 9110, 8.6: a 204 has none. One that is no number would stand beside our own framing.
                if known == .contentLength, declared == nil || status == 204 { continue }
                line.write(field: headers.name(at: index), headers.value(at: index))
            }
            if !isFramed, ended { line.write("content-length: 0\r\n") }
            if response.isChunked { line.write("transfer-encoding: chunked\r\n") }
            if !response.keepsAlive {
                line.write("connection: close\r\n")
            } else if request.version == .http10 {
                line.write("connection: keep-alive\r\n")
            }
            line.write("\r\n")
        }
        flushLater()
    }

    /// A head that another one follows.
    func writeInformationalHead(status: Int, headers: HeaderBlock) {
        writeStatusLine(status)
        writeFields(headers)
        output.append("\r\n")
        flushLater()
    }

    func writeStatusLine(_ status: Int) {
        output.append("HTTP/1.1 ")
        output.append(decimal: status)
        output.append(" ")
        output.append(reasonPhrase(status))
        output.append("\r\n")
    }

    /// All but those of one connection and those that frame.
    func writeFields(_ headers: HeaderBlock) {
        output.append(atMost: headers.byteCount &+ headers.count &* 4) { line in
            for index in 0..<headers.count where !headers.known(at: index).isHopByHop && headers.known(at: index) != .contentLength {
                line.write(field: headers.name(at: index), headers.value(at: index))
            }
        }
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

    func finishHTTP1Response(trailers: HeaderBlock?) {
        guard let exchange else { return }
        if exchange.isTunnel { return finishTunnel() }
        if response.isChunked {
            output.append("0\r\n")
            if let trailers { writeFields(trailers) }
            output.append("\r\n")
        }
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
        let isRequestComplete = exchange?.isRequestComplete ?? true
        exchange?.connection = nil
        exchange = nil
        guard response.isChunked || response.remaining != nil else {
            flush()
            guard !isClosed else { return }
            // A body that ends by close would look whole: a reset says that it is not.
            socket?.resetOnClose()
            return close()
        }
        // Its framing tells that it is cut; what was written of it, and of the answers before it, still leaves.
        phase = isRequestComplete ? .answering : .lingering
        closesAfterFlush = true
        setDeadline(loop.now &+ limits.downstreamIdleTimeoutNanoseconds)
        flush()
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
    case 100: "Continue"
    case 101: "Switching Protocols"
    case 102: "Processing"
    case 103: "Early Hints"
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
    case 417: "Expectation Failed"
    case 422: "Unprocessable Content"
    case 426: "Upgrade Required"
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
