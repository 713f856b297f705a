import Testing

@testable import Routing
@testable import Simulation

/// A rule's choices, a prompt of ten blocks at a time.
private struct Chooser {
    var rule: PublishedRule
    /// By slot: tokens of the prompt that a group holds, and what it has to do.
    var cached: [Double]
    var active: [Double]
    var sequences: [Double]
    var rollouts: [UInt32: Double] = [:]

    static let blocks = 10
    static let promptTokens = Double(blocks * simulatedBlockTokens)

    init(_ text: String, groups: Int, seed: UInt64 = 1) throws {
        let parsed = try RoutingRule(text)
        rule = PublishedRule(
            try #require(parsed.published), parameters: parsed.parameters, fleet: .published(groups: groups), seed: seed)
        cached = Array(repeating: 0, count: groups)
        active = cached
        sequences = cached
    }

    /// - Parameter family: prompts of one family have their first six blocks in common; nil: one like no other.
    /// - Returns: the slot.
    mutating func choose(family: UInt64? = nil, number: UInt64 = 0, seconds: Double = 0) -> Int {
        let first = family ?? 1_000_000 + number
        let hashes = (0..<UInt64(Self.blocks)).map { HashChain.mix(first << 8 | $0) ^ ($0 < 6 ? 0 : number << 20) }
        let candidates = cached.indices.map { slot in
            Candidate(
                slot: UInt32(slot), identity: UInt64(slot), cachedTokens: cached[slot], tokensAhead: 0, waiting: 0,
                running: sequences[slot],
                activeTokens: active[slot], heldTokens: 0, capacityTokens: 100_000)
        }
        return hashes.withUnsafeBufferPointer { hashes in
            let request = RuleRequest(
                promptTokens: Self.promptTokens, outputTokens: 1, hashes: hashes, session: 0, rollouts: rollouts)
            return rule.choose(candidates, request, now: UInt64(seconds * 1e9))
        }
    }

    mutating func counts(of draws: Int) -> [Int] {
        (0..<draws).reduce(into: cached.map { _ in 0 }) { counts, number in counts[choose(number: UInt64(number))] += 1 }
    }
}

/// Whether so many of so many are what the chance explains: within four standard deviations.
private func isAbout(_ share: Double, _ found: Int, of draws: Int) -> Bool {
    let expected = share * Double(draws)
    return abs(Double(found) - expected) <= 4 * (expected * (1 - share)).squareRoot()
}

@Suite struct DynamoTests {
    /// Group 1 holds the prompt and group 0 is a little less busy: who hears of it goes where it is held, who does not where there is less to do.
    @Test func withoutEventsOnlyWhatWasSentIsKnown() throws {
        for (text, slot) in [("dynamo", 1), ("dynamo:ttl=120", 0)] {
            var chooser = try Chooser(text, groups: 2)
            chooser.cached[1] = Chooser.promptTokens
            chooser.active[1] = 128
            #expect(chooser.choose(family: 7) == slot, "\(text)")
        }
    }

    @Test func whatWasSentIsHeldForItsTimeSinceItWasLastSent() throws {
        var chooser = try Chooser("dynamo:ttl=120", groups: 2)
        chooser.active = [0, 128]
        #expect(chooser.choose(family: 7) == 0)
        // From now on group 0 is the busier one, by less than the prefix is worth.
        chooser.active = [128, 0]
        #expect(chooser.choose(family: 7, number: 1, seconds: 100) == 0)
        #expect(chooser.choose(family: 7, number: 2, seconds: 219) == 0, "sent again at 100 s")
        #expect(chooser.choose(family: 8, seconds: 219) == 1)
        #expect(chooser.choose(family: 7, number: 3, seconds: 339) == 1, "its time is over")
    }

    @Test func aGroupThatComesAgainHoldsNothing() throws {
        var chooser = try Chooser("dynamo:ttl=120", groups: 2)
        chooser.active = [0, 128]
        #expect(chooser.choose(family: 7) == 0)
        chooser.active = [128, 0]
        chooser.rule.keep(slots: [0, 1])
        #expect(chooser.choose(family: 7, number: 1, seconds: 1) == 0)
        chooser.rule.keep(slots: [1])
        #expect(chooser.choose(family: 7, number: 2, seconds: 2) == 1)
    }

    /// The port of LMetric's team looks at the new blocks and at what is decoded, never at what is queued.
    @Test func thePortDoesNotSeeTheQueue() throws {
        let candidates = [(0.0, 640.0, 0.0), (1, 0, 128)].map { slot, ahead, active in
            Candidate(
                slot: UInt32(slot), identity: UInt64(slot), cachedTokens: 0, tokensAhead: ahead, waiting: 0, running: 0,
                activeTokens: active,
                heldTokens: 0, capacityTokens: 100_000)
        }
        for (text, position) in [("dynamo", 1), ("dynamo:prefill=2:queue=0", 0)] {
            var chooser = try Chooser(text, groups: 2)
            let request = RuleRequest(promptTokens: 640, outputTokens: 1, hashes: .init(start: nil, count: 0), session: 0, rollouts: [:])
            #expect(chooser.rule.choose(candidates, request, now: 0) == position, "\(text)")
        }
    }

    @Test func aGapEndsWhatIsHeldAndTheOldestIsPruned() {
        var blocks = RoutedBlocks(limit: 10)
        func add(_ hashes: [UInt64], slot: UInt32 = 0, until end: UInt64) {
            hashes.withUnsafeBufferPointer { blocks.add($0, slot: slot, until: end, now: 0) }
        }
        func depth(_ hashes: [UInt64], slot: UInt32 = 0, now: UInt64 = 0) -> Int {
            hashes.withUnsafeBufferPointer { blocks.depth(of: $0, slot: slot, now: now) }
        }
        add([1, 2, 3, 8], until: 50)
        #expect(depth([1, 2, 9, 3]) == 2 && depth([9, 1]) == 0 && depth([1, 2, 3], slot: 1) == 0 && depth([]) == 0)
        #expect(depth([1, 2, 3], now: 49) == 3 && depth([1, 2, 3], now: 50) == 0)
        add([1], until: 60)
        add([5, 6, 7], slot: 1, until: 70)
        #expect(blocks.count == 7 && depth([1, 2, 3]) == 3)
        // Eleven are one too many: those that run out first go until there are eight.
        add([10, 11, 12, 13], slot: 1, until: 80)
        #expect(blocks.count == 8)
        #expect(depth([1, 2]) == 1 && depth([5, 6, 7], slot: 1) == 3 && depth([10, 11, 12, 13], slot: 1) == 4)
    }
}

@Suite struct HotspotTests {
    private static let sharedTokens = Double(6 * simulatedBlockTokens)

    /// The number of the first of so many requests, a share of them of one family, that does not go to a holder.
    private func firstElsewhere(_ text: String, of requests: Int = 300, every: Int = 1, holders: Int = 1, groups: Int = 4) throws -> Int? {
        var chooser = try Chooser(text, groups: groups)
        for number in 0..<requests {
            let isHot = number % every == 0
            for slot in 0..<holders { chooser.cached[slot] = isHot ? Self.sharedTokens : 0 }
            let slot = chooser.choose(family: isHot ? 7 : nil, number: UInt64(number))
            if isHot, slot >= holders { return number }
        }
        return nil
    }

    /// Of 128 arrivals a quarter is what one holder of four may get: the 33rd raises the alarm, and after two that confirm it the next goes elsewhere.
    @Test func aHotPrefixLeavesItsHoldersWhenTheAlarmIsConfirmed() throws {
        #expect(try firstElsewhere("lmetric") == nil)
        #expect(try firstElsewhere("lmetric:hotspot=1") == 34)
        // Twice the bound: two fifths of the arrivals.
        #expect(try firstElsewhere("lmetric:hotspot=2") == 53)
        // Two holders may get half, and are watched for four requests.
        #expect(try firstElsewhere("lmetric:hotspot=1", holders: 2) == 64 + 4)
        #expect(try firstElsewhere("lmetric:hotspot=1", holders: 4) == nil, "there is nobody else")
    }

    @Test func aPrefixThatItsHoldersCanBearStaysThere() throws {
        #expect(try firstElsewhere("lmetric:hotspot=1", of: 900, every: 5) == nil)
        #expect(try firstElsewhere("lmetric:hotspot=1", of: 900, every: 3) != nil)
    }

    /// One request of the class that the score itself sends elsewhere, and the alarm has to be confirmed anew.
    @Test func anAlarmIsConfirmedByRequestsInARow() throws {
        var chooser = try Chooser("lmetric:hotspot=1", groups: 4)
        chooser.cached[0] = Self.sharedTokens
        for number in 0..<300 {
            chooser.sequences[0] = number % 2 == 0 ? 0 : 100
            let slot = chooser.choose(family: 7, number: UInt64(number))
            #expect((slot == 0) == (number % 2 == 0))
        }
    }

    /// What is no longer among the latest arrivals is as if it had never been.
    @Test func sharesAreOfTheLatestArrivals() throws {
        var chooser = try Chooser("lmetric:hotspot=1", groups: 4)
        func ask(_ family: UInt64?, _ numbers: Range<UInt64>) -> [Int] {
            chooser.cached[0] = family == nil ? 0 : Self.sharedTokens
            return numbers.map { chooser.choose(family: family, number: $0) }
        }
        #expect(ask(7, 0..<35).last != 0)
        _ = ask(nil, 100..<228)
        #expect(ask(7, 300..<334).allSatisfy { $0 == 0 })
        #expect(ask(7, 334..<335) != [0])
    }
}

@Suite struct BailianTests {
    /// Scores of 0.9, 0.45 and 0.15, and draws in their proportion.
    @Test func aGroupIsDrawnInProportionToItsScore() throws {
        func counts(_ text: String, of draws: Int) throws -> [Int] {
            var chooser = try Chooser(text, groups: 3)
            chooser.cached = [Chooser.promptTokens * 6 / 7, Chooser.promptTokens * 3 / 14, 0]
            chooser.sequences = [0, 0, 4]
            chooser.active = [0, 0, 0]
            return chooser.counts(of: draws)
        }
        let drawn = try counts("bailian", of: 6_000)
        for (found, share) in zip(drawn, [0.6, 0.3, 0.1]) { #expect(isAbout(share, found, of: 6_000), "\(drawn)") }
        #expect(try counts("bailian:sampled=0", of: 200) == [200, 0, 0])
    }

    /// All are as busy as the busiest and none holds anything.
    @Test func withoutAnyScoreAllAreDrawnAlike() throws {
        var chooser = try Chooser("bailian", groups: 3)
        chooser.sequences = [4, 4, 4]
        chooser.active = [9, 9, 9]
        let drawn = chooser.counts(of: 3_000)
        #expect(drawn.allSatisfy { isAbout(1 / 3.0, $0, of: 3_000) }, "\(drawn)")
    }
}

@Suite struct OracleTests {
    /// Two groups hold the prompt and would answer after four and five seconds, two do not and would after one and three: within the penalty.
    private func counts(_ text: String, of draws: Int) throws -> [Int] {
        var chooser = try Chooser(text, groups: 4)
        chooser.cached = [Chooser.promptTokens, Chooser.promptTokens, 0, 0]
        chooser.rollouts = [0: 4, 1: 5, 2: 1, 3: 3]
        return chooser.counts(of: draws)
    }

    @Test func oneInAHundredLooksBeyondThoseThatHoldIt() throws {
        let found = try counts("oracle", of: 20_000)
        #expect(isAbout(0.01, found[2], of: 20_000) && found[2] > 0, "\(found)")
        #expect(found[0] + found[2] == 20_000)
        #expect(try counts("oracle:explore=0", of: 2_000) == [2_000, 0, 0, 0])
        #expect(try counts("oracle:explore=1", of: 2_000) == [0, 0, 2_000, 0])
        #expect(try counts("oracle:explore=0:penalty=2", of: 100) == [0, 0, 100, 0])
    }

    /// The soonest has a score of one, the latest none, the one half way a half.
    @Test func theWeightedVariantDrawsAmongThoseThatAreKept() throws {
        #expect(try counts("oracle:explore=0:weighted=1", of: 500) == [500, 0, 0, 0])
        let found = try counts("oracle:explore=1:weighted=1", of: 7_000)
        for (found, share) in zip(found, [1 / 7.0, 0, 4 / 7.0, 2 / 7.0]) { #expect(isAbout(share, found, of: 7_000), "\(found)") }
        var alike = try Chooser("oracle:weighted=1", groups: 3)
        alike.rollouts = [0: 2, 1: 2, 2: 2]
        let drawn = alike.counts(of: 3_000)
        #expect(drawn.allSatisfy { isAbout(1 / 3.0, $0, of: 3_000) }, "\(drawn)")
    }
}
