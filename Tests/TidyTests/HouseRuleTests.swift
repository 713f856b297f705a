import Foundation
import Testing

private let maximumLines = 700

/// Lines that take checking out of the compiler's hands without a word of why, beside or above them.
private func unexplained(_ file: SourceTree.File) -> [Int] {
    guard file.mentions(["@unchecked", "nonisolated(unsafe)"]) else { return [] }
    let lines = file.lines
    return lines.indices.filter { index in
        let line = lines[index]
        guard !line.trimming().hasPrefix("//"), line.contains(/@unchecked\s+Sendable|nonisolated\(unsafe\)/) else { return false }
        return !line.contains("//") && !(index > 0 && lines[index - 1].trimming().hasPrefix("//"))
    }.map { $0 + 1 }
}

/// Lines with a trap or with something left for later.
private func unfinished(_ file: SourceTree.File) -> [Int] {
    guard file.mentions(["try!", "as!", "fatalError", "TODO", "FIXME", "XXX"]) else { return [] }
    let lines = file.lines
    return lines.indices.filter { index in
        let line = lines[index]
        let code = line.split(separator: "//", maxSplits: 1, omittingEmptySubsequences: false).first ?? ""
        return code.contains(/\btry!|\bas!|\bfatalError\(/) || line.contains(/\b(?:TODO|FIXME|XXX)\b/)
    }.map { $0 + 1 }
}

extension SourceTree.File {
    /// A quick look, before each line is read with care.
    fileprivate func mentions(_ words: [String]) -> Bool {
        words.contains { text.range(of: $0, options: .literal) != nil }
    }
}

extension Substring {
    fileprivate func trimming() -> Substring { drop { $0 == " " || $0 == "\t" } }
}

@Suite struct HouseRuleTests {
    private func sources() throws -> [SourceTree.File] {
        try SourceTree.files("Sources", ["swift", "c", "cpp", "h"]).filter { !$0.isGenerated }
    }

    @Test func noFileIsTooLongToRead() throws {
        for file in try sources() + SourceTree.files("Tests", ["swift", "py"]) where file.lines.count > maximumLines {
            Issue.record("\(file.path) has \(file.lines.count) lines; split it")
        }
    }

    @Test func uncheckedSharingIsExplained() throws {
        for file in try sources() {
            for line in unexplained(file) { Issue.record("\(file.path):\(line) needs a comment that says why it is safe") }
        }
    }

    @Test func nothingTrapsOrWaitsToBeDone() throws {
        for file in try sources() {
            for line in unfinished(file) { Issue.record("\(file.path):\(line): \(file.lines[line - 1].trimming())") }
        }
    }

    @Test func theRulesSeeTheirViolations() {
        func file(_ text: String) -> SourceTree.File { SourceTree.File(path: "Sources/X/X.swift", text: text) }
        #expect(unexplained(file("final class A: @unchecked Sendable {}\nnonisolated(unsafe) var a = 0")) == [1, 2])
        #expect(unexplained(file("// Locked.\nclass A: @unchecked Sendable {}\nnonisolated(unsafe) var a = 0  // Set once.")).isEmpty)
        #expect(unfinished(file("let a = try! b()\nlet c = d as! E\nfatalError()\n// TODO: more\nlet mastodon = 1")) == [1, 2, 3, 4])
        #expect(unfinished(file("// fatalError() is refused\nlet a = try? b()\nlet c = d as? E")).isEmpty)
    }

    @Test func theReadmeShowsTheTwoCommands() throws {
        let readme = try SourceTree.text("README.md")
        for command in ["make demo", "make test"] { #expect(readme.contains(command)) }
    }

    @Test(.enabled(if: SourceTree.exists(".git"))) func nothingIsCommittedThatNobodyCanReview() throws {
        let listing = try SourceTree.run(["git", "ls-files", "--stage", "-z"])
        try #require(listing.status == 0)
        let entries = String(decoding: listing.output, as: UTF8.self).split(separator: "\0")
        #expect(!entries.isEmpty)
        for entry in entries {
            let parts = entry.split(separator: "\t", maxSplits: 1)
            guard parts.count == 2 else { continue }
            #expect(entry.hasPrefix("100"), "\(parts[1]) is neither a plain file nor an executable one")
            guard let content = try? Data(contentsOf: SourceTree.root.appending(path: String(parts[1]))) else { continue }
            #expect(content.firstRange(of: Data([0])) == nil, "\(parts[1]) is binary")
            #expect(content.count < 1 << 20, "\(parts[1]) is larger than 1 MiB")
        }
    }
}
