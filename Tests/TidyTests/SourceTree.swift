import Foundation

/// The package on disk, found from where this file was compiled.
enum SourceTree {
    static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

    struct File: Sendable {
        /// Relative to the root.
        let path: String
        let text: String

        var lines: [Substring] { text.split(separator: "\n", omittingEmptySubsequences: false) }
        /// The folder below `Sources`, for a file there.
        var target: String { path.split(separator: "/").dropFirst().first.map(String.init) ?? "" }
        var isGenerated: Bool { path.contains(".pb-c.") }
    }

    /// Text files below `folder` whose name ends with one of `extensions`, in order of their paths.
    static func files(_ folder: String, _ extensions: Set<String>) throws -> [File] {
        let base = root.appending(path: folder)
        let names = FileManager.default.enumerator(atPath: base.path())?.compactMap { $0 as? String } ?? []
        return try names.filter { extensions.contains(URL(filePath: $0).pathExtension) }.sorted().map { name in
            File(path: "\(folder)/\(name)", text: try text("\(folder)/\(name)"))
        }
    }

    static func text(_ path: String) throws -> String {
        try String(contentsOf: root.appending(path: path), encoding: .utf8)
    }

    static func folders(_ folder: String) throws -> [String] {
        try FileManager.default.contentsOfDirectory(at: root.appending(path: folder), includingPropertiesForKeys: [.isDirectoryKey])
            .filter { try $0.resourceValues(forKeys: [.isDirectoryKey]).isDirectory == true }
            .map(\.lastPathComponent).sorted()
    }

    /// Runs a program in the root, or in a folder below it, and gives its exit status and what it printed.
    static func run(_ arguments: [String], in folder: String = ".") throws -> (status: Int32, output: Data) {
        let process = Process()
        process.executableURL = URL(filePath: "/usr/bin/env")
        process.arguments = arguments
        process.currentDirectoryURL = root.appending(path: folder)
        let pipe = Pipe()
        process.standardOutput = pipe
        process.standardError = FileHandle.nullDevice
        try process.run()
        let output = pipe.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        return (process.terminationStatus, output)
    }

    static func exists(_ path: String) -> Bool {
        FileManager.default.fileExists(atPath: root.appending(path: path).path())
    }
}
