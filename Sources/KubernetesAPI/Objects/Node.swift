/// A node (core/v1): of interest for what takes it away.
public struct Node: KubernetesObject {
    public static let resource = ResourceType(group: "", version: "v1", plural: "nodes", isNamespaced: false)

    public struct Taint: Decodable, Sendable, Equatable {
        public var key: String
        /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
        public var effect: String
        public var value: String?
    }

    public struct Spec: Decodable, Sendable, Equatable {
        public var taints: [Taint]?
        public var unschedulable: Bool?
    }

    public var metadata: ObjectMeta
    public var spec: Spec?

    public var taints: [Taint] { spec?.taints ?? [] }
    public var isDeleting: Bool { metadata.deletionTimestamp != nil }
    public var zone: String? { metadata.labels["topology.kubernetes.io/zone"] }
}
