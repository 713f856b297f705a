import Glibc

/// How a HTTP/1 message's body ends (RFC 9112, 6.3).
public enum BodyFraming: Sendable, Equatable {
    case none
    case length(Int)
    case chunked
    case untilClose
}

/// Why a HTTP/1 message was refused.
public enum HTTP1Defect: Error, Sendable {
    case malformed, headTooLarge, tooManyFields, missingHost, ambiguousFraming, unsupportedVersion, unsupportedTransferCoding
}

/// Parses HTTP/1 heads, each in one go out of contiguous bytes (`HTTP1HeadScanner`), and applies the rules about what the fields mean.
public struct HTTP1HeadParser: Sendable {
    /// Fields in a head at most.
    public let maximumFields: Int
    /// Bytes in a head at most, its blank line included.
    public let maximumHeadBytes: Int

    public init(maximumHeadBytes: Int, maximumFields: Int) {
        self.maximumFields = maximumFields
        self.maximumHeadBytes = maximumHeadBytes
    }

    /// Looks for the end of a head at the start of `input`: its length with the blank line, nil when more bytes are needed.
    public func measureHead(_ input: UnsafeRawBufferPointer) throws(HTTP1Defect) -> Int? {
        guard let base = input.baseAddress else { return nil }
        var at = 0
        while at < input.count, let found = memchr(base + at, 10, input.count &- at) {
            let newline = UnsafeRawPointer(found) - base
            // RFC 9112, 2.2: a bare LF ends a line for some and not for others.
            guard newline > 0, input[newline &- 1] == 13 else { throw .malformed }
            if newline >= 3, input[newline &- 2] == 10 {
                guard newline < maximumHeadBytes else { throw .headTooLarge }
                return newline &+ 1
            }
            at = newline &+ 1
        }
        if input.count >= maximumHeadBytes { throw .headTooLarge }
        return nil
    }

    /// Whether the start of a head, of which the end is not here, can still be one of a response.
    public static func mayBecomeResponse(_ input: UnsafeRawBufferPointer) -> Bool {
        let start: StaticString = "HTTP/1."
        return memcmp(start.utf8Start, input.baseAddress ?? UnsafeRawPointer(start.utf8Start), min(input.count, start.utf8CodeUnitCount))
            == 0
    }

    /// Parses a request head of exactly these bytes into `head`, and says how its body ends.
    public func parseRequest(_ input: UnsafeRawBufferPointer, into head: RequestHead) throws(HTTP1Defect) -> BodyFraming {
        guard !input.isEmpty else { throw .malformed }
        head.headers.adopt(input)
        var scanner = HTTP1HeadScanner(input)
        let method = try scanner.method()
        try scanner.blank()
        let target = try scanner.target()
        try scanner.blank()
        let version = try scanner.version()
        try scanner.lineEnd()
        guard version.major == 1, version.minor <= 1 else { throw .unsupportedVersion }
        try scanner.fields(into: head.headers, atMost: maximumFields)
        head.version = version.minor == 0 ? .http10 : .http11
        head.contentLength = nil
        head.setRanges(method: HTTPMethod.identify(head.headers[method]), methodRange: method, target: target)
        try adoptHost(into: head)
        guard head.hasStrictAddress else { throw .malformed }
        return try requestFraming(of: head)
    }

    /// Parses a response head of exactly these bytes. `toHead`: it answers a HEAD request and so has no body.
    public func parseResponse(
        _ input: UnsafeRawBufferPointer, into head: ResponseHead, toHead: Bool
    ) throws(HTTP1Defect) -> (framing: BodyFraming, keepsAlive: Bool) {
        guard !input.isEmpty else { throw .malformed }
        head.headers.adopt(input)
        var scanner = HTTP1HeadScanner(input)
        let version = try scanner.version()
        guard version.major == 1 else { throw .unsupportedVersion }
        try scanner.blank()
        head.status = try scanner.status()
        guard head.status >= 100 else { throw .malformed }
        try scanner.fields(into: head.headers, atMost: maximumFields)
        let isChunked = try hasChunkedCoding(head.headers)
        head.contentLength = isChunked ? nil : try declaredLength(head.headers)
        var framing: BodyFraming
        if toHead || head.status < 200 || head.status == 204 || head.status == 304 {
            framing = .none
        } else if isChunked {
            framing = .chunked
        } else if let length = head.contentLength {
            framing = length == 0 ? .none : .length(length)
        } else {
            framing = .untilClose
        }
        let keepsAlive = framing != .untilClose && connectionPersists(head.headers, isHTTP10: version.minor == 0)
        return (framing, keepsAlive)
    }

    /// Whether the connection outlives this message (RFC 9112, 9.3).
    public func connectionPersists(_ headers: HeaderBlock, isHTTP10: Bool) -> Bool {
        var persists = !isHTTP10
        guard headers.has(.connection) else { return persists }
        for index in 0..<headers.count where headers.known(at: index) == .connection {
            if headers.value(at: index).containsListItem("close") { return false }
            if headers.value(at: index).containsListItem("keep-alive") { persists = true }
        }
        return persists
    }

    // MARK: What the fields mean

    /// RFC 9112, 3.2: exactly one Host in HTTP/1.1, at most one in 1.0; an absolute target's authority stands for it.
    private func adoptHost(into head: RequestHead) throws(HTTP1Defect) {
        var hosts = 0
        head.setAuthority(range: .init())
        for index in 0..<head.headers.count where head.headers.known(at: index) == .host {
            hosts &+= 1
            head.setAuthority(range: head.headers.valueRange(at: index))
        }
        guard hosts <= 1, hosts == 1 || head.version == .http10 else { throw .missingHost }
        try makeOriginForm(head)
    }

    /// RFC 9112, 3.2.2: `http://host/path` asks for `/path` at `host`.
    private func makeOriginForm(_ head: RequestHead) throws(HTTP1Defect) {
        let target = head.target
        if target.first == 47 || (head.method == .options && target.equals("*")) { return }
        var scheme = 0
        if target.hasPrefixIgnoringCase("http://") { scheme = 7 } else if target.hasPrefixIgnoringCase("https://") { scheme = 8 }
        guard scheme > 0 else {
            if head.method == .connect { return }
            throw .malformed
        }
        let rest = UnsafeRawBufferPointer(rebasing: target[scheme...])
        let authorityLength = rest.firstIndex(of: 47) ?? rest.count
        let host = rest[..<authorityLength]
        // RFC 9110, 4.2.4: credentials in an authority are a way to deceive. A query behind no path is nobody's.
        guard authorityLength > 0, !host.contains(64), !host.contains(63) else { throw .malformed }
        var range = head.targetRangeForRewriting
        var authority = range
        authority.offset &+= UInt32(scheme)
        authority.length = UInt32(authorityLength)
        range.offset &+= UInt32(scheme &+ authorityLength)
        range.length &-= UInt32(scheme &+ authorityLength)
        // RFC 9112, 3.2.1 and 3.2.4: no path is the path `/`, and for OPTIONS the server as a whole.
        if range.length == 0 { range = head.headers.store(head.method == .options ? "*" : "/") }
        head.targetRangeForRewriting = range
        head.setAuthority(range: authority)
    }

    private func requestFraming(of head: RequestHead) throws(HTTP1Defect) -> BodyFraming {
        if try hasChunkedCoding(head.headers) {
            guard head.version == .http11 else { throw .ambiguousFraming }
            return .chunked
        }
        head.contentLength = try declaredLength(head.headers)
        guard let length = head.contentLength, length > 0 else { return .none }
        return .length(length)
    }

    private func hasChunkedCoding(_ headers: HeaderBlock) throws(HTTP1Defect) -> Bool {
        guard headers.has(.transferEncoding) else { return false }
        guard headers.occurrences(of: .transferEncoding) == 1 else { throw .unsupportedTransferCoding }
        guard !headers.has(.contentLength) else { throw .ambiguousFraming }
        guard headers.value(.transferEncoding)?.equalsIgnoringCase("chunked") == true else { throw .unsupportedTransferCoding }
        return true
    }

    /// Nil when none was declared. A length that no number here holds must not pass for none: the body would be read as the next message.
    private func declaredLength(_ headers: HeaderBlock) throws(HTTP1Defect) -> Int? {
        guard let value = headers.value(.contentLength) else { return nil }
        guard headers.occurrences(of: .contentLength) == 1 else { throw .ambiguousFraming }
        guard let length = value.decimalValue else { throw .malformed }
        return length
    }
}

extension UnsafeRawBufferPointer {
    /// Whether a comma-separated list (RFC 9110, 5.6.1) holds this item, letter case aside.
    public func containsListItem(_ item: StaticString) -> Bool {
        containsListItem(UnsafeRawBufferPointer(start: item.utf8Start, count: item.utf8CodeUnitCount))
    }

    public func containsListItem(_ item: UnsafeRawBufferPointer) -> Bool {
        var start = 0
        while start <= count {
            var end = start
            while end < count, self[end] != 44 { end &+= 1 }
            var first = start
            var last = end
            while first < last, self[first] == 32 || self[first] == 9 { first &+= 1 }
            while last > first, self[last &- 1] == 32 || self[last &- 1] == 9 { last &-= 1 }
            if last &- first == item.count,
                item.isEmpty || strncasecmp(baseAddress! + first, item.baseAddress!, item.count) == 0
            {
                return true
            }
            start = end &+ 1
        }
        return false
    }
}
