import Dispatch
public import EventLoop
import Foundation
public import Routing

/// Keeps what discovery has found in a file, so that a start that finds nobody to ask serves what was there last. The groups of a source
/// stand in until that source has the whole picture, whatever becomes of the others; those of which nobody knows whose they were, until
/// all have it. Lives on the control loop.
public final class GroupSnapshot: EventHandler {
    /// What the file holds.
    public struct Contents: Sendable, Equatable {
        public var groups: [GroupDescription]
        /// By the names of groups: the source that had them.
        public var sources: [String: String]

        public init(groups: [GroupDescription], sources: [String: String]) {
            self.groups = groups
            self.sources = sources
        }
    }

    /// Changes come in swarms; one file tells of all.
    static let settleNanoseconds: UInt64 = 1_000_000_000

    private let path: String
    private let directory: GroupDirectory
    private let log: OperatorLog
    private let render: @Sendable (_ contents: Contents) -> String
    private let source: Int
    /// By the name of the group: whose it was; empty: unknown.
    private var standIns: [String: String] = [:]
    private var written: String?
    private var generation: UInt64 = 0
    let queue = DispatchQueue(label: "swiftlet.snapshot")

    /// - Parameters:
    ///   - parse: of the whole file.
    ///   - render: on a queue of Dispatch: what `parse` reads back to equal contents.
    public init(
        loop: EventLoop, path: String, directory: GroupDirectory, log: OperatorLog,
        parse: (_ text: String) -> Result<Contents, GroupFile.Fault>,
        render: @escaping @Sendable (_ contents: Contents) -> String
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
        case .success(let contents):
            log.notice("\(path): \(contents.groups.count) groups of last time stand in until discovery has its own")
            for group in contents.groups {
                standIns[group.name] = contents.sources[group.name] ?? ""
                let found = DiscoveredGroup(
                    name: group.name, description: group, members: [], obstacle: group.isReady ? nil : "it was not ready", nodes: [])
                directory.set([found], unit: group.name, of: source)
            }
            directory.observeSync { [weak self] in self?.giveWay() }
        case .failure(let fault):
            directory.failed(source, fault.text)
            log.warning("\(path) is no use as a snapshot: \(fault.text)")
        }
    }

    /// A source has the whole picture: in the same step as its groups come, those that stood in for them go.
    private func giveWay() {
        for name in standIns.filter({ directory.hasSynced || directory.hasSynced(sourceNamed: $0.value) }).keys {
            standIns[name] = nil
            directory.set([], unit: name, of: source)
        }
    }

    /// Writes down what was found when it is another. Before anybody has the whole picture the file knows more.
    public override func deadlineReached() {
        setDeadline(loop.now &+ Self.settleNanoseconds)
        guard directory.hasAnySynced(besides: ["static", directory.sources[source].name]) else { return }
        guard directory.generation != generation else { return }
        generation = directory.generation
        setDeadline(nil)
        let contents = contents()
        let (path, log, render, written, mailbox) = (path, log, render, written, loop.mailbox)
        queue.async {
            let begin = DispatchTime.now().uptimeNanoseconds
            let text = render(contents)
            // Atomically: beside the old file, then in its place.
            do { if text != written { try Data(text.utf8).write(to: URL(filePath: path), options: .atomic) } } catch {
                log.warning("\(path): the snapshot cannot be written: \(error.localizedDescription)")
            }
            let took = DispatchTime.now().uptimeNanoseconds &- begin
            mailbox.post { loop in loop.service(GroupSnapshot.self)?.wrote(text, took: took) }
        }
    }

    /// What still stands in stays with the source that had it.
    private func contents() -> Contents {
        let own = directory.sources[source].name
        var contents = Contents(groups: [], sources: [:])
        for (group, source) in directory.descriptions(withoutSource: "static") {
            contents.groups.append(group)
            let name = source == own ? standIns[group.name] ?? "" : source
            if !name.isEmpty { contents.sources[group.name] = name }
        }
        contents.groups.sort { $0.name < $1.name }
        return contents
    }

    /// Ten thousand groups that change all the time must not keep a core busy with telling of it.
    private func wrote(_ text: String, took: UInt64) {
        written = text
        setDeadline(loop.now &+ max(Self.settleNanoseconds, 50 &* took))
    }
}
