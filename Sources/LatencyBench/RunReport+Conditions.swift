extension LoadRun {
    /// How its requests are made, by the options' names; of fields the names alone, since their values may be keys.
    var conditions: [String: String] {
        var result = [
            "scheme": (target.speaksHTTP2 ? "HTTP/2" : "HTTP/1.1") + (target.isTLS ? " over TLS" : ""),
            "headers": settings.headers.map { $0.name.lowercased() }.sorted().joined(separator: ", "),
            "connections": target.speaksHTTP2 ? "\(settings.connections)" : "as needed", "loops": "\(settings.loops)",
            "busy-poll": "\(settings.busyPolls)", "timeout": "\(Double(settings.timeoutNanoseconds) / 1e9) s",
            "drain": "\(Double(settings.drainNanoseconds) / 1e9) s",
        ]
        guard settings.api != .plain else { return result }
        result["model"] = settings.model
        result["ignore-eos"] = "\(settings.ignoresEnd)"
        return result
    }
}
