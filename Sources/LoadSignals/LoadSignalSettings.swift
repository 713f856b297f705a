/// How engines are asked for their load. Times in nanoseconds.
public struct LoadSignalSettings: Sendable {
    /// Between two questions for `/metrics`, or for gRPC's `GetLoads`; 0: never. It costs vLLM 4 to 20 ms of the only thread of its API server each time.
    public var intervalNanoseconds: UInt64 = 5_000_000_000
    /// Between two questions for vLLM's `/load`, where it counts, or for SGLang's `/v1/loads`, where it is; 0: never. They cost a millisecond.
    public var loadIntervalNanoseconds: UInt64 = 1_000_000_000
    public var timeoutNanoseconds: UInt64 = 1_000_000_000
    /// An engine may spend this share of its time on `/metrics` or `GetLoads`, and as much on `/load` or `/v1/loads`: one that answers slowly is
    /// asked less often, for the latter never more seldom than every `intervalNanoseconds`.
    public var greatestShare = 0.005
    /// Empty: `/metrics`, and `/prometheus/metrics` when that says nothing.
    public var path = ""
    /// 0: the leader's own. Another one is spoken to in cleartext HTTP/1.1.
    public var port: UInt16 = 0

    /// The pause before one that does not answer is asked again; before one that has nothing to say, the first (`Muteness`).
    var longestPauseNanoseconds: UInt64 = 60_000_000_000

    public init() {}

    /// Bytes of an answer at most.
    static let answerBytes = 1 << 20
    /// Those of `GetLoads`: a thousand ranks with all that SGLang tells of each fit, and no answer of two-byte ranks takes more than 8 MiB to read.
    static let loadsAnswerBytes = 128 << 10
    /// The longest pause between questions to an engine that answers, however slowly.
    static let longestIntervalNanoseconds: UInt64 = 30_000_000_000
    /// With `/load` telling the load, `/metrics` is asked for the rest this much less often.
    static let metricsPauseWithLoad: UInt64 = 3
    /// SGLang's answer in the format of `/metrics`, without what is no load.
    static let sglangLoadsTarget = "/v1/loads?include=core&format=prometheus"
    /// Zeros from the `/load` of a busy engine after which it is taken not to count.
    static let zerosOfADeadCounter = 3
}
