/// All endpoints of the Service of the same name (core/v1), for servers without slices. It tells neither zones nor who terminates,
/// and ends at 1,000 addresses.
public struct Endpoints: KubernetesObject {
    public static let resource = ResourceType(group: "", version: "v1", plural: "endpoints")

    public struct Address: Decodable, Sendable, Equatable {
        public var ip: String
        public var hostname: String?
        public var nodeName: String?
        public var targetRef: ObjectReference?
    }

    public struct Subset: Decodable, Sendable, Equatable {
        /// Nil: none.
        public var addresses: [Address]?
        public var notReadyAddresses: [Address]?
        public var ports: [ServicePort]?
    }

    public var metadata: ObjectMeta
    /// Nil: none.
    public var subsets: [Subset]?

    /// Addresses beyond the 1,000th were left out by the server.
    public var isTruncated: Bool { metadata.annotations["endpoints.kubernetes.io/over-capacity"] == "truncated" }

    /// The same as a slice: who is not ready does not serve, and nobody terminates.
    public var slices: [EndpointSlice] {
        (subsets ?? []).enumerated().map { place, subset in
            func endpoint(_ address: Address, isReady: Bool) -> EndpointSlice.Endpoint {
                EndpointSlice.Endpoint(
                    addresses: [address.ip], conditions: .init(ready: isReady, serving: isReady, terminating: false),
                    hostname: address.hostname, nodeName: address.nodeName, targetRef: address.targetRef)
            }
            var meta = metadata
            meta.labels[EndpointSlice.serviceLabel] = metadata.name
            // No name of a slice that the server may have as well.
            meta.name = "\(metadata.name)/\(place)"
            return EndpointSlice(
                metadata: meta, addressType: "",
                endpoints: (subset.addresses ?? []).map { endpoint($0, isReady: true) }
                    + (subset.notReadyAddresses ?? []).map { endpoint($0, isReady: false) },
                ports: subset.ports ?? [])
        }
    }
}
