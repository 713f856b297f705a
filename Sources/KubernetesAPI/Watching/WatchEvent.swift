import Foundation

/// One line of a watch (API conventions, "Efficient detection of changes").
public enum WatchEvent<Object: KubernetesObject>: Sendable {
    /// ADDED or MODIFIED: which of the two it is says no more than what is known here already.
    case updated(Object)
    /// ADDED or MODIFIED, and all that can be read of the object is which one it is.
    case unreadable(UnreadableObject)
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
        case "ADDED", "MODIFIED":
            switch try fields.decode(Readable<Object>.self, forKey: .object) {
            case .object(let object): self = .updated(object)
            case .unreadable(let object): self = .unreadable(object)
            }
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
    var items: [Readable<Object>]?
}

/// An object of which a field has a form that it must not have.
public struct UnreadableObject: Sendable, Equatable {
    public var name: String
    public var namespace: String
    public var resourceVersion: String
    /// What is wrong with it.
    public var reason: String
}

/// An object, or at least which one it is: one that somebody wrote badly must not hide all others. Throws when it has no name either.
enum Readable<Object: KubernetesObject>: Decodable {
    case object(Object)
    case unreadable(UnreadableObject)

    private struct Named: Decodable {
        struct Metadata: Decodable {
            var name: String
            var namespace: String?
            var resourceVersion: String?
        }
        var metadata: Metadata
    }

    init(from decoder: any Decoder) throws {
        do { self = .object(try Object(from: decoder)) } catch {
            guard let metadata = try? Named(from: decoder).metadata, !metadata.name.isEmpty else { throw error }
            self = .unreadable(
                UnreadableObject(
                    name: metadata.name, namespace: metadata.namespace ?? "", resourceVersion: metadata.resourceVersion ?? "",
                    reason: decodingErrorText(error)))
        }
    }
}

/// Says where in the document, and what.
func decodingErrorText(_ error: any Error) -> String {
    func text(_ context: DecodingError.Context) -> String {
        let path = context.codingPath.map { $0.intValue.map { "[\($0)]" } ?? $0.stringValue }.joined(separator: ".")
        return path.isEmpty ? context.debugDescription : "\(path): \(context.debugDescription)"
    }
    guard let error = error as? DecodingError else { return "\(error)" }
    switch error {
    case .dataCorrupted(let context): return text(context)
    case .keyNotFound(let key, let context): return "\(text(context)); the key \(key.stringValue) is missing"
    case .typeMismatch(_, let context), .valueNotFound(_, let context): return text(context)
    @unknown default: return "\(error)"
    }
}
