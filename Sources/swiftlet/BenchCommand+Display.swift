import Foundation
import LatencyBench
import Reporting

/// What a run shows while it runs: on a terminal one line that moves, elsewhere a line now and then. On standard error, so that standard output
/// is the result alone. Used by one thread.
final class RunDisplay {
    enum Style {
        /// Figures, as they move.
        case figures
        /// Before them a line that tells which run begins.
        case announcedFigures
        /// That line alone: nothing is asked of the generator's threads while they measure.
        case announcement
    }

    private let label: String
    private let isTerminal = isatty(STDERR_FILENO) == 1 && !["", "dumb"].contains(ProcessInfo.processInfo.environment["TERM"] ?? "xterm")
    private let style: Style
    private var lastFinished = 0
    private var lastElapsed = 0.0
    private var hasShown = false

    init(label: String, style: Style) {
        self.label = label
        self.style = style
    }

    /// Of `show`; a run without figures is over before.
    var intervalSeconds: Double { style == .announcement ? 1_000_000 : isTerminal ? 0.25 : 5 }

    /// Before the first `show`: who follows a log wants to know soon that it runs.
    var firstIntervalSeconds: Double { style == .announcement ? intervalSeconds : min(intervalSeconds, 1) }

    /// Tells which run begins: in place on a terminal, elsewhere as a line.
    func begin() {
        guard style != .figures else { return }
        write(isTerminal ? "\r\u{1b}[2K" + label.prefix(columns - 1) : label + "\n")
        hasShown = true
    }

    func show(_ progress: LoadRun.Progress) {
        let measured = progress.measurements
        let span = progress.elapsedSeconds - lastElapsed
        let finished = measured.finished + measured.warmUpFinished
        let rate = span > 0 ? Double(finished - lastFinished) / span : 0
        (lastFinished, lastElapsed) = (finished, progress.elapsedSeconds)
        let failed = measured.finished - measured.good
        let ttft = Distribution(measured.timeToFirstToken)
        var parts = [
            String(format: "%@ %6.1f s", label, progress.elapsedSeconds), "\(finished)/\(progress.total)",
            String(format: "%.1f/s", rate), "under way \(measured.underWay)",
            String(format: "TTFT p50 %.1f p99 %.1f ms", Double(ttft.p50) / 1e6, Double(ttft.p99) / 1e6),
        ]
        if failed > 0 { parts.append("failed \(failed)") }
        if let left = Self.secondsLeft(finished, progress) { parts.append(String(format: "about %.0f s left", left)) }
        if isTerminal {
            let share = progress.total > 0 ? min(1, Double(finished) / Double(progress.total)) : 0
            write("\r\u{1b}[2K" + Self.fitted(parts, share: share, columns: columns))
        } else {
            write(parts.joined(separator: "  ") + "\n")
        }
        hasShown = true
    }

    /// By what has been finished so far; nil before anything has.
    private static func secondsLeft(_ finished: Int, _ progress: LoadRun.Progress) -> Double? {
        guard finished > 0, finished < progress.total else { return nil }
        return progress.elapsedSeconds * Double(progress.total - finished) / Double(finished)
    }

    /// One line of the terminal, whose last column stays free lest it wrap: what stands last goes first, and the bar has what is left.
    static func fitted(_ parts: [String], share: Double, columns: Int) -> String {
        let room = max(1, columns - 1)
        var parts = parts
        while parts.count > 1, parts.joined(separator: "  ").count > room { parts.removeLast() }
        let text = String(parts.joined(separator: "  ").prefix(room))
        let width = min(20, room - text.count - 1)
        guard width > 3 else { return text }
        let filled = Int(share * Double(width))
        return String(repeating: "█", count: filled) + String(repeating: "░", count: width - filled) + " " + text
    }

    /// Asked each time, since a window is resized; a terminal that does not know has room for all.
    private var columns: Int {
        var size = winsize()
        guard ioctl(STDERR_FILENO, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0 else { return 1_000 }
        return Int(size.ws_col)
    }

    func finish() { if isTerminal, hasShown { write("\r\u{1b}[2K") } }

    private func write(_ text: String) { FileHandle.standardError.write(Data(text.utf8)) }
}
