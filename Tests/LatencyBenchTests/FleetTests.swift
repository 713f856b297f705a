import Foundation
import Reporting
import Testing

@testable import LatencyBench

@Suite struct PeerRouterTests {
    /// Whatever a router is told by, flags or a file, it must be told of its port and of every group: one that is left out would make it look slow.
    @Test(arguments: PeerRouter.allCases) func everyRouterIsToldOfEveryGroup(_ peer: PeerRouter) throws {
        let ports = PeerRouter.Ports(listen: 18_100, metrics: 18_200, backends: [19_001, 19_002, 19_003])
        let launch = peer.launch("/bin/router", ports, folder: URL(filePath: "/tmp/home"))
        let told = launch.arguments.joined(separator: " ") + (launch.file?.text ?? "")
        for port in ports.backends + [ports.listen] { #expect(told.contains("\(port)"), "\(port)") }
        // A file that is written must be one that is read.
        if let file = launch.file { #expect(launch.arguments.contains("/tmp/home/\(file.name)")) }
    }

    /// Of several each tells all others, and none that is to know nothing of them.
    @Test func replicasAreToldOfOneAnother() {
        var ports = PeerRouter.Ports(listen: 18_100, metrics: 18_200, backends: [19_001])
        (ports.sync, ports.others) = (18_300, [18_301, 18_302])
        let told = PeerRouter.swiftlet.launch("/bin/router", ports, folder: URL(filePath: "/tmp/home")).arguments.joined(separator: " ")
        #expect(told.contains("--replica-listen 127.0.0.1:18300"))
        #expect(told.contains("--replica-peer 127.0.0.1:18301") && told.contains("--replica-peer 127.0.0.1:18302"))
        for peer in PeerRouter.allCases where peer != .swiftlet {
            let launch = peer.launch("/bin/router", ports, folder: URL(filePath: "/tmp/home"))
            let text = launch.arguments.joined(separator: " ") + (launch.file?.text ?? "")
            #expect(!text.contains("1830"))
        }
    }

    /// Envoy refuses endpoints that stand beside their list instead of in it.
    @Test func envoysEndpointsStandInTheirList() throws {
        let ports = PeerRouter.Ports(listen: 18_100, metrics: 18_200, backends: [19_001, 19_002])
        let file = try #require(PeerRouter.envoy.launch("/bin/envoy", ports, folder: URL(filePath: "/tmp/home")).file)
        let lines = file.text.split(separator: "\n")
        let list = try #require(lines.first { $0.contains("- lb_endpoints:") }?.prefix { $0 == " " }.count)
        let endpoints = lines.filter { $0.contains("- endpoint:") }.map { $0.prefix { $0 == " " }.count }
        #expect(endpoints == [list + 2, list + 2])
    }

    @Test func aMissingProgramIsNamedWithWhatInstallsIt() {
        let settings = RouterBed.Settings(swiftlet: "/bin/swiftlet", peersFolder: "/nonexistent")
        #expect(throws: Never.self) { try RouterBed.program(of: .roundRobin, settings) }
        if let error = #expect(throws: ChildProcess.Failure.self, performing: { try RouterBed.program(of: .smg, settings) }) {
            #expect(error.description.contains("smg") && error.description.contains("make bench-peers"))
        }
    }
}

@Suite struct ChildProcessTests {
    private func log() -> URL { FileManager.default.temporaryDirectory.appending(path: "swiftlet-test-\(UUID().uuidString)") }

    @Test func whatItStartsEndsWithIt() throws {
        let log = log()
        defer { try? FileManager.default.removeItem(at: log) }
        // A shell that ignores the request to end, with a child of its own.
        let child = try ChildProcess("/bin/sh", ["-c", "trap '' TERM; sleep 600 & echo $!; wait"], log: log)
        let grandchild = try child.wait(seconds: 10, for: "line") { pid_t(child.output.trimmingCharacters(in: .whitespacesAndNewlines)) }
        child.stop()
        // Init, or who stands in for it, may take a moment to bury it; a zombie runs no longer.
        let end = Date().addingTimeInterval(10)
        func runs() -> Bool {
            let state = (try? String(contentsOfFile: "/proc/\(grandchild)/stat", encoding: .utf8)) ?? ""
            return !state.isEmpty && !state.contains(") Z")
        }
        while runs(), Date() < end { usleep(5_000) }
        #expect(!runs())
        #expect(throws: ChildProcess.Failure.self) { try child.checkAlive() }
    }

    @Test func aProgramThatEndsTellsWhatItSaid() throws {
        let log = log()
        defer { try? FileManager.default.removeItem(at: log) }
        let child = try ChildProcess("/bin/sh", ["-c", "echo no such flag >&2; exit 3"], log: log)
        defer { child.stop() }
        let error = #expect(throws: ChildProcess.Failure.self) { try child.wait(seconds: 10, for: "port") { () -> Int? in nil } }
        #expect(error?.description.contains("no such flag") == true)
    }

    @Test func whatIsNoProgramIsAnError() {
        #expect(throws: ChildProcess.Failure.self) { try ChildProcess("/nonexistent", [], log: log()) }
    }
}

@Suite struct OverheadTableTests {
    private func row(_ name: String, low: Double, high: Double) throws -> OverheadTable.Row {
        var row = OverheadTable.Row(router: name, version: "", promptBytes: 1_024, direct: [], via: [], null: nil, failed: 0, lags: [])
        row.added = [.init(name: "p50", first: 1e6, second: 1.05e6, difference: 50_000, low: low, high: high)]
        return row
    }

    @Test func whatMayBeZeroStandsInSquareBrackets() throws {
        var table = OverheadTable(
            tool: "", startedAt: .now, command: [], repeats: 1, parameters: [:], environment: RunEnvironment(since: .init()))
        table.rows = [
            try row("null test", low: 40_000, high: 60_000), try row("sure", low: 40_000, high: 60_000),
            try row("unsure", low: -10_000, high: 90_000),
        ]
        let rows = try #require(table.tables.first).table.rows
        let column = try #require(table.tables.first?.table.header.firstIndex(of: "p50"))
        #expect(rows.map { $0[column] } == ["50 (40 to 60)", "50 (40 to 60)", "[50 (-10 to 90)]"])
        // What had too few requests has its column, and nothing in it.
        #expect(rows.allSatisfy { $0[column + 3] == "–" })
        #expect(table.failedNullTests == ["p50 at 1024 bytes: no claim"])
    }
}

@Suite struct FleetReportTests {
    private func cell(_ router: String, rate: Double, milliseconds: UInt64?) -> FleetReport.Cell {
        var measured = RunMeasurements()
        var record = RequestRecord(index: 0, stage: 0, dueNanoseconds: 1, sentNanoseconds: 1)
        if let milliseconds {
            record.firstTokenNanoseconds = milliseconds * 1_000_000
            record.endNanoseconds = record.firstTokenNanoseconds
            record.outcome = .good
        }
        measured.add(record, recordLimit: 1)
        return FleetReport.Cell(router: router, rate: rate, reports: [], measured: measured, goodput: nil)
    }

    private func report(_ cells: [FleetReport.Cell]) -> FleetReport {
        FleetReport(
            tool: "", startedAt: .now, command: [], isPartial: false,
            environment: RunEnvironment(since: .init(), generator: "real-time (SCHED_RR 10)", groups: "ordinary"), groups: 1, stubFlags: [],
            repeats: 1, goodput: nil, routers: [.init(name: "a", version: ""), .init(name: "b", version: "")], workloads: [], cells: cells)
    }

    /// A router that answers nothing at a rate is a result: told in words, a dash in the table, and a gap in the plot.
    @Test func noAnswerIsAGapAndNoZero() throws {
        let report = report([
            cell("a", rate: 1, milliseconds: 5), cell("b", rate: 1, milliseconds: 6), cell("a", rate: 2, milliseconds: 5),
            cell("b", rate: 2, milliseconds: nil), cell("a", rate: 3, milliseconds: 5), cell("b", rate: 3, milliseconds: 7),
        ])
        let row = try #require(report.table.rows.first { $0[0] == "2" && $0[1] == "b" })
        #expect(row[2...7].allSatisfy { $0 == "–" } && row[9] == "1")
        #expect(report.silent == ["b answered none of 1 requests at 2.00/s (unfinished: 1)"])
        let lines = report.meanChart.svg.matches(of: /<polyline points="([^"]*)"/).map { $0.1.split(separator: " ").count }
        // Router a and its legend; b before the gap, after it, and its legend.
        #expect(lines == [3, 2, 1, 1, 2])
    }

    /// What is not answered in time is in no mean: such a point is hollow, and the picture says so.
    @Test func aPointOfWhichSomeFailedIsHollow() {
        var some = cell("a", rate: 2, milliseconds: 5)
        some.failed = 1
        let report = report([cell("a", rate: 1, milliseconds: 5), some])
        #expect(report.meanChart.svg.matches(of: /fill="var\(--paper, #fff\)"/).count == 1)
        #expect(report.picture.contains("Hollow") && report.picture.matches(of: /fill="var\(--paper, #fff\)"/).count == 2)
    }

    /// However many runs were late, a router at a rate is one line, with the worst.
    @Test func invalidRunsOfACellAreOneLine() {
        var (first, second) = (cell("a", rate: 1, milliseconds: 5), cell("b", rate: 1, milliseconds: 5))
        first.runs = [3, 9, 0, 5].map { lag in
            .init(ttftMean: 1, ttftP99: 1, lagP99: lag, invalidReasons: lag == 0 ? [] : ["lag \(lag)", "few sent"])
        }
        second.runs = [.init(ttftMean: 1, ttftP99: 1, lagP99: 0, invalidReasons: [])]
        #expect(report([first, second]).invalidReasons == ["a at 1.00/s, 3 of 4 runs, the worst: lag 9; few sent"])
    }

    @Test func thePageSaysWhoRanAheadOfWhom() {
        let page = report([cell("a", rate: 1, milliseconds: 5)]).html
        #expect(page.contains("generator's threads") || page.contains("generator&#39;s threads"))
        #expect(page.contains("real-time (SCHED_RR 10)"))
    }

    @Test func groupsSayHowTheyAreScheduled() {
        #expect(RouterBed.schedule("scheduled: real-time (SCHED_RR 10)\nlistening on http://127.0.0.1:1\n") == "real-time (SCHED_RR 10)")
        #expect(RouterBed.schedule("listening on http://127.0.0.1:1\nscheduled: real-") == nil, "a line that has not come whole")
    }
}

@Suite struct OverheadTurnTests {
    /// Two routers at the most between runs without one, and each beside the one that it is compared with.
    @Test(arguments: 1...9) func everyRouterHasADirectNeighbour(_ routers: Int) throws {
        let places = OverheadTable.Turn(routers: routers).places
        #expect(places.first == .direct(0))
        #expect(places.count { if case .direct = $0 { true } else { false } } == max(2, routers / 2 + 1))
        for number in 0..<routers {
            let own = try #require(places.firstIndex(of: .router(number)))
            let beside = try #require(places.firstIndex(of: .direct(OverheadTable.Turn.direct(beside: number))))
            #expect(abs(own - beside) == 1)
        }
    }

    @Test func whoDoesNotStartIsSaid() throws {
        var table = OverheadTable(
            tool: "", startedAt: .now, command: [], repeats: 2, parameters: [:], environment: RunEnvironment(since: .init()))
        table.failures = ["smg": "it is missing"]
        #expect(table.silent == ["smg did not start: it is missing"] && table.html.contains("smg did not start: it is missing."))
    }
}
