extension MetricsSnapshot {
    /// Appends everything in Prometheus's text format, version 0.0.4: serve it as `text/plain; version=0.0.4`.
    ///
    /// Order is stable: families as below, series by model and group.
    public func writePrometheus(into bytes: inout [UInt8]) {
        var text = PrometheusText(bytes: bytes)
        bytes = []
        let series = self.series.sorted { $0.key < $1.key }
        writeRequests(series, to: &text)
        writeLatencies(series, to: &text)
        writeTokens(series, to: &text)
        writeRouting(to: &text)
        writeTransport(to: &text)
        writeTLS(to: &text)
        if let discovery { discovery.write(to: &text) }
        if let loadSignals { loadSignals.write(to: &text) }
        if let replicas { replicas.write(to: &text) }
        bytes = text.bytes
    }

    private typealias NamedSeries = [(key: SeriesName, value: SeriesCounters)]

    private func writeRequests(_ series: NamedSeries, to text: inout PrometheusText) {
        text.family("swiftlet_requests_started_total", .counter, "Requests given to a group or refused, by their first group.")
        for (name, counters) in series { text.sample(name.labels, counters.started) }

        text.family("swiftlet_requests_total", .counter, "Requests that ended, by the status that the client was given.")
        for (name, counters) in series {
            for status in counters.statusCounts {
                let code = status.code == 0 ? "other" : "\(status.code)"
                let codeClass = status.code == 0 ? "other" : "\(status.code / 100)xx"
                text.sample(name.labels + [("code", code), ("class", codeClass)], status.count)
            }
        }

        text.family("swiftlet_request_outcomes_total", .counter, "Requests that ended, by how.")
        for (name, counters) in series {
            for outcome in ExchangeOutcome.allCases where counters.count(of: outcome) > 0 {
                text.sample(name.labels + [("outcome", "\(outcome.label)")], counters.count(of: outcome))
            }
        }

        text.family("swiftlet_requests_in_flight", .gauge, "Requests under way.")
        for (name, counters) in series { text.sample(name.labels, counters.inFlight) }
    }

    private func writeLatencies(_ series: NamedSeries, to text: inout PrometheusText) {
        text.family(
            "swiftlet_time_to_first_token_seconds", .histogram,
            "From a request's head received to the first event of its answer, or the first byte of one that is no stream.")
        for (name, counters) in series { text.histogram(name.labels, counters.timeToFirstToken) }

        text.family("swiftlet_request_duration_seconds", .histogram, "From a request's head received to its answer's last byte.")
        for (name, counters) in series { text.histogram(name.labels, counters.duration) }

        text.family(
            "swiftlet_router_overhead_seconds", .histogram,
            "From the wake in which a group was chosen for a request to its first byte sent there; one for each attempt.")
        text.histogram([], overhead)

        text.family(
            "swiftlet_hold_seconds", .histogram, "How long requests waited in the router for a group with room: those that did.")
        text.histogram([], hold)
    }

    private func writeTokens(_ series: NamedSeries, to text: inout PrometheusText) {
        let families: [(name: String, help: String, path: KeyPath<SeriesCounters, UInt64>)] = [
            ("swiftlet_prompt_tokens_total", "Prompt tokens, as the engines reported.", \.promptTokens),
            ("swiftlet_cached_tokens_total", "Prompt tokens found in KV caches, as the engines reported.", \.cachedTokens),
            (
                "swiftlet_predicted_cached_tokens_total", "Prompt tokens that the prefix index expected in KV caches.",
                \.predictedCachedTokens
            ),
            ("swiftlet_completion_tokens_total", "Completion tokens, as the engines reported.", \.completionTokens),
        ]
        for family in families {
            text.family(family.name, .counter, family.help)
            for (name, counters) in series { text.sample(name.labels, counters[keyPath: family.path]) }
        }
    }

    private func writeRouting(to text: inout PrometheusText) {
        text.family("swiftlet_decisions_total", .counter, "Choices of a group, by what decided.")
        for decision in decisions { text.sample([("reason", decision.reason)], decision.count) }

        text.family("swiftlet_upstream_failures_total", .counter, "Failed attempts, repaired by a retry or not.")
        let failures = upstreamFailures.sorted { ($0.key.group, $0.key.kind.rawValue) < ($1.key.group, $1.key.kind.rawValue) }
        for (name, count) in failures { text.sample([("group", name.group), ("kind", "\(name.kind.label)")], count) }

        text.family("swiftlet_requests_held", .gauge, "Requests that wait in the router for a group with room.")
        text.sample([], counters.requestsHeld)

        text.family("swiftlet_retries_total", .counter, "Attempts beyond the first.")
        text.sample([], counters.retries)
    }

    private func writeTransport(to text: inout PrometheusText) {
        text.family("swiftlet_downstream_received_bytes_total", .counter, "Bytes read from clients.")
        text.sample([], counters.downstreamBytesReceived)
        text.family("swiftlet_downstream_sent_bytes_total", .counter, "Bytes written to clients.")
        text.sample([], counters.downstreamBytesSent)
        text.family("swiftlet_downstream_connections_accepted_total", .counter, "Client connections accepted.")
        text.sample([], counters.downstreamConnectionsAccepted)
        text.family("swiftlet_downstream_connections_open", .gauge, "Client connections open.")
        text.sample([], counters.downstreamConnectionsOpen)
        text.family("swiftlet_upstream_connections_opened_total", .counter, "Connections opened to endpoints.")
        text.sample([], counters.upstreamConnectionsOpened)
        text.family("swiftlet_upstream_connections_open", .gauge, "Connections to endpoints, busy and idle.")
        text.sample([], counters.upstreamConnectionsOpen)
        text.family("swiftlet_access_log_dropped_lines_total", .counter, "Access log lines given up because nobody read them.")
        text.sample([], counters.accessLogLinesDropped)
        text.family("swiftlet_load_reports_in_answers_total", .counter, "Load reports in the fields of answers (ORCA).")
        text.sample([("outcome", "read")], counters.loadReports)
        text.sample([("outcome", "unreadable")], counters.unreadableLoadReports)
    }
}

extension MetricsSnapshot {
    private func writeTLS(to text: inout PrometheusText) {
        text.family("swiftlet_tls_handshake_failures_total", .counter, "Handshakes with clients that came to nothing, by why.")
        for reason in tlsHandshakeFailures { text.sample([("reason", reason.name)], reason.count) }
        guard let certificates else { return }
        text.family("swiftlet_tls_certificate_expiry_seconds", .gauge, "When a certificate in use ends, in seconds since 1970.")
        for expiry in certificates.expiries { text.sample([("file", expiry.file)], expiry.notAfter) }
        text.family("swiftlet_tls_reloads_total", .counter, "Renewals of TLS files that changed, by outcome.")
        text.sample([("outcome", "success")], certificates.reloads)
        text.sample([("outcome", "failure")], certificates.failedReloads)
    }
}

extension MetricsSnapshot.SeriesName {
    fileprivate var labels: [(String, String)] { [("model", model), ("group", group)] }
}

/// Writes families in the text format (prometheus.io/docs/instrumenting/exposition_formats).
struct PrometheusText {
    enum Kind: String {
        case counter, gauge, histogram
    }

    var bytes: [UInt8]
    private var name = ""

    init(bytes: [UInt8]) {
        self.bytes = bytes
    }

    /// Opens a family; the samples that follow are its own. `help` is ours: one line, no backslash.
    mutating func family(_ name: String, _ kind: Kind, _ help: String) {
        self.name = name
        append("# HELP \(name) \(help)\n# TYPE \(name) \(kind.rawValue)\n")
    }

    mutating func sample(_ labels: [(String, String)], _ value: some BinaryInteger) {
        line("", labels, "\(value)")
    }

    mutating func sample(_ labels: [(String, String)], seconds value: Double) {
        line("", labels, "\(value)")
    }

    /// Buckets are cumulative in the text. A histogram that nothing was recorded in is left out.
    mutating func histogram(_ labels: [(String, String)], _ histogram: LatencyHistogram) {
        guard histogram.count > 0 else { return }
        var below: UInt64 = 0
        for (index, bound) in histogram.scale.upperBoundsNanoseconds.enumerated() {
            below &+= histogram.counts[index]
            line("_bucket", labels + [("le", "\(Double(bound) / 1e9)")], "\(below)")
        }
        line("_bucket", labels + [("le", "+Inf")], "\(histogram.count)")
        line("_sum", labels, "\(histogram.sumSeconds)")
        line("_count", labels, "\(histogram.count)")
    }

    private mutating func line(_ suffix: String, _ labels: [(String, String)], _ value: String) {
        append(name)
        append(suffix)
        for (index, label) in labels.enumerated() {
            append(index == 0 ? "{" : ",")
            append(label.0)
            append("=\"")
            for byte in label.1.utf8 {
                switch byte {
                case UInt8(ascii: "\\"): append("\\\\")
                case UInt8(ascii: "\""): append("\\\"")
                case UInt8(ascii: "\n"): append("\\n")
                default: bytes.append(byte)
                }
            }
            append("\"")
        }
        append(labels.isEmpty ? " " : "} ")
        append(value)
        append("\n")
    }

    private mutating func append(_ text: String) {
        bytes.append(contentsOf: text.utf8)
    }
}
