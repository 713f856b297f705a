import Testing

@testable import LoadSignals

/// One rank of an answer to `GetLoads`; what is nil is absent from the wire, as zeros are.
private struct Rank {
    var rank: Int32 = 0
    var running: Int32 = 0
    var waiting: Int32 = 0
    var total: Int32 = 0
    var used: Int32 = 0
    var capacity: Int32 = 0
    var usage = 0.0
    var throughput = 0.0
    var hitRate = 0.0
    var mostRunning: Int32 = 0
    /// SGLang's queued tokens; vLLM has its own in field 12.
    var queued: Int32 = 0
    /// What else a rank tells, as it is on the wire.
    var extra: [UInt8] = []

    var bytes: [UInt8] {
        let numbers: [(Int, Int32)] = [
            (1, rank), (2, running), (3, waiting), (4, total), (5, used), (6, capacity), (11, mostRunning), (17, queued),
        ]
        let fractions: [(UInt8, Double)] = [(7, usage), (8, throughput), (9, hitRate)]
        var bytes: [UInt8] = []
        for (field, value) in numbers where value != 0 {
            bytes += varint(UInt64(field << 3)) + varint(UInt64(bitPattern: Int64(value)))
        }
        for (field, value) in fractions where value != 0 {
            bytes.append(field << 3 | 1)
            withUnsafeBytes(of: value.bitPattern.littleEndian) { bytes += $0 }
        }
        return bytes + extra
    }
}

private func varint(_ value: UInt64) -> [UInt8] {
    var (rest, bytes) = (value, [UInt8]())
    while rest >= 128 {
        bytes.append(UInt8(rest & 127) | 128)
        rest >>= 7
    }
    return bytes + [UInt8(rest)]
}

private func response(_ ranks: [Rank], rankCount: Int? = nil, version: String = "", extra: [UInt8] = []) -> [UInt8] {
    var bytes: [UInt8] =
        [2 << 3 | 2, UInt8(version.utf8.count)] + Array(version.utf8) + [3 << 3]
        + varint(UInt64(bitPattern: Int64(rankCount ?? ranks.count)))
    for rank in ranks { bytes += [4 << 3 | 2] + varint(UInt64(rank.bytes.count)) + rank.bytes }
    return bytes + extra
}

private func framed(_ message: [UInt8], flag: UInt8 = 0) -> [UInt8] {
    let length = withUnsafeBytes(of: UInt32(message.count).bigEndian) { Array($0) }
    return [flag] + length + message
}

private func reading(_ body: [UInt8], engine: EngineKind = .vllm) -> EngineReading? {
    body.withUnsafeBytes { EngineReading(loads: $0, engine: engine) }
}

private func reading(_ ranks: Rank..., rankCount: Int? = nil) throws -> EngineReading {
    try #require(reading(framed(response(ranks, rankCount: rankCount))))
}

@Suite struct LoadsTests {
    // MARK: Recorded from vLLM 0.32 behind its gRPC server

    private static func bytes(hex: String) -> [UInt8] {
        stride(from: 0, to: hex.count, by: 2).compactMap { offset in
            let start = hex.index(hex.startIndex, offsetBy: offset)
            return UInt8(hex[start..<hex.index(start, offsetBy: 2)], radix: 16)
        }
    }

    @Test func anEngineThatHasJustBegunTellsItsSizeAndNoLoad() throws {
        let hex = """
            0a20323032362d31312d32335431393a30353a32362e3438333037392b30303a30301206302e33322e3018012207\
            30808080015840
            """
        let idle = try #require(reading(framed(Self.bytes(hex: hex))))
        #expect(idle.capacityTokens == 2_097_152 && idle.isBlank && idle.engine == .vllm)
    }

    @Test func anEngineAtWorkTellsItsSequencesAndItsCache() throws {
        let hex = """
            0a20323032362d31312d32335431393a30353a33382e3333393031372b30303a30301206302e33322e3018012232\
            1001200128e00330808080013900001e001e002e3f4100000000007290404981a381641438ea3f5100001e001e002e3f5840
            """
        let busy = try #require(reading(framed(Self.bytes(hex: hex))))
        #expect(busy.running == 1 && busy.waiting == 0 && busy.capacityTokens == 2_097_152 && !busy.isBlank)
        #expect(busy.kvUsage == 0.0002288853284504455)
    }

    @Test func anEngineThatHasWorkedIsKnownToBeIdle() throws {
        let hex = """
            0a20323032362d31312d32335431393a30353a33372e3732393131322b30303a30301206302e33322e3018012219\
            30808080014100000000007290404981a381641438ea3f5840
            """
        let idle = try #require(reading(framed(Self.bytes(hex: hex))))
        #expect(idle.running == 0 && idle.waiting == 0 && idle.kvUsage == 0 && !idle.isBlank)
    }

    // MARK: Ranks

    @Test func ranksAddUpAndTheirUsageIsAveraged() throws {
        let sum = try reading(
            Rank(rank: 0, running: 2, waiting: 1, capacity: 1_000, usage: 0.25), Rank(rank: 1, running: 3, capacity: 1_000, usage: 0.75))
        #expect(sum.running == 5 && sum.waiting == 1 && sum.kvUsage == 0.5 && sum.capacityTokens == 2_000)
    }

    @Test func aRankThatComesAgainCountsOnce() throws {
        let sum = try reading(
            Rank(rank: 3, running: 2, capacity: 1_000, usage: 0.5), Rank(rank: 3, running: 4, capacity: 1_000, usage: 0.5))
        #expect(sum.running == 4 && sum.capacityTokens == 1_000)
    }

    @Test func theSizeOfTheCacheIsNotThatOfSomeRanks() throws {
        #expect(try reading(Rank(rank: 0, running: 1, capacity: 1_000), rankCount: 4).capacityTokens == nil, "three ranks are not there")
        #expect(try reading(Rank(rank: 0, capacity: 1_000), Rank(rank: 1)).capacityTokens == nil, "one does not say")
        #expect(try reading(Rank(rank: 0, capacity: 1_000), Rank(rank: 1, capacity: -1)).capacityTokens == nil)
        // A servicer that does not count its ranks.
        #expect(try reading(Rank(rank: 0, capacity: 1_000), rankCount: 0).capacityTokens == 1_000)
    }

    @Test func theUseOfTheCacheIsNotThatOfSomeRanks() throws {
        let sum = try reading(Rank(rank: 0, running: 2), Rank(rank: 1))
        #expect(sum.running == 2 && sum.kvUsage == nil, "the busy one does not say, the idle one's is none of both")
    }

    // MARK: What is not believed

    /// SMG's servicer of vLLM fills in these.
    @Test func zerosThatAreNotFilledInAreNoFigures() throws {
        let busy = try reading(Rank(running: 3, waiting: 2, total: 5, usage: 0.125))
        #expect(busy.running == 3 && busy.waiting == 2 && busy.kvUsage == 0.125 && busy.capacityTokens == nil && !busy.isBlank)
        #expect(try reading(Rank(running: 3)).kvUsage == nil, "whoever runs holds something")
    }

    @Test(arguments: [
        Rank(running: 1), Rank(waiting: 1), Rank(total: 1), Rank(used: 1), Rank(usage: 1e-9), Rank(throughput: 0.5), Rank(hitRate: 0.1),
    ])
    fileprivate func anyFigureOfLoadIsASign(rank: Rank) throws {
        #expect(try !reading(rank).isBlank)
        #expect(try !reading(Rank(), Rank(rank: 1), rank).isBlank)
    }

    @Test(arguments: [
        Rank(), Rank(rank: 7), Rank(capacity: 1_000), Rank(mostRunning: 64),
        Rank(running: -1, waiting: -1, total: .min, used: -9, usage: -1),
        Rank(usage: .nan, throughput: .nan, hitRate: .nan), Rank(usage: -.infinity),
    ])
    fileprivate func whatHasNoFigureOfLoadIsBlank(rank: Rank) throws { #expect(try reading(rank).isBlank) }

    @Test func negativeCountsAreNotSaid() throws {
        let odd = try reading(Rank(running: -1, waiting: -7, used: -3, capacity: .min, usage: 0.5))
        #expect(odd.running == nil && odd.waiting == nil && odd.capacityTokens == nil)
        #expect(try reading(Rank(running: .min, waiting: 4)).waiting == 4)
    }

    @Test(arguments: [Double.nan, .infinity, -.infinity, 1.000_001, 57, -0.5, -.leastNonzeroMagnitude])
    func aShareOutOfBoundsIsNotSaid(usage: Double) throws {
        #expect(try reading(Rank(running: 1, usage: usage)).kvUsage == nil)
        #expect(try reading(Rank(usage: usage)).kvUsage == nil, "of an idle engine neither")
    }

    @Test(arguments: [Double.leastNonzeroMagnitude, 1e-9, 0.5, 1]) func aShareWithinThemIs(usage: Double) throws {
        #expect(try reading(Rank(running: 1, usage: usage)).kvUsage == usage)
    }

    @Test func usedTokensTellTheShareWhereItIsNotSaid() throws {
        #expect(try reading(Rank(running: 1, used: 250, capacity: 1_000)).kvUsage == 0.25)
        #expect(try reading(Rank(running: 1, used: 250, capacity: 1_000, usage: 0.75)).kvUsage == 0.75, "what is said goes before")
        #expect(try reading(Rank(running: 1, used: 250, capacity: 1_000, usage: .nan)).kvUsage == 0.25)
        #expect(try reading(Rank(running: 1, used: 1_001, capacity: 1_000)).kvUsage == nil)
        #expect(try reading(Rank(running: 1, used: 1)).kvUsage == nil)
        #expect(try reading(Rank(running: 1, used: .max, capacity: .max)).kvUsage == 1)
    }

    @Test func theLargestNumbersAreNoTrap() throws {
        let all = (0..<4).map { Rank(rank: $0, running: .max, waiting: .max, total: .max, used: .max, capacity: .max, usage: 1) }
        let sum = try #require(reading(framed(response(all, rankCount: Int(Int32.max)))))
        #expect(sum.running == 4 * Double(Int32.max) && sum.capacityTokens == nil)
        #expect(try #require(reading(framed(response(all)))).capacityTokens == 4 * Int(Int32.max))
        #expect(try #require(reading(framed(response(all, rankCount: -1)))).running != nil, "-1 ranks")
    }

    @Test func moreRanksThanAnyEngineHasArePassedOver() throws {
        let ranks = (0..<10_000).map { Rank(rank: Int32($0), running: 1) }
        let sum = try #require(reading(framed(response(ranks))))
        #expect(try #require(sum.running) < 10_000)
    }

    // MARK: SGLang

    private static func sglang(_ version: String, _ ranks: Rank...) throws -> EngineReading {
        try #require(reading(framed(response(ranks, version: version)), engine: .sglang))
    }

    @Test(arguments: [
        ("0.5.19", true), ("0.5.19.post1", true), ("0.5.19+cu130", true), ("0.5.20.dev7+g1a2b3c", true), ("0.5.100", true), ("0.6", true),
        ("1.0.0rc1", true), ("0.5.18", false), ("0.5.18.post2", false), ("0.5.19.dev90+g1a2b3c", false), ("0.5.19rc2", false),
        ("0.4.99", false), ("0.5", false), ("", false), ("...", false), ("main", false), ("-1.5.19", false),
        ("0.5.99999999999999999999", false),
    ])
    func queuedTokensAreBelievedOfVersionsThatTakeOffWhatIsCached(version: String, isBelieved: Bool) throws {
        let told = try Self.sglang(version, Rank(rank: 0, running: 1, queued: 700), Rank(rank: 1, waiting: 1, queued: 34))
        #expect(told.queuedTokens == (isBelieved ? 734 : nil))
        #expect(told.running == 1 && told.waiting == 1)
    }

    @Test func noQueuedTokensAreAFigureToo() throws {
        #expect(try Self.sglang("0.5.19", Rank(running: 1)).queuedTokens == 0)
        #expect(try Self.sglang("0.5.19", Rank(running: 1, queued: -5)).queuedTokens == nil)
    }

    @Test func vLLMsQueuedTokensAreAnEstimateThatIsNotRead() throws {
        let told = try #require(reading(framed(response([Rank(running: 1, queued: 700, extra: [12 << 3, 99])], version: "0.5.19"))))
        #expect(told.queuedTokens == nil && told.running == 1)
    }

    /// Since its scheduler keeps them in one snapshot (2026), SGLang's servicer sends all sections, whatever is asked for: memory in field 12,
    /// where vLLM's message has a number, to queues in field 16.
    @Test func itsSectionsArePassedOver() throws {
        let sections = (12...16).flatMap { (field: UInt64) -> [UInt8] in varint(field << 3 | 2) + [2, 4 << 3, 1] }
        let told = try Self.sglang("0.5.20", Rank(running: 2, waiting: 3, usage: 0.5, queued: 9, extra: sections))
        #expect(told.running == 2 && told.waiting == 3 && told.kvUsage == 0.5 && told.queuedTokens == 9)
    }

    // MARK: What is no answer

    @Test func fieldsThatAreNotKnownArePassedOver() throws {
        // SGLang's aggregate (field 5), a text, a number and eight bytes.
        let extra: [UInt8] = [5 << 3 | 2, 2, 8, 9, 15 << 3 | 2, 1, 65, 14 << 3, 1, 13 << 3 | 1, 1, 2, 3, 4, 5, 6, 7, 8]
        let known = try #require(reading(framed(response([Rank(running: 2)], extra: extra)), engine: .sglang))
        #expect(known.running == 2 && known.engine == .sglang)
    }

    @Test func whatIsNoWholeMessageIsNoReading() {
        let message = response([Rank(running: 2)])
        let body = framed(message)
        #expect(reading(body) != nil)
        for end in 0..<body.count { #expect(reading(Array(body[..<end])) == nil, "cut at \(end)") }
        #expect(reading(body + [0]) == nil)
        #expect(reading(body + body) == nil, "two messages")
        #expect(reading(framed(message, flag: 1)) == nil, "compressed, for which nobody asked")
        #expect(reading(framed(message, flag: 2)) == nil)
        #expect(reading(Array(message)) == nil)
        #expect(reading([0, 0xFF, 0xFF, 0xFF, 0xFF] + message) == nil)
        #expect(reading(framed([4 << 3 | 2, 0x7F, 1])) == nil, "a rank that ends beyond the message")
        #expect(reading(Array("<html>It works!</html>".utf8)) == nil)
    }

    @Test func anAnswerWithoutRanksIsNone() {
        #expect(reading(framed([])) == nil)
        #expect(reading(framed(response([]))) == nil)
        #expect(reading(framed(response([], rankCount: 8))) == nil)
    }

    @Test func whatIsCalledANumberAndIsTextIsNot() throws {
        // `num_running_reqs` as a text: protobuf-c refuses the message.
        #expect(reading(framed([4 << 3 | 2, 3, 2 << 3 | 2, 1, 65])) == nil)
    }

    // MARK: How a call ends

    @Test(
        arguments: [
            ("0", nil), ("1", .error), ("2", .error), ("4", .timeout), ("7", .refused), ("8", .error), ("12", .missing), ("13", .error),
            ("14", .error), ("16", .refused), ("17", .error), ("", .unknown), ("OK", .unknown), ("-1", .unknown),
            ("99999999999999999999", .unknown),
        ] as [(String, ScrapeOutcome?)])
    func aStatusIsAnOutcome(status: String, outcome: ScrapeOutcome?) {
        let told = Array(status.utf8).withUnsafeBytes { LoadService.failure(status: $0) }
        #expect(told == outcome)
        #expect(LoadService.failure(status: nil) == .unknown)
    }
}
