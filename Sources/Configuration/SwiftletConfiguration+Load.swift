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

    /// The whole effective configuration, every key with its value. `load` reads it back to an equal value.
    public func effectiveYAML() -> String {
        Rendered(Self.fields, of: self).lines().joined(separator: "\n") + "\n"
    }
}
