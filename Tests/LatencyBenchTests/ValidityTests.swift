import Foundation
import Histogram
import Reporting
import Testing
import Workload

@testable import LatencyBench

/// When a run says of itself that its figures must not be used.
@Suite struct ValidityTests {
    private static let millisecond: UInt64 = 1_000_000

    /// A report of requests, 10 ms apart, that were each sent `lag` late and had their first token `ttft` after they were due.
    private func report(lag: UInt64, ttft: UInt64, mode: RequestPacer.Mode = .open(limit: nil), sent: Int = 100, planned: Int = 100) throws
        -> RunReport
    {
        let requests = (0..<planned).map {
            PlannedRequest(offsetNanoseconds: UInt64($0) * 10 * Self.millisecond, user: [.init(id: 1, tokens: 1)], outputTokens: 1)
        }
        var settings = LoadSettings()
        settings.mode = mode
        let run = LoadRun(
            plan: LoadPlan(
                name: "test", parameters: [:], requests: requests, stages: [.init(startRate: 100, seconds: Double(planned) / 100)],
                process: "constant"), target: try LoadTarget("http://127.0.0.1:1"), settings: settings)
        var measured = RunMeasurements()
        for index in 0..<sent {
            let due = requests[index].offsetNanoseconds
            var record = RequestRecord(index: index, stage: 0, dueNanoseconds: due, sentNanoseconds: due + lag)
            record.firstTokenNanoseconds = due + ttft
            record.endNanoseconds = due + ttft
            record.outcome = .good
            measured.add(record, recordLimit: 1_000)
            measured.sent += 1
        }
        return RunReport(
            run, measured, environment: RunEnvironment(since: .init()),
            context: .init(tool: "", label: "", startedAt: .now, command: [], goodput: nil))
    }

    @Test func aPunctualGeneratorIsValid() throws {
        #expect(try report(lag: 990_000, ttft: 200 * Self.millisecond).invalidReasons == [])
    }

    @Test func overAMillisecondIsLate() throws {
        let reasons = try report(lag: 1_010_000, ttft: 200 * Self.millisecond).invalidReasons
        #expect(reasons.count == 1 && reasons[0].contains("over 1 ms"))
    }

    /// Half a millisecond is nothing of a second, and too much of ten milliseconds.
    @Test func overAHundredthOfTheTTFTIsLate() throws {
        #expect(try report(lag: 500_000, ttft: 51 * Self.millisecond).isValid)
        let reasons = try report(lag: 500_000, ttft: 49 * Self.millisecond).invalidReasons
        #expect(reasons.count == 1 && reasons[0].contains("over 1 %"))
    }

    @Test func aClosedLoopHasNoTimesToKeep() throws {
        #expect(try report(lag: 5 * Self.millisecond, ttft: 10 * Self.millisecond, mode: .closed(concurrency: 4)).isValid)
    }

    @Test func whatWasNotSentSpoilsARun() throws {
        #expect(try report(lag: 0, ttft: Self.millisecond, sent: 99).isValid)
        #expect(try report(lag: 0, ttft: Self.millisecond, sent: 98).invalidReasons == ["only 98 of 100 requests were sent"])
        #expect(try report(lag: 0, ttft: Self.millisecond, sent: 0, planned: 1).invalidReasons.contains("no request succeeded"))
    }

    /// One loop or several: together they have what was asked for, and none has nothing.
    @Test func sharesAddUpToTheWhole() {
        for (whole, parts) in [(32, 2), (5, 4), (1, 1), (7, 3), (4, 4)] {
            let shares = (0..<parts).map { RequestPacer.Mode.closed(concurrency: whole).share($0, of: parts).limit ?? 0 }
            #expect(shares.reduce(0, +) == whole && shares.allSatisfy { $0 > 0 })
            #expect((0..<parts).map { RequestPacer.Mode.open(limit: whole).share($0, of: parts).limit ?? 0 } == shares)
        }
        #expect(RequestPacer.Mode.open(limit: nil).share(1, of: 2) == .open(limit: nil))
    }

    @Test func thereAreNoKeysInReports() throws {
        let command = [
            "bench", "-H", "Authorization: Bearer abc", "--header", "x-key:abc", "--header=a: abc", "-Hb: abc", "--label", "c: d",
        ]
        let kept = [
            "bench", "-H", "Authorization: [redacted]", "--header", "x-key: [redacted]", "--header=a: [redacted]", "-Hb: [redacted]",
            "--label", "c: d",
        ]
        #expect(RecordedCommand.redacted(command) == kept)
        #expect(RecordedCommand.redacted(["-H"]) == ["-H"])
    }
}
