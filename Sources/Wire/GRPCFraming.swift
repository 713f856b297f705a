/// gRPC's message framing inside an HTTP/2 body: one byte that says whether the message is compressed, four bytes of length (big-endian),
/// then the message ("gRPC over HTTP2", Length-Prefixed-Message).
public enum GRPCFraming {
    /// Bytes before every message.
    public static let prefixBytes = 5

    /// Bytes still to come until the first message of `body` can be read; none when it is here, and for one that never can be: it is
    /// compressed, or no message at all.
    public static func bytesAwaited(_ body: UnsafeRawBufferPointer) -> Int {
        guard let flag = body.first else { return prefixBytes }
        guard flag == 0 else { return 0 }
        guard let end = firstMessageEnd(body) else { return prefixBytes &- body.count }
        return max(0, end &- body.count)
    }

    /// Bytes of the first message of `body`, its prefix included, whether they are here or not; nil before its prefix is.
    public static func firstMessageEnd(_ body: UnsafeRawBufferPointer) -> Int? {
        guard body.count >= prefixBytes else { return nil }
        return prefixBytes &+ Int(UInt32(bigEndian: body.loadUnaligned(fromByteOffset: 1, as: UInt32.self)))
    }

    /// Writes the prefix of a message of `messageBytes` to the start of `buffer`.
    /// - Returns: 5, or nil (nothing written) when the buffer is shorter or the length has no 32-bit form.
    public static func encodePrefix(
        messageBytes: Int, isCompressed: Bool = false, into buffer: UnsafeMutableRawBufferPointer
    ) -> Int? {
        guard buffer.count >= prefixBytes, let length = UInt32(exactly: messageBytes) else { return nil }
        buffer[0] = isCompressed ? 1 : 0
        buffer.storeBytes(of: length.bigEndian, toByteOffset: 1, as: UInt32.self)
        return prefixBytes
    }

    /// Writes prefix and message to the start of `buffer`.
    /// - Returns: bytes written, or nil (nothing written) when they do not fit.
    public static func encode(
        _ message: UnsafeRawBufferPointer, isCompressed: Bool = false, into buffer: UnsafeMutableRawBufferPointer
    ) -> Int? {
        guard buffer.count - prefixBytes >= message.count,
            let start = encodePrefix(messageBytes: message.count, isCompressed: isCompressed, into: buffer)
        else { return nil }
        UnsafeMutableRawBufferPointer(rebasing: buffer[start...]).copyMemory(from: message)
        return start + message.count
    }
}

/// Splits a gRPC body into messages, as bytes come and without holding them. A value without I/O: it says what the bytes are.
public struct GRPCMessageSplitter {
    public enum Failure: Error, Equatable, Sendable {
        /// The first byte of a prefix is neither 0 nor 1 (gRPC status 13, INTERNAL).
        case badCompressedFlag
        /// A message announces more than the maximum (gRPC status 8, RESOURCE_EXHAUSTED).
        case messageTooLarge
    }

    /// What was found at the front of the input.
    public enum Step {
        /// A message begins. Followed by payload steps unless it is empty.
        case message(bytes: Int, isCompressed: Bool)
        /// Bytes of the current message, a slice of the input. `isLast` ends the message.
        case payload(UnsafeRawBufferPointer, isLast: Bool)
        /// The input is used up.
        case needsMore
        /// The stream is broken; every later call says the same.
        case failed(Failure)
    }

    private let maximumMessageBytes: Int
    private var prefixCount = 0
    private var flag: UInt8 = 0
    private var length: UInt32 = 0
    private var remaining = 0
    private var failure: Failure?

    /// - Parameter maximumMessageBytes: a longer message fails the stream. gRPC's own default is 4 MiB.
    public init(maximumMessageBytes: Int) {
        self.maximumMessageBytes = maximumMessageBytes
    }

    /// Whether the bytes so far end between two messages. A body that ends elsewhere was cut.
    public var isAtBoundary: Bool { prefixCount == 0 && remaining == 0 && failure == nil }

    /// Takes one step and removes its bytes from the front of `input`. Call until it says `needsMore` or `failed`.
    public mutating func next(_ input: inout UnsafeRawBufferPointer) -> Step {
        if let failure { return .failed(failure) }
        if remaining > 0 {
            guard input.count > 0 else { return .needsMore }
            let piece = UnsafeRawBufferPointer(rebasing: input.prefix(remaining))
            input = UnsafeRawBufferPointer(rebasing: input.dropFirst(piece.count))
            remaining -= piece.count
            return .payload(piece, isLast: remaining == 0)
        }
        while prefixCount < GRPCFraming.prefixBytes {
            guard let byte = input.first else { return .needsMore }
            input = UnsafeRawBufferPointer(rebasing: input.dropFirst())
            if prefixCount == 0 {
                guard byte <= 1 else { return fail(.badCompressedFlag) }
                flag = byte
                length = 0
            } else {
                length = length << 8 | UInt32(byte)
            }
            prefixCount += 1
        }
        prefixCount = 0
        guard Int(length) <= maximumMessageBytes else { return fail(.messageTooLarge) }
        remaining = Int(length)
        return .message(bytes: remaining, isCompressed: flag == 1)
    }

    private mutating func fail(_ failure: Failure) -> Step {
        self.failure = failure
        return .failed(failure)
    }
}
