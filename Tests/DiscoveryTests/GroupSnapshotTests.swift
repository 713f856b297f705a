import EventLoop
import Foundation
import Routing
import Testing

@testable import Discovery

@Suite struct GroupSnapshotTests {
    /// One line for each group: name, host and source.
    private static func parse(_ text: String) -> Result<GroupSnapshot.Contents, GroupFile.Fault> {
        var contents = GroupSnapshot.Contents(groups: [], sources: [:])
        for line in text.split(separator: "\n") {
            let words = line.split(separator: "|", omittingEmptySubsequences: false).map(String.init)
            contents.groups.append(GroupDescription(name: words[0], leader: Endpoint(host: words[1], port: 8000)))
            if !words[2].isEmpty { contents.sources[words[0]] = words[2] }
        }
        return .success(contents)
    }

    @Sendable private static func render(_ contents: GroupSnapshot.Contents) -> String {
        contents.groups.map { "\($0.name)|\($0.leader.host)|\(contents.sources[$0.name] ?? "")\n" }.joined()
    }

    private final class World {
        let loop: EventLoop
        let table = RoutingTable(policy: .leastCost, seed: 1)
        let directory: GroupDirectory
        let path = FileManager.default.temporaryDirectory.appending(path: "snapshot-\(UUID().uuidString)").path
        let snapshot: GroupSnapshot
        let first: Int
        let second: Int

        init(_ text: String) throws {
            loop = try EventLoop()
            directory = GroupDirectory(loop: loop, table: table)
            try Data(text.utf8).write(to: URL(filePath: path))
            snapshot = GroupSnapshot(
                loop: loop, path: path, directory: directory, log: OperatorLog(), parse: GroupSnapshotTests.parse,
                render: GroupSnapshotTests.render)
            first = directory.addSource("first")
            second = directory.addSource("second")
            directory.turnEnded()
        }

        deinit { try? FileManager.default.removeItem(atPath: path) }

        func find(_ names: String..., by source: Int, host: String = "10.0.0.9", isWhole: Bool = true) {
            let groups = names.map { name in
                let description = GroupDescription(name: name, leader: Endpoint(host: host, port: 8000))
                return (name, [DiscoveredGroup(name: name, description: description, members: [], obstacle: nil, nodes: [])])
            }
            directory.replace(Dictionary(uniqueKeysWithValues: groups), of: source)
            directory.heard(source, hasSynced: isWhole)
            directory.turnEnded()
        }

        /// The last byte of each leader's address.
        var leaders: [String: String] {
            Dictionary(uniqueKeysWithValues: table.groups(now: 0).map { ($0.name, String($0.leader.host.suffix(1))) })
        }

        /// What is in the file after the next look.
        func written() throws -> String {
            snapshot.deadlineReached()
            snapshot.queue.sync {}
            return try String(contentsOfFile: path, encoding: .utf8)
        }
    }

    @Test func eachSourceReplacesItsOwnAtOnceAndTheOthersStay() throws {
        let world = try World("a|10.0.0.1|first\nb|10.0.0.1|first\nc|10.0.0.1|second\nd|10.0.0.1|\ne|10.0.0.1|removed\n")
        #expect(world.leaders.count == 5)
        // Before it has the whole picture its own stay, and what it has counts already.
        world.find("a", by: world.first, isWhole: false)
        #expect(world.leaders == ["a": "9", "b": "1", "c": "1", "d": "1", "e": "1"])
        world.find("a", by: world.first)
        #expect(world.leaders == ["a": "9", "c": "1", "d": "1", "e": "1"])
        #expect(try world.written() == "a|10.0.0.9|first\nc|10.0.0.1|second\nd|10.0.0.1|\ne|10.0.0.1|removed\n")
        // The second never has it: a start after this one knows as much.
        let next = try World(String(contentsOfFile: world.path, encoding: .utf8))
        #expect(next.leaders.count == 4)
        next.find(by: next.second)
        #expect(next.leaders == ["a": "9", "d": "1", "e": "1"])
        next.find("a", by: next.first, host: "10.0.0.8")
        #expect(next.leaders == ["a": "8"])
        #expect(try next.written() == "a|10.0.0.8|first\n")
    }

    @Test func nothingIsWrittenBeforeAnybodyHasTheWholePicture() throws {
        let text = "a|10.0.0.1|first\n"
        let world = try World(text)
        world.find("b", by: world.second, isWhole: false)
        #expect(try world.written() == text)
        world.find("b", by: world.second)
        #expect(try world.written() == "a|10.0.0.1|first\nb|10.0.0.9|second\n")
    }
}
