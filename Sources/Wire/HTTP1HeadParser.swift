import CHTTPParser
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

/// Parses HTTP/1 heads: http_parser, and above it the rules that it leaves open. One per loop, reused:
/// a head is parsed in one go, out of contiguous bytes.
public final class HTTP1HeadParser {
    private var state = swl_head_parser()
    private let fields: UnsafeMutablePointer<swl_head_field>
    /// Fields in a head at most.
    public let maximumFields: Int
    /// Bytes in a head at most, its blank line included.
    public let maximumHeadBytes: Int

    public init(maximumHeadBytes: Int, maximumFields: Int) {
        self.maximumFields = maximumFields
        self.maximumHeadBytes = maximumHeadBytes
        fields = .allocate(capacity: maximumFields)
        state.fields = fields
        state.field_capacity = UInt32(maximumFields)
    }

    deinit { fields.deallocate() }

    /// Looks for the end of a head at the start of `input`: its length with the blank line, nil when more bytes are needed.
    public func measureHead(_ input: UnsafeRawBufferPointer) throws(HTTP1Defect) -> Int? {
        guard let base = input.baseAddress else { return nil }
        let length = swl_measure_head(base.assumingMemoryBound(to: CChar.self), input.count, 0)
        if length < 0 { throw .malformed }
        if length > maximumHeadBytes || (length == 0 && input.count >= maximumHeadBytes) { throw .headTooLarge }
        return length == 0 ? nil : Int(length)
    }

    /// Parses a request head of exactly these bytes into `head`, and says how its body ends.
    public func parseRequest(_ input: UnsafeRawBufferPointer, into head: RequestHead) throws(HTTP1Defect) -> BodyFraming {
        try parse(input, type: HTTP_REQUEST, into: head.headers)
        let parser = state.parser
        guard parser.http_major == 1, parser.http_minor <= 1 else { throw .unsupportedVersion }
        head.version = parser.http_minor == 0 ? .http10 : .http11
        let methodLength = input.firstIndex(of: 32) ?? 0
        let methodBytes = UnsafeRawBufferPointer(rebasing: input[..<methodLength])
        head.setRanges(
            method: HTTPMethod.identify(methodBytes), methodRange: .init(offset: 0, length: methodLength),
            target: .init(offset: Int(state.target_offset), length: Int(state.target_length)))
        try adoptHost(into: head)
        return try requestFraming(of: head)
    }

    /// Parses a response head of exactly these bytes. `toHead`: it answers a HEAD request and so has no body.
    public func parseResponse(
        _ input: UnsafeRawBufferPointer, into head: ResponseHead, toHead: Bool
    ) throws(HTTP1Defect) -> (framing: BodyFraming, keepsAlive: Bool) {
        try parse(input, type: HTTP_RESPONSE, into: head.headers)
        let parser = state.parser
        guard parser.http_major == 1 else { throw .unsupportedVersion }
        head.status = Int(parser.status_code)
        guard head.status >= 100 else { throw .malformed }
        let isChunked = try hasChunkedCoding(head.headers)
        head.contentLength = isChunked ? nil : try declaredLength()
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
        let keepsAlive = framing != .untilClose && connectionPersists(head.headers, isHTTP10: parser.http_minor == 0)
        return (framing, keepsAlive)
    }

    /// Whether the connection outlives this message (RFC 9112, 9.3).
    public func connectionPersists(_ headers: HeaderBlock, isHTTP10: Bool) -> Bool {
        var persists = !isHTTP10
        for index in 0..<headers.count where headers.known(at: index) == .connection {
            if headers.value(at: index).containsListItem("close") { return false }
            if headers.value(at: index).containsListItem("keep-alive") { persists = true }
        }
        return persists
    }

    // MARK: The rules above http_parser

    private func parse(_ input: UnsafeRawBufferPointer, type: http_parser_type, into headers: HeaderBlock) throws(HTTP1Defect) {
        guard let base = input.baseAddress?.assumingMemoryBound(to: CChar.self) else { throw .malformed }
        guard swl_head_is_strict(base, input.count) == 1 else { throw .malformed }
        switch Int(swl_parse_head(&state, CInt(bitPattern: type.rawValue), base, input.count)) {
        case Int(SWL_HEAD_OK): break
        case Int(SWL_HEAD_TOO_MANY_FIELDS): throw .tooManyFields
        default:
            switch state.parser.http_errno {
            case HPE_UNEXPECTED_CONTENT_LENGTH.rawValue: throw .ambiguousFraming
            case HPE_INVALID_TRANSFER_ENCODING.rawValue: throw .unsupportedTransferCoding
            default: throw .malformed
            }
        }
        headers.adopt(input)
        for index in 0..<Int(state.field_count) {
            let field = fields[index]
            var value = HeaderBlock.Range()
            value.offset = field.value_offset
            value.length = field.value_length
            headers.addField(nameOffset: field.name_offset, nameLength: field.name_length, value: value)
        }
    }

    /// RFC 9112, 3.2: exactly one Host in HTTP/1.1, at most one in 1.0; an absolute target's authority stands for it.
    private func adoptHost(into head: RequestHead) throws(HTTP1Defect) {
        let hosts = head.headers.occurrences(of: .host)
        guard hosts <= 1, hosts == 1 || head.version == .http10 else { throw .missingHost }
        for index in 0..<head.headers.count where head.headers.known(at: index) == .host {
            head.setAuthority(range: .init(offset: Int(fields[index].value_offset), length: Int(fields[index].value_length)))
        }
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
        head.contentLength = try declaredLength()
        guard let length = head.contentLength, length > 0 else { return .none }
        return .length(length)
    }

    private func hasChunkedCoding(_ headers: HeaderBlock) throws(HTTP1Defect) -> Bool {
        switch headers.occurrences(of: .transferEncoding) {
        case 0: return false
        case 1:
            guard headers.occurrences(of: .contentLength) == 0 else { throw .ambiguousFraming }
            guard headers.value(.transferEncoding)?.equalsIgnoringCase("chunked") == true else { throw .unsupportedTransferCoding }
            return true
        default: throw .unsupportedTransferCoding
        }
    }

    /// Nil when none was declared.
    private func declaredLength() throws(HTTP1Defect) -> Int? {
        guard state.parser.flags & F_CONTENTLENGTH.rawValue != 0 else { return nil }
        // More than fits must not pass for none: the body would be read as the next message.
        guard let length = Int(exactly: state.parser.content_length) else { throw .malformed }
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
