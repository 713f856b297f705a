/// How an exchange ended, as seen from the client's side.
public enum ExchangeOutcome: Int, CaseIterable, Sendable {
    /// The whole answer of a group was relayed, whatever its status.
    case completed
    /// The router answered by itself: its own paths.
    case local
    /// The router refused the request: malformed, too large, unknown model.
    case rejected
    case noReadyGroup
    case clientGone
    case upstreamConnectError
    case upstreamReset
    case upstreamTimeout
    /// The engine ended its stream with an error event.
    case engineError
    /// HTTP/2: refused unprocessed (REFUSED_STREAM), for the fields of the connection's open streams had no room for its own.
    case streamRefused
    /// A gRPC call on which nothing moved for too long.
    case idle

    /// As in `outcome` of metrics and access log.
    public var label: StaticString {
        switch self {
        case .completed: "completed"
        case .local: "local"
        case .rejected: "rejected"
        case .noReadyGroup: "no_ready_group"
        case .clientGone: "client_gone"
        case .upstreamConnectError: "upstream_connect_error"
        case .upstreamReset: "upstream_reset"
        case .upstreamTimeout: "upstream_timeout"
        case .engineError: "engine_error"
        case .streamRefused: "stream_refused"
        case .idle: "idle"
        }
    }
}

/// What went wrong with one attempt on one group, repaired by a retry or not.
public enum UpstreamFailure: Int, CaseIterable, Sendable {
    case connectRefused
    case connectTimeout
    /// A certificate that is not accepted, or no protocol in common.
    case tls
    /// Closed or reset before the answer began.
    case resetBeforeAnswer
    /// Closed or reset after it began.
    case resetDuringAnswer
    case timeout
    /// Bytes that are no HTTP.
    case protocolError
    /// 503, 429 or 529: full, not broken.
    case saturated
    /// Answers that it is shutting down.
    case draining
    case engineError

    public var label: StaticString {
        switch self {
        case .connectRefused: "connect_refused"
        case .connectTimeout: "connect_timeout"
        case .tls: "tls"
        case .resetBeforeAnswer: "reset_before_answer"
        case .resetDuringAnswer: "reset_during_answer"
        case .timeout: "timeout"
        case .protocolError: "protocol_error"
        case .saturated: "saturated"
        case .draining: "draining"
        case .engineError: "engine_error"
        }
    }
}
