import Glibc

public enum HTTPVersion: Sendable { case http10, http11, http2 }

public enum HTTPMethod: Sendable {
    case get, head, post, put, delete, options, patch, connect, other

    public static func identify(_ bytes: UnsafeRawBufferPointer) -> HTTPMethod {
        switch bytes.count {
        case 3: bytes.equals("GET") ? .get : bytes.equals("PUT") ? .put : .other
        case 4: bytes.equals("POST") ? .post : bytes.equals("HEAD") ? .head : .other
        case 5: bytes.equals("PATCH") ? .patch : .other
        case 6: bytes.equals("DELETE") ? .delete : .other
        case 7: bytes.equals("OPTIONS") ? .options : bytes.equals("CONNECT") ? .connect : .other
        default: .other
        }
    }
}

/// The head of a request, in whichever protocol it came. All bytes live in `headers`. Reused from request to request.
public final class RequestHead {
    public let headers = HeaderBlock()
    /// Trailing fields of the request; nearly always empty.
    public private(set) lazy var trailers = HeaderBlock(byteCapacity: 64, fieldCapacity: 4)
    public var hasTrailers = false
    public var version = HTTPVersion.http11
    public private(set) var method = HTTPMethod.get
    private var methodRange = HeaderBlock.Range()
    private var targetRange = HeaderBlock.Range()
    private var authorityRange = HeaderBlock.Range()
    /// Length of the body when the client declared it.
    public var contentLength: Int?

    public init() {}

    public func removeAll() {
        headers.removeAll()
        if hasTrailers { trailers.removeAll() }
        hasTrailers = false
        method = .get
        methodRange = .init()
        targetRange = .init()
        authorityRange = .init()
        contentLength = nil
    }

    public var methodBytes: UnsafeRawBufferPointer { bytes(methodRange) }
    /// The request target in origin form, query included.
    public var target: UnsafeRawBufferPointer { bytes(targetRange) }
    /// `Host` or `:authority`; empty when a HTTP/1.0 client sent none.
    public var authority: UnsafeRawBufferPointer { bytes(authorityRange) }
    /// The block lives as long as this head, so it need not be counted.
    private func bytes(_ range: HeaderBlock.Range) -> UnsafeRawBufferPointer {
        Unmanaged.passUnretained(headers)._withUnsafeGuaranteedRef { $0[range] }
    }
    /// The target up to its query.
    public var path: UnsafeRawBufferPointer {
        let target = target
        guard target.count > 0, let query = memchr(target.baseAddress!, 63, target.count) else { return target }
        return UnsafeRawBufferPointer(start: target.baseAddress, count: UnsafeRawPointer(query) - target.baseAddress!)
    }

    /// A gRPC call by its content type: `application/grpc`, alone or with a message format. gRPC-Web is another protocol.
    public var isGRPC: Bool {
        guard let type = headers.value(.contentType), type.hasPrefixIgnoringCase("application/grpc") else {
            return false
        }
        return type.count == 16 || type[16] == UInt8(ascii: "+") || type[16] == UInt8(ascii: ";")
    }

    public func setMethod(_ bytes: UnsafeRawBufferPointer) {
        method = HTTPMethod.identify(bytes)
        methodRange = headers.store(bytes)
    }
    public func setMethod(_ text: StaticString) { setMethod(UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount)) }
    public func setTarget(_ text: StaticString) { setTarget(UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount)) }
    public func setTarget(_ bytes: UnsafeRawBufferPointer) { targetRange = headers.store(bytes) }
    public func setAuthority(_ bytes: UnsafeRawBufferPointer) { authorityRange = headers.store(bytes) }
    public func appendTrailer(name: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer) {
        hasTrailers = true
        trailers.append(name: name, value: value)
    }

    /// Replaces the target's first bytes, as an alias of a path does. `prefix` is not longer than the target.
    public func dropTargetPrefix(_ count: Int) {
        targetRange.offset &+= UInt32(truncatingIfNeeded: count)
        targetRange.length &-= UInt32(truncatingIfNeeded: count)
    }

    func setRanges(method: HTTPMethod, methodRange: HeaderBlock.Range, target: HeaderBlock.Range) {
        self.method = method
        self.methodRange = methodRange
        targetRange = target
    }
    func setAuthority(range: HeaderBlock.Range) { authorityRange = range }
    var targetRangeForRewriting: HeaderBlock.Range {
        get { targetRange }
        set { targetRange = newValue }
    }
}

/// The head of a response.
public final class ResponseHead {
    public let headers = HeaderBlock()
    public var status = 0
    public var contentLength: Int?
    public init() {}

    public func removeAll() {
        headers.removeAll()
        status = 0
        contentLength = nil
    }
}
