import CLinux
import Dispatch
public import EventLoop
import Glibc
public import Routing

/// A file that names groups and is read again whenever it changes. A file that cannot be read or makes no sense changes nothing: the
/// groups of the last good one stay, and the operator is told why, with the line.
public final class GroupFile {
    /// Larger is no list of groups.
    static let maximumBytes = 16 << 20

    /// What became of a reading, off the loop.
    public struct Contents: Sendable {
        public var groups: [GroupDescription]
        public var addresses: [Endpoint: SocketAddress]

        public init(groups: [GroupDescription], addresses: [Endpoint: SocketAddress]) {
            self.groups = groups
            self.addresses = addresses
        }
    }

    /// Something in the file is wrong; the text names it, its line and what was expected.
    public struct Fault: Error, Equatable {
        public var text: String
        public init(_ text: String) { self.text = text }
    }

    private let path: String
    private let groups: StaticGroups
    private let directory: GroupDirectory
    private let log: OperatorLog
    private let parse: @Sendable (_ text: String) -> Result<Contents, Fault>
    private let addressesFound: ([Endpoint: SocketAddress]) -> Void
    private let mailbox: Mailbox
    private var watcher: FileWatcher?
    private var seen: [UInt8]?
    private var reported: String?
    /// One reading at a time; a change meanwhile asks for another.
    private var isReading = false
    private var isOutdated = false

    /// - Parameters:
    ///   - parse: of the whole file; called on a queue of Dispatch, and may block while it resolves names.
    ///   - addressesFound: is told before the groups are.
    public init(
        loop: EventLoop, path: String, groups: StaticGroups, directory: GroupDirectory, log: OperatorLog,
        parse: @escaping @Sendable (_ text: String) -> Result<Contents, Fault>,
        addressesFound: @escaping ([Endpoint: SocketAddress]) -> Void
    ) {
        self.path = path
        self.groups = groups
        self.directory = directory
        self.log = log
        self.parse = parse
        mailbox = loop.mailbox
        self.addressesFound = addressesFound
        watcher = FileWatcher(loop: loop, files: [path], settleNanoseconds: 10_000_000) { [unowned self] in read() }
        loop.addService(self)
        read()
    }

    /// Looks at the file, off the loop.
    private func read() {
        guard !isReading else {
            isOutdated = true
            return
        }
        isReading = true
        let (path, parse, mailbox, seen) = (path, parse, mailbox, seen)
        DispatchQueue.global().async {
            var contents: Result<Contents, Fault>?
            let bytes = Self.bytes(of: path)
            switch bytes {
            case .success(let bytes): if bytes != seen { contents = parse(String(decoding: bytes, as: UTF8.self)) }
            case .failure(let fault): contents = .failure(fault)
            }
            let result = contents
            mailbox.post { loop in loop.service(GroupFile.self)?.wasRead(try? bytes.get(), result) }
        }
    }

    private func wasRead(_ bytes: [UInt8]?, _ contents: Result<Contents, Fault>?) {
        isReading = false
        seen = bytes
        switch contents {
        case nil where reported == nil: directory.heard(groups.source)
        case nil: break
        case .success(let contents):
            addressesFound(contents.addresses)
            groups.replace(contents.groups)
            reported = nil
            log.notice("\(path): \(contents.groups.count) groups")
        case .failure(let fault):
            directory.failed(groups.source, fault.text)
            if fault.text != reported { log.warning("\(path) is not taken, the last good one stays in use: \(fault.text)") }
            reported = fault.text
        }
        if isOutdated {
            isOutdated = false
            read()
        }
    }

    private static func bytes(of path: String) -> Result<[UInt8], Fault> {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else { return .failure(Fault("\(path): \(String(cString: strerror(errno)))")) }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = Glibc.read(descriptor, &chunk, chunk.count)
            if count == 0 { return .success(bytes) }
            guard count > 0 else { return .failure(Fault("\(path): \(String(cString: strerror(errno)))")) }
            bytes += chunk[..<count]
            guard bytes.count <= maximumBytes else { return .failure(Fault("\(path): larger than 16 MiB")) }
        }
    }
}
