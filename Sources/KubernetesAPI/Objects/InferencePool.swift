/// A pool of model servers (`inference.networking.k8s.io/v1`, Gateway API Inference Extension): a selector of pods in its namespace
/// and the ports that each serves at.
public struct InferencePool: KubernetesObject {
    public static let resource = ResourceType(group: "inference.networking.k8s.io", version: "v1", plural: "inferencepools")

    public struct Selector: Decodable, Sendable, Equatable {
        /// Every one must hold.
        public var matchLabels: [String: String]
    }

    public struct TargetPort: Decodable, Sendable, Equatable { public var number: Int }

    public struct Spec: Decodable, Sendable, Equatable {
        public var selector: Selector
        /// One to eight; several: one data-parallel rank each.
        public var targetPorts: [TargetPort]
        /// `http`, which nil means, or `kubernetes.io/h2c`.
        public var appProtocol: String?
    }

    public var metadata: ObjectMeta
    public var spec: Spec

    public func selects(_ pod: Pod) -> Bool {
        pod.metadata.namespace == metadata.namespace && spec.selector.matchLabels.allSatisfy { pod.metadata.labels[$0.key] == $0.value }
    }
}
