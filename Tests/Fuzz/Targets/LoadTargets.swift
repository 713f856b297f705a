import LoadSignals
import Wire

private struct Read: Equatable {
    var running: Double?, waiting: Double?, kvUsage: Double?, capacityTokens: Int?, progress: Double?, queries: Double?
    var adapters: EngineReading.Adapters?
    var isAsleep: Bool, malformedLines: Int
}

private func scan(_ input: UnsafeRawBufferPointer, seed: UInt8) -> (EngineReading, MetricsTextScanner) {
    var scanner = MetricsTextScanner()
    var reading = EngineReading()
    for piece in Pieces.cut(input, seed: seed) { scanner.consume(piece, into: &reading) }
    scanner.finish()
    return (reading, scanner)
}

private func read(_ input: UnsafeRawBufferPointer, seed: UInt8) -> Read {
    let (reading, scanner) = scan(input, seed: seed)
    return Read(
        running: reading.running, waiting: reading.waiting, kvUsage: reading.kvUsage, capacityTokens: reading.capacityTokens,
        progress: reading.progress, queries: reading.prefixQueries, adapters: reading.adapters, isAsleep: reading.isAsleep,
        malformedLines: scanner.malformedLines)
}

/// Zeros part one answer of an engine from the next.
@Sendable func fuzzEngineMetrics(_ input: UnsafeRawBufferPointer) throws {
    guard let (seed, input) = input.split else { return }
    let whole = read(input, seed: 0)
    try checkEqual(read(input, seed: 1), whole, "metrics byte by byte and whole")
    try checkEqual(read(input, seed: seed), whole, "metrics in pieces and whole")
    for value in [whole.running, whole.waiting, whole.kvUsage, whole.progress] {
        if let value { try check(value > -1e-3 || !value.isFinite, "a load is no debt: \(value)") }
    }
    if let tokens = whole.capacityTokens { try check(tokens > 0, "a cache holds something") }
    let counts = input.split(separator: 0).compactMap { scan(UnsafeRawBufferPointer(rebasing: $0), seed: 0).0.backlogCounts }
    if counts.isEmpty { return }
    var engine = CountedEngine()
    for counts in counts { try engine.observe(counts, after: 1_000_000_000) }
    try engine.end()
}

@Sendable func fuzzLoadHeader(_ input: UnsafeRawBufferPointer) throws {
    guard let (control, input) = input.split else { return }
    guard let metrics = LoadMetrics(input, isBinary: control & 1 == 1) else { return }
    try check(input.count <= LoadMetrics.mostBytes, "a long report is not read")
    for value in [metrics.running, metrics.waiting, metrics.kvUsage, metrics.capacityTokens] {
        if let value { try check(value >= 0, "a load is no debt: \(value)") }
    }
}

/// One answer to gRPC's `GetLoads`, as either engine's.
@Sendable func fuzzEngineLoads(_ input: UnsafeRawBufferPointer) throws {
    for engine in [EngineKind.vllm, .sglang] {
        if let reading = EngineReading(loads: input, engine: engine) { try checkLoads(reading) }
    }
}

private func checkLoads(_ reading: EngineReading) throws {
    for value in [reading.running, reading.waiting, reading.queuedTokens] {
        if let value { try check(value >= 0 && value.isFinite, "a load is no debt: \(value)") }
    }
    if let usage = reading.kvUsage { try check(usage >= 0 && usage <= 1, "a share of the cache: \(usage)") }
    if let tokens = reading.capacityTokens { try check(tokens > 0, "a cache holds something") }
    if reading.isBlank { try check((reading.running ?? 0) + (reading.waiting ?? 0) + (reading.kvUsage ?? 0) == 0, "blank, and a load") }
}
