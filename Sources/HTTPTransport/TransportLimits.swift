/// Every bound of the transport, in one place. Times in nanoseconds.
public struct TransportLimits: Sendable, Equatable {
    /// Bytes of a message head, and fields in it (64 KiB and 100 by default; nginx and HAProxy allow less).
    public var headBytes = 64 << 10
    public var headFields = 100
    /// Concurrent streams that a HTTP/2 client may open on one connection.
    public var streamsPerConnection = 256
    /// Flow-control windows that we offer (RFC 9113, 6.9): what a peer may send before we credit more.
    public var streamWindowBytes = 256 << 10
    public var connectionWindowBytes = 1 << 20
    /// Output that waits for a slow reader before its source is stopped, and what is left when it may go on.
    public var outputHighWaterBytes = 256 << 10
    public var outputLowWaterBytes = 64 << 10
    /// Downstream connections that a listener holds at once.
    public var connections = 16_384
    /// From the first byte of a request to the end of its head.
    public var requestHeadTimeoutNanoseconds: UInt64 = 10_000_000_000
    /// A connection before its first request, or without a stream; also a request body or an answer that does not move.
    public var downstreamIdleTimeoutNanoseconds: UInt64 = 75_000_000_000
    /// A HTTP/1 connection between two requests.
    public var keepAliveTimeoutNanoseconds: UInt64 = 75_000_000_000
    /// uvicorn closes an idle connection after 5.00 s without notice, so we let go of it earlier.
    public var upstreamIdleTimeoutNanoseconds: UInt64 = 3_000_000_000
    public var connectTimeoutNanoseconds: UInt64 = 1_000_000_000
    /// From a request's last byte to the first of its answer, and between two reads of an answer.
    public var upstreamSilenceTimeoutNanoseconds: UInt64 = 600_000_000_000
    /// Idle upstream connections kept per endpoint and loop.
    public var idleUpstreamConnections = 256
    /// How long a refused client's remaining bytes are read and thrown away, so that it can read our answer.
    public var lingerNanoseconds: UInt64 = 1_000_000_000

    /// How long a draining HTTP/2 connection with open streams goes without its GOAWAY.
    public var goawayDelayNanoseconds: UInt64 = 5_000_000_000

    public init() {}

    /// An idle connection is probed for end of file before reuse when it has been idle longer than this.
    static let staleCheckAfterNanoseconds: UInt64 = 20_000_000
    /// Frames that HTTP/2 queues for a peer that does not read. In good order some hundreds: a few for each stream.
    static let queuedFrames = 4_096
    /// Reads in one wake before others have their turn.
    static let readsPerWake = 4
}
