public import KubernetesAPI

/// What to watch in a cluster.
public struct KubernetesSettings: Sendable {
    public var access: AccessSource
    /// Whether pods are watched, where RBAC allows it: their labels tell who belongs to whom, and their deletion is seen first.
    public var watchesPods = true
    /// Whether nodes are watched for taints that take them away.
    public var watchesNodes = false
    /// Keys of taints that say that a node will be gone soon.
    public var departureTaints: Set<String> = []
    public var pools: [KubernetesPoolSettings] = []
    public var reflector = ReflectorSettings()

    public init(access: AccessSource) { self.access = access }
}

/// The groups behind some Services, or of one InferencePool.
public struct KubernetesPoolSettings: Sendable, Equatable {
    public enum Subject: Sendable, Equatable {
        /// Services by name.
        case services([String])
        /// Services by their labels, which their slices share; empty: all of them.
        case selector(String)
        case inferencePool(String)
    }

    /// Which of the endpoints' ports is served at.
    public enum Port: Sendable, Equatable {
        /// The only one there is.
        case only
        case name(String)
        case number(UInt16)
    }

    public var subject: Subject
    /// Nil: our own, or the context's. `*`: all.
    public var namespace: String?
    public var port = Port.only
    /// Whether slices or, for servers without them, Endpoints are read.
    public var readsEndpoints = false
    public var convention = GroupConvention()
    public var template = GroupTemplate()

    public init(subject: Subject) { self.subject = subject }

    /// How `/groups`, metrics and the log name it.
    public var name: String {
        let place = namespace.map { "\($0)/" } ?? ""
        switch subject {
        case .services(let names): return "kubernetes \(place)\(names.joined(separator: ","))"
        case .selector(let selector): return "kubernetes \(place){\(selector)}"
        case .inferencePool(let name): return "kubernetes InferencePool \(place)\(name)"
        }
    }
}
