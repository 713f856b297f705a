extension MetricsSnapshot.Discovery {
    func write(to text: inout PrometheusText) {
        guard !sources.isEmpty else { return }
        text.family("swiftlet_discovery_synced", .gauge, "Whether a source ever had the whole picture.")
        for source in sources { text.sample([("source", source.name)], source.hasSynced ? 1 : 0) }
        text.family("swiftlet_discovery_faulty", .gauge, "Whether something is wrong with a source now; /groups says what.")
        for source in sources { text.sample([("source", source.name)], source.isFaulty ? 1 : 0) }
        text.family("swiftlet_discovery_age_seconds", .gauge, "Since the last word from where a source looks.")
        for source in sources { if let age = source.ageSeconds { text.sample([("source", source.name)], seconds: age) } }
        text.family("swiftlet_discovery_events_total", .counter, "Changes that a source told of.")
        for source in sources { text.sample([("source", source.name)], source.events) }
        text.family("swiftlet_discovery_faults_total", .counter, "Times that something went wrong with a source.")
        for source in sources { text.sample([("source", source.name)], source.faults) }
        if !watches.isEmpty { writeWatches(to: &text) }
    }

    private func writeWatches(to text: inout PrometheusText) {
        func labels(_ watch: Watch) -> [(String, String)] { [("resource", watch.resource), ("scope", watch.scope)] }
        text.family("swiftlet_kubernetes_watch_state", .gauge, "1 with what a watch is up to: connecting, synced, or what is wrong.")
        for watch in watches {
            text.sample(labels(watch) + [("state", watch.fault ?? (watch.hasSynced ? "synced" : "connecting"))], 1)
        }
        text.family("swiftlet_kubernetes_watch_age_seconds", .gauge, "Since the last event, bookmark or list.")
        for watch in watches { if let age = watch.ageSeconds { text.sample(labels(watch), seconds: age) } }
        text.family("swiftlet_kubernetes_watch_objects", .gauge, "Objects known.")
        for watch in watches { text.sample(labels(watch), watch.objects) }
        let families: [(name: String, help: String, path: KeyPath<Watch, UInt64>)] = [
            ("swiftlet_kubernetes_lists_total", "Lists that were whole, the first and every one anew.", \.lists),
            ("swiftlet_kubernetes_watches_total", "Watches asked for.", \.watches),
            ("swiftlet_kubernetes_watch_events_total", "Events and bookmarks.", \.events),
            ("swiftlet_kubernetes_watch_expirations_total", "Versions that the server found too old (410).", \.expirations),
            ("swiftlet_kubernetes_watch_faults_total", "Requests that failed or made no sense.", \.faults),
        ]
        for family in families {
            text.family(family.name, .counter, family.help)
            for watch in watches { text.sample(labels(watch), watch[keyPath: family.path]) }
        }
    }
}
