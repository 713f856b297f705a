import Routing

/// What no key can tell alone.
extension SwiftletConfiguration {
    struct Violation {
        let key: String
        let problem: String

        init(_ key: String, expected: String, found: String) {
            self.key = key
            problem = ConfigurationError.mismatch(expected: expected, found: found)
        }
    }

    /// The first relation between values that does not hold.
    func firstViolation() -> Violation? {
        listenerViolation() ?? tlsViolation() ?? Self.groupViolation(groups) ?? kubernetesViolation() ?? loadSignals.violation
            ?? replicas.violation ?? routingViolation() ?? boundViolation()
    }

    private func routingViolation() -> Violation? {
        routing.violation.map { Violation("routing.\($0.key)", expected: $0.expected, found: $0.found) }
    }

    /// Values that are allowed and yet likely to hurt, one sentence each, for the log at start.
    public var warnings: [String] {
        var warnings: [String] = []
        if timeouts.upstreamIdleNanoseconds >= 5_000_000_000 {
            warnings.append(
                "timeouts.upstream_idle is 5s or more: vLLM's HTTP server closes an idle connection after 5 s, and a request sent into "
                    + "that moment is lost or must be tried again")
        }
        if timeouts.headHoldNanoseconds > timeouts.responseNanoseconds {
            warnings.append("timeouts.head_hold is longer than timeouts.response: a stream is silent for longer than any answer may be")
        }
        if policy == .session, routing.sessionKeys.isEmpty {
            warnings.append("policy is session and routing.session_keys is empty: every request is placed as by least-cost")
        }
        if replicas.listen != nil, replicas.keyFile == nil, !replicas.isWithinHost {
            warnings.append(
                "replicas.key_file is not set: whoever reaches replicas.listen can tell this router where prompts are and how busy groups are"
            )
        }
        if upstreamTLS.insecureSkipVerify {
            warnings.append(
                "upstream_tls.insecure_skip_verify: certificates of backends are not looked at, whoever answers in their place reads every "
                    + "prompt")
        }
        return warnings
    }

    private func tlsViolation() -> Violation? {
        for (index, listener) in listeners.enumerated() {
            guard let tls = listener.tls else { continue }
            if tls.clientCertificates != .off, tls.clientCAFile == nil {
                return Violation(
                    "listeners[\(index)].tls.client_ca_file",
                    expected: "a file with client_certificates: \(tls.clientCertificates.rawValue)", found: "none")
            }
        }
        if upstreamTLS.certificateFile != nil, upstreamTLS.keyFile == nil {
            return Violation("upstream_tls.key_file", expected: "a file together with certificate_file", found: "none")
        }
        if upstreamTLS.keyFile != nil, upstreamTLS.certificateFile == nil {
            return Violation("upstream_tls.certificate_file", expected: "a file together with key_file", found: "none")
        }
        return nil
    }

    private func listenerViolation() -> Violation? {
        if listeners.isEmpty { return Violation("listeners", expected: "at least one listener", found: "none") }
        var seen: Set<SocketAddressText> = []
        for (index, listener) in listeners.enumerated() where listener.address.port != 0 {
            if !seen.insert(listener.address).inserted {
                return Violation(
                    "listeners[\(index)].address", expected: "an address that no other listener has", found: "\(listener.address) again")
            }
        }
        if let admin, seen.contains(admin) {
            return Violation("admin", expected: "an address that no listener has", found: "\(admin)")
        }
        return nil
    }

    private func kubernetesViolation() -> Violation? {
        for (index, pool) in discovery.kubernetes.pools.enumerated() {
            guard let violation = pool.violation else { continue }
            return Violation("discovery.kubernetes.pools[\(index)]", expected: violation.expected, found: violation.found)
        }
        return nil
    }

    static func groupViolation(_ groups: [GroupDescription]) -> Violation? {
        if groups.count > maximumGroups {
            return Violation("groups", expected: "at most \(maximumGroups) groups", found: "\(groups.count)")
        }
        var names: Set<String> = []
        var endpoints: Set<SocketAddressText> = []
        for (index, group) in groups.enumerated() {
            let key = "groups[\(index)]"
            if !names.insert(group.name).inserted {
                return Violation(
                    "\(key).name", expected: "a name that no other group has", found: "\(ConfigurationError.quoted(group.name)) again")
            }
            for (place, endpoint) in zip(
                ["leader"] + group.members.indices.map { "members[\($0)]" }, [group.leader] + group.members)
            {
                let address = SocketAddressText(host: endpoint.host, port: endpoint.port)
                if !endpoints.insert(address).inserted {
                    return Violation("\(key).\(place)", expected: "an endpoint that is listed once", found: "\(address) again")
                }
            }
            if group.size <= group.members.count {
                return Violation(
                    "\(key).size", expected: "at least \(group.members.count + 1), the leader and its \(group.members.count) members",
                    found: "\(group.size)")
            }
        }
        return nil
    }

    private func boundViolation() -> Violation? {
        if limits.headerBytes < limits.headerFields * 32 {
            return Violation(
                "limits.header_bytes", expected: "32 bytes or more for each of the \(limits.headerFields) of limits.header_fields",
                found: "\(limits.headerBytes)")
        }
        if limits.bodyBytes < limits.headerBytes {
            return Violation(
                "limits.body_bytes", expected: "limits.header_bytes (\(limits.headerBytes)) or more", found: "\(limits.bodyBytes)")
        }
        if limits.bufferedBodyBytes < limits.bodyBytes {
            return Violation(
                "limits.buffered_body_bytes", expected: "limits.body_bytes (\(limits.bodyBytes)) or more",
                found: "\(limits.bufferedBodyBytes)")
        }
        if limits.connectionBufferBytes < limits.streamBufferBytes {
            return Violation(
                "limits.connection_buffer_bytes", expected: "limits.stream_buffer_bytes (\(limits.streamBufferBytes)) or more",
                found: "\(limits.connectionBufferBytes)")
        }
        if timeouts.connectNanoseconds > timeouts.responseNanoseconds {
            return Violation(
                "timeouts.connect", expected: "timeouts.response or less",
                found: Syntax.duration(0...UInt64.max).print(timeouts.connectNanoseconds))
        }
        return nil
    }

    private static var maximumGroups: Int { 1_000 }
}
