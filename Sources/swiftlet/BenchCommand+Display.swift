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
    private let isTerminal = isatty(STDERR_FILENO) == 1
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

    /// Tells which run begins: in place on a terminal, elsewhere as a line.
    func begin() {
        guard style != .figures else { return }
        write(isTerminal ? "\r\u{1b}[2K" + label : label + "\n")
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
        let figures = String(
            format: "%@ %6.1f s  %d/%d  %.1f/s  under way %d  TTFT p50 %.1f p99 %.1f ms", label, progress.elapsedSeconds, finished,
            progress.total, rate, measured.underWay, Double(ttft.p50) / 1e6, Double(ttft.p99) / 1e6)
        let line = figures + (failed > 0 ? "  failed \(failed)" : "")
        if isTerminal {
            let filled = progress.total > 0 ? min(20, finished * 20 / progress.total) : 0
            write("\r\u{1b}[2K" + String(repeating: "█", count: filled) + String(repeating: "░", count: 20 - filled) + " " + line)
        } else {
            write(line + "\n")
        }
        hasShown = true
    }

    func finish() { if isTerminal, hasShown { write("\r\u{1b}[2K") } }

    private func write(_ text: String) { FileHandle.standardError.write(Data(text.utf8)) }
}
