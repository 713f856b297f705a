extension MetricsSnapshot.LoadSignals {
    private typealias Gauge = (name: String, help: String, value: (Leader) -> Double?)

    func write(to text: inout PrometheusText) {
        guard !leaders.isEmpty else { return }
        writeScrapes(to: &text)
        let gauges: [Gauge] = [
            ("swiftlet_load_report_age_seconds", "Since the last report of a group's load that counted.", \.ageSeconds),
            ("swiftlet_reported_running", "Sequences in the batch of a group's engine, by its own account.", \.running),
            ("swiftlet_reported_waiting", "Sequences that wait at a group's engine, by its own account.", \.waiting),
            (
                "swiftlet_reported_awaiting_first_token",
                "Sequences without a first token at a group's engine, in its queue or its batch, worked out from its counters.",
                \.awaitingFirstToken
            ),
            (
                "swiftlet_reported_prefill_tokens", "Uncached prompt tokens of those of them that are in the batch, worked out likewise.",
                \.prefillTokens
            ),
            ("swiftlet_reported_kv_usage_ratio", "Share of a group's KV cache in use, by its engine's account.", \.kvUsage),
            ("swiftlet_others_running", "Sequences of other routers and clients taken to be in a group's batch.", { $0.othersRunning }),
            ("swiftlet_others_waiting", "Sequences of other routers and clients taken to wait at a group.", { $0.othersWaiting }),
        ]
        for gauge in gauges { write(gauge, .gauge, to: &text) }
        let counters: [Gauge] = [
            (
                "swiftlet_engine_prefix_queries_total", "Prompt tokens looked up in a group's prefix cache since it was first asked.",
                \.prefixQueries
            ),
            ("swiftlet_engine_prefix_hits_total", "Those of them that were there.", \.prefixHits),
            ("swiftlet_engine_preemptions_total", "Sequences that a group's engine preempted since it was first asked.", \.preemptions),
            ("swiftlet_engine_restarts_total", "Times that a group's engine began to count anew.", { Double($0.restarts) }),
        ]
        for counter in counters { write(counter, .counter, to: &text) }
    }

    private func write(_ family: Gauge, _ kind: PrometheusText.Kind, to text: inout PrometheusText) {
        text.family(family.name, kind, family.help)
        for leader in leaders { if let value = family.value(leader) { text.sample([("group", leader.group)], seconds: value) } }
    }

    private func writeScrapes(to text: inout PrometheusText) {
        text.family("swiftlet_load_scrapes_total", .counter, "Questions for a group's load, by what came of them.")
        for leader in leaders {
            for scrape in leader.scrapes { text.sample([("group", leader.group), ("outcome", scrape.outcome)], scrape.count) }
        }
        text.family("swiftlet_load_scrape_seconds_total", .counter, "Time from question to answer, summed.")
        for leader in leaders { text.sample([("group", leader.group)], seconds: leader.scrapeSeconds) }
        text.family("swiftlet_load_scrape_bytes_total", .counter, "Bytes of the answers.")
        for leader in leaders { text.sample([("group", leader.group)], leader.scrapeBytes) }
        text.family("swiftlet_engine_info", .gauge, "1 with the engine that a group's leader was recognised to be.")
        for leader in leaders { if let engine = leader.engine { text.sample([("group", leader.group), ("engine", engine)], 1) } }
    }
}
