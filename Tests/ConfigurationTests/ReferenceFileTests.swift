import Foundation
import Testing

@testable import Configuration

/// Holds `config/swiftlet.yaml` to what the code does.
@Suite struct ReferenceFileTests {
    private static func text() throws -> String {
        let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        return try String(contentsOf: root.appending(path: "config/swiftlet.yaml"), encoding: .utf8)
    }

    /// The file with the keys that are off by default switched on: lines whose `#` touches what follows, or stands in a
    /// block that such a line began.
    private static func uncommented(_ text: String) -> String {
        var lines: [String] = []
        var isInBlock = false
        for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
            let indentation = line.prefix { $0 == " " }
            let rest = line.dropFirst(indentation.count)
            isInBlock = rest.hasPrefix("#") && (rest.dropFirst().first?.isLetter == true || isInBlock)
            lines.append(isInBlock ? String(indentation + rest.dropFirst()) : String(line))
        }
        return lines.joined(separator: "\n")
    }

    @Test func itsValuesAreTheDefaultsButForTheExampleGroups() throws {
        var loaded = try SwiftletConfiguration.load(text: Self.text(), file: "config/swiftlet.yaml")
        #expect(!loaded.groups.isEmpty)
        loaded.groups = []
        #expect(loaded == SwiftletConfiguration())
    }

    @Test func itNamesEveryKey() throws {
        let text = try Self.uncommented(Self.text())
        let sources = SourceMap(file: "config/swiftlet.yaml")
        var configuration = SwiftletConfiguration()
        try DocumentNode.root(of: text, sources: sources).mapping(SwiftletConfiguration.fields, into: &configuration)
        let named = Set(sources.positions.keys.map { $0.replacing(/\[\d+\]/, with: "[]") })
        let missing = SwiftletConfiguration.fields.flatMap(\.keyPaths).filter { !named.contains($0) }
        #expect(missing.isEmpty)
        #expect(configuration.admin != nil && configuration.listeners.first?.tls != nil)
    }

    @Test func everyLineIsShortEnoughToRead() throws {
        let long = try Self.text().split(separator: "\n").filter { $0.count > 130 }
        #expect(long.isEmpty)
    }
}
