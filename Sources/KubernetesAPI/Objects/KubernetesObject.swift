/// An object of the Kubernetes API, decoded to the fields that are used here; what a server adds is passed over.
public protocol KubernetesObject: Decodable, Sendable, Equatable {
    /// Where objects of this type are served.
    static var resource: ResourceType { get }
    var metadata: ObjectMeta { get set }
}

/// A type of objects as the API names it: group, version and the plural in paths.
public struct ResourceType: Sendable, Hashable {
    /// Empty for core/v1.
    public var group: String
    public var version: String
    public var plural: String
    /// Nodes, for one, belong to no namespace.
    public var isNamespaced: Bool

    public init(group: String, version: String, plural: String, isNamespaced: Bool = true) {
        self.group = group
        self.version = version
        self.plural = plural
        self.isNamespaced = isNamespaced
    }

    /// `discovery.k8s.io/v1 endpointslices`.
    public var description: String { "\(group.isEmpty ? "core" : group)/\(version) \(plural)" }

    /// - Parameter namespace: nil: of all namespaces.
    public func path(namespace: String?) -> String {
        let root = group.isEmpty ? "/api/\(version)" : "/apis/\(group)/\(version)"
        guard isNamespaced, let namespace else { return "\(root)/\(plural)" }
        return "\(root)/namespaces/\(namespace)/\(plural)"
    }
}

/// `metadata` of every object.
public struct ObjectMeta: Decodable, Sendable, Equatable {
    public var name: String
    /// Empty for what belongs to no namespace.
    public var namespace: String
    /// Tells this object from every other that was ever there, also from one of the same name.
    public var uid: String
    /// Opaque, except that larger numbers are later in one cluster (KEP-5504).
    public var resourceVersion: String
    public var labels: [String: String]
    public var annotations: [String: String]
    /// RFC 3339; not nil: the object is on its way out, however well it still does.
    public var deletionTimestamp: String?

    public init(
        name: String, namespace: String = "", uid: String = "", resourceVersion: String = "", labels: [String: String] = [:],
        annotations: [String: String] = [:], deletionTimestamp: String? = nil
    ) {
        self.name = name
        self.namespace = namespace
        self.uid = uid
        self.resourceVersion = resourceVersion
        self.labels = labels
        self.annotations = annotations
        self.deletionTimestamp = deletionTimestamp
    }

    private enum CodingKeys: CodingKey { case name, namespace, uid, resourceVersion, labels, annotations, deletionTimestamp }

    public init(from decoder: any Decoder) throws {
        let fields = try decoder.container(keyedBy: CodingKeys.self)
        name = try fields.decodeIfPresent(String.self, forKey: .name) ?? ""
        namespace = try fields.decodeIfPresent(String.self, forKey: .namespace) ?? ""
        uid = try fields.decodeIfPresent(String.self, forKey: .uid) ?? ""
        resourceVersion = try fields.decodeIfPresent(String.self, forKey: .resourceVersion) ?? ""
        // A value of null is the empty text, as the API's own decoder has it.
        labels = try (fields.decodeIfPresent([String: String?].self, forKey: .labels) ?? [:]).mapValues { $0 ?? "" }
        annotations = try (fields.decodeIfPresent([String: String?].self, forKey: .annotations) ?? [:]).mapValues { $0 ?? "" }
        deletionTimestamp = try fields.decodeIfPresent(String.self, forKey: .deletionTimestamp)
    }
}

/// What an endpoint stands for, nearly always a pod.
public struct ObjectReference: Codable, Sendable, Equatable {
    public var kind: String?
    public var namespace: String?
    public var name: String?
    public var uid: String?

    public init(kind: String? = nil, namespace: String? = nil, name: String? = nil, uid: String? = nil) {
        self.kind = kind
        self.namespace = namespace
        self.name = name
        self.uid = uid
    }
}
