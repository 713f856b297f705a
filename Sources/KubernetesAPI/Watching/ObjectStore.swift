/// What is known of one resource: the server's objects as they were at `resourceVersion`. Pure.
public struct ObjectStore<Object: KubernetesObject>: Sendable {
    public struct Key: Hashable, Sendable {
        public var namespace: String
        public var name: String

        public init(namespace: String, name: String) {
            self.namespace = namespace
            self.name = name
        }
        init(_ object: UnreadableObject) { self.init(namespace: object.namespace, name: object.name) }
        init(_ metadata: ObjectMeta) { self.init(namespace: metadata.namespace, name: metadata.name) }
    }

    /// One difference between two states.
    public enum Change: Sendable, Equatable {
        case added(Object)
        /// Also when another object took the place of one of the same name: then their uids differ.
        case updated(from: Object, to: Object)
        /// As it was known last.
        case removed(Object)
    }

    public private(set) var objects: [Key: Object] = [:]
    /// Of the latest list, event or bookmark; nil: never had one.
    public private(set) var resourceVersion: String?

    public init() {}

    /// The whole state anew, as a list gives it; differences are reported, and an object that differs in its version alone is none.
    mutating func replace(with listed: [Key: Object], resourceVersion: String) -> [Change] {
        var changes: [Change] = []
        for (key, object) in objects where listed[key] == nil { changes.append(.removed(object)) }
        for (key, object) in listed {
            if let change = Self.change(from: objects[key], to: object) { changes.append(change) }
        }
        objects = listed
        self.resourceVersion = resourceVersion
        return changes
    }

    /// Whether that would be more than what differs in its version alone.
    func differs(from listed: [Key: Object]) -> Bool {
        listed.count != objects.count || listed.contains { Self.change(from: objects[$0.key], to: $0.value) != nil }
    }

    /// Versions are numbers that grow with each write; of others nobody can tell.
    static func isEarlier(_ version: String, than other: String) -> Bool {
        guard let version = UInt64(version), let other = UInt64(other) else { return false }
        return version < other
    }

    /// An event of a watch that went on from this state. What the state already knows is passed over: time does not run backwards.
    mutating func apply(_ event: WatchEvent<Object>) -> Change? {
        switch event {
        case .updated(let object):
            guard advance(to: object.metadata.resourceVersion) else { return nil }
            let key = Key(object.metadata)
            let change = Self.change(from: objects[key], to: object)
            objects[key] = object
            return change
        case .deleted(let metadata):
            guard advance(to: metadata.resourceVersion) else { return nil }
            return objects.removeValue(forKey: Key(metadata)).map { .removed($0) }
        case .bookmark(let version, _):
            _ = advance(to: version)
            return nil
        case .unreadable(let object):
            _ = advance(to: object.resourceVersion)
            return nil
        case .error: return nil
        }
    }

    /// Whether an event that is not newer than what is known tells what is not: then what is known is not what the server has. An event
    /// that a server repeats is not one.
    func isContradicted(by event: WatchEvent<Object>) -> Bool {
        let (key, version): (Key, String) =
            switch event {
            case .updated(let object): (Key(object.metadata), object.metadata.resourceVersion)
            case .deleted(let metadata): (Key(metadata), metadata.resourceVersion)
            case .unreadable(let object): (Key(object), object.resourceVersion)
            case .bookmark, .error: (Key(namespace: "", name: ""), "")
            }
        guard let known = resourceVersion.flatMap({ UInt64($0) }), let next = UInt64(version), next <= known else { return false }
        guard let object = objects[key] else { if case .deleted = event { return false } else { return true } }
        return UInt64(object.metadata.resourceVersion).map { $0 < next } ?? false
    }

    /// Versions are numbers that grow with each write; should a server have others, its order is all there is to go by.
    private mutating func advance(to version: String) -> Bool {
        guard !version.isEmpty else { return true }
        if let known = resourceVersion.flatMap({ UInt64($0) }), let next = UInt64(version), next <= known { return false }
        resourceVersion = version
        return true
    }

    private static func change(from old: Object?, to new: Object) -> Change? {
        guard var old else { return .added(new) }
        let known = old
        old.metadata.resourceVersion = new.metadata.resourceVersion
        return old == new ? nil : .updated(from: known, to: new)
    }
}
