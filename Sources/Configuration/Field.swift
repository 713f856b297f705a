import Yams

/// One key of a section: how it is read from a document, and how it is printed. A section is a list of these, and
/// everything else follows from the list: which keys are known, what an error says, the whole printed configuration.
struct Field<Section> {
    let key: String
    let read: (DocumentNode, inout Section) throws(ConfigurationError) -> Void
    let render: (Section) -> Rendered
    /// The keys below this one, as paths relative to the section; the key itself when it has none.
    let keyPaths: [String]
}

/// A printed value, before indentation.
indirect enum Rendered {
    /// Text that YAML reads as one scalar or one flow sequence.
    case inline(String)
    case mapping([(key: String, value: Rendered)])
    case items([Rendered])
    /// Not set: the key is printed as a comment.
    case absent
}

extension Field {
    static func scalar<Value>(_ key: String, _ path: WritableKeyPath<Section, Value>, _ syntax: Syntax<Value>) -> Self {
        Field(
            key: key,
            read: { node, section throws(ConfigurationError) in section[keyPath: path] = try node.scalar(syntax) },
            render: { .inline(syntax.print($0[keyPath: path])) }, keyPaths: [key])
    }

    /// A key that may be left empty, which means nil.
    static func optional<Value>(_ key: String, _ path: WritableKeyPath<Section, Value?>, _ syntax: Syntax<Value>) -> Self {
        Field(
            key: key,
            read: { node, section throws(ConfigurationError) in
                section[keyPath: path] = node.isEmpty ? nil : try node.scalar(syntax)
            },
            render: { section in section[keyPath: path].map { .inline(syntax.print($0)) } ?? .absent }, keyPaths: [key])
    }

    static func list<Value>(_ key: String, _ path: WritableKeyPath<Section, [Value]>, _ syntax: Syntax<Value>) -> Self {
        Field(
            key: key,
            read: { node, section throws(ConfigurationError) in
                var values: [Value] = []
                for item in try node.items() { values.append(try item.scalar(syntax)) }
                section[keyPath: path] = values
            },
            render: { .inline("[" + $0[keyPath: path].map(syntax.print).joined(separator: ", ") + "]") }, keyPaths: [key])
    }

    static func section<Inner>(_ key: String, _ path: WritableKeyPath<Section, Inner>, _ fields: [Field<Inner>]) -> Self {
        Field(
            key: key,
            read: { node, section throws(ConfigurationError) in try node.mapping(fields, into: &section[keyPath: path]) },
            render: { Rendered(fields, of: $0[keyPath: path]) }, keyPaths: fields.keyPaths(under: key))
    }

    /// A section that may be left out; when it is there, the keys of `required` must be.
    static func optionalSection<Inner>(
        _ key: String, _ path: WritableKeyPath<Section, Inner?>, empty: Inner, required: [String], _ fields: [Field<Inner>]
    ) -> Self {
        Field(
            key: key,
            read: { node, section throws(ConfigurationError) in
                section[keyPath: path] = nil
                if node.isEmpty { return }
                var inner = empty
                try node.mapping(fields, into: &inner, required: required)
                section[keyPath: path] = inner
            },
            render: { $0[keyPath: path].map { Rendered(fields, of: $0) } ?? .absent }, keyPaths: fields.keyPaths(under: key))
    }

    /// A list of sections. `finish` sets what depends on the presence of other keys.
    static func sections<Inner>(
        _ key: String, _ path: WritableKeyPath<Section, [Inner]>, empty: Inner, required: [String], _ fields: [Field<Inner>],
        finish: @escaping (DocumentNode, inout Inner) throws(ConfigurationError) -> Void = { _, _ in }
    ) -> Self {
        Field(
            key: key,
            read: { node, section throws(ConfigurationError) in
                var values: [Inner] = []
                for item in try node.items() {
                    var inner = empty
                    try item.mapping(fields, into: &inner, required: required)
                    try finish(item, &inner)
                    values.append(inner)
                }
                section[keyPath: path] = values
            },
            render: { section in
                let values = section[keyPath: path]
                return values.isEmpty ? .inline("[]") : .items(values.map { Rendered(fields, of: $0) })
            },
            keyPaths: fields.keyPaths(under: key + "[]"))
    }
}

extension Array {
    func keyPaths<Section>(under key: String) -> [String] where Element == Field<Section> {
        flatMap { field in field.keyPaths.map { "\(key).\($0)" } }
    }
}

extension Rendered {
    init<Section>(_ fields: [Field<Section>], of section: Section) {
        self = .mapping(fields.map { ($0.key, $0.render(section)) })
    }

    /// Block style, two blanks a level. An `.absent` value is printed empty, so that every key is in sight.
    func lines() -> [String] {
        switch self {
        case .inline(let text): [text]
        case .absent: []
        case .mapping(let entries):
            entries.flatMap { key, value in
                switch value {
                case .inline(let text): ["\(key): \(text)"]
                case .absent: ["\(key):"]
                case .mapping, .items: ["\(key):"] + value.lines().map { "  " + $0 }
                }
            }
        case .items(let values):
            values.flatMap { value in value.lines().enumerated().map { index, line in (index == 0 ? "- " : "  ") + line } }
        }
    }
}
