import Foundation
import Histogram
import Reporting
import Testing
import Workload

@testable import LatencyBench

/// Intervals keep what they promise: simulated, with seeds, where the truth is known.
@Suite struct ComparisonTests {
    /// Exponential latencies about `mean` µs.
    private func latencies(_ mean: Double, count: Int, _ generator: inout SeededGenerator) -> SortedLatencies {
        var values: [UInt64] = []
        values.reserveCapacity(count)
        for _ in 0..<count { values.append(UInt64(-log(1 - Double.random(in: 0..<1, using: &generator)) * mean * 1_000)) }
        values.sort()
        return SortedLatencies(values.map { (value: $0, count: 1) })
    }

    /// Pairs of runs in the order ABBA, each with its own luck, on a machine that becomes slower by `drift` with every run.
    private func pairs(_ first: Double, _ second: Double, repeats: Int, drift: Double = 0, _ generator: inout SeededGenerator)
        -> [(SortedLatencies, SortedLatencies)]
    {
        var (left, right): ([SortedLatencies], [SortedLatencies]) = ([], [])
        for (number, isSecond) in PairedComparison.order(repeats: repeats).enumerated() {
            let luck = 1 + 0.05 * Double.random(in: -1...1, using: &generator) + drift * Double(number)
            let run = latencies((isSecond ? second : first) * luck, count: 100, &generator)
            if isSecond { right.append(run) } else { left.append(run) }
        }
        return Array(zip(left, right))
    }

    private static let trials = 200

    @Test(arguments: [(4, 0.0), (6, 0.0), (4, 0.02)]) func turnsClaimNothingOfTheSameMoreOftenThanPromised(repeats: Int, drift: Double) {
        var generator = SeededGenerator(seed: 11)
        var claims: [String: Int] = [:]
        for _ in 0..<Self.trials {
            let found = PairedComparison.differences(pairs: pairs(500, 500, repeats: repeats, drift: drift, &generator))
            #expect(found.map(\.name) == ["mean", "p50", "p90"], "100 requests a run are too few for more")
            for one in found where one.isClaimed { claims[one.name, default: 0] += 1 }
        }
        // One in twenty by the promise; 9 % is beyond two and a half standard deviations of 200 trials.
        for (name, count) in claims { #expect(count <= Self.trials * 9 / 100, "\(name)") }
    }

    @Test func turnsFindADifferenceAndTheirIntervalHoldsIt() {
        var generator = SeededGenerator(seed: 12)
        var (found, held) = (0, 0)
        for _ in 0..<Self.trials {
            let all = PairedComparison.differences(pairs: pairs(500, 700, repeats: 6, &generator))
            guard let mean = all.first(where: { $0.name == "mean" }) else { continue }
            if mean.isClaimed { found += 1 }
            if mean.low < 200_000, 200_000 < mean.high { held += 1 }
        }
        #expect(found >= Self.trials * 95 / 100)
        #expect(held >= Self.trials * 91 / 100)
    }

    @Test func twoReportsClaimNothingOfTheSameMoreOftenThanPromised() {
        var generator = SeededGenerator(seed: 13)
        var claims: [String: Int] = [:]
        for trial in 0..<Self.trials {
            let (a, b) = (latencies(500, count: 1_000, &generator), latencies(500, count: 1_000, &generator))
            let found = PairedComparison.differences(a, b, samples: 200, seed: UInt64(trial))
            #expect(found.map(\.name) == ["mean", "p50", "p90", "p99"])
            for one in found where one.isClaimed { claims[one.name, default: 0] += 1 }
        }
        for (name, count) in claims { #expect(count <= Self.trials * 9 / 100, "\(name)") }
    }

    @Test func twoReportsFindADifferenceAndTheirIntervalHoldsIt() {
        var generator = SeededGenerator(seed: 14)
        var (found, held) = (0, 0)
        for trial in 0..<50 {
            let (a, b) = (latencies(500, count: 1_000, &generator), latencies(650, count: 1_000, &generator))
            for one in PairedComparison.differences(a, b, samples: 200, seed: UInt64(trial)) where one.name == "p50" {
                if one.isClaimed { found += 1 }
                if one.low < 150_000 * log(2), 150_000 * log(2) < one.high { held += 1 }
            }
        }
        #expect(found >= 45)
        #expect(held >= 44)
    }

    /// Waits behind one server that is busy six tenths of the time (Lindley's recursion): each hangs together with those before it.
    private func queue(count: Int, _ generator: inout SeededGenerator) -> [RequestRecord] {
        var wait = 0.0
        let all = (0..<count + 200).map { index -> RequestRecord in
            var record = RequestRecord(index: index, stage: 0, dueNanoseconds: 0, sentNanoseconds: 0)
            record.outcome = .good
            record.firstTokenNanoseconds = UInt64((wait + 1) * 1e6)
            record.endNanoseconds = record.firstTokenNanoseconds
            wait = max(0, wait + 1 + log(1 - Double.random(in: 0..<1, using: &generator)) / 0.6)
            return record
        }
        // The first find an empty queue.
        return Array(all.suffix(count))
    }

    @Test func queuesOfTheSameAreNotToldApart() {
        var generator = SeededGenerator(seed: 15)
        let trials = 60
        var (claims, naive): ([String: Int], Int) = ([:], 0)
        for trial in 0..<trials {
            let sides = (0..<2).map { _ -> (sorted: SortedLatencies, plain: SortedLatencies) in
                let records = queue(count: 2_000, &generator)
                let values = records.map(\.timeToFirstToken).sorted().map { (value: $0, count: UInt64(1)) }
                var measured = RunMeasurements()
                for record in records { measured.timeToFirstToken.note(record.timeToFirstToken) }
                let effects = RunReport.designEffects(records, ["ttft": Distribution(measured.timeToFirstToken)])
                return (SortedLatencies(values, designEffects: effects["ttft"] ?? [:]), SortedLatencies(values))
            }
            for one in PairedComparison.differences(sides[0].sorted, sides[1].sorted, samples: 100, seed: UInt64(trial)) where one.isClaimed
            {
                claims[one.name, default: 0] += 1
            }
            let plain = PairedComparison.differences(sides[0].plain, sides[1].plain, samples: 100, seed: UInt64(trial))
            if plain.first?.isClaimed == true { naive += 1 }
        }
        for (name, count) in claims { #expect(count <= trials * 12 / 100, "\(name)") }
        #expect(naive > trials * 30 / 100, "the test's own: taken for independent they would be")
    }

    @Test func designEffectsAreOfNeighbours() {
        var generator = SeededGenerator(seed: 16)
        let independent = (0..<2_000).map { _ in Double.random(in: 0..<1, using: &generator) }
        #expect(RunReport.designEffect(independent) < 2)
        // Each value ten times over is a tenth as many.
        let repeated = independent.flatMap { Array(repeating: $0, count: 10) }
        #expect((5.0..<20).contains(RunReport.designEffect(repeated)))
        #expect(RunReport.designEffect([]) == 1 && RunReport.designEffect([1, 2, 3]) == 1)
        #expect(RunReport.designEffect(Array(repeating: 5, count: 100)) == 1)
    }

    /// By way of histograms and of a report's buckets the same comes out, to a bucket's width.
    @Test func histogramsAndReportsAreCompared() throws {
        var histograms = [LatencyHistogram](repeating: .latency(), count: 2)
        for step in 1...1_000 { for side in 0...1 { histograms[side].note(UInt64(step * 1_000 * (side + 1))) } }
        let turns = PairedComparison.differences([histograms[0], histograms[0]], [histograms[1], histograms[1], histograms[0]])
        let reports = PairedComparison.differences(Distribution(histograms[0]), Distribution(histograms[1]))
        for found in [turns, reports] {
            let p99 = try #require(found.first { $0.name == "p99" })
            #expect(abs(p99.first - 990_000) < 2_000 && abs(p99.second - 1_980_000) < 4_000 && p99.isClaimed)
            #expect(!found.contains { $0.name == "p99.9" }, "one request, or two, beyond it")
        }
        #expect(PairedComparison.differences([histograms[0]], [histograms[1]]).isEmpty, "one pair shows no spread")
    }

    /// Two runs a side that fall into neighbouring buckets differ by the histogram, and by nothing else that is known.
    @Test func aBucketsWidthIsNoDifference() {
        let (a, b) = (SortedLatencies([(value: 500_000, count: 100)]), SortedLatencies([(value: 501_000, count: 100)]))
        let found = PairedComparison.differences(pairs: [(a, b), (a, b)])
        #expect(!found.isEmpty && !found.contains(where: \.isClaimed))
    }

    @Test func aPercentileNeedsTenRequestsBeyondIt() {
        func names(_ count: UInt64, runs: Int) -> [String] {
            let run = SortedLatencies([(value: 500_000, count: count)])
            return PairedComparison.differences(pairs: Array(repeating: (run, run), count: runs)).map(\.name)
        }
        #expect(names(500, runs: 2) == ["mean", "p50", "p90", "p99"])
        #expect(names(499, runs: 2) == ["mean", "p50", "p90"])
        #expect(names(1_000, runs: 10).last == "p99.9")
        #expect(names(999, runs: 11).last == "p99", "no run may be without one")
    }

    @Test func whatTheNullTestClaimsIsNotClaimedOfARouter() {
        func difference(_ name: String, low: Double) -> LatencyDifference {
            .init(name: name, first: 1, second: 2, difference: 1, low: low, high: 2)
        }
        let added = ["p50", "p90", "p99"].map { difference($0, low: 0.5) }
        let null = [difference("p50", low: -1), difference("p90", low: 0.1)]
        let found = PairedComparison.doubted(added, by: null)
        #expect(found.map(\.isClaimed) == [true, false, false])
        #expect(found.map(\.verdict) == ["", "null test failed: no claim", "no null test: no claim"])
        #expect(null[0].verdict == "no claim")
    }

    /// Student's t from a table of any textbook.
    @Test(arguments: [(1, 12.706), (5, 2.571), (30, 2.042), (60, 2.000), (1_000, 1.962)])
    func quantilesAreStudents(degrees: Int, quantile: Double) {
        #expect(abs(PairedComparison.studentQuantile(degrees: degrees) - quantile) < 0.002)
    }

    @Test func theOrderIsABBA() {
        #expect(PairedComparison.order(repeats: 4) == [false, true, true, false, false, true, true, false])
    }
}
