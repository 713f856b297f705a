import Routing
import Testing

@testable import Configuration

/// What `body` throws, in words.
private func fault(_ body: () throws(ConfigurationError) -> SwiftletConfiguration) -> String {
    do throws(ConfigurationError) {
        _ = try body()
        return "no fault"
    } catch {
        return error.description
    }
}

private func loadFault(_ text: String) -> String {
    fault { () throws(ConfigurationError) in try SwiftletConfiguration.load(text: text, file: "s.yaml") }
}

@Suite struct LoadTests {
    @Test(arguments: ["", "# nothing\n", "{}\n", "limits:\n", "groups:\nadmin:\n"])
    func whatIsLeftOutKeepsItsDefault(text: String) throws {
        #expect(try SwiftletConfiguration.load(text: text, file: "s.yaml") == SwiftletConfiguration())
    }

    @Test func everyKindOfValueIsRead() throws {
        let text = """
            listeners:
              - address: "[::1]:0"
              - {address: 0.0.0.0:8443, tls: {certificate_file: a.crt, key_file: a.key}}
              - address: 0.0.0.0:8444
                tls:
                  certificate_file: a.crt
                  key_file: a.key
                  more_certificates: [{certificate_file: b.crt, key_file: b.key}]
                  minimum_version: 1.3
                  client_certificates: required
                  client_ca_file: ca.crt
                  client_verify_depth: 0
            admin: localhost:9090
            loops: 3
            policy: round-robin
            log_level: debug
            access_log: false
            groups:
              - name: "7"
                leader: http://10.0.0.1:8000/
                members: [http://10.0.0.2:8000, "h2c://[fd00::2]:8000", https://a:1, h2://b:1]
                models: [a/b, 'c: d']
                prefill_tokens_per_second: 1_500.5
                decode_step_ms: 12.5
                kv_capacity_tokens: 1_000_000
            upstream_tls: {ca_file: ca.pem, server_name: engines, certificate_file: c, key_file: k, minimum_version: 1.3}
            limits: {body_bytes: 1MiB, header_bytes: 8192, streams_per_connection: 7}
            timeouts: {connect: 250ms, response: 2m}
            retries: {attempts: 1}
            routing: {index_blocks: 4096, hash_seed: 18446744073709551615}
            replicas: {listen: "[::]:7946", peers: [a.b:1, "[::1]:2"], interval: 5ms, key_file: replicas.key}
            """
        var mutual = ListenerTLS(standard: TLSFiles(certificateFile: "a.crt", keyFile: "a.key"))
        mutual.others = [TLSFiles(certificateFile: "b.crt", keyFile: "b.key")]
        mutual.minimumVersion = .tls13
        mutual.clientCertificates = .required
        mutual.clientCAFile = "ca.crt"
        mutual.clientVerifyDepth = 0
        var expected = SwiftletConfiguration()
        expected.listeners = [
            ListenerConfiguration(address: SocketAddressText(host: "::1", port: 0)),
            ListenerConfiguration(
                address: SocketAddressText(host: "0.0.0.0", port: 8443),
                tls: ListenerTLS(standard: TLSFiles(certificateFile: "a.crt", keyFile: "a.key"))),
            ListenerConfiguration(address: SocketAddressText(host: "0.0.0.0", port: 8444), tls: mutual),
        ]
        expected.admin = SocketAddressText(host: "localhost", port: 9090)
        expected.loops = 3
        expected.policy = .roundRobin
        expected.logLevel = .debug
        expected.accessLog = false
        expected.groups = [
            GroupDescription(
                name: "7", leader: Endpoint(host: "10.0.0.1", port: 8000, protocol: .http1),
                members: [
                    Endpoint(host: "10.0.0.2", port: 8000, protocol: .http1), Endpoint(host: "fd00::2", port: 8000, protocol: .http2),
                    Endpoint(host: "a", port: 1, isTLS: true), Endpoint(host: "b", port: 1, protocol: .http2, isTLS: true),
                ], size: 5, models: ["a/b", "c: d"], prefillTokensPerSecond: 1_500.5, decodeStepSeconds: 0.0125,
                kvCapacityTokens: 1_000_000)
        ]
        expected.upstreamTLS.caFile = "ca.pem"
        expected.upstreamTLS.serverName = "engines"
        expected.upstreamTLS.certificateFile = "c"
        expected.upstreamTLS.keyFile = "k"
        expected.upstreamTLS.minimumVersion = .tls13
        expected.limits.bodyBytes = 1 << 20
        expected.limits.headerBytes = 8_192
        expected.limits.streamsPerConnection = 7
        expected.timeouts.connectNanoseconds = 250_000_000
        expected.timeouts.responseNanoseconds = 120_000_000_000
        expected.retries.attempts = 1
        expected.routing.indexBlocks = 4_096
        expected.routing.hashSeed = .max
        expected.replicas.listen = SocketAddressText(host: "::", port: 7_946)
        expected.replicas.peers = [SocketAddressText(host: "a.b", port: 1), SocketAddressText(host: "::1", port: 2)]
        expected.replicas.intervalNanoseconds = 5_000_000
        expected.replicas.keyFile = "replicas.key"
        let loaded = try SwiftletConfiguration.load(text: text, file: "s.yaml")
        #expect(loaded == expected)
        #expect(try SwiftletConfiguration.load(text: loaded.effectiveYAML(), file: "again") == loaded)
    }

    @Test(arguments: [
        (
            "groups:\n  - leader: ftp://x\n",
            "s.yaml:2:13: groups[0].leader: expected http://HOST:PORT, h2c://HOST:PORT, or with TLS https:// or h2://, with a port from 1 to 65535 and no path, found \"ftp://x\""
        ),
        ("limits:\n  header_byte: 1KiB\n", "s.yaml:2:3: limits.header_byte: unknown key; did you mean header_bytes?"),
        ("lsiteners: []\n", "s.yaml:1:1: lsiteners: unknown key; did you mean listeners?"),
        ("retries: {tries_in_total: 3}\n", "s.yaml:1:11: retries.tries_in_total: unknown key; expected one of attempts"),
        ("loops: 1\npolicy: random\nloops: 2\n", ": loops: expected once in its mapping, found again further down"),
        ("loops: -1\n", "s.yaml:1:8: loops: expected a whole number from 0 to 256, found \"-1\""),
        ("loops: [1]\n", "s.yaml:1:8: loops: expected a whole number from 0 to 256, found a list"),
        ("loops:\n", "loops: expected a whole number from 0 to 256, found nothing"),
        (
            "policy: fastest\n",
            "policy: expected one of least-cost, round-robin, random, least-request, prefix-affinity, power-of-two, consistent-hash, session, found \"fastest\""
        ),
        ("access_log: yes\n", "s.yaml:1:13: access_log: expected true or false, found \"yes\""),
        (
            "timeouts:\n  connect: 10\n",
            "s.yaml:2:12: timeouts.connect: expected a duration from 1ms to 24h in ns, us, ms, s, m, h, found \"10\""
        ),
        ("timeouts: {connect: 25h}\n", "found \"25h\""),
        ("timeouts: {drain: 99999999999999999999h}\n", "timeouts.drain: expected a duration"),
        ("limits: {body_bytes: 64MB}\n", "limits.body_bytes: expected a size from 1KiB to 1GiB in B, KiB, MiB, GiB, found \"64MB\""),
        ("limits: {header_bytes: 65KiB}\n", "s.yaml:1:24: limits.header_bytes: expected"),
        ("limits: 3\n", "s.yaml:1:9: limits: expected a mapping with header_bytes, header_fields,"),
        ("groups: {}\n", "s.yaml:1:9: groups: expected a list, found a mapping"),
        ("groups: [{name: a}]\n", "s.yaml:1:10: groups[0]: expected the key leader, found none"),
        ("groups: [{leader: http://h:0}]\n", "found \"http://h:0\""),
        ("groups: [{leader: http://h:80/v1}]\n", "and no path, found \"http://h:80/v1\""),
        ("groups: [{leader: http://h:80, decode_step_ms: nan}]\n", "groups[0].decode_step_ms: expected milliseconds"),
        ("groups: [{leader: http://h:80, name: \"a\\nb\"}]\n", "without control characters, found \"a\\nb\""),
        (
            "listeners: [{address: h:1, tls: {certificate_file: c, key_file: k, minimum_version: 1.1}}]\n",
            "expected one of 1.2, 1.3, found \"1.1\""
        ),
        ("listeners: []\n", "s.yaml:1:12: listeners: expected at least one listener, found none"),
        ("listeners: [{address: 10.0.0.300:1}]\n", "listeners[0].address: expected HOST:PORT"),
        ("listeners: [{address: h:1, tls: {key_file: k}}]\n", "listeners[0].tls: expected the key certificate_file, found none"),
        ("replicas: {interval: 4ms}\n", "replicas.interval: expected a duration from 5ms to 1s in ns, us, ms, s, m, h, found \"4ms\""),
        ("replicas: {interval: 1001ms}\n", "found \"1001ms\""),
        ("replicas: {peers: [h:0]}\n", "replicas.peers[0]: expected HOST:PORT with a name, an address or [IPv6]"),
        ("a: [\n", "s.yaml:2:1: "),
        ("loops: 1\n---\nloops: 2\n", "s.yaml:2:1: "),
        ("- 1\n", "s.yaml:1:1: expected a mapping with listeners,"),
    ])
    func aFaultNamesItsPlaceItsKeyAndWhatWasExpected(text: String, expected: String) {
        let said = loadFault(text)
        #expect(said.contains(expected), "\(said)")
        #expect(said.hasPrefix("s.yaml:") && !said.contains("\n"), "\(said)")
    }

    @Test(arguments: [
        (
            "groups:\n  - {name: a, leader: http://h:1}\n  - name: a\n    leader: http://h:2\n",
            "s.yaml:3:11: groups[1].name: expected a name that no other group has, found \"a\" again"
        ),
        (
            "groups:\n  - {leader: http://h:1}\n  - name: b\n    leader: h2c://h:1\n",
            "s.yaml:4:13: groups[1].leader: expected an endpoint that is listed once, found h:1 again"
        ),
        (
            "groups: [{leader: http://h:1, members: [http://h:2, http://h:2]}]\n",
            "groups[0].members[1]: expected an endpoint that is listed once"
        ),
        (
            "groups: [{leader: http://h:1, members: [http://h:2], size: 1}]\n",
            "groups[0].size: expected at least 2, the leader and its 1 members, found 1"
        ),
        ("listeners: [{address: h:1}, {address: h:1}]\n", "listeners[1].address: expected an address that no other listener has"),
        ("listeners: [{address: h:1}]\nadmin: h:1\n", "s.yaml:2:8: admin: expected an address that no listener has, found h:1"),
        ("limits: {body_bytes: 2KiB}\n", "limits.body_bytes: expected limits.header_bytes (65536) or more, found 2048"),
        ("limits: {header_bytes: 2KiB}\n", "limits.header_bytes: expected 32 bytes or more for each of the 100 of limits.header_fields"),
        (
            "listeners: [{address: h:1, tls: {certificate_file: c, key_file: k, client_certificates: optional}}]\n",
            "listeners[0].tls.client_ca_file: expected a file with client_certificates: optional, found none"
        ),
        ("upstream_tls: {certificate_file: c}\n", "upstream_tls.key_file: expected a file together with certificate_file, found none"),
        ("upstream_tls: {key_file: c}\n", "upstream_tls.certificate_file: expected a file together with key_file, found none"),
        (
            "limits: {connection_buffer_bytes: 1MiB, stream_buffer_bytes: 2MiB}\n",
            "limits.connection_buffer_bytes: expected limits.stream_buffer_bytes (2097152) or more, found 1048576"
        ),
        ("timeouts: {connect: 20m}\n", "timeouts.connect: expected timeouts.response or less, found 20m"),
        ("replicas: {peers: [h:1]}\n", "replicas.listen: expected an address together with replicas.peers, found none"),
        ("replicas: {key_file: k}\n", "replicas.listen: expected an address together with replicas.key_file, found none"),
        ("replicas: {listen: h:1}\n", "replicas.peers: expected at least one peer together with replicas.listen, found none"),
        ("replicas: {listen: h:1, peers: [h:1, g:1, h:1]}\n", "replicas.peers[2]: expected a peer that is listed once, found h:1 again"),
        (
            "replicas: {listen: 0.0.0.0:1, peers: [h:1, \"[fd00::2]:1\"]}\n",
            "s.yaml:1:44: replicas.peers[1]: expected an address that can be reached from 0.0.0.0:1, found [fd00::2]:1"
        ),
    ])
    func valuesThatDoNotGoTogetherAreRefused(text: String, expected: String) {
        let said = loadFault(text)
        #expect(said.contains(expected), "\(said)")
    }

    @Test func unverifiedBackendsAreWarnedOf() throws {
        let warnings = try SwiftletConfiguration.load(text: "upstream_tls: {insecure_skip_verify: true}", file: "s").warnings
        #expect(warnings.count == 1 && warnings[0].contains("upstream_tls.insecure_skip_verify"))
    }

    @Test(arguments: [
        ("listen: 0.0.0.0:7946, peers: [h:1]", true), ("listen: 0.0.0.0:7946, peers: [h:1], key_file: k", false),
        ("listen: 127.0.0.1:7946, peers: [h:1]", false), ("listen: \"[::1]:7946\", peers: [h:1]", false), ("", false),
    ])
    func replicasThatBelieveEverybodyAreWarnedOf(keys: String, isWarnedOf: Bool) throws {
        let warnings = try SwiftletConfiguration.load(text: "replicas: {\(keys)}", file: "s").warnings
        #expect(warnings.contains { $0.contains("replicas.key_file") } == isWarnedOf && warnings.count <= 1)
    }

    @Test func asManyPeersAsThereIsRoomFor() throws {
        func peers(_ count: Int) -> String { "replicas: {listen: h:1, peers: [\((1...count).map { "h:\($0)" }.joined(separator: ", "))]}" }
        #expect(try SwiftletConfiguration.load(text: peers(256), file: "s").replicas.peers.count == 256)
        #expect(loadFault(peers(257)).contains("replicas.peers: expected at most 256 peers, found 257"))
    }

    @Test func anIdleLimitThatLosesTheRaceWithTheEngineIsWarnedOf() throws {
        let warnings = try SwiftletConfiguration.load(text: "timeouts: {upstream_idle: 5s}", file: "s").warnings
        #expect(warnings.count == 1 && warnings[0].contains("timeouts.upstream_idle"))
        #expect(SwiftletConfiguration().warnings.isEmpty)
    }
}

@Suite struct FlagTests {
    private func flags(_ change: (inout FlagOverrides) -> Void) -> FlagOverrides {
        var flags = FlagOverrides()
        change(&flags)
        return flags
    }

    @Test func flagsWinOverTheFile() throws {
        let file = try SwiftletConfiguration.load(
            text:
                "listeners: [{address: h:1}, {address: h:2}]\nloops: 2\npolicy: random\ngroups: [{leader: http://h:9}]\nretries: {attempts: 2}",
            file: "s.yaml")
        let result = try file.applying(
            flags {
                $0.listen = ["127.0.0.1:0", "[::1]:0"]
                $0.backends = ["http://a.b:8000", "h2c://[::1]:9000"]
                $0.policy = "least-cost"
                $0.loops = 1
                $0.admin = "127.0.0.1:0"
                $0.logLevel = "error"
                $0.replicaListen = "[::1]:7946"
                $0.replicaPeers = ["a.b:7946", "[::1]:7946"]
                $0.replicaKeyFile = "replicas.key"
                $0.tlsCertificateFile = "c"
                $0.tlsKeyFile = "k"
            })
        let tls = ListenerTLS(standard: TLSFiles(certificateFile: "c", keyFile: "k"))
        #expect(
            result.listeners == [
                ListenerConfiguration(address: SocketAddressText(host: "127.0.0.1", port: 0), tls: tls),
                ListenerConfiguration(address: SocketAddressText(host: "::1", port: 0), tls: tls),
            ])
        #expect(result.groups.map(\.name) == ["a.b:8000", "[::1]:9000"])
        #expect(result.groups.map(\.leader.protocol) == [.http1, .http2])
        #expect(result.groups.allSatisfy { $0.size == 1 && $0.isReady })
        #expect(result.policy == .leastCost && result.loops == 1 && result.logLevel == .error)
        #expect(result.admin == SocketAddressText(host: "127.0.0.1", port: 0))
        #expect(result.replicas.listen == SocketAddressText(host: "::1", port: 7_946))
        #expect(result.replicas.peers.map(\.description) == ["a.b:7946", "[::1]:7946"] && result.replicas.keyFile == "replicas.key")
        #expect(result.retries.attempts == 2, "what no flag names stays as the file has it")
        #expect(try SwiftletConfiguration.load(text: result.effectiveYAML(), file: "again") == result)
    }

    @Test func noFlagsChangeNothing() throws {
        let file = try SwiftletConfiguration.load(text: "groups: [{leader: http://h:9}]", file: "s.yaml")
        #expect(try file.applying(FlagOverrides()) == file)
    }

    @Test func aWrongFlagIsNamed() {
        func said(_ change: (inout FlagOverrides) -> Void) -> String {
            let flags = flags(change)
            return fault { () throws(ConfigurationError) in try SwiftletConfiguration().applying(flags) }
        }
        #expect(said { $0.backends = ["localhost:8000"] }.hasPrefix("--backend: expected http://HOST:PORT, h2c://HOST:PORT"))
        #expect(said { $0.backends = ["http://h:1", "http://h:1"] }.contains("found \"h:1\" again"))
        #expect(said { $0.listen = ["8080"] }.hasPrefix("--listen: expected HOST:PORT"))
        #expect(
            said { $0.policy = "x" }
                == "--policy: expected one of least-cost, round-robin, random, least-request, prefix-affinity, power-of-two, consistent-hash, session, found \"x\""
        )
        #expect(said { $0.replicaPeers = ["h"] }.hasPrefix("--replica-peer: expected HOST:PORT with a name"))
        #expect(said { $0.replicaListen = "h:1" }.hasPrefix("replicas.peers: expected at least one peer"))
        #expect(said { $0.loops = 1_000 } == "--loops: expected a whole number from 0 to 256, found \"1000\"")
        #expect(said { $0.tlsKeyFile = "k" } == "--tls-key: expected together with --tls-cert, found alone")
        #expect(said { $0.tlsCertificateFile = "k" } == "--tls-cert: expected together with --tls-key, found alone")
        #expect(said { _ in } == "groups: expected at least one group in the file, one --backend URL or a source of discovery, found none")
    }
}
