import Routing

/// How the Kubernetes API is reached, and what is watched there.
public struct KubernetesConfiguration: Sendable, Equatable {
    /// nil: the pod's own service account.
    public var kubeconfigFile: String?
    /// nil: the kubeconfig's current one.
    public var context: String?
    /// The folder with `token`, `ca.crt` and `namespace`.
    public var serviceAccountFolder = "/var/run/secrets/kubernetes.io/serviceaccount"
    /// Whether pods are watched, where RBAC allows it.
    public var watchesPods = true
    /// Whether nodes are watched for taints that take them away.
    public var watchesNodes = false
    /// Keys of taints that say that a node will be gone soon: of GKE, the AWS node termination handler, Karpenter, the cluster
    /// autoscaler, and Kubernetes itself.
    public var departureTaints = [
        "cloud.google.com/impending-node-termination", "aws-node-termination-handler/spot-itn",
        "aws-node-termination-handler/scheduled-maintenance", "aws-node-termination-handler/asg-lifecycle-termination",
        "aws-node-termination-handler/rebalance-recommendation", "karpenter.sh/disrupted", "karpenter.sh/disruption",
        "ToBeDeletedByClusterAutoscaler", "node.kubernetes.io/out-of-service", "node.cloudprovider.kubernetes.io/shutdown",
    ]
    public var streamsLists = true
    /// A watch with neither event nor bookmark for so long is replaced by a list.
    public var silenceNanoseconds: UInt64 = 90 * 1_000_000_000
    /// A list, or a watch's head, of which nothing comes for so long is asked for again.
    public var answerNanoseconds: UInt64 = 30 * 1_000_000_000
    /// A list anew although all is well; 0: never.
    public var relistNanoseconds: UInt64 = 600 * 1_000_000_000
    public var pools: [KubernetesPoolConfiguration] = []

    public init() {}
}

/// The groups behind some Services, or of an InferencePool: exactly one of the three says which.
public struct KubernetesPoolConfiguration: Sendable, Equatable {
    public var services: [String] = []
    /// Labels of Services; empty: all in the namespace.
    public var selector: String?
    public var inferencePool: String?
    /// nil: our own, or the context's; `*`: all.
    public var namespace: String?
    /// A port's name or number; nil: the only one.
    public var port: String?
    public var speaksHTTP2 = false
    public var isTLS = false
    /// core/v1 Endpoints in the place of EndpointSlices.
    public var readsEndpoints = false
    public var grouping = GroupingConfiguration()

    public init() {}
}

extension KubernetesConfiguration {
    static var fields: [Field<KubernetesConfiguration>] {
        [
            .optional("kubeconfig", \.kubeconfigFile, .file),
            .optional("context", \.context, .text("a context")),
            .scalar("service_account", \.serviceAccountFolder, .file),
            .scalar("pods", \.watchesPods, .flag),
            .scalar("nodes", \.watchesNodes, .flag),
            .list("departure_taints", \.departureTaints, .text("a taint's key", atMost: 316)),
            .scalar("streaming_lists", \.streamsLists, .flag),
            .scalar("silence", \.silenceNanoseconds, .duration(1_000_000_000...3_600_000_000_000)),
            .scalar("answer", \.answerNanoseconds, .duration(100_000_000...600_000_000_000)),
            .scalar("relist", \.relistNanoseconds, .duration(0...86_400_000_000_000)),
            .sections(
                "pools", \.pools, empty: KubernetesPoolConfiguration(), required: [], KubernetesPoolConfiguration.fields),
        ]
    }
}

extension KubernetesPoolConfiguration {
    static var fields: [Field<KubernetesPoolConfiguration>] {
        [
            .list("services", \.services, .objectName),
            .optional("selector", \.selector, .text("a label selector", atMost: 1_024)),
            .optional("inference_pool", \.inferencePool, .objectName),
            .optional("namespace", \.namespace, .namespace),
            .optional("port", \.port, .text("a port's name or number", atMost: 63)),
            .scalar("http2", \.speaksHTTP2, .flag),
            .scalar("tls", \.isTLS, .flag),
            .scalar("endpoints", \.readsEndpoints, .flag),
            .section("groups", \.grouping, GroupingConfiguration.fields),
        ]
    }

    /// What is wrong with the keys together.
    var violation: (expected: String, found: String)? {
        let given = [services.isEmpty ? nil : "services", selector.map { _ in "selector" }, inferencePool.map { _ in "inference_pool" }]
            .compactMap { $0 }
        guard given.count != 1 else { return nil }
        return ("exactly one of services, selector and inference_pool", given.isEmpty ? "none" : given.joined(separator: " and "))
    }
}

extension Syntax where Value == String {
    /// RFC 1123 labels and what of dots between them the API allows.
    static var objectName: Self {
        Syntax(expected: "a name of lower-case letters, digits, - and ., of at most 253 bytes") { text in
            (1...253).contains(text.utf8.count) && text.utf8.allSatisfy(isNameByte) ? text : nil
        } print: {
            yamlQuoted($0)
        }
    }

    static var namespace: Self {
        Syntax(expected: "a namespace, or *") { text in
            text == "*" || ((1...63).contains(text.utf8.count) && text.utf8.allSatisfy(isNameByte)) ? text : nil
        } print: {
            yamlQuoted($0)
        }
    }
}

private func isNameByte(_ byte: UInt8) -> Bool { (97...122).contains(byte) || (48...57).contains(byte) || byte == 45 || byte == 46 }
