/// A pod (core/v1).
public struct Pod: KubernetesObject {
    public static let resource = ResourceType(group: "", version: "v1", plural: "pods")

    public struct Condition: Decodable, Sendable, Equatable {
        public var type: String
        /// `True`, `False` or `Unknown`.
        public var status: String
        public var reason: String?
        public var message: String?
    }

    public struct Spec: Decodable, Sendable, Equatable {
        /// Nil until it is scheduled.
        public var nodeName: String?
        public var hostname: String?
    }

    public struct Address: Decodable, Sendable, Equatable { public var ip: String }

    public struct Status: Decodable, Sendable, Equatable {
        /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
        public var phase: String?
        /// Nil until it has one.
        public var podIP: String?
        /// Of each address family; the first is `podIP`.
        public var podIPs: [Address]?
        public var conditions: [Condition]?
        public var reason: String?
    }

    public var metadata: ObjectMeta
    public var spec: Spec?
    public var status: Status?

    public init(metadata: ObjectMeta, spec: Spec? = nil, status: Status? = nil) {
        self.metadata = metadata
        self.spec = spec
        self.status = status
    }

    public var nodeName: String? { spec?.nodeName }
    public var isDeleting: Bool { metadata.deletionTimestamp != nil }
    /// All of its containers run and pass their readiness probes.
    public var isReady: Bool { condition("Ready")?.status == "True" }
    public func condition(_ type: String) -> Condition? { status?.conditions?.first { $0.type == type } }
}
