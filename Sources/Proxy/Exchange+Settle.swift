import EventLoop
import HTTPTransport
import Routing
import Telemetry
import Wire

extension Exchange {
    /// Ends the exchange's account, whatever its end was: gives the booking back, learns, records. Once.
    func settle(_ outcome: ExchangeOutcome) {
        guard !isSettled else { return }
        isSettled = true
        isHeadHeld = false
        isMessageAwaited = false
        if let ticket {
            self.ticket = nil
            worker.held.withdraw(ticket)
            noteWait()
        }
        if callDeadline.at != 0 { worker.callDeadlines.remove(self) }
        if mode == .health { worker.health.remove(self) }
        release(outcome)
        record(outcome)
        discardBody()
        heldBytes.removeAll()
        recycleIfEnded()
    }

    private func release(_ outcome: ExchangeOutcome) {
        guard let decision else { return }
        let now = worker.loop.now
        // The prompt of a call is held where tokens came of it, and it tells only in its trailers how it went.
        let isAnswered = call == nil || callEnd == .ok && firstTokenAt != 0
        if outcome == .completed, mode != .tunnel, responseStatus < 400, isAnswered {
            let usage = scanner.usage.map {
                Usage(promptTokens: $0.promptTokens, cachedTokens: $0.cachedTokens, completionTokens: $0.completionTokens)
            }
            uncounted(worker.table).use {
                $0.settle(decision.lease, usage: usage, events: scanner.dataEvents, isHeldBack: isHeldBack, now: now)
            }
        } else {
            worker.table.cancel(decision.lease, now: now, prefixHeld: firstTokenAt != 0, isServerError: isServerError(outcome))
        }
    }

    /// Whether the engine failed before it answered. 503 and 529 say that it is full, 501 and 505 that it never does such a thing.
    private func isServerError(_ outcome: ExchangeOutcome) -> Bool {
        if outcome == .engineError || outcome == .upstreamReset { return firstTokenAt == 0 }
        guard outcome == .completed else { return false }
        if isGRPC { return callEnd == .failedByEngine && firstTokenAt == 0 }
        return responseStatus == 500 || responseStatus == 502 || responseStatus == 504
    }

    // MARK: Recording

    /// Counts the exchange under its model and its group; a retry moves it.
    func record(_ decision: Decision) { uncounted(worker.metrics).use { record(decision, in: $0) } }

    private func record(_ decision: Decision, in metrics: LoopMetrics) {
        metrics.decided(decision.reason.index)
        let model = worker.probe.model.map { name in uncounted(metrics.models).use { $0.intern(name) } } ?? LabelTable.other
        let group = uncounted(worker).use { $0.label(of: decision.group) }
        let series = metrics.series(SeriesKey(model: modelLabel ?? model, group: group))
        modelLabel = modelLabel ?? model
        if let old = self.series { metrics.requestMoved(from: old, to: series) } else { metrics.requestStarted(series) }
        self.series = series
    }

    func record(_ failure: HTTPTransport.UpstreamFailure, in group: GroupID) {
        let kind: Telemetry.UpstreamFailure =
            switch failure {
            case .connectFailed: .connectRefused
            case .tlsFailed: .tls
            case .timeout: .timeout
            case .protocolError: .protocolError
            case .staleConnection, .refusedStream, .outOfDescriptors: .resetBeforeAnswer
            case .overloaded: .saturated
            case .reset: isResponseStarted ? .resetDuringAnswer : .resetBeforeAnswer
            }
        recordFailure(kind, in: group)
    }

    func recordFailure(_ kind: Telemetry.UpstreamFailure, in group: GroupID) {
        worker.metrics.upstreamFailed(kind, group: worker.label(of: group))
    }

    private func record(_ outcome: ExchangeOutcome) { uncounted(worker.metrics).use { record(outcome, in: $0) } }

    private func record(_ outcome: ExchangeOutcome, in metrics: LoopMetrics) {
        let duration = worker.loop.now &- startedAt
        let status = isResponseStarted ? responseStatus : 0
        metrics.counters.downstreamBytesReceived &+= UInt64(bodyBytesReceived)
        metrics.counters.downstreamBytesSent &+= UInt64(responseBytes)
        let series: SeriesIndex
        if let counted = self.series {
            series = counted
        } else {
            series = metrics.series(SeriesKey(model: modelLabel ?? LabelTable.other, group: LabelTable.other))
            metrics.requestStarted(series)
        }
        metrics.requestFinished(series, status: status, outcome: outcome, durationNanoseconds: duration)
        let usage = scanner.usage
        if let usage {
            metrics.tokens(
                series, prompt: usage.promptTokens, cached: usage.cachedTokens ?? 0,
                predictedCached: decision?.predictedCachedTokens ?? 0, completion: usage.completionTokens)
        }
        if let log = worker.accessLog { write(outcome, status: status, duration: duration, to: log) }
    }

    private func write(_ outcome: ExchangeOutcome, status: Int, duration: UInt64, to log: AccessLog) {
        let metrics = worker.metrics
        var record = AccessRecord()
        record.wallClockNanoseconds = worker.loop.wallClock()
        record.requestID = requestID
        record.method = request.methodBytes
        record.path = request.path
        record.protocolName = isGRPC ? "gRPC" : request.version == .http2 ? "HTTP/2" : request.version == .http11 ? "HTTP/1.1" : "HTTP/1.0"
        record.status = status
        if let modelLabel, modelLabel != LabelTable.other { record.model = metrics.models.bytes(of: modelLabel) }
        record.attempts = attemptsMade
        record.isStream = isStreamRequested
        record.bytesIn = UInt64(bodyBytesReceived)
        record.bytesOut = UInt64(responseBytes)
        if let usage = scanner.usage {
            record.promptTokens = usage.promptTokens
            record.cachedTokens = usage.cachedTokens
            record.completionTokens = usage.completionTokens
        }
        record.heldNanoseconds = heldNanoseconds
        if firstTokenAt != 0 { record.timeToFirstTokenNanoseconds = firstTokenAt &- startedAt }
        record.durationNanoseconds = duration
        record.outcome = outcome
        var client = clientAddress
        var endpoint = ""
        if let decision {
            record.group = metrics.groups.bytes(of: worker.label(of: decision.group))
            record.reason = decision.reason.label
            endpoint = decision.endpoint.description
        }
        client.withUTF8 { client in
            endpoint.withUTF8 { endpoint in
                record.client = UnsafeRawBufferPointer(client)
                record.endpoint = UnsafeRawBufferPointer(endpoint)
                log.append(record)
            }
        }
    }
}

extension DecisionReason {
    /// Its place in `allCases`, which is the order of the counters.
    var index: Int {
        switch self {
        case .onlyGroup: 0
        case .cost: 1
        case .prefix: 2
        case .roundRobin: 3
        case .random: 4
        case .leastRequest: 5
        case .powerOfTwo: 6
        case .consistentHash: 7
        case .session: 8
        case .pinned: 9
        case .cold: 10
        case .saturated: 11
        }
    }

    /// Its raw value, without a String.
    var label: StaticString {
        switch self {
        case .onlyGroup: "only_group"
        case .cost: "cost"
        case .prefix: "prefix"
        case .roundRobin: "round_robin"
        case .random: "random"
        case .leastRequest: "least_request"
        case .powerOfTwo: "power_of_two"
        case .consistentHash: "consistent_hash"
        case .session: "session"
        case .pinned: "pinned"
        case .cold: "cold"
        case .saturated: "saturated"
        }
    }
}
