/// How a pod says which tensor-parallel group it belongs to and which rank it has there. Pure.
///
/// Labels and annotations come first, because they are somebody's word; names are read only where they are asked to be or where
/// nothing else is known. The labels of LeaderWorkerSet are those of its API (`leaderworkerset.sigs.k8s.io`, v1).
public struct GroupConvention: Sendable, Equatable {
    /// Which form the groups have.
    public enum Form: String, CaseIterable, Sendable {
        /// LeaderWorkerSet's labels, then the configured ones, then ordinals when a group has more than one pod by the pod's own
        /// word or `podsPerGroup`, then a pod as a group.
        case automatic = "auto"
        /// Every pod is a whole group: tensor parallelism within one pod, or a Service that selects leaders only.
        case pod
        /// `<set>-<group>` leads and `<set>-<group>-<rank>` are the others; by labels where they are known, else by name.
        case leaderWorkerSet = "leader-worker-set"
        /// `<set>-<ordinal>`: each `podsPerGroup` ordinals in a row are one group, the first of them leads.
        case statefulSet = "stateful-set"
    }

    public var form = Form.automatic
    /// Pods of one group, where nothing else says it.
    public var podsPerGroup: Int?
    /// The set's name, where pods' names are read and it ends in a number itself: of `llama-3-1` the name alone cannot tell.
    public var setName: String?
    /// Labels or annotations that name a pod's group, its rank in it, the group's size in pods, and the revision.
    public var groupKey = "swiftlet.dev/group"
    public var rankKey = "swiftlet.dev/rank"
    public var worldSizeKey = "swiftlet.dev/world-size"
    public var revisionKey = "swiftlet.dev/revision"

    public init() {}

    /// What is known of one pod. Without the right to read pods, labels and annotations are empty.
    public struct Pod: Sendable {
        public var namespace: String
        public var name: String
        public var labels: [String: String]
        public var annotations: [String: String]

        public init(namespace: String, name: String, labels: [String: String] = [:], annotations: [String: String] = [:]) {
            self.namespace = namespace
            self.name = name
            self.labels = labels
            self.annotations = annotations
        }

        fileprivate func word(_ key: String) -> String? { labels[key] ?? annotations[key] }
        fileprivate func number(_ key: String) -> Int? { word(key).flatMap { Int($0) }.flatMap { $0 >= 0 ? $0 : nil } }
    }

    public func role(of pod: Pod) -> GroupRole {
        switch form {
        case .pod: single(pod)
        case .leaderWorkerSet: labelledLeaderWorkerSet(pod) ?? namedLeaderWorkerSet(pod) ?? single(pod)
        case .statefulSet: ordinal(pod) ?? single(pod)
        case .automatic: labelledLeaderWorkerSet(pod) ?? configured(pod) ?? (size(of: pod) > 1 ? ordinal(pod) : nil) ?? single(pod)
        }
    }

    private func single(_ pod: Pod) -> GroupRole {
        GroupRole(group: "\(pod.namespace)/\(pod.name)", rank: 0, worldSize: 1, revision: nil)
    }

    private func labelledLeaderWorkerSet(_ pod: Pod) -> GroupRole? {
        let prefix = "leaderworkerset.sigs.k8s.io/"
        guard let set = pod.labels[prefix + "name"], let group = pod.number(prefix + "group-index"),
            let rank = pod.number(prefix + "worker-index")
        else { return nil }
        return GroupRole(
            group: "\(pod.namespace)/\(set)-\(group)", rank: rank, worldSize: pod.number(prefix + "size") ?? podsPerGroup,
            revision: pod.labels[prefix + "template-revision-hash"])
    }

    /// A leader's name has one number at its end, a worker's two, of which the second is never 0.
    private func namedLeaderWorkerSet(_ pod: Pod) -> GroupRole? {
        guard let last = Self.numbered(pod.name) else { return nil }
        guard last.stem != setName, last.number > 0, let group = Self.numbered(last.stem) else {
            return GroupRole(group: "\(pod.namespace)/\(pod.name)", rank: 0, worldSize: podsPerGroup)
        }
        return GroupRole(group: "\(pod.namespace)/\(group.stem)-\(group.number)", rank: last.number, worldSize: podsPerGroup)
    }

    private func configured(_ pod: Pod) -> GroupRole? {
        guard let group = pod.word(groupKey), !group.isEmpty else { return nil }
        let rank = pod.number(rankKey) ?? pod.number("apps.kubernetes.io/pod-index") ?? Self.numbered(pod.name)?.number ?? 0
        return GroupRole(
            group: "\(pod.namespace)/\(group)", rank: rank, worldSize: pod.number(worldSizeKey) ?? podsPerGroup,
            revision: pod.word(revisionKey) ?? pod.labels["controller-revision-hash"])
    }

    private func ordinal(_ pod: Pod) -> GroupRole? {
        guard let numbered = Self.numbered(pod.name) else { return nil }
        let ordinal = pod.number("apps.kubernetes.io/pod-index") ?? numbered.number
        let size = size(of: pod)
        return GroupRole(
            group: "\(pod.namespace)/\(numbered.stem)-\(ordinal / size)", rank: pod.number(rankKey) ?? ordinal % size, worldSize: size,
            revision: pod.word(revisionKey) ?? pod.labels["controller-revision-hash"])
    }

    private func size(of pod: Pod) -> Int {
        min(max(pod.number(worldSizeKey) ?? podsPerGroup ?? 1, 1), GroupAssembly.maximumWorldSize)
    }

    /// `set-3` is `set` and 3.
    private static func numbered(_ name: String) -> (stem: String, number: Int)? {
        guard let dash = name.lastIndex(of: "-"), dash > name.startIndex else { return nil }
        let digits = name[name.index(after: dash)...]
        guard !digits.isEmpty, digits.utf8.allSatisfy({ (48...57).contains($0) }), let number = Int(digits) else { return nil }
        return (String(name[..<dash]), number)
    }
}
