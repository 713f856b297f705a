import Foundation

/// One line of a watch (API conventions, "Efficient detection of changes").
public enum WatchEvent<Object: KubernetesObject>: Sendable {
    /// ADDED or MODIFIED: which of the two it is says no more than what is known here already.
    case updated(Object)
    /// DELETED; its version is that of the deletion.
    case deleted(ObjectMeta)
    /// BOOKMARK: all up to this version was sent. `endsInitialEvents`: the state that a streaming list began with is whole.
    case bookmark(resourceVersion: String, endsInitialEvents: Bool)
    case error(Status)
}

extension WatchEvent: Decodable {
    private enum CodingKeys: CodingKey { case type, object }
    private struct Metadata: Decodable { var metadata: ObjectMeta }

    public init(from decoder: any Decoder) throws {
        let fields = try decoder.container(keyedBy: CodingKeys.self)
        let type = try fields.decode(String.self, forKey: .type)
        switch type {
        case "ADDED", "MODIFIED": self = .updated(try fields.decode(Object.self, forKey: .object))
        case "DELETED": self = .deleted(try fields.decode(Metadata.self, forKey: .object).metadata)
        case "BOOKMARK":
            let metadata = try fields.decode(Metadata.self, forKey: .object).metadata
            self = .bookmark(
                resourceVersion: metadata.resourceVersion,
                endsInitialEvents: metadata.annotations["k8s.io/initial-events-end"] == "true")
        case "ERROR": self = .error(try fields.decode(Status.self, forKey: .object))
        default:
            throw DecodingError.dataCorruptedError(forKey: .type, in: fields, debugDescription: "\(type) is no type of event")
        }
    }
}

/// What the API answers when it cannot do what was asked (meta/v1 Status).
public struct Status: Decodable, Sendable, Equatable {
    public struct Details: Decodable, Sendable, Equatable { public var retryAfterSeconds: Int? }
    public var code: Int?
    public var reason: String?
    public var message: String?
    public var details: Details?

    public init(code: Int? = nil, reason: String? = nil, message: String? = nil) {
        self.code = code
        self.reason = reason
        self.message = message
    }
}

/// One page of a list.
struct ListPage<Object: KubernetesObject>: Decodable {
    struct Metadata: Decodable {
        var resourceVersion: String?
        /// Empty or nil: this is the last page.
        var `continue`: String?
    }
    var metadata: Metadata
    /// Null for an empty list of some servers.
    var items: [Object]?
}
