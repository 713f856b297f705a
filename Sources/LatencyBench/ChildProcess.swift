import Foundation
import Synchronization

/// A program that the bench started, with all that it starts in turn: one process group, ended as one. Its output goes to a file.
public final class ChildProcess: Sendable {
    /// Why a program did not start, or ended too early.
    public struct Failure: Error, CustomStringConvertible {
        public let description: String
    }

    private let name: String
    private let processID: pid_t
    private let log: URL
    /// Whether the leader was waited for: its id may be another's from then on.
    private let hasEnded = Mutex(false)

    /// - Parameter log: takes standard output and standard error.
    init(_ program: String, _ arguments: [String], environment: [String: String] = [:], log: URL) throws {
        name = (program as NSString).lastPathComponent
        self.log = log
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, log.path, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
        posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO)
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        // A group of its own: an interrupt at the terminal is for the bench, which ends what it started in order. The signals that the
        // bench ignores would stay ignored.
        var defaults = sigset_t()
        sigemptyset(&defaults)
        for number in [SIGINT, SIGTERM, SIGPIPE] { sigaddset(&defaults, number) }
        posix_spawnattr_setsigdefault(&attributes, &defaults)
        posix_spawnattr_setpgroup(&attributes, 0)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF))
        let whole = ProcessInfo.processInfo.environment.merging(environment) { $1 }.map { "\($0)=\($1)" }
        processID = try Self.withCStrings([program] + arguments) { argv in
            try Self.withCStrings(whole) { envp in
                var id: pid_t = 0
                let code = posix_spawn(&id, program, &actions, &attributes, argv, envp)
                guard code == 0 else { throw Failure(description: "cannot start \(program): \(String(cString: strerror(code)))") }
                return id
            }
        }
    }

    private static func withCStrings<Result>(
        _ strings: [String], _ body: ([UnsafeMutablePointer<CChar>?]) throws -> Result
    ) rethrows -> Result {
        let copies = strings.map { strdup($0) }
        defer { for copy in copies { free(copy) } }
        return try body(copies + [nil])
    }

    /// What it wrote so far.
    var output: String { (try? String(contentsOf: log, encoding: .utf8)) ?? "" }

    /// Throws, with the end of its output, when it runs no longer.
    func checkAlive() throws {
        guard reap(options: WNOHANG) else { return }
        throw Failure(description: "\(name) ended:\n\(output.suffix(2_000))")
    }

    /// Whether the leader has ended.
    private func reap(options: Int32) -> Bool {
        hasEnded.withLock { hasEnded in
            if hasEnded { return true }
            var status: Int32 = 0
            hasEnded = waitpid(processID, &status, options) == processID
            return hasEnded
        }
    }

    /// Asks it to end, and ends it when it does not within two seconds.
    public func stop() {
        if !reap(options: WNOHANG) {
            kill(-processID, SIGTERM)
            waitForEnd(seconds: 2)
        }
        // Its own children, too; the group's id is not given out again while one of them lives.
        kill(-processID, SIGKILL)
        _ = reap(options: 0)
    }

    /// Waits for its end, `seconds` at most.
    func waitForEnd(seconds: Double) {
        let end = Date().addingTimeInterval(seconds)
        while !reap(options: WNOHANG), Date() < end { usleep(5_000) }
    }

    /// Waits until `condition` gives something; throws when the program ends before, or `seconds` pass.
    func wait<Value>(seconds: Double, for what: String, until condition: () throws -> Value?) throws -> Value {
        let end = Date().addingTimeInterval(seconds)
        while true {
            if let value = try condition() { return value }
            try checkAlive()
            guard Date() < end else { throw Failure(description: "\(name): no \(what) within \(Int(seconds)) s:\n\(output.suffix(2_000))") }
            usleep(10_000)
        }
    }
}
