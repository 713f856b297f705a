/// Renews TLS sources when their files change. Runs on a control loop.
public final class TLSReloader: EventHandler {
    /// A certificate may be there before its key: a fault is one when it is there for so long.
    static let faultNanoseconds: UInt64 = 1_000_000_000

    private struct Watched {
        let source: TLSSource
        /// What the files held when they were looked at last; nil when they could not be read.
        var seen: FileSnapshot?
        /// A fault that has not yet stood for long enough to be told, and the one told last.
        var suspected: TLSError?
        var reported: TLSError?
    }

    private let log: OperatorLog
    private var watched: [Watched]
    private var watcher: FileWatcher?
    /// Sources renewed since the start, and faults met.
    public private(set) var reloads: UInt64 = 0
    public private(set) var failedReloads: UInt64 = 0

    public init(loop: EventLoop, sources: [TLSSource], log: OperatorLog) {
        self.log = log
        watched = sources.map { Watched(source: $0, seen: try? FileSnapshot($0.files)) }
        super.init(loop: loop)
        watcher = FileWatcher(loop: loop, files: sources.flatMap(\.files)) { [unowned self] in refresh(isAsked: false) }
    }

    /// When the certificates now in use end, listed once each.
    public var expiries: [CertificateExpiry] {
        var found: [CertificateExpiry] = []
        for entry in watched { for expiry in entry.source.expiries where !found.contains(expiry) { found.append(expiry) } }
        return found
    }

    /// Looks at once, and renews also what has not changed: an operator asked for it.
    public func reload() { refresh(isAsked: true) }

    public override func deadlineReached() { refresh(isAsked: false) }

    private func refresh(isAsked: Bool) {
        var isInDoubt = false
        for index in watched.indices {
            look(at: index, isAsked: isAsked)
            if watched[index].suspected != nil { isInDoubt = true }
        }
        setDeadline(isInDoubt ? loop.now &+ Self.faultNanoseconds : nil)
    }

    private func look(at index: Int, isAsked: Bool) {
        let source = watched[index].source
        do throws(TLSError) {
            let contents = try FileSnapshot(source.files)
            // A fault that is still in doubt is looked at again; one that was told is not, until something changes.
            if contents == watched[index].seen, !isAsked, watched[index].suspected == nil { return }
            watched[index].seen = contents
            try source.install(contents)
            watched[index].suspected = nil
            watched[index].reported = nil
            reloads &+= 1
            log.notice("TLS files reloaded: \(source.files.joined(separator: ", "))")
        } catch {
            if error == watched[index].reported, !isAsked { return }
            guard isAsked || error == watched[index].suspected else {
                watched[index].suspected = error
                return
            }
            watched[index].suspected = nil
            watched[index].reported = error
            failedReloads &+= 1
            log.warning("TLS files not reloaded, the old ones stay in use: \(error)")
        }
    }
}
