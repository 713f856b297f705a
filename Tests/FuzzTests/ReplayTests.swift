import Foundation
import FuzzTargets
import Testing

/// Every committed input goes through its target: the seeds that fuzzing starts from, and each input that once broke a promise.
@Suite struct ReplayTests {
    private static let folder = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().appending(path: "Fuzz")

    private static func inputs(_ kind: String, of target: FuzzTarget) throws -> [(name: String, bytes: [UInt8])] {
        let folder = folder.appending(path: kind).appending(path: target.name)
        let names = (try? FileManager.default.contentsOfDirectory(atPath: folder.path())) ?? []
        return try names.sorted().map { name in
            let text = try String(contentsOf: folder.appending(path: name), encoding: .utf8)
            return (name, try #require(EscapedBytes.decode(text), "\(kind)/\(target.name)/\(name) is not escaped as it should be"))
        }
    }

    @Test(arguments: FuzzTarget.all.map(\.name)) func committedInputsKeepTheirPromises(name: String) throws {
        let target = try #require(FuzzTarget.all.first { $0.name == name })
        let seeds = try Self.inputs("corpus", of: target)
        #expect(!seeds.isEmpty, "a target without seeds")
        for (file, bytes) in try seeds + Self.inputs("crashes", of: target) {
            do {
                try bytes.withUnsafeBytes { try target.run($0) }
            } catch {
                Issue.record("\(name)/\(file): \(error)")
            }
        }
    }

    @Test func escapingLosesNothing() {
        let bytes = (0...255).map { UInt8($0) } + Array("\\x41 plain\r\n".utf8)
        #expect(EscapedBytes.decode(EscapedBytes.encode(bytes)) == bytes)
        #expect(EscapedBytes.decode("\\q") == nil)
        #expect(EscapedBytes.decode("\\x4") == nil)
    }
}
