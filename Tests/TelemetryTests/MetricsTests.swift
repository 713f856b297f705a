import Testing

@testable import Telemetry

private func written(_ snapshot: MetricsSnapshot) throws -> PrometheusParser {
    var bytes: [UInt8] = []
    snapshot.writePrometheus(into: &bytes)
    return try PrometheusParser(bytes)
}

@Suite struct LabelTableTests {
    @Test func aNameKeepsItsIndex() {
        let table = LabelTable()
        let first = table.intern("a")
        #expect(first != LabelTable.other && table.intern("b") != first && table.intern("a") == first)
        #expect(table.name(of: first) == "a" && table.name(of: LabelTable.other) == "other" && table.name(of: 999) == "other")
        #expect(table.name(of: table.intern("")) == "")
    }

    @Test func whatDoesNotFitIsOther() {
        let table = LabelTable(maximumLabels: 3)
        let kept = (0..<3).map { table.intern("m\($0)") }
        #expect(Set(kept).count == 3 && !kept.contains(LabelTable.other))
        #expect(table.intern("m3") == LabelTable.other && table.count == 4)
        #expect((0..<3).map { table.intern("m\($0)") } == kept)
        #expect(LabelTable().intern(String(repeating: "x", count: 257)) == LabelTable.other)
    }
}

@Suite struct HistogramTests {
    @Test(arguments: [LatencyHistogram.Scale.request, .overhead]) func aBoundBelongsToItsOwnBucket(scale: LatencyHistogram.Scale) {
        let bounds = scale.upperBoundsNanoseconds
        #expect(bounds.count == LatencyHistogram.bucketCount - 1 && bounds == bounds.sorted() && Set(bounds).count == bounds.count)
        for (index, bound) in bounds.enumerated() {
            var histogram = LatencyHistogram(scale: scale)
            histogram.record(nanoseconds: bound)
            histogram.record(nanoseconds: bound + 1)
            #expect(histogram.counts[index] == 1 && histogram.counts[index + 1] == 1 && histogram.count == 2)
        }
        var histogram = LatencyHistogram(scale: scale)
        histogram.record(nanoseconds: 0)
        histogram.record(nanoseconds: .max)
        #expect(histogram.counts[0] == 1 && histogram.counts[31] == 1)
    }
}

@Suite struct LoopMetricsTests {
    private let reasons = ["cost", "prefix"]

    private func loop(_ model: String, _ group: String) -> (metrics: LoopMetrics, series: SeriesIndex) {
        let metrics = LoopMetrics(decisionReasons: reasons)
        // Other names first: each loop has numbers of its own.
        _ = metrics.models.intern("unused-\(group)")
        let series = metrics.series(SeriesKey(model: metrics.models.intern(model), group: metrics.groups.intern(group)))
        return (metrics, series)
    }

    @Test func everyOutcomeHasACounter() {
        #expect(SeriesCounters().outcomes.count == ExchangeOutcome.allCases.count)
    }

    @Test func aRequestIsCountedFromStartToEnd() throws {
        let (metrics, series) = loop("m", "g")
        metrics.requestStarted(series)
        metrics.requestStarted(series)
        metrics.decided(1)
        metrics.firstToken(series, afterNanoseconds: 15_000_000)
        metrics.requestFinished(series, status: 200, outcome: .completed, durationNanoseconds: 2_500_000_000)
        metrics.tokens(series, prompt: 100, cached: 60, predictedCached: 64, completion: 9)
        metrics.tokens(series, prompt: -5, cached: .min, predictedCached: 0, completion: 0)
        metrics.overheadMeasured(nanoseconds: 12_000)
        metrics.upstreamFailed(.saturated, group: metrics.groups.intern("g"))
        metrics.counters.retries += 1
        let text = try written(metrics.snapshot())
        let labels = ["model": "m", "group": "g"]
        #expect(text.value("swiftlet_requests_started_total", labels) == 2)
        #expect(text.value("swiftlet_requests_in_flight", labels) == 1)
        #expect(text.value("swiftlet_requests_total", ["model": "m", "group": "g", "code": "200", "class": "2xx"]) == 1)
        #expect(text.value("swiftlet_request_outcomes_total", ["model": "m", "group": "g", "outcome": "completed"]) == 1)
        #expect(text.value("swiftlet_decisions_total", ["reason": "prefix"]) == 1)
        #expect(text.value("swiftlet_decisions_total", ["reason": "cost"]) == 0)
        #expect(text.value("swiftlet_prompt_tokens_total", labels) == 100)
        #expect(text.value("swiftlet_cached_tokens_total", labels) == 60)
        #expect(text.value("swiftlet_predicted_cached_tokens_total", labels) == 64)
        #expect(text.value("swiftlet_completion_tokens_total", labels) == 9)
        #expect(text.value("swiftlet_upstream_failures_total", ["group": "g", "kind": "saturated"]) == 1)
        #expect(text.value("swiftlet_retries_total") == 1)
        #expect(text.value("swiftlet_time_to_first_token_seconds_bucket", ["model": "m", "group": "g", "le": "0.01"]) == 0)
        #expect(text.value("swiftlet_time_to_first_token_seconds_bucket", ["model": "m", "group": "g", "le": "0.02"]) == 1)
        #expect(text.value("swiftlet_time_to_first_token_seconds_sum", labels) == 0.015)
        #expect(text.value("swiftlet_request_duration_seconds_count", labels) == 1)
        #expect(text.value("swiftlet_router_overhead_seconds_bucket", ["le": "1.5e-05"]) == 1)
    }

    @Test func aRetryMovesTheGaugeAlone() throws {
        let (metrics, first) = loop("m", "a")
        let second = metrics.series(SeriesKey(model: metrics.models.intern("m"), group: metrics.groups.intern("b")))
        metrics.requestStarted(first)
        metrics.requestMoved(from: first, to: second)
        var text = try written(metrics.snapshot())
        #expect(text.value("swiftlet_requests_in_flight", ["model": "m", "group": "a"]) == 0)
        #expect(text.value("swiftlet_requests_in_flight", ["model": "m", "group": "b"]) == 1)
        metrics.requestFinished(second, status: 502, outcome: .upstreamReset, durationNanoseconds: 1)
        text = try written(metrics.snapshot())
        #expect(text.values("swiftlet_requests_in_flight").allSatisfy { $0.1 == 0 })
        #expect(text.value("swiftlet_requests_started_total", ["model": "m", "group": "a"]) == 1)
    }

    @Test func loopsAddUpByName() throws {
        let (left, leftSeries) = loop("m", "g")
        let (right, rightSeries) = loop("m", "g")
        _ = right.models.intern("another number for what follows")
        let elsewhere = right.series(SeriesKey(model: right.models.intern("n"), group: right.groups.intern("g")))
        for (metrics, series, status) in [
            (left, leftSeries, 200), (right, rightSeries, 200), (right, rightSeries, 404), (right, elsewhere, 200),
        ] {
            metrics.requestStarted(series)
            metrics.requestFinished(series, status: status, outcome: .completed, durationNanoseconds: 1_000_000_000)
            metrics.decided(0)
            metrics.upstreamFailed(.timeout, group: metrics.groups.intern("g"))
            metrics.overheadMeasured(nanoseconds: 1)
            metrics.counters.downstreamBytesSent += 10
            metrics.counters.downstreamConnectionsOpen -= 1
        }
        let sums = [
            left.snapshot() + right.snapshot(), right.snapshot() + left.snapshot(), MetricsSnapshot() + left.snapshot() + right.snapshot(),
        ]
        for sum in sums {
            let text = try written(sum)
            #expect(text.value("swiftlet_requests_total", ["model": "m", "group": "g", "code": "200", "class": "2xx"]) == 2)
            #expect(text.value("swiftlet_requests_total", ["model": "m", "group": "g", "code": "404", "class": "4xx"]) == 1)
            #expect(text.value("swiftlet_requests_started_total", ["model": "n", "group": "g"]) == 1)
            #expect(text.value("swiftlet_request_duration_seconds_sum", ["model": "m", "group": "g"]) == 3)
            #expect(text.value("swiftlet_decisions_total", ["reason": "cost"]) == 4)
            #expect(text.value("swiftlet_upstream_failures_total", ["group": "g", "kind": "timeout"]) == 4)
            #expect(text.value("swiftlet_router_overhead_seconds_count") == 4)
            #expect(text.value("swiftlet_downstream_sent_bytes_total") == 40)
            #expect(text.value("swiftlet_downstream_connections_open") == -4)
        }
    }

    @Test func aSnapshotDoesNotFollow() throws {
        let (metrics, series) = loop("m", "g")
        metrics.requestStarted(series)
        let snapshot = metrics.snapshot()
        metrics.requestStarted(series)
        metrics.decided(0)
        #expect(try written(snapshot).value("swiftlet_requests_started_total", ["model": "m", "group": "g"]) == 1)
        #expect(snapshot.decisions.allSatisfy { $0.count == 0 })
    }

    @Test func seriesAndStatusesAreBounded() throws {
        let metrics = LoopMetrics(decisionReasons: [], maximumSeries: 3)
        for group in 0..<10 {
            let series = metrics.series(SeriesKey(model: metrics.models.intern("m"), group: metrics.groups.intern("g\(group)")))
            metrics.requestStarted(series)
            for status in [200, -1, 99, 1_000, .max] + Array(400..<440) {
                metrics.requestFinished(series, status: status, outcome: .completed, durationNanoseconds: 0)
            }
        }
        let text = try written(metrics.snapshot())
        let started = text.values("swiftlet_requests_started_total")
        #expect(started.map(\.1).reduce(0, +) == 10 && started.count == 3)
        #expect(started.first { $0.0["group"] == "other" }?.1 == 8)
        let finished = text.values("swiftlet_requests_total")
        #expect(finished.map(\.1).reduce(0, +) == 450)
        #expect(finished.count == 3 * 16)
        #expect(text.value("swiftlet_requests_total", ["model": "m", "group": "g0", "code": "200", "class": "2xx"]) == 1)
        #expect(text.value("swiftlet_requests_total", ["model": "m", "group": "g0", "code": "other", "class": "other"]) == 30)
    }

    @Test func hostileLabelsAreEscaped() throws {
        for name in ["a\"b\\c\nd", "}{=,", "\u{0}\u{1F}", "ü🚀\r"] {
            let (metrics, series) = loop(name, name)
            metrics.requestStarted(series)
            #expect(try written(metrics.snapshot()).value("swiftlet_requests_started_total", ["model": name, "group": name]) == 1)
        }
        let metrics = LoopMetrics(decisionReasons: [])
        let broken: [UInt8] = [0x61, 0xFF, 0xC3]
        let model = broken.withUnsafeBytes { metrics.models.intern($0) }
        metrics.requestStarted(metrics.series(SeriesKey(model: model, group: metrics.groups.intern(""))))
        let labels = ["model": "a\u{FFFD}\u{FFFD}", "group": ""]
        #expect(try written(metrics.snapshot()).value("swiftlet_requests_started_total", labels) == 1)
    }

    /// Every figure under a name of its own, in the sum of loops of which only one knows replicas.
    @Test func replicasAreTold() throws {
        var replicas = MetricsSnapshot.Replicas()
        (replicas.heard, replicas.peers) = (3, 4)
        replicas.sent = [("sent", 5), ("dropped", 6)]
        replicas.received = [("taken", 7), ("late", 8)]
        (replicas.sentBytes, replicas.receivedBytes) = (9, 10)
        (replicas.placementsSent, replicas.placementsReceived, replicas.placementsNotShared) = (11, 12, 13)
        replicas.lost = 14
        var snapshot = MetricsSnapshot()
        snapshot.replicas = replicas
        let text = try written(MetricsSnapshot() + snapshot + MetricsSnapshot())
        #expect(text.value("swiftlet_replicas") == 3)
        #expect(text.value("swiftlet_replica_peers") == 4)
        for (direction, outcome, count) in [("sent", "sent", 5), ("sent", "dropped", 6), ("received", "taken", 7), ("received", "late", 8)]
        {
            #expect(text.value("swiftlet_replica_datagrams_total", ["direction": direction, "outcome": outcome]) == Double(count))
        }
        for (name, sent, received) in [("bytes", 9.0, 10.0), ("placements", 11, 12)] {
            #expect(text.value("swiftlet_replica_\(name)_total", ["direction": "sent"]) == sent)
            #expect(text.value("swiftlet_replica_\(name)_total", ["direction": "received"]) == received)
        }
        #expect(text.value("swiftlet_replica_placements_not_shared_total") == 13)
        #expect(text.value("swiftlet_replica_datagrams_lost_total") == 14)
    }

    @Test func anEmptySnapshotIsAValidPage() throws {
        #expect(try written(MetricsSnapshot()).families.count == 25)
    }
}
