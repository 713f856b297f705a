import Yams

/// Where every key that was read stands in its file, so that a fault found later can still name its line.
final class SourceMap {
    let file: String
    private(set) var positions: [String: ConfigurationError.Position] = [:]

    init(file: String) {
        self.file = file
    }

    func record(_ key: String, _ position: ConfigurationError.Position?) {
        positions[key] = position
    }

    /// The fault `problem` of `key`; without a line when the file does not have the key.
    func error(_ key: String, _ problem: String) -> ConfigurationError {
        ConfigurationError(file: file, position: positions[key], key: key, problem: problem)
    }
}

/// One node of a YAML document with its key path: the reading half of a `Field`.
struct DocumentNode {
    let node: Node
    /// Empty for the document itself.
    let key: String
    let sources: SourceMap

    /// Reads `text`; an empty document is an empty mapping.
    static func root(of text: String, sources: SourceMap) throws(ConfigurationError) -> DocumentNode {
        do {
            let node = try compose(yaml: text) ?? Node([(Node, Node)]())
            return DocumentNode(node: node, key: "", sources: sources)
        } catch let error as YamlError {
            throw ConfigurationError(error, file: sources.file)
        } catch {
            throw ConfigurationError(file: sources.file, position: nil, key: "", problem: "\(error)")
        }
    }

    /// True for `key:`, `key: ~` and `key: null`.
    var isEmpty: Bool {
        guard let scalar = node.scalar else { return false }
        return scalar.style == .plain && ["", "~", "null"].contains(scalar.string)
    }

    func scalar<Value>(_ syntax: Syntax<Value>) throws(ConfigurationError) -> Value {
        guard !isEmpty, let text = node.scalar?.string, let value = syntax.parse(text) else { throw mismatch(syntax.expected) }
        return value
    }

    /// The items of a list; an empty value is an empty list.
    func items() throws(ConfigurationError) -> [DocumentNode] {
        if isEmpty { return [] }
        guard let sequence = node.sequence else { throw mismatch("a list") }
        return sequence.enumerated().map { index, item in child(item, "\(key)[\(index)]") }
    }

    /// Reads a mapping key by key into `section`; keys that are absent leave it as it is.
    func mapping<Section>(
        _ fields: [Field<Section>], into section: inout Section, required: [String] = []
    ) throws(ConfigurationError) {
        if isEmpty && required.isEmpty { return }
        guard let mapping = node.mapping else { throw mismatch("a mapping with \(fields.map(\.key).joined(separator: ", "))") }
        var seen: Set<String> = []
        for (keyNode, valueNode) in mapping {
            let name = keyNode.scalar?.string ?? ""
            let path = key.isEmpty ? name : "\(key).\(name)"
            let position = keyNode.mark.map { ConfigurationError.Position($0) }
            guard let field = fields.first(where: { $0.key == name }) else {
                throw ConfigurationError(
                    file: sources.file, position: position, key: path, problem: unknownKey(name, known: fields.map(\.key)))
            }
            seen.insert(name)
            try field.read(child(valueNode, path), &section)
        }
        if let missing = required.first(where: { !seen.contains($0) }) {
            throw error("expected the key \(missing), found none")
        }
    }

    func error(_ problem: String) -> ConfigurationError {
        sources.record(key, node.mark.map { ConfigurationError.Position($0) })
        return sources.error(key, problem)
    }

    private func mismatch(_ expected: String) -> ConfigurationError {
        let found =
            switch node {
            case .scalar(let scalar): isEmpty ? "nothing" : ConfigurationError.quoted(scalar.string)
            case .mapping: "a mapping"
            case .sequence: "a list"
            case .alias: "an alias"
            }
        return error(ConfigurationError.mismatch(expected: expected, found: found))
    }

    private func child(_ node: Node, _ key: String) -> DocumentNode {
        sources.record(key, node.mark.map { ConfigurationError.Position($0) })
        return DocumentNode(node: node, key: key, sources: sources)
    }
}

extension ConfigurationError.Position {
    init(_ mark: Mark) {
        self.init(line: mark.line, column: mark.column)
    }
}

extension ConfigurationError {
    /// A fault of the YAML itself.
    init(_ error: YamlError, file: String) {
        self.init(file: file, position: nil, key: "", problem: "")
        switch error {
        case .scanner(let context, let text, let mark, _), .parser(let context, let text, let mark, _),
            .composer(let context, let text, let mark, _):
            position = Position(mark)
            problem = [context?.text, text].compactMap { $0 }.joined(separator: ", ")
        case .duplicatedKeysInMapping(let duplicates, let context):
            position = Position(context.mark)
            key = duplicates.first ?? ""
            problem = "expected once in its mapping, found again further down"
        case .reader(let text, _, _, _): problem = text
        default: problem = "not readable as YAML"
        }
    }
}

/// What to say of a key that no field has.
func unknownKey(_ name: String, known: [String]) -> String {
    let near = known.map { (key: $0, distance: editDistance($0, name)) }.min { $0.distance < $1.distance }
    if let near, near.distance <= max(2, name.count / 3) { return "unknown key; did you mean \(near.key)?" }
    return "unknown key; expected one of \(known.joined(separator: ", "))"
}

/// Edits that turn `left` into `right`: insert, delete, replace, or swap two neighbours (optimal string alignment).
func editDistance(_ left: String, _ right: String) -> Int {
    // A key of hostile length would cost its square; nothing that long is a misspelling.
    guard left.utf8.count <= 64, right.utf8.count <= 64 else { return .max }
    let (a, b) = (Array(left.utf8), Array(right.utf8))
    var rows = Array(repeating: Array(repeating: 0, count: b.count + 1), count: a.count + 1)
    for i in 0...a.count { rows[i][0] = i }
    for j in 0...b.count { rows[0][j] = j }
    for i in a.indices {
        for j in b.indices {
            let replaced = rows[i][j] + (a[i] == b[j] ? 0 : 1)
            var best = min(rows[i][j + 1] + 1, rows[i + 1][j] + 1, replaced)
            if i > 0, j > 0, a[i] == b[j - 1], a[i - 1] == b[j] { best = min(best, rows[i - 1][j - 1] + 1) }
            rows[i + 1][j + 1] = best
        }
    }
    return rows[a.count][b.count]
}
