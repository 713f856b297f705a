/// A part of a Service's endpoints (`discovery.k8s.io/v1`): all slices of a Service together are its endpoints, and one endpoint may
/// be in two of them for a moment.
public struct EndpointSlice: KubernetesObject {
    public static let resource = ResourceType(group: "discovery.k8s.io", version: "v1", plural: "endpointslices")

    /// The label that every slice has which belongs to a Service.
    public static let serviceLabel = "kubernetes.io/service-name"

    public struct Conditions: Decodable, Sendable, Equatable {
        /// Nil: ready. Always true for a Service with `publishNotReadyAddresses`, and false once the endpoint terminates.
        public var ready: Bool?
        /// Follows the pod's own readiness, also while it terminates and for `publishNotReadyAddresses`. Nil: as `ready`.
        public var serving: Bool?
        /// Nil: false.
        public var terminating: Bool?

        public init(ready: Bool? = nil, serving: Bool? = nil, terminating: Bool? = nil) {
            self.ready = ready
            self.serving = serving
            self.terminating = terminating
        }

        public var isReady: Bool { ready ?? true }
        public var isServing: Bool { serving ?? isReady }
        public var isTerminating: Bool { terminating ?? false }
    }

    public struct Endpoint: Decodable, Sendable, Equatable {
        /// At least one; consumers use the first, the others are of no defined meaning.
        public var addresses: [String]
        public var conditions: Conditions
        public var hostname: String?
        public var nodeName: String?
        public var zone: String?
        /// Zones and nodes that shall use this endpoint; nil: no hint.
        public var hints: Hints?
        public var targetRef: ObjectReference?

        public init(
            addresses: [String], conditions: Conditions = Conditions(), hostname: String? = nil, nodeName: String? = nil,
            zone: String? = nil, hints: Hints? = nil, targetRef: ObjectReference? = nil
        ) {
            self.addresses = addresses
            self.conditions = conditions
            self.hostname = hostname
            self.nodeName = nodeName
            self.zone = zone
            self.hints = hints
            self.targetRef = targetRef
        }

        private enum CodingKeys: CodingKey { case addresses, conditions, hostname, nodeName, zone, hints, targetRef }

        public init(from decoder: any Decoder) throws {
            let fields = try decoder.container(keyedBy: CodingKeys.self)
            addresses = try fields.decodeIfPresent([String].self, forKey: .addresses) ?? []
            conditions = try fields.decodeIfPresent(Conditions.self, forKey: .conditions) ?? Conditions()
            hostname = try fields.decodeIfPresent(String.self, forKey: .hostname)
            nodeName = try fields.decodeIfPresent(String.self, forKey: .nodeName)
            zone = try fields.decodeIfPresent(String.self, forKey: .zone)
            hints = try fields.decodeIfPresent(Hints.self, forKey: .hints)
            targetRef = try fields.decodeIfPresent(ObjectReference.self, forKey: .targetRef)
        }
    }

    public struct Hints: Decodable, Sendable, Equatable {
        public struct Name: Decodable, Sendable, Equatable { public var name: String }
        public var forZones: [Name]?
        public var forNodes: [Name]?
    }

    public var metadata: ObjectMeta
    /// `IPv4`, `IPv6` or `FQDN`: a Service of two stacks has slices of both kinds for the same pods.
    public var addressType: String
    /// The API's null is none.
    public var endpoints: [Endpoint]
    /// They hold for every endpoint of the slice. The API's null is none.
    public var ports: [ServicePort]

    /// The Service; nil for a slice that belongs to none.
    public var service: String? { metadata.labels[Self.serviceLabel] }

    public init(metadata: ObjectMeta, addressType: String = "IPv4", endpoints: [Endpoint] = [], ports: [ServicePort] = []) {
        self.metadata = metadata
        self.addressType = addressType
        self.endpoints = endpoints
        self.ports = ports
    }

    private enum CodingKeys: CodingKey { case metadata, addressType, endpoints, ports }

    public init(from decoder: any Decoder) throws {
        let fields = try decoder.container(keyedBy: CodingKeys.self)
        metadata = try fields.decode(ObjectMeta.self, forKey: .metadata)
        addressType = try fields.decodeIfPresent(String.self, forKey: .addressType) ?? "IPv4"
        endpoints = try fields.decodeIfPresent([Endpoint].self, forKey: .endpoints) ?? []
        ports = try fields.decodeIfPresent([ServicePort].self, forKey: .ports) ?? []
    }
}

/// A port of an EndpointSlice or of Endpoints: the pods' own, not the Service's.
public struct ServicePort: Codable, Sendable, Equatable {
    /// Nil or empty: the Service has one port and did not name it.
    public var name: String?
    /// Nil: TCP.
    public var `protocol`: String?
    /// Nil: any; nothing to connect to.
    public var port: Int?
    public var appProtocol: String?

    /// HTTP/2 over cleartext (KEP-3726).
    public static let cleartextHTTP2 = "kubernetes.io/h2c"

    public init(name: String? = nil, protocol: String? = nil, port: Int?, appProtocol: String? = nil) {
        self.name = name
        self.protocol = `protocol`
        self.port = port
        self.appProtocol = appProtocol
    }
}
