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
            .sections(
                "groups", \.groups, empty: GroupDescription(name: "", leader: Endpoint(host: "", port: 0, protocol: .http1), size: 0),
                required: ["leader"], GroupDescription.fields, finish: { _, group in group.fillDefaults() }),
            .section("limits", \.limits, Limits.fields),
            .section("timeouts", \.timeouts, Timeouts.fields),
            .section("retries", \.retries, [.scalar("attempts", \.attempts, .count(1...8))]),
            .section(
                "routing", \.routing,
                [
                    .scalar("index_blocks", \.indexBlocks, .count(1_024...(1 << 26))),
                    .scalar("hash_seed", \.hashSeed, .count(0...UInt64.max)),
                ]),
        ]
    }
}

extension ListenerConfiguration {
    static var fields: [Field<ListenerConfiguration>] {
        [
            .scalar("address", \.address, .listenAddress),
            .optionalSection(
                "tls", \.tls, empty: TLSFiles(certificateFile: "", keyFile: ""),
                [
                    .scalar("certificate_file", \.certificateFile, .file),
                    .scalar("key_file", \.keyFile, .file),
                ]),
        ]
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
            .scalar("prefill_tokens_per_second", \.prefillTokensPerSecond, .number(1...1e9)),
            .scalar("decode_step_ms", \.decodeStepSeconds, .milliseconds(0.001...60_000)),
            .scalar("kv_capacity_tokens", \.kvCapacityTokens, .count(1_024...1_000_000_000_000)),
        ]
    }

    /// What follows from the other keys when it is not given: a group is named after its leader, and is as large as the
    /// endpoints that are listed.
    mutating func fillDefaults() {
        if name.isEmpty { name = SocketAddressText(host: leader.host, port: leader.port).description }
        if size == 0 { size = members.count + 1 }
    }
}

extension Limits {
    static var fields: [Field<Limits>] {
        [
            // http_parser reads no head above 80 KiB, whatever it is told.
            .scalar("header_bytes", \.headerBytes, .size((1 << 10)...(80 << 10))),
            .scalar("header_fields", \.headerFields, .count(8...1_024)),
            .scalar("body_bytes", \.bodyBytes, .size((1 << 10)...(1 << 30))),
            .scalar("streams_per_connection", \.streamsPerConnection, .count(1...65_536)),
            .scalar("connections", \.connections, .count(1...1_000_000)),
            .scalar("idle_upstream_connections", \.idleUpstreamConnections, .count(0...65_536)),
            .scalar("requests", \.requests, .count(1...(1 << 24))),
            .scalar("stream_buffer_bytes", \.streamBufferBytes, .size((16 << 10)...(64 << 20))),
        ]
    }
}

extension Timeouts {
    static var fields: [Field<Timeouts>] {
        let upToADay: ClosedRange<UInt64> = 1_000_000...(24 * 3_600_000_000_000)
        return [
            .scalar("request_header", \.requestHeaderNanoseconds, .duration(upToADay)),
            .scalar("downstream_idle", \.downstreamIdleNanoseconds, .duration(upToADay)),
            .scalar("upstream_idle", \.upstreamIdleNanoseconds, .duration(upToADay)),
            .scalar("connect", \.connectNanoseconds, .duration(upToADay)),
            .scalar("response", \.responseNanoseconds, .duration(upToADay)),
            .scalar("head_hold", \.headHoldNanoseconds, .duration(0...upToADay.upperBound)),
            .scalar("drain", \.drainNanoseconds, .duration(0...upToADay.upperBound)),
        ]
    }
}
