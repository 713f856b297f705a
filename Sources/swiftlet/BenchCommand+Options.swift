import ArgumentParser
import EventLoop
import Foundation
import LatencyBench
import Workload

/// Whom requests are for, and what they carry.
struct TargetOptions: ParsableArguments {
    @Option(help: "Model asked for; without it engines take their own.")
    var model = ""
    @Option(name: [.customShort("H"), .long], help: ArgumentHelp("Field for every request. Repeatable.", valueName: "name: value"))
    var header: [String] = []
    @Option(help: ArgumentHelp("PEM file of the authorities to trust. (default: the system's)", valueName: "file"))
    var caFile: String?
    @Flag(help: "Take any certificate.")
    var insecure = false

    func check() throws {
        guard !header.contains(where: { !$0.contains(":") || $0.contains("\n") || $0.contains("\r") }) else {
            throw ValidationError("--header: expected 'name: value'")
        }
        let names = header.map { $0.prefix { $0 != ":" }.trimmingCharacters(in: .whitespaces) }
        for name in names where name.isEmpty || !name.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7f && !"\"(),/;<=>?@[\\]{}".utf8.contains($0) })
        {
            throw ValidationError("--header: '\(name)' is no name of a field")
        }
    }

    func write(to settings: inout LoadSettings) {
        settings.model = model
        settings.headers = header.map { line in
            let parts = line.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
            return (String(parts[0]).trimmingCharacters(in: .whitespaces), String(parts[1]).trimmingCharacters(in: .whitespaces))
        }
        settings.caFile = caFile
        settings.skipsVerification = insecure
    }
}

/// How requests are made, and what their answers are taken for.
struct RequestOptions: ParsableArguments {
    @Option(help: ArgumentHelp("chat, text, plain (any HTTP) or infer (gRPC, Open Inference Protocol).", valueName: "api"))
    var api = "chat"
    @OptionGroup var target: TargetOptions
    @Flag(inversion: .prefixedNo, help: "Stream the answers.")
    var stream = true
    @Flag(name: .customLong("ignore-eos"), inversion: .prefixedNo, help: "Ask for answers of the planned length.")
    var ignoreEnd = true
    @Option(help: "Method of plain requests; POST when they have a body.")
    var method = "GET"
    @Option(help: ArgumentHelp("Body of a plain request.", valueName: "bytes"))
    var bodyBytes = 0
    @Option(help: ArgumentHelp("Silence after which an answer is given up.", valueName: "seconds"))
    var timeout = 600.0
    @Option(
        help: ArgumentHelp(
            "HTTP/2 connections per thread at the least; more are opened as the server's stream limit requires.", valueName: "count"))
    var connections = 1
}

/// What is sent.
struct WorkloadOptions: ParsableArguments {
    @Option(
        name: .customLong("workload"),
        help: ArgumentHelp("Named workload: \(LoadPlan.names.joined(separator: ", ")). (default: chatbot)", valueName: "name"))
    var givenWorkload: String?
    @Option(help: ArgumentHelp("Trace instead: JSONL of Mooncake, Bailian or AIPerf, CSV of Azure or BurstGPT.", valueName: "file"))
    var trace: String?
    @Option(help: ArgumentHelp("Trace times are multiplied by it; below 1 is faster.", valueName: "factor"))
    var timeScale = 1.0
    @Option(help: ArgumentHelp("Trace lengths are multiplied by it.", valueName: "factor"))
    var lengthScale = 1.0
    @Option(help: ArgumentHelp("Trace rows to leave out from its start; later rows share more.", valueName: "rows"))
    var traceSkip = 0
    @Option(help: ArgumentHelp("Length of a hash id's block. (default: 512, of Bailian's traces 16)", valueName: "tokens"))
    var traceBlockTokens: Int?
    @Option(name: .customLong("prompt-groups"), help: ArgumentHelp("Groups of prompts with one beginning.", valueName: "count"))
    var groups: Int?
    @Option(help: ArgumentHelp("Prompts per group.", valueName: "count"))
    var promptsPerGroup: Int?
    @Option(help: ArgumentHelp("Length of the shared beginning.", valueName: "tokens"))
    var systemTokens: Int?
    @Option(help: ArgumentHelp("Length of the rest.", valueName: "tokens"))
    var inputTokens: Int?
    @Option(help: ArgumentHelp("Length of the answer.", valueName: "tokens"))
    var outputTokens: Int?
    @Option(help: ArgumentHelp("Turns of a session.", valueName: "count"))
    var turns: Int?
    @Option(help: ArgumentHelp("Mean pause before a session's next turn.", valueName: "seconds"))
    var thinkSeconds: Double?
    @Option(help: ArgumentHelp("At most so many requests (trace rows, sessions).", valueName: "count"))
    var limit: Int?
    @Option(
        name: .customLong("seed"), parsing: .unconditional,
        help: ArgumentHelp("Seed of schedule and workload. (default: 1)", valueName: "seed"))
    var givenSeed: UInt64?
    @Option(
        name: .customLong("salt"), parsing: .unconditional,
        help: ArgumentHelp("Changes all text, so that nothing is in a cache yet. (default: 0)", valueName: "salt"))
    var givenSalt: UInt64?
}

/// When it is sent.
struct TrafficOptions: ParsableArguments {
    @Option(
        name: [.customLong("rate"), .customLong("rates")],
        help: ArgumentHelp(
            "Several, with commas, are stages; 10-50 is a ramp; 'published': those of --workload's authors (\(LoadPlan.publishedLoads.keys.sorted().joined(separator: ", "))), with their durations. (default: 10)",
            valueName: "requests/s"))
    var givenRate: String?
    @Option(
        name: .customLong("duration"),
        help: ArgumentHelp("Of a stage; several, with commas, for several stages. (default: 10)", valueName: "seconds"))
    var givenDuration: String?
    @Option(help: ArgumentHelp("Silence between stages.", valueName: "seconds"))
    var stageGap = 0.0
    @Option(
        name: .customLong("arrival"),
        help: ArgumentHelp("constant, poisson, gamma:CV or weibull:SHAPE. (default: poisson)", valueName: "process"))
    var givenArrival: String?
    @Option(help: ArgumentHelp("At most so many requests under way; their wait counts. (default: any number)", valueName: "count"))
    var maxConcurrency: Int?
    @Option(
        help: ArgumentHelp(
            "Closed loop instead: always so many under way; rate times duration is only how many are sent.", valueName: "count"))
    var closedLoop: Int?
    @Option(help: ArgumentHelp("Requests due this early are sent and not counted.", valueName: "seconds"))
    var warmUp = 0.0
    @Option(help: ArgumentHelp("Time after the last request until the rest is given up.", valueName: "seconds"))
    var drain = 600.0
}

/// Who sends it.
struct GeneratorOptions: ParsableArguments {
    @Option(help: ArgumentHelp("Threads that send.", valueName: "count"))
    var loops = 1
    @Option(
        help: ArgumentHelp(
            "Whether those threads, and groups that it starts, run ahead of all ordinary ones: on, off, or auto (where permitted; not in a closed loop).",
            valueName: "when"))
    var realtime = RealTimeRequest.auto
    @Flag(help: "Have those threads never sleep, so that no wake-up is in any time: a core for each, and --realtime off.")
    var busyPoll = false
}

/// What is good enough.
struct GoalOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "What a request must keep to be good: ttft:MS,tpot:MS,e2e:MS, or \(GoodputTarget.presetNames.joined(separator: ", ")).",
            valueName: "target"))
    var goodput: String?
}

/// What to send, when, and how.
struct LoadOptions: ParsableArguments {
    @OptionGroup(title: "Target and protocol") var request: RequestOptions
    @OptionGroup(title: "Workload") var content: WorkloadOptions
    @OptionGroup(title: "Load") var traffic: TrafficOptions
    @OptionGroup(title: "Generator") var generator: GeneratorOptions
    @OptionGroup(title: "Goals") var goals: GoalOptions
}

extension RealTimeRequest: ExpressibleByArgument {}

/// Where results go.
struct OutputOptions: ParsableArguments {
    @Option(help: "Name of the run in reports. (default: the workload's)")
    var label: String?
    @Option(help: ArgumentHelp("Write the report as JSON; 'swiftlet bench compare' reads it.", valueName: "file"))
    var json: String?
    @Option(help: ArgumentHelp("Write one JSON line per request.", valueName: "file"))
    var requests: String?
    @Option(help: ArgumentHelp("Write percentiles of all metrics as CSV.", valueName: "file"))
    var csv: String?
    @Option(help: ArgumentHelp("Write the TTFT's distribution as HdrHistogram's .hgrm.", valueName: "file"))
    var hgrm: String?
    @Option(help: ArgumentHelp("Write a page with plots, in one file.", valueName: "file"))
    var html: String?

    func validate() throws { try OutputFile.check(files) }

    private var files: [OutputFile?] {
        [.init("--json", json), .init("--requests", requests), .init("--csv", csv), .init("--hgrm", hgrm), .init("--html", html)]
    }

    func write(_ report: RunReport, _ measured: RunMeasurements) throws {
        let contents: [() throws -> Data] = [
            { try report.json() }, { Data(measured.jsonLines.utf8) }, { Data(report.csv.utf8) }, { Data(report.hgrm("ttft").utf8) },
            { Data(report.html.utf8) },
        ]
        try OutputFile.write(zip(files, contents).map { ($0, $1) })
    }
}

/// Where a comparison goes.
struct ReportFiles: ParsableArguments {
    @Option(help: ArgumentHelp("Write the report as JSON.", valueName: "file"))
    var json: String?
    @Option(help: ArgumentHelp("Write a page with plots, in one file.", valueName: "file"))
    var html: String?

    func validate() throws { try OutputFile.check([.init("--json", json), .init("--html", html)]) }

    /// - Parameter others: files of flags that the command has beside these.
    func write(
        json data: @escaping () throws -> Data, html page: @escaping @autoclosure () -> String,
        others: [(file: OutputFile?, content: () throws -> Data)] = []
    ) throws {
        try OutputFile.write([(.init("--json", json), data), (.init("--html", html), { Data(page().utf8) })] + others)
    }
}
