import CLinux
import Glibc

/// Tells when files may have changed. Runs on a control loop.
///
/// The folders are watched, not the files: files are replaced by renaming, and Kubernetes swaps a symbolic link beside them. What
/// inotify cannot see (another machine's write to a shared volume, a folder that was replaced itself) the look every half minute finds.
public final class FileWatcher: EventHandler {
    static let pollNanoseconds: UInt64 = 30_000_000_000

    private let files: [String]
    private let settleNanoseconds: UInt64
    private let mayHaveChanged: () -> Void
    private let descriptor: CInt

    /// `mayHaveChanged` is called when `settleNanoseconds` have passed since the last change in a folder, and now and then without one.
    public init(
        loop: EventLoop, files: [String], settleNanoseconds: UInt64 = 100_000_000, mayHaveChanged: @escaping () -> Void
    ) {
        self.files = files
        self.settleNanoseconds = settleNanoseconds
        self.mayHaveChanged = mayHaveChanged
        descriptor = files.isEmpty ? -1 : swl_inotify()
        super.init(loop: loop)
        guard !files.isEmpty else { return }
        if descriptor >= 0 { try? attach(descriptor: descriptor) }
        watchFolders()
        setDeadline(loop.now &+ Self.pollNanoseconds)
    }

    deinit { if descriptor >= 0 { close(descriptor) } }

    public override func socketReady(_ readiness: Readiness) {
        var buffer = [UInt8](repeating: 0, count: 4_096)
        while read(descriptor, &buffer, buffer.count) > 0 {}
        // Files change in several steps; the last one counts.
        setDeadline(loop.now &+ settleNanoseconds)
    }

    public override func deadlineReached() {
        watchFolders()
        setDeadline(loop.now &+ Self.pollNanoseconds)
        mayHaveChanged()
    }

    /// A folder that is watched already costs nothing.
    private func watchFolders() {
        guard descriptor >= 0 else { return }
        for file in files { _ = swl_watch_folder(descriptor, file.lastIndex(of: "/").map { String(file[...$0]) } ?? ".") }
    }
}
