import ArgumentParser
import Foundation

/// A file that a command was asked to write, with the flag that named it.
struct OutputFile {
    /// Why it could not be written.
    struct Failure: Error { let reason: String }

    let flag: String
    let path: String

    /// Nil when the flag was not given.
    init?(_ flag: String, _ path: String?) {
        guard let path else { return nil }
        self.flag = flag
        self.path = path
    }

    /// Tries them before a run that takes minutes. Changes no file that is there and leaves none behind that was not.
    static func check(_ files: [OutputFile?]) throws {
        var known: Set<String> = []
        for file in files.compactMap({ $0 }) {
            let whole = URL(fileURLWithPath: file.path).standardizedFileURL.path
            guard file.path.hasPrefix("/dev/") || known.insert(whole).inserted else {
                throw ValidationError("\(file.flag): '\(file.path)' is named by another option, too")
            }
            if let reason = file.refusal { throw ValidationError("\(file.flag): cannot write '\(file.path)': \(reason)") }
        }
    }

    private var refusal: String? {
        var status = stat()
        let isNew = lstat(path, &status) != 0
        // Whoever reads a pipe would take a second opening for its end.
        if !isNew, stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFIFO {
            return access(path, W_OK) == 0 ? nil : String(cString: strerror(errno))
        }
        let descriptor = open(path, O_WRONLY | O_CREAT | O_NONBLOCK | O_CLOEXEC, 0o666)
        guard descriptor >= 0 else { return errno == ENXIO ? nil : String(cString: strerror(errno)) }
        close(descriptor)
        if isNew { unlink(path) }
        return nil
    }

    /// Each by itself, so that one that fails costs no other: tells of every failure in a sentence and ends with status 1 after the last.
    static func write(_ files: [(file: OutputFile?, content: () throws -> Data)]) throws {
        var hasFailed = false
        for (file, content) in files {
            guard let file else { continue }
            do { try file.write(try content()) } catch {
                let reason = (error as? Failure)?.reason ?? "\(error)"
                FileHandle.standardError.write(Data("\(file.flag): could not write '\(file.path)': \(reason)\n".utf8))
                hasFailed = true
            }
        }
        if hasFailed { throw ExitCode(1) }
    }

    private func write(_ data: Data) throws {
        let descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o666)
        guard descriptor >= 0 else { throw Failure(reason: String(cString: strerror(errno))) }
        defer { close(descriptor) }
        try data.withUnsafeBytes { bytes in
            var rest = bytes[...]
            while !rest.isEmpty {
                let count = Glibc.write(descriptor, UnsafeRawBufferPointer(rebasing: rest).baseAddress, rest.count)
                if count < 0, errno == EINTR { continue }
                guard count > 0 else { throw Failure(reason: String(cString: strerror(errno))) }
                rest = rest.dropFirst(count)
            }
        }
    }
}
