import Routing
import Testing
import Workload

@testable import LatencyBench

/// An engine of so many tokens a second behind no context, whose samples are what a test makes of its line.
private struct Engine {
    var rate = 20_000.0
    var fixed = 0.03
    var step = 0.02

    func seconds(_ tokens: Int) -> Double { fixed + CostRule().prefillWork(uncached: Double(tokens), promptTokens: Double(tokens)) / rate }

    /// - Parameter change: of a first token's seconds, by the length's number and the repetition's.
    func samples(
        _ lengths: [Int] = CalibrationPlan.usualLengths, repeats: Int = 5,
        change: (Double, Int, Int) -> Double = { seconds, _, _ in seconds }
    ) -> Calibration.Samples {
        var samples = Calibration.Samples()
        for (number, length) in lengths.enumerated() {
            for repetition in 0..<repeats {
                samples.firstTokens.append(
                    .init(
                        length: number, promptTokens: length, cachedTokens: 0, textBytes: 5 * length,
                        seconds: change(seconds(length), number, repetition)))
            }
        }
        samples.stepSeconds = Array(repeating: step, count: repeats)
        return samples
    }
}

private func isClose(_ value: Double, _ expected: Double, within share: Double) -> Bool { abs(value / expected - 1) <= share }

@Suite struct CalibrationTests {
    private let engine = Engine()

    @Test func aLineIsFoundExactly() throws {
        let found = try Calibration(engine.samples())
        #expect(isClose(found.prefillTokensPerSecond.value, 20_000, within: 1e-9) && isClose(found.fixedSeconds.value, 0.03, within: 1e-9))
        #expect(found.decodeStepSeconds.value == 0.02 && found.bytesPerToken.value == 5)
        #expect(found.prefillTokensPerSecond.spread < 1e-9 && found.decodeStepSeconds.spread == 0 && found.invalidReasons.isEmpty)
        #expect(
            found.lengths.map(\.tokens) == CalibrationPlan.usualLengths.map(Double.init) && found.lengths.allSatisfy { $0.samples == 5 })
        #expect(found.lengths.allSatisfy { abs($0.offTheLine) < 1e-9 } && found.curvature == nil)
    }

    @Test func stallsInTwoOfFiveMoveNothing() throws {
        let found = try Calibration(engine.samples { seconds, _, repetition in repetition < 2 ? 30 * seconds : seconds })
        #expect(isClose(found.prefillTokensPerSecond.value, 20_000, within: 1e-9) && isClose(found.fixedSeconds.value, 0.03, within: 1e-9))
        // What is seen in two of five may be in three of the next five.
        #expect(found.prefillTokensPerSecond.spread > Calibration.greatestSpread && found.invalidReasons.count == 1)
    }

    @Test(arguments: CalibrationPlan.usualLengths.indices) func oneLengthThatWasDisturbedMovesLittle(disturbed: Int) throws {
        let found = try Calibration(engine.samples { seconds, length, _ in length == disturbed ? 3 * seconds : seconds })
        #expect(isClose(found.prefillTokensPerSecond.value, 20_000, within: 0.01), "\(found.prefillTokensPerSecond)")
        #expect(isClose(found.fixedSeconds.value, 0.03, within: 0.05), "\(found.fixedSeconds)")
    }

    /// Five per cent either way, on fifty draws of a seed each.
    @Test func noiseIsTold() throws {
        var (held, worst) = (0, 0.0)
        for seed in 0..<50 {
            var generator = SeededGenerator(seed: UInt64(seed))
            var samples = engine.samples { seconds, _, _ in seconds * Double.random(in: 0.95...1.05, using: &generator) }
            samples.stepSeconds = samples.stepSeconds.map { $0 * Double.random(in: 0.95...1.05, using: &generator) }
            let found = try Calibration(samples)
            worst = max(worst, abs(found.prefillTokensPerSecond.value / 20_000 - 1), abs(found.decodeStepSeconds.value / 0.02 - 1))
            held += (found.prefillTokensPerSecond.low...found.prefillTokensPerSecond.high).contains(20_000) ? 1 : 0
            #expect(found.prefillTokensPerSecond.spread > 0.001 && found.invalidReasons.isEmpty)
        }
        #expect(worst < 0.05 && held >= 42, "at most \(worst) off, \(held) of 50 intervals have it")
    }

    @Test func whatIsCachedWasNotComputed() throws {
        var samples = engine.samples()
        for index in samples.firstTokens.indices {
            samples.firstTokens[index].promptTokens += 100
            samples.firstTokens[index].cachedTokens = 100
        }
        let found = try Calibration(samples)
        // Attention to a hundred more makes a token 0.3 % dearer, which this engine does not take.
        #expect(isClose(found.prefillTokensPerSecond.value, 20_000, within: 0.004) && isClose(found.fixedSeconds.value, 0.03, within: 1e-3))
    }

    /// Attention grows with the square of a prompt: no router presumes less than nothing for an empty one.
    @Test func aCurveHasNoOverheadBelowZero() throws {
        let found = try Calibration(
            engine.samples { _, length, _ in
                let tokens = Double(CalibrationPlan.usualLengths[length])
                return tokens / 20_000 + tokens * tokens / 4e8
            })
        #expect(found.fixedSeconds.value == 0 && found.fixedSeconds.low == 0)
        #expect((14_000..<20_000).contains(found.prefillTokensPerSecond.value), "\(found.prefillTokensPerSecond)")
        #expect(found.curvature?.contains("at 16384 tokens") == true)
    }

    private func failure(_ samples: Calibration.Samples) -> String? {
        do { _ = try Calibration(samples) } catch { return error.description }
        return nil
    }

    @Test func whatTellsNothingIsAFailure() throws {
        #expect(failure(.init())?.contains("of no prompts") == true)
        #expect(failure(engine.samples([512]))?.contains("of one length") == true)
        // Of the second length there are two, which is no median.
        var few = engine.samples([256, 512])
        few.firstTokens.removeLast(3)
        #expect(failure(few)?.contains("of one length") == true)
        #expect(failure(engine.samples { _, length, _ in 0.5 - 0.01 * Double(length) })?.contains("come no later") == true)
        #expect(failure(engine.samples { _, _, _ in 0.03 })?.contains("come no later") == true)
        #expect(failure(engine.samples([256, 512, 512]))?.contains("cuts prompts short") == true)
        var cached = engine.samples()
        for index in cached.firstTokens.indices { cached.firstTokens[index].cachedTokens = cached.firstTokens[index].promptTokens - 1 }
        #expect(failure(cached)?.contains("cannot have seen") == true)
        var answers = engine.samples()
        answers.stepSeconds = [0.02, 0.02]
        #expect(failure(answers)?.contains("2 streamed answers") == true)
        answers.stepSeconds = [0, 0, 0]
        #expect(failure(answers)?.contains("come at once") == true)
    }

    @Test func stepsThatVaryAreNoFigure() throws {
        var samples = engine.samples()
        samples.stepSeconds = [0.02, 0.03, 0.04, 0.02, 0.05]
        let reasons = try Calibration(samples).invalidReasons
        #expect(reasons.count == 1 && reasons[0].hasPrefix("a decode step may be anything from 20 ms to 50 ms"), "\(reasons)")
    }

    /// A router with the printed rate as its prior learns nothing else from the same engine, and as its overhead the printed one.
    @Test func theRouterMeansTheSame() throws {
        let slow = Engine(rate: 9_000, fixed: 0.04)
        let found = try Calibration(slow.samples())
        let table = RoutingTable(policy: .leastCost, seed: 1)
        table.replaceGroups(
            [
                GroupDescription(
                    name: "g", leader: Endpoint(host: "10.0.0.1", port: 8_000), prefillTokensPerSecond: found.prefillTokensPerSecond.value,
                    decodeStepSeconds: found.decodeStepSeconds.value)
            ], now: 0)
        #expect(table.groups(now: 0)[0].decodeStepSeconds == 0.02)
        var generator = SeededGenerator(seed: 4)
        // After what a group that joins is spared for.
        var now: UInt64 = 60_000_000_000
        for _ in 0..<100 {
            let tokens = Int.random(in: 200...8_000, using: &generator)
            let lease = try table.pick(RoutingRequest(promptBytes: 4 * tokens), now: now).get().lease
            now += UInt64(slow.seconds(tokens) * 1e9)
            table.firstToken(lease, now: now)
            table.settle(lease, usage: nil, now: now + 1_000_000)
            now += 1_000_000_000
        }
        let state = table.groups(now: now)[0]
        #expect(isClose(state.prefillTokensPerSecond, found.prefillTokensPerSecond.value, within: 0.02), "\(state.prefillTokensPerSecond)")
        #expect(isClose(state.overheadSeconds, found.fixedSeconds.value, within: 0.1), "\(state.overheadSeconds)")
    }
}

@Suite struct CalibrationPlanTests {
    private func wishes(_ lengths: [Int] = CalibrationPlan.usualLengths, salt: UInt64 = 7) -> CalibrationPlan.Wishes {
        .init(lengths: lengths, rounds: 5, answerTokens: 64, salt: salt)
    }

    private func impression(rate: Double) -> EngineImpression {
        .init(templateTokens: 20, tokensPerWord: 2.5, secondsPerToken: 1 / rate, fixedSeconds: 0.02, stepSeconds: 0.02)
    }

    @Test func nothingIsSharedNorSentTwice() throws {
        let plans = try [1, 2].flatMap { salt in
            [CalibrationPlan(scoutFor: wishes(salt: salt)), try CalibrationPlan(wishes(salt: salt), impression(rate: 20_000), seconds: 60)]
        }
        let ids = plans.flatMap { $0.load.requests.flatMap(\.user).map(\.id) }
        #expect(ids.count == Set(ids).count && plans.allSatisfy { $0.purposes.count == $0.load.requests.count })
    }

    @Test func aRoundHasEachLengthAndAnAnswer() throws {
        let plan = try CalibrationPlan(wishes([256, 1_024]), impression(rate: 20_000), seconds: 60)
        #expect(plan.rounds == 5 && plan.lengths == [256, 1_024])
        #expect(plan.purposes.prefix(4) == [.warmUp, .firstToken(length: 0), .firstToken(length: 1), .steps] && plan.purposes.count == 16)
        #expect(plan.load.requests.prefix(4).map(\.outputTokens) == [8, 8, 8, 64])
        // Words that come to so many tokens with the template's.
        #expect(plan.load.requests.prefix(4).map(\.plannedTokens) == [94, 94, 401, 94])
        // 2 · (0.02 + 256 / 20,000) + 0.02 + 1,024 / 20,000 and 2 · 7 + 63 steps.
        #expect(isClose(plan.expectedSeconds(impression(rate: 20_000)), 5 * (0.1368 + 77 * 0.02), within: 1e-9))
    }

    @Test func aSlowEngineGetsLess() throws {
        let fast = try CalibrationPlan(wishes(), impression(rate: 20_000), seconds: 30)
        #expect(fast.rounds == 5 && fast.lengths == CalibrationPlan.usualLengths)
        let slow = try CalibrationPlan(wishes(), impression(rate: 2_000), seconds: 40)
        #expect(slow.rounds == 3 && slow.lengths == [256, 512, 1_024, 2_048, 4_096, 8_192])
        #expect(slow.expectedSeconds(impression(rate: 2_000)) <= 40)
        #expect(throws: CalibrationFailure.self) { try CalibrationPlan(wishes(), impression(rate: 20), seconds: 60) }
    }

    @Test func lengthsFitTheEngine() {
        func lengths(_ limit: Int?, of lengths: [Int] = CalibrationPlan.usualLengths) -> [Int] {
            CalibrationPlan.lengths(lengths, limit: limit, answerTokens: 64)
        }
        #expect(lengths(nil) == CalibrationPlan.usualLengths && lengths(131_072) == CalibrationPlan.usualLengths)
        #expect(lengths(4_096) == [256, 512, 1_024, 2_048])
        #expect(lengths(1_024) == [112, 224, 448, 896])
        #expect(lengths(128) == [])
        // Whoever names lengths gets no others.
        #expect(lengths(1_024, of: [300, 900, 3_000]) == [300])
    }

    private func record(
        _ index: Int, promptTokens: Int, firstToken: Double, lastToken: Double = 0, outputTokens: Int = 1, outcome: RequestOutcome = .good
    ) -> RequestRecord {
        var record = RequestRecord(index: index, stage: 0, dueNanoseconds: 0, sentNanoseconds: 1_000_000_000)
        record.firstTokenNanoseconds = 1_000_000_000 + UInt64(firstToken * 1e9)
        record.lastTokenNanoseconds = 1_000_000_000 + UInt64(max(firstToken, lastToken) * 1e9)
        (record.promptTokens, record.outputTokens, record.outcome) = (promptTokens, outputTokens, outcome)
        return record
    }

    @Test func aLookIsTheSecondOfEachLength() throws {
        let plan = CalibrationPlan(scoutFor: wishes())
        #expect(plan.purposes == [.warmUp, .warmUp, .firstToken(length: 0), .firstToken(length: 1)] && plan.lengths == [256, 1_024])
        let look = try EngineImpression(
            [
                record(0, promptTokens: 532, firstToken: 9), record(1, promptTokens: 2_068, firstToken: 9),
                record(2, promptTokens: 532, firstToken: 0.1, lastToken: 0.24, outputTokens: 8),
                record(3, promptTokens: 2_068, firstToken: 0.25, lastToken: 0.39, outputTokens: 8),
            ], of: plan)
        #expect(look.tokensPerWord == 2 && look.templateTokens == 20 && isClose(look.stepSeconds, 0.02, within: 1e-6))
        #expect(isClose(look.secondsPerToken, 0.15 / 1_536, within: 1e-6) && look.words(forTokens: 1_020) == 500)
        #expect(throws: CalibrationFailure.self) { try EngineImpression([], of: plan) }
    }

    @Test func onlyGoodStreamsAreSamples() throws {
        let plan = try CalibrationPlan(wishes([256, 1_024]), impression(rate: 20_000), seconds: 60)
        var whole = record(5, promptTokens: 1_024, firstToken: 0.2)
        whole.isStreamed = false
        let samples = Calibration.Samples(
            [
                record(0, promptTokens: 256, firstToken: 0.1), record(1, promptTokens: 256, firstToken: 0.1),
                record(2, promptTokens: 1_024, firstToken: 0.2, outcome: .reset),
                record(3, promptTokens: 256, firstToken: 0.1, lastToken: 1.36, outputTokens: 64),
                record(4, promptTokens: 0, firstToken: 0.1),
                whole,
            ], of: plan)
        #expect(samples.firstTokens.count == 1 && samples.stepSeconds.count == 1 && isClose(samples.stepSeconds[0], 0.02, within: 1e-6))
        #expect(samples.firstTokens[0].seconds == 0.1 && samples.firstTokens[0].textBytes == plan.textBytes(1))
    }

    @Test(arguments: [
        (19_993.4, "19993"), (1_234_567.8, "1234568"), (10.0996, "10.1"), (9.99999, "10"), (0.2, "0.2"), (0.000123456, "0.0001235"),
        (0, "0"),
        (Double.infinity, "0"),
    ]) func figuresAreDecimal(value: Double, text: String) {
        #expect(CalibrationText.number(value) == text)
    }

    @Test(arguments: [
        ("http://127.0.0.1:8000/v1/x", "http://127.0.0.1:8000"), ("https://127.0.0.1", "https://127.0.0.1:443"),
        ("grpc://[::1]:9", "h2c://[::1]:9"), ("h2://127.0.0.1:9", "h2://127.0.0.1:9"),
    ]) func aTargetIsNamedAsALeader(url: String, leader: String) throws {
        #expect(try LoadTarget(url).groupURL == leader)
    }
}
