import EventLoop
import HTTPTransport
import Routing
import Telemetry
import Wire

/// The load that engines report beside their answers (ORCA).
extension Exchange {
    /// Asks for it, when that is wanted and the client does not ask by itself. vLLM tells it with answers that are no streams.
    func askForLoadMetrics() {
        guard let format = worker.settings.loadMetricsFormat, mode == .collected, !isStreamRequested,
            !request.headers.has(.loadMetricsFormat)
        else { return }
        asksForLoadMetrics = true
        request.headers.append("endpoint-load-metrics-format", format.bytes, known: .loadMetricsFormat)
    }

    /// Tells the table what the head says, and takes it out of the answer unless the client is to see it.
    ///
    /// Budget of an answer without a report: two tests of a bit.
    @inline(__always)
    func takeLoadMetrics(_ headers: HeaderBlock) {
        if headers.has(.loadMetrics) || headers.has(.loadMetricsBinary) { readLoadMetrics(headers) }
    }

    private func readLoadMetrics(_ headers: HeaderBlock) {
        let metrics =
            headers.value(.loadMetrics).flatMap { LoadMetrics($0) }
            ?? headers.value(.loadMetricsBinary).flatMap { LoadMetrics($0, isBinary: true) }
        worker.metrics.counters.loadReports &+= metrics == nil ? 0 : 1
        worker.metrics.counters.unreadableLoadReports &+= metrics == nil ? 1 : 0
        if let metrics, let decision {
            let now = worker.loop.now
            let report = LoadReport(
                running: metrics.running, waiting: metrics.waiting, kvUsage: metrics.kvUsage,
                notBefore: now &- min(now, LoadReport.gaugeLagNanoseconds), madeAt: now)
            uncounted(worker.table).use { table in
                if let tokens = metrics.capacityTokens { table.updateKVCapacity(tokens: Int(min(tokens, 1e15)), of: decision.group) }
                table.reportLoad(report, of: decision.group, now: now)
            }
        }
        let strips =
            switch worker.settings.loadMetricsToClients {
            case .whenAsked: asksForLoadMetrics
            case .always: false
            case .never: true
            }
        guard strips else { return }
        headers.remove(.loadMetrics)
        headers.remove(.loadMetricsBinary)
    }
}

extension LoadMetricsFormat {
    var bytes: UnsafeRawBufferPointer {
        let text: StaticString =
            switch self {
            case .text: "TEXT"
            case .json: "JSON"
            case .binary: "BIN"
            }
        return UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount)
    }
}
