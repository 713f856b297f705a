/// How engines are asked for their load.
public struct LoadSignalConfiguration: Sendable, Equatable {
    /// Of the load report that an engine is asked to add to its answers (ORCA).
    public enum ReportForm: String, CaseIterable, Sendable {
        case off, text, json
        case binary = "bin"
    }

    /// Whether clients see such reports.
    public enum Passing: String, CaseIterable, Sendable {
        /// Not those that the router alone asked for.
        case whenAsked = "when-asked"
        case always, never
    }

    /// Of `/metrics`; 0: never.
    public var intervalNanoseconds: UInt64 = 5_000_000_000
    /// Of vLLM's `/load`, where it counts; 0: never.
    public var loadIntervalNanoseconds: UInt64 = 1_000_000_000
    public var timeoutNanoseconds: UInt64 = 1_000_000_000
    /// Of an engine's time, at most, that answers to `/metrics` or `GetLoads` may take, and as much those to `/load` or `/v1/loads`.
    public var greatestShare = 0.005
    /// nil: `/metrics`, then `/prometheus/metrics`.
    public var path: String?
    /// 0: the leader's.
    public var port: UInt16 = 0
    public var orca = ReportForm.off
    public var orcaToClients = Passing.whenAsked

    public init() {}
}

extension LoadSignalConfiguration {
    static var fields: [Field<LoadSignalConfiguration>] {
        [
            .scalar("interval", \.intervalNanoseconds, .duration(0...3_600_000_000_000)),
            .scalar("load_interval", \.loadIntervalNanoseconds, .duration(0...3_600_000_000_000)),
            .scalar("timeout", \.timeoutNanoseconds, .duration(1_000_000...60_000_000_000)),
            .scalar("greatest_share", \.greatestShare, .number(0.0001...1)),
            .optional("path", \.path, .text("a path that begins with /", atMost: 1_024)),
            .scalar("port", \.port, .count(0...65_535)),
            .scalar("orca", \.orca, .choice),
            .scalar("orca_to_clients", \.orcaToClients, .choice),
        ]
    }

    /// What no key can tell alone.
    var violation: SwiftletConfiguration.Violation? {
        if let path, !path.hasPrefix("/") || path.utf8.contains(where: { $0 <= 32 || $0 >= 127 }) {
            return .init(
                "load_signals.path", expected: "a path that begins with / and has no blanks", found: ConfigurationError.quoted(path))
        }
        for (key, interval) in [("interval", intervalNanoseconds), ("load_interval", loadIntervalNanoseconds)]
        where (1..<50_000_000).contains(interval) {
            return .init(
                "load_signals.\(key)", expected: "0s, or 50ms and more", found: Syntax.duration(0...UInt64.max).print(interval))
        }
        return nil
    }
}
