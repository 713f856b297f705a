public import Routing

/// What discovery had found, as the router keeps it from one run to the next.
public struct SnapshotConfiguration: Sendable, Equatable {
    /// The groups of one source of discovery, by their names.
    public struct Source: Sendable, Equatable {
        public var name = ""
        public var groups: [String] = []

        public init(name: String = "", groups: [String] = []) {
            self.name = name
            self.groups = groups
        }

        static var fields: [Field<Source>] {
            [.scalar("name", \.name, .text("the name of a source")), .list("groups", \.groups, .text("a name"))]
        }
    }

    public var groups: [GroupDescription] = []
    public var sources: [Source] = []

    public init(groups: [GroupDescription] = [], sources: [Source] = []) {
        self.groups = groups
        self.sources = sources
    }

    static var fields: [Field<SnapshotConfiguration>] {
        [.groups(\.groups), .sections("sources", \.sources, empty: Source(), required: ["name"], Source.fields)]
    }
}
