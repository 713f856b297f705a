import LoadSignals
import Routing

/// An engine whose counters may say anything: what is derived from one reading after the other is a load that there can be, and so is what
/// decisions are made by.
struct CountedEngine {
    private var backlog = FirstTokenBacklog()
    private var now: UInt64 = 1_000_000_000
    private var reports: [LoadReport] = []

    mutating func observe(_ counts: FirstTokenBacklog.Counts, after nanoseconds: UInt64) throws {
        now &+= nanoseconds
        let estimate = backlog.observe(counts, at: now)
        let (running, waiting) = (counts.running, counts.waiting)
        func isCount(_ value: Double) -> Bool { FirstTokenBacklog.counts.contains(value) }
        let areCounts = [running, waiting, counts.firstTokens, counts.ended, counts.preemptions].allSatisfy(isCount)
        let what = "\(estimate) of \(counts)"
        if areCounts {
            try check(
                waiting <= estimate.awaiting && estimate.awaiting <= running + waiting,
                "who waits awaits, and nobody else but who runs: \(what)")
        } else {
            try check(estimate.awaiting == (isCount(waiting) ? waiting : 0), "of what is no count nothing is told but the queue: \(what)")
            try check(estimate.prefillTokens == nil, "nor tokens: \(what)")
        }
        if let tokens = estimate.prefillTokens {
            let inBatch = estimate.awaiting - waiting
            try check(counts.tokens != nil, "what is not told is not known: \(what)")
            try check(tokens.isFinite && tokens >= inBatch, "each of them has a last token: \(what)")
            try check(tokens <= max(4 * FirstTokenBacklog.counts.upperBound, inBatch), "no more than was counted: \(what)")
            if let longest = counts.longestPrompt, isCount(longest) {
                try check(tokens <= inBatch * max(longest, 1), "none is longer than there is room for: \(what)")
            }
        }
        reports.append(
            LoadReport(
                running: running, waiting: waiting, awaitingFirstToken: estimate.awaiting, prefillTokens: estimate.prefillTokens,
                kvUsage: counts.kvUsage, notBefore: now &- min(now, LoadReport.gaugeLagNanoseconds), madeAt: now))
    }

    /// The last of it is reported, and a request placed by it.
    func end() throws {
        let table = RoutingTable(policy: .leastCost, seed: 1, limits: RoutingLimits(groups: 2, indexBlocks: 64, leases: 4))
        table.replaceGroups([GroupDescription(name: "a", leader: Endpoint(host: "a", port: 1), kvCapacityTokens: 4_096)], now: now)
        guard let group = table.group(named: "a")?.id else { throw FuzzFinding(description: "the group is there") }
        for report in reports.suffix(8) { table.reportLoad(report, of: group, now: now) }
        for state in table.groups(now: now) {
            let numbers = [state.prefillTokensPerSecond, state.decodeStepSeconds, state.othersRunning, state.othersWaiting]
            try check(numbers.allSatisfy { $0.isFinite && $0 >= 0 }, "loads are counts: \(numbers)")
        }
        guard case .success(let decision) = table.pick(RoutingRequest(promptBytes: 1_000, maxOutputTokens: 10), now: now) else {
            throw FuzzFinding(description: "no group is ready")
        }
        let wait = decision.terms.timeToFirstToken
        try check(wait.isFinite && wait >= 0, "a wait is no debt and ends: \(decision)")
        table.settle(decision.lease, usage: nil, now: now)
    }
}

/// Numbers of a fuzzed input, zero behind its end.
private struct Numbers {
    var bytes: UnsafeRawBufferPointer.SubSequence

    mutating func byte() -> UInt8 { bytes.popFirst() ?? 0 }

    mutating func double() -> Double {
        switch byte() {
        case 0..<64 as Range<UInt8>: return Double(byte())
        case 64..<128 as Range<UInt8>: return Double(byte()) * 257
        case 128..<160 as Range<UInt8>:
            let special: [Double] = [-1, 0.5, 1e-300, 0x1p52, 0x1p53 - 1, 0x1p53, 0x1p53 + 2, 1e300, .infinity, -.infinity, .nan, -0.0]
            return special[Int(byte()) % special.count]
        default:
            var bits: UInt64 = 0
            for _ in 0..<8 { bits = bits << 8 | UInt64(byte()) }
            return Double(bitPattern: bits)
        }
    }
}

/// Steps of an engine's life: each changes one of its numbers, or is a reading of all of them.
@Sendable func fuzzEngineBacklog(_ input: UnsafeRawBufferPointer) throws {
    var numbers = Numbers(bytes: input[...])
    var counts = FirstTokenBacklog.Counts(running: 0, waiting: 0, firstTokens: 0, ended: 0)
    var tokens = FirstTokenBacklog.Tokens(lookedUp: 0, found: 0, prefilled: 0)
    var engine = CountedEngine()
    while !numbers.bytes.isEmpty {
        let step = numbers.byte()
        /// Counters mostly grow.
        func change(_ value: inout Double) { value = step & 0x80 == 0 ? value + numbers.double() : numbers.double() }
        func change(_ value: inout Double?) {
            var number = value ?? 0
            change(&number)
            value = step & 0x40 == 0 ? number : nil
        }
        switch step & 0xf {
        case 0: change(&counts.running)
        case 1: change(&counts.waiting)
        case 2: change(&counts.firstTokens)
        case 3: change(&counts.ended)
        case 4: change(&counts.preemptions)
        case 5: change(&tokens.lookedUp)
        case 6: change(&tokens.found)
        case 7: change(&tokens.prefilled)
        case 8: change(&tokens.prefilledFound)
        case 9: change(&counts.kvUsage)
        case 10: change(&counts.longestPrompt)
        case 11: change(&counts.ranks)
        default:
            // From not at all to some minutes: what was the lowest is forgotten in between.
            let pause = UInt64(numbers.byte())
            counts.tokens = step & 0x40 == 0 ? tokens : nil
            try engine.observe(counts, after: pause << (step & 0x80 == 0 ? 20 : 33))
        }
    }
    try engine.end()
}
