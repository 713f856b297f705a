import Foundation
import Testing
import Workload

@Suite struct ScheduleTests {
    private func gaps(_ process: ArrivalSchedule.Process) -> [Double] {
        let schedule = ArrivalSchedule(process, stages: [.init(startRate: 1_000, seconds: 40)], seed: 7)
        let times = schedule.arrivals.map { Double($0.offsetNanoseconds) / 1e9 }
        return zip(times.dropFirst(), times).map { $0 - $1 }
    }

    private func moments(_ values: [Double]) -> (mean: Double, variation: Double) {
        let mean = values.reduce(0, +) / Double(values.count)
        let variance = values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(values.count)
        return (mean, variance.squareRoot() / mean)
    }

    @Test(arguments: [
        (ArrivalSchedule.Process.constant, 0.0), (.poisson, 1), (.gamma(coefficientOfVariation: 0.5), 0.5),
        (.gamma(coefficientOfVariation: 2), 2), (.weibull(shape: 1), 1), (.weibull(shape: 2), 0.5227),
    ]) func gapsHaveTheirMeanAndScatter(process: ArrivalSchedule.Process, variation: Double) {
        let found = moments(gaps(process))
        #expect(abs(found.mean * 1_000 - 1) < 0.03)
        #expect(abs(found.variation - variation) < 0.02 + 0.04 * variation)
    }

    @Test func aScheduleIsItsSeed() {
        func schedule(_ seed: UInt64) -> ArrivalSchedule { .init(.poisson, stages: [.init(startRate: 50, seconds: 5)], seed: seed) }
        #expect(schedule(1) == schedule(1))
        #expect(schedule(1).hash == schedule(1).hash)
        #expect(schedule(1).hash != schedule(2).hash)
    }

    @Test func aConstantStageHasAllItsRequestsAndARampItsRates() {
        let constant = ArrivalSchedule(.constant, stages: [.init(startRate: 30, seconds: 7)], seed: 1)
        #expect(constant.arrivals.count == 210)
        let ramp = ArrivalSchedule(.constant, stages: [.init(startRate: 0, endRate: 100, seconds: 10)], seed: 1)
        #expect(ramp.arrivals.count == 500)
        // Under a ramp from nothing a quarter of the requests comes in the first half.
        #expect(ramp.arrivals.filter { $0.offsetNanoseconds <= 5_000_000_000 }.count == 125)
    }

    @Test func stagesFollowOneAnotherWithTheirGaps() throws {
        let schedule = ArrivalSchedule(
            .poisson, stages: [.init(startRate: 100, seconds: 1, gapSeconds: 2), .init(startRate: 200, seconds: 1)], seed: 3)
        let second = schedule.arrivals.filter { $0.stage == 1 }
        #expect(try #require(second.first).offsetNanoseconds >= 3_000_000_000)
        #expect(try #require(schedule.arrivals.last).offsetNanoseconds <= 4_000_000_000)
        #expect(schedule.durationNanoseconds == 4_000_000_000)
    }

    @Test func aTraceIsSortedAndScaled() {
        let schedule = ArrivalSchedule(traceOffsetsNanoseconds: [3_000, 1_000, 2_000], scale: 2)
        #expect(schedule.arrivals.map(\.offsetNanoseconds) == [0, 2_000, 4_000])
    }

    @Test func equalIdsAreEqualTextAndOneTokenAWord() {
        func text(_ id: UInt64, _ tokens: Int) -> [UInt8] {
            var text: [UInt8] = []
            PromptText.append(id: id, tokens: tokens, to: &text)
            return text
        }
        #expect(text(7, 512) == text(7, 512))
        #expect(text(7, 512) != text(8, 512))
        #expect(text(7, 512).starts(with: text(7, 100)))
        for tokens in [0, 1, 5, 512, 513] { #expect(text(9, tokens).filter { $0 == 0x20 }.count == tokens) }
    }
}
