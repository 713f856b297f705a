/// Every bound of the transport, in one place. Times in nanoseconds.
public struct TransportLimits: Sendable, Equatable {
    /// Bytes of a message head, and fields in it (64 KiB and 100 by default; nginx and HAProxy allow less).
    public var headBytes = 64 << 10
    public var headFields = 100
    /// Concurrent streams that a HTTP/2 client may open on one connection.
    public var streamsPerConnection = 256
    /// Flow-control windows that we offer (RFC 9113, 6.9): what a peer may send before we credit more. The streams of backends and
    /// the connections of clients begin with less.
    public var streamWindowBytes = 256 << 10
    public var connectionWindowBytes = 1 << 20
    /// Streams that a client may reset, or have us reset by breaking the protocol, on one connection in the long run; ten times as
    /// many at once. Beyond it the connection ends with ENHANCE_YOUR_CALM.
    public var resetsPerSecond = 100
    /// Output that waits for a slow reader before its source is stopped, and what is left when it may go on.
    public var outputHighWaterBytes = 256 << 10
    public var outputLowWaterBytes = 64 << 10
    /// What the connections of one loop hold in buffers: answers for clients that read slowly, and request bodies for backends that do, those
    /// that wait for a backend's stream among them. Half of it may be filled before every source is stopped at `leastQueuedBytesPerStream`
    /// instead of the high-water mark; the other half is what peers may be allowed to send over HTTP/2 beyond their first windows
    /// (`WindowPromises`). So they never take more than this, and for each request under way the little that lets it go on:
    /// `leastQueuedBytesPerStream` with `firstUpstreamWindowBytes`, or a read of `readBytesWhenShort`, or the window of 64 KiB that every
    /// HTTP/2 client's connection begins with (RFC 9113, 6.9.2).
    public var connectionBufferBytes = 64 << 20
    /// Downstream connections that a listener holds at once.
    public var connections = 16_384
    /// From a client's connect to the end of its TLS handshake.
    public var handshakeTimeoutNanoseconds: UInt64 = 10_000_000_000
    /// From the first byte of a request to the end of its head.
    public var requestHeadTimeoutNanoseconds: UInt64 = 10_000_000_000
    /// A request body of which nothing comes.
    public var requestBodyTimeoutNanoseconds: UInt64 = 75_000_000_000
    /// Of a request body, on average over each `requestBodyTimeoutNanoseconds`, while its answer has not begun; 0: any pace will do. A
    /// byte now and then would hold a request for ever. Not asked of gRPC's calls, whose clients send when they have something to say.
    public var requestBodyBytesPerSecond = 500
    /// A gRPC call that its client has begun and not ended, on which nothing moves in either direction.
    public var callIdleTimeoutNanoseconds: UInt64 = 600_000_000_000
    /// A connection before its first request, or without a stream; also an answer that does not move.
    public var downstreamIdleTimeoutNanoseconds: UInt64 = 75_000_000_000
    /// A HTTP/1 connection between two requests.
    public var keepAliveTimeoutNanoseconds: UInt64 = 75_000_000_000
    /// A pooled HTTP/1 connection. uvicorn closes an idle connection after 5.00 s without notice, so we let go of it earlier.
    public var upstreamIdleTimeoutNanoseconds: UInt64 = 3_000_000_000
    /// A HTTP/2 connection without a stream: servers say GOAWAY when they close one.
    public var upstreamHTTP2IdleTimeoutNanoseconds: UInt64 = 60_000_000_000
    /// To a backend, its TLS handshake included.
    public var connectTimeoutNanoseconds: UInt64 = 1_000_000_000
    /// A tunnel (WebSocket) through which nothing moves in either direction.
    public var tunnelIdleTimeoutNanoseconds: UInt64 = 600_000_000_000
    /// From a request's last byte to the first of its answer, and between two reads of an answer.
    public var upstreamSilenceTimeoutNanoseconds: UInt64 = 600_000_000_000
    /// How long a HTTP/2 connection that carries streams is silent before it is asked for a sign of life, and how long that may take.
    /// gRPC's servers take three PINGs in silence less than 5 minutes apart for an attack ("too_many_pings"): so the interval
    /// doubles while nothing but the answers to them comes, and from 40 s on the third is far enough.
    public var pingIntervalNanoseconds: UInt64 = 40_000_000_000
    public var pingTimeoutNanoseconds: UInt64 = 10_000_000_000
    /// HTTP/2 connections of one loop to one endpoint, opened as the backend's stream limit requires.
    public var http2UpstreamConnections = 8
    /// Requests of one loop to one endpoint that wait for a free stream, and how long each may.
    public var queuedUpstreamRequests = 1_024
    public var upstreamQueueTimeoutNanoseconds: UInt64 = 5_000_000_000
    /// Idle upstream connections kept per endpoint and loop.
    public var idleUpstreamConnections = 256
    /// How long a refused client's remaining bytes are awaited, read and thrown away, so that it can read our answer.
    public var lingerNanoseconds: UInt64 = 1_000_000_000

    /// How long a draining HTTP/2 connection with open streams goes without its GOAWAY; to be well below what the drain may take.
    public var goawayDelayNanoseconds: UInt64 = 5_000_000_000

    public init() {}

    /// The longest that a client is read from which has been answered before its request was all here.
    static let longestLingerNanoseconds: UInt64 = 30_000_000_000
    /// From the first GOAWAY of a drain to the second, when the client does not say that it has read the first.
    var shutdownNoticeNanoseconds: UInt64 { min(1_000_000_000, goawayDelayNanoseconds) }
    /// Informational answers (1xx) to one request that are passed on; a backend that sends more is broken.
    static let informationalResponses = 16
    /// An idle connection is probed for end of file before reuse when it has been idle longer than this.
    static let staleCheckAfterNanoseconds: UInt64 = 20_000_000
    /// A loop tells the same of an endpoint's TLS only so often.
    static let tlsReportNanoseconds: UInt64 = 60_000_000_000
    /// Frames that HTTP/2 queues for a peer that does not read. In good order some hundreds: a few for each stream.
    static let queuedFrames = 4_096
    /// HTTP/2 frames that carry no message (SETTINGS, PING, PRIORITY, empty DATA, tiny WINDOW_UPDATE) that a client may send in the
    /// long run; ten times as many at once.
    static let idleFramesPerSecond = 1_000
    /// Fields of the open streams of a client's HTTP/2 connection: 4 KiB for each stream that it may open, 1 MiB at least. HPACK makes
    /// of a byte on the wire a field of 4 KiB, which would be 64 KiB on each stream otherwise.
    var openFieldBytesPerConnection: Int { max(1 << 20, streamsPerConnection &* (4 << 10)) }
    /// What a client that was dismissed may still send while it reads why.
    static let discardedBytes = 256 << 10
    /// Output that waits on all streams of one HTTP/2 connection, as far as each can be stopped: the more there are, the less for each.
    static let queuedBytesPerConnection = 8 << 20
    static let leastQueuedBytesPerStream = 16 << 10
    /// What a backend may send on a new HTTP/2 stream: small, for it is a promise to hold so much whatever its client does. Grows to
    /// `streamWindowBytes` with the first half of it, when there is room.
    var firstUpstreamWindowBytes: Int { min(16 << 10, streamWindowBytes) }
    /// In which half of a first window has to be used up for a wider one: a backend's stream (8 KiB), a client's connection (32 KiB). Well
    /// above a round trip; a stream of tokens takes longer.
    static let quickHalfWindowNanoseconds: UInt64 = 250_000_000
    static let quickHalfConnectionWindowNanoseconds: UInt64 = 1_000_000_000
    /// One read at most, when the connections of the loop hold too much.
    static let readBytesWhenShort = 16 << 10
    /// Reads in one wake before others have their turn.
    static let readsPerWake = 4
    /// Closed streams, some 300 bytes each, that a client's connection keeps for its next ones.
    static let spareStreams = 16
}
