import Dispatch
public import EventLoop
import Foundation
public import Routing

/// Keeps what discovery has found in a file, so that a start that finds nobody to ask serves what was there last: a file of groups like
/// any other. Its groups stand in until every source had the whole picture once. Lives on the control loop.
public final class GroupSnapshot: EventHandler {
    /// Changes come in swarms; one file tells of all.
    static let settleNanoseconds: UInt64 = 1_000_000_000

    private let path: String
    private let directory: GroupDirectory
    private let log: OperatorLog
    private let render: @Sendable (_ groups: [GroupDescription]) -> String
    private let source: Int
    private var isStandingIn = false
    private var written: String?
    private var generation: UInt64 = 0
    private let queue = DispatchQueue(label: "swiftlet.snapshot")

    /// - Parameters:
    ///   - parse: of the whole file.
    ///   - render: on a queue of Dispatch: what `parse` reads back to equal groups.
    public init(
        loop: EventLoop, path: String, directory: GroupDirectory, log: OperatorLog,
        parse: (_ text: String) -> Result<[GroupDescription], GroupFile.Fault>,
        render: @escaping @Sendable (_ groups: [GroupDescription]) -> String
    ) {
        self.path = path
        self.directory = directory
        self.log = log
        self.render = render
        source = directory.addSource("snapshot \(path)", standsIn: true)
        super.init(loop: loop)
        directory.heard(source, hasSynced: true)
        loop.addService(self)
        setDeadline(loop.now &+ Self.settleNanoseconds)
        guard let data = FileManager.default.contents(atPath: path) else { return }
        switch parse(String(decoding: data, as: UTF8.self)) {
        case .success(let groups):
            isStandingIn = true
            log.notice("\(path): \(groups.count) groups of last time stand in until discovery has its own")
            let found = groups.map { group in
                DiscoveredGroup(
                    name: group.name, description: group, members: [], obstacle: group.isReady ? nil : "it was not ready", nodes: [])
            }
            directory.replace(Dictionary(found.map { ($0.name, [$0]) }, uniquingKeysWith: { first, _ in first }), of: source)
        case .failure(let fault):
            directory.failed(source, fault.text)
            log.warning("\(path) is no use as a snapshot: \(fault.text)")
        }
    }

    /// Gives way to what was found, and writes it down when it is another.
    public override func deadlineReached() {
        setDeadline(loop.now &+ Self.settleNanoseconds)
        guard directory.hasSynced else { return }
        if isStandingIn {
            isStandingIn = false
            directory.replace([:], of: source)
        }
        guard directory.generation != generation else { return }
        generation = directory.generation
        setDeadline(nil)
        let groups = directory.descriptions(withoutSource: "static")
        let (path, log, render, written, mailbox) = (path, log, render, written, loop.mailbox)
        queue.async {
            let begin = DispatchTime.now().uptimeNanoseconds
            let text = render(groups.sorted { $0.name < $1.name })
            // Atomically: beside the old file, then in its place.
            do { if text != written { try Data(text.utf8).write(to: URL(filePath: path), options: .atomic) } } catch {
                log.warning("\(path): the snapshot cannot be written: \(error.localizedDescription)")
            }
            let took = DispatchTime.now().uptimeNanoseconds &- begin
            mailbox.post { loop in loop.service(GroupSnapshot.self)?.wrote(text, took: took) }
        }
    }

    /// Ten thousand groups that change all the time must not keep a core busy with telling of it.
    private func wrote(_ text: String, took: UInt64) {
        written = text
        setDeadline(loop.now &+ max(Self.settleNanoseconds, 50 &* took))
    }
}
