/// What is wrong with a configuration, said so that its author can mend it: where, which key, what was expected and
/// what was found. A program that meets one exits with 64 (`EX_USAGE`).
public struct ConfigurationError: Error, Equatable, Sendable, CustomStringConvertible {
    /// A place in a file, both counted from 1, the column in Unicode scalars.
    public struct Position: Equatable, Sendable {
        public var line: Int
        public var column: Int

        public init(line: Int, column: Int) {
            self.line = line
            self.column = column
        }
    }

    /// The file as the caller named it; nil when the value came from a flag.
    public var file: String?
    /// nil when no place in the file can be named.
    public var position: Position?
    /// The whole path of the key, such as `groups[0].leader`, or the flag, such as `--backend`; empty for a fault of the text.
    public var key: String
    public var problem: String

    public init(file: String?, position: Position?, key: String, problem: String) {
        self.file = file
        self.position = position
        self.key = key
        self.problem = problem
    }

    /// `FILE:LINE:COLUMN: KEY: PROBLEM`, less what is unknown.
    public var description: String {
        var place = file ?? ""
        if let position { place += ":\(position.line):\(position.column)" }
        return [place, key, problem].filter { !$0.isEmpty }.joined(separator: ": ")
    }

    /// The wording of every complaint about a value.
    static func mismatch(expected: String, found: String) -> String {
        "expected \(expected), found \(found)"
    }

    /// `text` as part of a message: quoted, on one line and of bounded length, whatever it holds.
    static func quoted(_ text: String) -> String {
        let shown = text.count > 80 ? text.prefix(80) + "…" : text[...]
        return String(shown).debugDescription
    }
}
