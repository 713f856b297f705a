import Foundation
import Testing

/// Holds the committed protobuf-c code to the .proto files.
@Suite(.enabled(if: SourceTree.exists("proto"))) struct GeneratedCodeTests {
    private func protos() throws -> [String] {
        try SourceTree.files("proto", ["proto"]).map { String($0.path.dropFirst("proto/".count)) }
    }

    @Test func itWasGeneratedFromTheseFiles() throws {
        let recorded = try SourceTree.text("Sources/Protos/generated-from.sha256")
        let names = recorded.split(separator: "\n").compactMap { $0.split(separator: " ").last.map(String.init) }
        #expect(try names.sorted() == protos(), "make proto")
        let check = try SourceTree.run(["sha256sum", "--check", "--strict", "../Sources/Protos/generated-from.sha256"], in: "proto")
        #expect(check.status == 0, "make proto: a .proto file is not the one that the code was generated from")
    }

    /// The hash above would not see an edit of the generated code.
    @Test func generatingItAgainChangesNothing() throws {
        let folder = FileManager.default.temporaryDirectory.appending(path: "swiftlet-protos-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        let run = try SourceTree.run(["protoc-c", "--c_out=\(folder.path())"] + protos(), in: "proto")
        try #require(run.status == 0, "protoc-c is missing (make deps) or refuses a .proto file")
        let committed = try SourceTree.files("Sources/Protos", ["c", "h"]).filter(\.isGenerated)
        let generated = try FileManager.default.contentsOfDirectory(atPath: folder.path())
        #expect(committed.map { URL(filePath: $0.path).lastPathComponent }.sorted() == generated.sorted())
        for file in committed {
            let name = URL(filePath: file.path).lastPathComponent
            let fresh = try? String(contentsOf: folder.appending(path: name), encoding: .utf8)
            #expect(fresh == file.text, "make proto: \(file.path) has drifted")
        }
    }
}
