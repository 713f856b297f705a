import Routing

/// What was given on the command line, as it was typed: the file and the flags are judged by the same rules.
public struct FlagOverrides: Sendable, Equatable {
    /// `--listen ADDR:PORT`, repeatable: replaces the file's listeners.
    public var listen: [String] = []
    /// `--backend URL`, repeatable: each a group of one, named by its host and port; replaces the file's groups.
    public var backends: [String] = []
    /// `--groups-file FILE`: watched.
    public var groupsFile: String?
    /// `--kubeconfig FILE` and `--kube-context NAME`.
    public var kubeconfigFile: String?
    public var kubernetesContext: String?
    public var policy: String?
    /// `--scrape-interval DURATION` and `--orca FORM`.
    public var scrapeInterval: String?
    public var orca: String?
    /// `--replica-listen ADDR:PORT`, `--replica-peer HOST:PORT`, repeatable: replaces the file's peers, and `--replica-key FILE`.
    public var replicaListen: String?
    public var replicaPeers: [String] = []
    public var replicaKeyFile: String?
    /// `--node NAME` and `--zone NAME`: where this router runs.
    public var node: String?
    public var zone: String?
    public var loops: Int?
    public var admin: String?
    /// `--tls-cert FILE`, with `--tls-key`: every listener, from flags or from the file, becomes a TLS one with these.
    public var tlsCertificateFile: String?
    public var tlsKeyFile: String?
    public var logLevel: String?

    public init() {}
}

extension SwiftletConfiguration {
    /// This configuration with the flags laid over it: the value that a process runs with.
    ///
    /// - Throws: the first flag that is wrong, or a relation that the whole does not keep, at least one group among them.
    public func applying(_ flags: FlagOverrides) throws(ConfigurationError) -> SwiftletConfiguration {
        var result = self
        if !flags.listen.isEmpty {
            result.listeners = []
            for text in flags.listen {
                result.listeners.append(ListenerConfiguration(address: try Self.flag("--listen", text, .listenAddress)))
            }
        }
        if !flags.backends.isEmpty {
            result.groups = []
            for text in flags.backends {
                var group = GroupDescription(name: "", leader: try Self.flag("--backend", text, .endpoint))
                group.fillDefaults()
                result.groups.append(group)
            }
        }
        if let text = flags.groupsFile { result.discovery.file = try Self.flag("--groups-file", text, .file) }
        if let text = flags.kubeconfigFile { result.discovery.kubernetes.kubeconfigFile = try Self.flag("--kubeconfig", text, .file) }
        if let text = flags.kubernetesContext {
            result.discovery.kubernetes.context = try Self.flag("--kube-context", text, .text("a context"))
        }
        if let text = flags.scrapeInterval {
            let syntax: Syntax<UInt64> = .duration(0...3_600_000_000_000)
            result.loadSignals.intervalNanoseconds = try Self.flag("--scrape-interval", text, syntax)
        }
        if let text = flags.orca { result.loadSignals.orca = try Self.flag("--orca", text, .choice) }
        if let text = flags.replicaListen { result.replicas.listen = try Self.flag("--replica-listen", text, .listenAddress) }
        if !flags.replicaPeers.isEmpty {
            result.replicas.peers = []
            for text in flags.replicaPeers { result.replicas.peers.append(try Self.flag("--replica-peer", text, .peerAddress)) }
        }
        if let text = flags.replicaKeyFile { result.replicas.keyFile = try Self.flag("--replica-key", text, .file) }
        if let text = flags.policy { result.policy = try Self.flag("--policy", text, .choice) }
        if let text = flags.node { result.routing.node = try Self.flag("--node", text, .text("a node's name")) }
        if let text = flags.zone { result.routing.zone = try Self.flag("--zone", text, .text("a zone's name")) }
        if let loops = flags.loops { result.loops = try Self.flag("--loops", "\(loops)", .count(0...256)) }
        if let text = flags.admin { result.admin = try Self.flag("--admin", text, .listenAddress) }
        if let text = flags.logLevel { result.logLevel = try Self.flag("--log-level", text, .choice) }
        if let tls = try flags.tlsFiles() {
            for index in result.listeners.indices { result.listeners[index].tls = ListenerTLS(standard: tls) }
        }
        if let violation = result.firstViolation() {
            throw ConfigurationError(file: nil, position: nil, key: violation.key, problem: violation.problem)
        }
        guard !result.groups.isEmpty || !result.discovery.isEmpty else {
            let problem = ConfigurationError.mismatch(
                expected: "at least one group in the file, one --backend URL or a source of discovery", found: "none")
            throw ConfigurationError(file: nil, position: nil, key: "groups", problem: problem)
        }
        return result
    }

    fileprivate static func flag<Value>(_ name: String, _ text: String, _ syntax: Syntax<Value>) throws(ConfigurationError) -> Value {
        if let value = syntax.parse(text) { return value }
        let problem = ConfigurationError.mismatch(expected: syntax.expected, found: ConfigurationError.quoted(text))
        throw ConfigurationError(file: nil, position: nil, key: name, problem: problem)
    }
}

extension FlagOverrides {
    fileprivate func tlsFiles() throws(ConfigurationError) -> TLSFiles? {
        switch (tlsCertificateFile, tlsKeyFile) {
        case (nil, nil): return nil
        case (let certificate?, let key?):
            return TLSFiles(
                certificateFile: try SwiftletConfiguration.flag("--tls-cert", certificate, .file),
                keyFile: try SwiftletConfiguration.flag("--tls-key", key, .file))
        case (nil, _?):
            throw ConfigurationError(file: nil, position: nil, key: "--tls-key", problem: "expected together with --tls-cert, found alone")
        case (_?, nil):
            throw ConfigurationError(file: nil, position: nil, key: "--tls-cert", problem: "expected together with --tls-key, found alone")
        }
    }
}
