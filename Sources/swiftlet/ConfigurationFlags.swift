import ArgumentParser
import Configuration
import Foundation

/// The flags that say what to serve; a file says the rest, and flags win.
struct ConfigurationFlags: ParsableArguments {
    @Option(name: .long, help: ArgumentHelp("YAML file; see config/swiftlet.yaml.", valueName: "file"))
    var config: String?
    @Option(name: .long, help: ArgumentHelp("Address to serve on; repeatable.", valueName: "addr:port"))
    var listen: [String] = []
    @Option(
        name: .long,
        help: ArgumentHelp("A group of one: http://HOST:PORT, or h2c://HOST:PORT for HTTP/2 and gRPC; repeatable.", valueName: "url"))
    var backend: [String] = []
    @Option(
        name: .customLong("groups-file"),
        help: ArgumentHelp("YAML or JSON file with groups, written as in the configuration; watched.", valueName: "file"))
    var groupsFile: String?
    @Option(name: .long, help: ArgumentHelp("How to reach the Kubernetes API from outside of a cluster.", valueName: "file"))
    var kubeconfig: String?
    @Option(name: .customLong("kube-context"), help: ArgumentHelp("The kubeconfig's context to use.", valueName: "name"))
    var kubernetesContext: String?
    @Option(
        name: .long,
        help: "least-cost, prefix-affinity, least-request, power-of-two, round-robin, random, consistent-hash or session.")
    var policy: String?
    @Option(
        name: .customLong("scrape-interval"),
        help: ArgumentHelp("Between two looks at an engine's /metrics; 0s: never.", valueName: "duration"))
    var scrapeInterval: String?
    @Option(name: .long, help: ArgumentHelp("Ask engines to report their load with answers: off, text, json or bin.", valueName: "form"))
    var orca: String?
    @Option(
        name: .customLong("replica-listen"),
        help: ArgumentHelp("UDP address for what other replicas of the router tell.", valueName: "addr:port"))
    var replicaListen: String?
    @Option(
        name: .customLong("replica-peer"),
        help: ArgumentHelp("A replica, or a DNS name with the addresses of several; repeatable.", valueName: "host:port"))
    var replicaPeer: [String] = []
    @Option(
        name: .customLong("replica-key"), help: ArgumentHelp("A secret of 16 to 256 bytes that all replicas have.", valueName: "file"))
    var replicaKey: String?
    @Option(name: .long, help: ArgumentHelp("The node that this router runs on: groups there are preferred.", valueName: "name"))
    var node: String?
    @Option(name: .long, help: ArgumentHelp("The zone that this router runs in: groups there are preferred.", valueName: "name"))
    var zone: String?
    @Option(name: .long, help: "Event loops; 0 is one per core.")
    var loops: Int?
    @Option(name: .long, help: ArgumentHelp("Address of the admin port.", valueName: "addr:port"))
    var admin: String?
    @Option(name: .customLong("tls-cert"), help: ArgumentHelp("PEM certificate chain.", valueName: "file"))
    var tlsCertificate: String?
    @Option(name: .customLong("tls-key"), help: ArgumentHelp("PEM private key.", valueName: "file"))
    var tlsKey: String?
    @Option(
        name: .customLong("log-level"),
        help: "trace, debug, info, notice, warning, error or critical; the access log is written from info on.")
    var logLevel: String?

    /// Exits with 64 (EX_USAGE) and what is wrong where, before anything is opened.
    func effective() throws -> SwiftletConfiguration {
        do {
            var base = SwiftletConfiguration()
            if let config {
                guard let data = FileManager.default.contents(atPath: config) else {
                    throw ValidationError("--config: cannot read \(config)")
                }
                base = try SwiftletConfiguration.load(text: String(decoding: data, as: UTF8.self), file: config)
            }
            var flags = FlagOverrides()
            flags.listen = listen
            flags.backends = backend
            flags.groupsFile = groupsFile
            flags.kubeconfigFile = kubeconfig
            flags.kubernetesContext = kubernetesContext
            flags.policy = policy
            flags.scrapeInterval = scrapeInterval
            flags.orca = orca
            flags.replicaListen = replicaListen
            flags.replicaPeers = replicaPeer
            flags.replicaKeyFile = replicaKey
            flags.node = node
            flags.zone = zone
            flags.loops = loops
            flags.admin = admin
            flags.tlsCertificateFile = tlsCertificate
            flags.tlsKeyFile = tlsKey
            flags.logLevel = logLevel
            return try base.applying(flags)
        } catch let error as ConfigurationError {
            throw ValidationError(error.description)
        }
    }
}

struct CheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check", abstract: "Validate a configuration and print what it comes to, defaults included.")
    @OptionGroup var flags: ConfigurationFlags

    func run() throws {
        let configuration = try flags.effective()
        for warning in configuration.warnings { FileHandle.standardError.write(Data("warning: \(warning)\n".utf8)) }
        print(configuration.effectiveYAML(), terminator: "")
    }
}
