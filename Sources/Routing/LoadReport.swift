/// What an engine said of its own load at one moment: of all its clients' requests, ours among them. What it did not say is nil.
///
/// Values that make no sense (negative, not a number) count as not said; those beyond `most` are lowered to it.
public struct LoadReport: Sendable {
    /// Sequences in the running batch.
    public var running: Double?
    /// Sequences that wait to get into it.
    public var waiting: Double?
    /// Of both those that have no first token yet: what is being prefilled is in the batch, too.
    public var awaitingFirstToken: Double?
    /// Uncached prompt tokens of those of them that are in the batch.
    public var prefillTokens: Double?
    /// Uncached prompt tokens of those that wait, and of those that are prefilled in chunks. What of them is cached may be an estimate.
    public var queuedTokens: Double?
    /// Requests of either kind, from an engine that does not tell them apart (vLLM's `/load`).
    public var inFlight: Double?
    /// Share of the KV cache that running sequences hold, 0...1; blocks that are only cached count as free.
    public var kvUsage: Double?
    /// Monotonic nanoseconds: the engine took its figures between these two. Our own load is subtracted at its highest in
    /// between, so a wide window finds less of others' load, never some that is our own.
    public var notBefore: UInt64
    public var madeAt: UInt64

    /// Sequences that a report may speak of. Ten times the largest batches there are; beyond it an engine lies or is beyond help.
    public static let most = 16_384.0
    /// Prompt tokens likewise.
    public static let mostTokens = 1e9

    /// How far an engine's own figures may trail what it does, in nanoseconds: vLLM sets its gauges after a step, seen fresh within 100 ms.
    public static let gaugeLagNanoseconds: UInt64 = 250_000_000

    /// - Parameter notBefore: `madeAt` when it is not given.
    public init(
        running: Double? = nil, waiting: Double? = nil, awaitingFirstToken: Double? = nil, prefillTokens: Double? = nil,
        queuedTokens: Double? = nil, inFlight: Double? = nil, kvUsage: Double? = nil, notBefore: UInt64? = nil, madeAt: UInt64
    ) {
        self.running = running.flatMap(Self.sensible)
        self.waiting = waiting.flatMap(Self.sensible)
        self.awaitingFirstToken = awaitingFirstToken.flatMap(Self.sensible)
        self.prefillTokens = prefillTokens.flatMap { $0 >= 0 ? min($0, Self.mostTokens) : nil }
        self.queuedTokens = queuedTokens.flatMap { $0 >= 0 ? min($0, Self.mostTokens) : nil }
        self.inFlight = inFlight.flatMap(Self.sensible)
        self.kvUsage = kvUsage.flatMap { $0 >= 0 && $0 <= 1 ? $0 : nil }
        self.notBefore = min(notBefore ?? madeAt, madeAt)
        self.madeAt = madeAt
    }

    private static func sensible(_ count: Double) -> Double? { count >= 0 ? min(count, most) : nil }
}

/// The latest load that an engine reported, and what of it is taken to be others', for people.
public struct ReportedLoad: Sendable {
    public var running: Double?
    public var waiting: Double?
    public var awaitingFirstToken: Double?
    public var prefillTokens: Double?
    /// As told last, and how long ago; nil when that is more than a minute. Not every report knows them.
    public var queuedTokens: Double?
    public var queuedTokensAgeSeconds: Double?
    public var inFlight: Double?
    public var kvUsage: Double?
    public var ageSeconds: Double
    public var reports: UInt64
}
