import Glibc

/// Writes one JSON line per exchange to a descriptor that several loops and programs may share. Confined to one loop.
///
/// Budget per request: no allocation; two system calls (poll, write) per batch of lines, not per line.
///
/// The loop never waits for whoever reads the log. A pipe takes up to `PIPE_BUF` bytes at once without waiting when poll(2) calls it
/// writable, and keeps them together (pipe(7)); so every line fits in `PIPE_BUF`, batches end with a line, and lines of
/// different loops never mix. Lines that find neither a reader nor room are dropped and counted. A regular file takes everything
/// in one write. SIGPIPE must be ignored by the process.
public final class AccessLogWriter {
    /// A whole line with its newline; longer strings are clipped to keep it.
    public static let maximumLineBytes = Int(PIPE_BUF)

    public private(set) var linesDropped: UInt64 = 0

    private let descriptor: Int32
    private let isRegularFile: Bool
    private var buffer: LineBuffer
    /// The last write ended inside a line: its rest must go out before anything else.
    private var isMidLine = false

    /// - Parameters:
    ///   - descriptor: borrowed; its flags are left as they are, since others may share it.
    ///   - capacityBytes: what is held at most while nobody reads, at least two lines.
    public init(descriptor: Int32, capacityBytes: Int = 64 << 10) {
        self.descriptor = descriptor
        buffer = LineBuffer(capacity: max(capacityBytes, 2 * Self.maximumLineBytes))
        var status = stat()
        isRegularFile = fstat(descriptor, &status) == 0 && status.st_mode & S_IFMT == S_IFREG
    }

    /// Bytes that wait for `flush`.
    public var pendingBytes: Int { buffer.count }

    /// Formats a line into the buffer; a full buffer is flushed first. Call `flush` when the loop has nothing more to do.
    public func append(_ record: borrowing AccessRecord) {
        if buffer.room < Self.maximumLineBytes {
            flush()
            buffer.compact()
        }
        let before = buffer.count
        if buffer.room >= Self.maximumLineBytes { buffer.append(record) }
        let length = buffer.count - before
        if length == 0 || buffer.isOverfull || length > Self.maximumLineBytes {
            buffer.rollBack(toCount: before)
            linesDropped &+= 1
        }
    }

    /// Writes whole lines for as long as the descriptor takes them at once; the rest stays.
    public func flush() {
        while buffer.count > 0 {
            let batch = isRegularFile ? buffer.count : endOfLastLine(within: Self.maximumLineBytes)
            guard isRegularFile || isWritable() else { return }
            let written = write(descriptor, buffer.bytes.baseAddress, batch)
            if written > 0 {
                isMidLine = buffer.bytes[written - 1] != UInt8(ascii: "\n")
                buffer.removeFirst(written)
            } else if written < 0 && errno == EINTR {
                continue
            } else if written < 0 && errno == EAGAIN {
                return
            } else {
                return dropBuffered()
            }
        }
    }

    /// Gives up what the descriptor refuses for good, but for the rest of a line that was begun.
    private func dropBuffered() {
        let rest = isMidLine ? (buffer.bytes.firstIndex(of: UInt8(ascii: "\n")) ?? -1) + 1 : 0
        for byte in buffer.bytes[rest...] where byte == UInt8(ascii: "\n") { linesDropped &+= 1 }
        buffer.rollBack(toCount: rest)
    }

    private func endOfLastLine(within limit: Int) -> Int {
        let window = buffer.bytes.prefix(limit)
        return (window.lastIndex(of: UInt8(ascii: "\n")) ?? window.count - 1) + 1
    }

    private func isWritable() -> Bool {
        var request = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
        // A descriptor in error is "writable": the write then says what is wrong.
        return poll(&request, 1, 0) > 0
    }
}
