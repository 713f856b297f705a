import Routing

/// Every key of the file. `config/swiftlet.yaml` explains each to its reader; a test holds the two together.
extension SwiftletConfiguration {
    static var fields: [Field<SwiftletConfiguration>] {
        [
            .sections(
                "listeners", \.listeners, empty: ListenerConfiguration(address: SocketAddressText(host: "", port: 0)),
                required: ["address"], ListenerConfiguration.fields),
            .optional("admin", \.admin, .listenAddress),
            .scalar("loops", \.loops, .count(0...256)),
            .scalar("policy", \.policy, .choice),
            .scalar("log_level", \.logLevel, .choice),
            .scalar("access_log", \.accessLog, .flag),
            .groups(\.groups),
            .section("discovery", \.discovery, DiscoveryConfiguration.fields),
            .section("probes", \.probes, ProbeConfiguration.fields),
            .section("load_signals", \.loadSignals, LoadSignalConfiguration.fields),
            .section("replicas", \.replicas, ReplicaConfiguration.fields),
            .section("upstream_tls", \.upstreamTLS, UpstreamTLSConfiguration.fields),
            .section("limits", \.limits, Limits.fields),
            .section("timeouts", \.timeouts, Timeouts.fields),
            .section("retries", \.retries, [.scalar("attempts", \.attempts, .count(1...8))]),
            .section("routing", \.routing, RoutingParameters.fields),
        ]
    }
}

extension ListenerConfiguration {
    static var fields: [Field<ListenerConfiguration>] {
        [
            .scalar("address", \.address, .listenAddress),
            .optionalSection(
                "tls", \.tls, empty: ListenerTLS(standard: .none), required: ["certificate_file", "key_file"], ListenerTLS.fields),
        ]
    }
}

extension TLSFiles {
    fileprivate static var none: TLSFiles { TLSFiles(certificateFile: "", keyFile: "") }
}

extension ListenerTLS {
    static var fields: [Field<ListenerTLS>] {
        [
            .scalar("certificate_file", \.standard.certificateFile, .file),
            .scalar("key_file", \.standard.keyFile, .file),
            .sections(
                "more_certificates", \.others, empty: .none, required: ["certificate_file", "key_file"],
                [
                    .scalar("certificate_file", \.certificateFile, .file),
                    .scalar("key_file", \.keyFile, .file),
                ]),
            .scalar("minimum_version", \.minimumVersion, .choice),
            .scalar("client_certificates", \.clientCertificates, .choice),
            .optional("client_ca_file", \.clientCAFile, .file),
            .scalar("client_verify_depth", \.clientVerifyDepth, .count(0...16)),
        ]
    }
}

extension ProbeConfiguration {
    static var fields: [Field<ProbeConfiguration>] {
        [
            .scalar("interval", \.intervalNanoseconds, .duration(0...3_600_000_000_000)),
            .scalar("timeout", \.timeoutNanoseconds, .duration(1_000_000...600_000_000_000)),
            .scalar("failures", \.failures, .count(1...100)),
            .scalar("leaders", \.asksLeaders, .flag),
        ]
    }
}

extension UpstreamTLSConfiguration {
    static var fields: [Field<UpstreamTLSConfiguration>] {
        [
            .optional("ca_file", \.caFile, .file),
            .optional("server_name", \.serverName, .text("a host name", atMost: 253)),
            .scalar("insecure_skip_verify", \.insecureSkipVerify, .flag),
            .optional("certificate_file", \.certificateFile, .file),
            .optional("key_file", \.keyFile, .file),
            .scalar("minimum_version", \.minimumVersion, .choice),
        ]
    }
}

extension Field {
    /// The same in the configuration and in a file of groups.
    static func groups(_ path: WritableKeyPath<Section, [GroupDescription]>) -> Self {
        .sections(
            "groups", path, empty: GroupDescription(name: "", leader: Endpoint(host: "", port: 0, protocol: .http1), size: 0),
            required: ["leader"], GroupDescription.fields, finish: { _, group in group.fillDefaults() })
    }
}

extension GroupDescription {
    static var fields: [Field<GroupDescription>] {
        [
            .scalar("name", \.name, .text("a name")),
            .scalar("leader", \.leader, .endpoint),
            .list("members", \.members, .endpoint),
            .scalar("size", \.size, .count(1...4_096)),
            .list("models", \.models, .text("a model name")),
            .scalar("ready", \.isReady, .flag),
            .scalar("node", \.node, .placeName),
            .scalar("zone", \.zone, .placeName),
            .scalar("prefill_tokens_per_second", \.prefillTokensPerSecond, .number(0...1e9)),
            .scalar("decode_step_ms", \.decodeStepSeconds, .milliseconds(0...60_000)),
            .scalar("kv_capacity_tokens", \.kvCapacityTokens, .count(0...1_000_000_000_000)),
        ]
    }

    /// What follows from the other keys when it is not given: a group is named after its leader, and is as large as the
    /// endpoints that are listed.
    mutating func fillDefaults() {
        if name.isEmpty { name = SocketAddressText(host: leader.host, port: leader.port).description }
        if size == 0 { size = members.count + 1 }
    }
}

extension DiscoveryConfiguration {
    static var fields: [Field<DiscoveryConfiguration>] {
        [
            .optional("file", \.file, .file),
            .sections("dns", \.dns, empty: DNSConfiguration(), required: ["endpoint"], DNSConfiguration.fields),
            .list("dns_servers", \.dnsServers, .text("an address, with a port or without")),
            .scalar("dns_timeout", \.dnsTimeoutNanoseconds, .duration(10_000_000...60_000_000_000)),
            .section("kubernetes", \.kubernetes, KubernetesConfiguration.fields),
            .optional("snapshot_file", \.snapshotFile, .file),
        ]
    }
}

extension DNSConfiguration {
    static var fields: [Field<DNSConfiguration>] {
        [
            .scalar("endpoint", \.endpoint, .endpoint),
            .scalar("srv", \.isService, .flag),
            .section("groups", \.grouping, GroupingConfiguration.fields),
        ]
    }
}

extension GroupingConfiguration {
    static var fields: [Field<GroupingConfiguration>] {
        [
            .scalar("form", \.form, .choice),
            .scalar("pods", \.podsPerGroup, .count(0...4_096)),
            .optional("set", \.setName, .objectName),
            .scalar("spread_slowdown", \.spreadSlowdown, .number(1...100)),
            .list("models", \.models, .text("a model name")),
            .scalar("group_key", \.groupKey, .text("a label")),
            .scalar("rank_key", \.rankKey, .text("a label")),
            .scalar("world_size_key", \.worldSizeKey, .text("a label")),
            .scalar("revision_key", \.revisionKey, .text("a label")),
            .scalar("prefill_tokens_per_second", \.prefillTokensPerSecond, .number(0...1e9)),
            .scalar("decode_step_ms", \.decodeStepSeconds, .milliseconds(0...60_000)),
            .scalar("kv_capacity_tokens", \.kvCapacityTokens, .count(0...1_000_000_000_000)),
        ]
    }
}

extension Limits {
    static var fields: [Field<Limits>] {
        [
            .scalar("header_bytes", \.headerBytes, .size((1 << 10)...(64 << 10))),
            .scalar("header_fields", \.headerFields, .count(8...1_024)),
            .scalar("body_bytes", \.bodyBytes, .size((1 << 10)...(1 << 30))),
            .scalar("buffered_body_bytes", \.bufferedBodyBytes, .size((1 << 10)...(64 << 30))),
            .scalar("replay_bytes", \.replayBytes, .size(0...(1 << 30))),
            .scalar("streams_per_connection", \.streamsPerConnection, .count(1...65_536)),
            .scalar("resets_per_second", \.resetsPerSecond, .count(1...1_000_000)),
            .scalar("connections", \.connections, .count(1...1_000_000)),
            .scalar("idle_upstream_connections", \.idleUpstreamConnections, .count(0...65_536)),
            .scalar("http2_upstream_connections", \.http2UpstreamConnections, .count(1...256)),
            .scalar("requests", \.requests, .count(1...(1 << 24))),
            .scalar("stream_buffer_bytes", \.streamBufferBytes, .size((16 << 10)...(64 << 20))),
            .scalar("connection_buffer_bytes", \.connectionBufferBytes, .size((1 << 20)...(64 << 30))),
            .scalar("request_body_bytes_per_second", \.requestBodyBytesPerSecond, .count(0...1_000_000_000)),
        ]
    }
}

extension Timeouts {
    static var fields: [Field<Timeouts>] {
        let upToADay: ClosedRange<UInt64> = 1_000_000...(24 * 3_600_000_000_000)
        return [
            .scalar("tls_handshake", \.tlsHandshakeNanoseconds, .duration(upToADay)),
            .scalar("request_header", \.requestHeaderNanoseconds, .duration(upToADay)),
            .scalar("request_body", \.requestBodyNanoseconds, .duration(upToADay)),
            .scalar("call_idle", \.callIdleNanoseconds, .duration(upToADay)),
            .scalar("downstream_idle", \.downstreamIdleNanoseconds, .duration(upToADay)),
            .scalar("upstream_idle", \.upstreamIdleNanoseconds, .duration(upToADay)),
            .scalar("upstream_idle_http2", \.upstreamHTTP2IdleNanoseconds, .duration(upToADay)),
            .scalar("connect", \.connectNanoseconds, .duration(upToADay)),
            .scalar("response", \.responseNanoseconds, .duration(upToADay)),
            .scalar("tunnel_idle", \.tunnelIdleNanoseconds, .duration(upToADay)),
            .scalar("stream_queue", \.streamQueueNanoseconds, .duration(upToADay)),
            .scalar("ping_interval", \.pingIntervalNanoseconds, .duration(upToADay)),
            .scalar("ping_timeout", \.pingTimeoutNanoseconds, .duration(upToADay)),
            .scalar("head_hold", \.headHoldNanoseconds, .duration(0...upToADay.upperBound)),
            .scalar("drain", \.drainNanoseconds, .duration(0...upToADay.upperBound)),
        ]
    }
}
