import Routing

extension SwiftletConfiguration {
    /// Reads a YAML file over the defaults.
    ///
    /// - Parameters:
    ///   - text: the whole file. An empty one gives the defaults.
    ///   - file: how error messages name it.
    /// - Throws: the first fault: of the YAML, of a key or a value, or of two values that do not go together. A missing group is
    ///   none yet, since flags may bring one; `applying` has the last word.
    public static func load(text: String, file: String) throws(ConfigurationError) -> SwiftletConfiguration {
        let sources = SourceMap(file: file)
        var configuration = SwiftletConfiguration()
        try DocumentNode.root(of: text, sources: sources).mapping(fields, into: &configuration)
        if let violation = configuration.firstViolation() { throw sources.error(violation.key, violation.problem) }
        return configuration
    }

    /// Reads a file that holds `groups` and nothing else, written as in the configuration.
    public static func loadGroups(text: String, file: String) throws(ConfigurationError) -> [GroupDescription] {
        struct GroupList { var groups: [GroupDescription] = [] }
        let sources = SourceMap(file: file)
        var list = GroupList()
        try DocumentNode.root(of: text, sources: sources).mapping([.groups(\GroupList.groups)], into: &list)
        if let violation = groupViolation(list.groups) { throw sources.error(violation.key, violation.problem) }
        return list.groups
    }

    /// Reads a file of `groups` that also says which source of discovery had which of them.
    public static func loadSnapshot(text: String, file: String) throws(ConfigurationError) -> SnapshotConfiguration {
        let sources = SourceMap(file: file)
        var snapshot = SnapshotConfiguration()
        try DocumentNode.root(of: text, sources: sources).mapping(SnapshotConfiguration.fields, into: &snapshot)
        if let violation = groupViolation(snapshot.groups) { throw sources.error(violation.key, violation.problem) }
        return snapshot
    }

    /// A file that `loadSnapshot` reads back to an equal value.
    public static func snapshotYAML(_ snapshot: SnapshotConfiguration) -> String {
        Rendered(SnapshotConfiguration.fields, of: snapshot).lines().joined(separator: "\n") + "\n"
    }

    /// The whole effective configuration, every key with its value. `load` reads it back to an equal value.
    public func effectiveYAML() -> String {
        Rendered(Self.fields, of: self).lines().joined(separator: "\n") + "\n"
    }
}
