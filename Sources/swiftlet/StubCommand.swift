import ArgumentParser
import CLinux
import Dispatch
import EngineModel
import EventLoop
import Foundation
import HTTPTransport
import StubEngine

/// `swiftlet stub`: simulated GPU engines that speak as vLLM does.
struct StubCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "stub", abstract: "Serve simulated GPU engines: vLLM's wire and a continuous-batching engine's timing.",
        discussion: """
            HTTP/1.1, HTTP/2 and gRPC share each port. Prints "listening on http://ADDR:PORT" to standard error for every engine \
            once it accepts. Equal requests get equal replies from every stub of the same --seed.
            """,
        subcommands: [StubReplayCommand.self, StubValidateCommand.self])

    @Option(help: "Address of the first engine. Port 0 takes free ports.")
    var listen = "127.0.0.1:8000"

    @Option(help: "Name that the model answers to. Repeat for aliases; the first is the one in answers.")
    var model: [String] = []

    @Option(help: "Engines in this process, on consecutive ports.")
    var replicas = 1

    @OptionGroup(title: "Engine")
    var engine: EngineOptions

    @Option(help: "Threads that the engines are spread over; /admin/config reaches the engines of its own thread.")
    var loops = 1

    @Option(
        help:
            "Whether those threads run ahead of all ordinary ones of the machine, so that tokens leave on time: on, off, or auto (where permitted)."
    )
    var realtime = RealTimeRequest.off

    @Flag(help: "Have those threads never sleep, so that requests and tokens wait for no wake-up: a core for each, and --realtime off.")
    var busyPoll = false

    @Flag(help: "Print the presets and what they mean, and exit.")
    var listPresets = false

    @Option(help: "Longest prompt and reply together, in tokens; never more than the KV blocks hold.")
    var maxModelLen = 131_072

    @Option(help: "Seed of the replies.")
    var seed: UInt64 = 0

    @Option(help: "What replies say: random (words, by the seed) or echo (the user's last message, or the prompt).")
    var mode = Mode.random

    @Option(help: "File with a reply per line, as text or as a JSON string; the seed takes one for each request.")
    var replies: String?

    @Option(help: "Key that requests below /v1 must show as authorization: Bearer KEY; repeatable.")
    var apiKey: [String] = []

    @Flag(help: "Answer kv_transfer_params as an engine whose KV blocks others can fetch.")
    var kvConnector = false

    @Option(help: "Value of x-served-by instead of stub-PORT.")
    var servedBy: String?

    @Option(help: "Address where /admin/config answers whatever the engines' ports do.")
    var adminListen: String?

    @Option(help: "LoRA adapter that is there from the start, as NAME=PATH; repeatable. Needs --max-loras.")
    var loraModules: [String] = []

    @Option(help: "Requests under way at most; others get --overload-status.")
    var maxNumQueuedReqs: Int?

    @Option(help: "Prompt tokens that may await their prefill; beyond, --overload-status.")
    var maxNumQueuedTokens: Int?

    @Option(help: "What refused requests get: 503, 429 or 529.")
    var overloadStatus = 503

    @Flag(help: "Answers name their request in x-request-id.")
    var enableRequestIdHeaders = false

    @Flag(help: "Answers carry uvicorn's date, server and vary headers, and idle HTTP/1 connections close after 5 s, as with vLLM.")
    var uvicorn = false

    @Option(help: "Seconds that an idle HTTP/1 connection stays open; 75, or 5 with --uvicorn.")
    var keepAliveSeconds: Double?

    @Option(help: "Seconds until the port opens: the model loads. 0 by default.")
    var startupSeconds: Double?

    @Flag(help: "With --preset: the port opens after the time that the model takes to load, times --time-scale.")
    var simulateStartup = false

    @Option(help: "Engines of one data-parallel deployment, on consecutive ports.")
    var dataParallelSize = 1

    @Option(help: "Size of the tensor-parallel group, leader included; 1 without --preset.")
    var tensorParallelSize: Int?

    @Option(help: "Where members (swiftlet stub-member) join; without it they are inside.")
    var groupListen: String?

    @Option(help: "When a member is lost: hang until the collective times out, or exit.")
    var onMemberLoss = MemberLoss.hang

    @Option(help: "Seconds that a collective operation waits for a lost member.")
    var collectiveTimeoutSeconds = 30.0

    @Option(help: "At SIGTERM: drain (5 s), hang (as vLLM does by default) or vllm-drain.")
    var sigterm = Sigterm.drain

    enum Mode: String, ExpressibleByArgument { case random, echo }
    enum MemberLoss: String, ExpressibleByArgument { case hang, exit }
    enum Sigterm: String, ExpressibleByArgument {
        case drain, hang
        case vllmDrain = "vllm-drain"
    }

    func validate() throws {
        for (flag, text) in [("--admin-listen", adminListen), ("--group-listen", groupListen)] {
            if let text, SocketAddress(text) == nil { throw ValidationError("\(flag): expected ADDR:PORT, got '\(text)'") }
        }
        guard loraModules.allSatisfy({ Self.adapter($0) != nil }) else {
            throw ValidationError("--lora-modules: expected NAME=PATH, got \(loraModules)")
        }
        guard loraModules.isEmpty || engine.maxLoras > 0 else { throw ValidationError("--lora-modules needs --max-loras") }
        guard !simulateStartup || (engine.preset != nil && startupSeconds == nil) else {
            throw ValidationError("--simulate-startup needs --preset, and --startup-seconds says otherwise")
        }
        guard replies == nil || mode == .random else { throw ValidationError("--replies and --mode echo exclude each other") }
        try FlagRange.check("--loops", loops, 1...256)
        guard loops == 1 || groupListen == nil else { throw ValidationError("--group-listen: a group is one thread, so --loops must be 1") }
        try FlagRange.check("--max-num-queued-reqs", maxNumQueuedReqs ?? 0, 0...1_000_000_000)
        try FlagRange.check("--max-num-queued-tokens", maxNumQueuedTokens ?? 0, 0...1_000_000_000)
        try FlagRange.check("--overload-status", overloadStatus, 400...599)
        try FlagRange.check("--keep-alive-seconds", keepAliveSeconds ?? 5, 0.01...86_400)
        try FlagRange.check("--startup-seconds", startupSeconds ?? 0, 0...86_400)
        try FlagRange.check("--data-parallel-size", dataParallelSize, 1...1_024)
        try FlagRange.check("--tensor-parallel-size", tensorParallelSize ?? 1, 1...1_024)
        try FlagRange.check("--collective-timeout-seconds", collectiveTimeoutSeconds, 0...86_400)
        guard SocketAddress(listen) != nil else { throw ValidationError("--listen: expected ADDR:PORT, got '\(listen)'") }
        try FlagRange.check("--replicas", replicas, 1...1_024)
        try FlagRange.check("--max-model-len", maxModelLen, 2...100_000_000)
    }

    private static func adapter(_ text: String) -> (name: String, path: String)? {
        let parts = text.split(separator: "=", maxSplits: 1)
        return parts.count == 2 ? (String(parts[0]), String(parts[1])) : nil
    }

    private var startupNanoseconds: UInt64 {
        if simulateStartup, let preset = engine.knownPreset { return scaled(preset.startupNanoseconds) }
        return UInt64((startupSeconds ?? 0) * 1e9)
    }

    private func scaled(_ nanoseconds: UInt64) -> UInt64 { UInt64(Double(nanoseconds) * engine.timeScale) }

    /// Throws what is wrong with the file of replies.
    private func makeReplySource() throws -> ReplySource {
        guard let replies else { return mode == .echo ? .echo : .words }
        let lines = try String(contentsOfFile: replies, encoding: .utf8)
        guard let source = ReplySource(lines: lines) else { throw ValidationError("--replies: there is no reply in \(replies)") }
        return source
    }

    private func makeStub() throws -> StubConfiguration {
        var stub = StubConfiguration(
            models: model, servedBy: servedBy, engine: engine.configuration, seed: seed, maximumModelTokens: maxModelLen)
        stub.adapters = loraModules.compactMap { Self.adapter($0) }
        stub.maximumQueuedRequests = maxNumQueuedReqs
        stub.maximumQueuedTokens = maxNumQueuedTokens
        stub.overloadStatus = overloadStatus
        stub.replies = try makeReplySource()
        stub.apiKeys = apiKey
        stub.hasKVConnector = kvConnector
        stub.echoesRequestID = enableRequestIdHeaders
        stub.keepAliveNanoseconds = UInt64((keepAliveSeconds ?? (uvicorn ? 5 : 75)) * 1e9)
        stub.resemblesUvicorn = uvicorn
        if let preset = engine.knownPreset {
            stub.wakeNanoseconds = (scaled(preset.wakeNanoseconds(level: 1)), scaled(preset.wakeNanoseconds(level: 2)))
        }
        stub.startupNanoseconds = startupNanoseconds
        stub.dataParallelSize = dataParallelSize
        stub.group.worldSize = tensorParallelSize ?? engine.knownPreset?.tensorParallel ?? 1
        stub.group.meeting = groupListen.flatMap { SocketAddress($0) }
        stub.group.onLoss = onMemberLoss == .exit ? .exit : .hang
        stub.group.collectiveTimeoutNanoseconds = UInt64(collectiveTimeoutSeconds * 1e9)
        return stub
    }

    func run() throws {
        if listPresets { return print(EngineOptions.presetTable) }
        let signals = TerminationSignals()
        let threads = try start()
        signals.wait()
        let drained = DispatchSemaphore(value: 0)
        let manner = sigterm
        for thread in threads {
            thread.mailbox.post { loop in
                guard let fleet = loop.service(StubFleet.self) else { return }
                // Nothing but SIGKILL ends it now.
                if manner == .hang { return fleet.freeze() }
                loop.addService(Drain(loop: loop, fleet: fleet, asVLLM: manner == .vllmDrain, done: drained))
            }
        }
        for _ in threads { drained.wait() }
        for thread in threads { thread.stopAndWait() }
    }

    /// Spreads the engines over the threads, in the order of their ports.
    private func start() throws -> [LoopThread] {
        guard let address = SocketAddress(listen) else { return [] }
        let (stub, replicas, admin) = (try makeStub(), max(replicas, dataParallelSize), adminListen.flatMap { SocketAddress($0) })
        let loops = min(loops, replicas)
        let realTime = busyPoll ? .off : realtime.resolved(loops: loops, cores: ProcessInfo.processInfo.activeProcessorCount)
        let busyPolls = busyPoll
        let saysSchedule = realtime != .off
        return try (0..<loops).map { index in
            let first = index * replicas / loops
            let last = (index + 1) * replicas / loops
            let port = address.port == 0 ? 0 : Int(address.port) + first
            guard let port = UInt16(exactly: port) else { throw ValidationError("--listen: no port \(port)") }
            return try LoopThread.start(label: "stub.\(index)", realTime: realTime) { loop in
                if saysSchedule, index == 0 { FileHandle.standardError.write(Data("scheduled: \(ThreadSchedule.current)\n".utf8)) }
                // Steps end when they end, not up to 50 µs later.
                _ = swl_tighten_timers()
                loop.busyPolls = busyPolls
                let fleet = try StubFleet(
                    loop: loop, address: address.with(port: port), replicas: last - first, configuration: stub,
                    admin: index == 0 ? admin : nil, firstRank: first, report: Self.tell)
                loop.addService(fleet)
            }
        }
    }

    private static func tell(_ event: StubEvent) {
        let line =
            switch event {
            case .listening(let address): "listening on http://\(address)"
            case .admin(let address): "admin on http://\(address)"
            case .meeting(let address): "members join at \(address)"
            case .memberJoined(let rank): "member \(rank) joined"
            case .memberLost(let rank): "member \(rank) lost"
            case .died: "the engine is dead"
            }
        FileHandle.standardError.write(Data("\(line)\n".utf8))
        // As vLLM's API server, which ends with its engine core; a moment later, so that what it said last can leave.
        if case .died = event { DispatchQueue.global().asyncAfter(deadline: .now() + .milliseconds(150)) { _exit(1) } }
    }
}

/// Lets a fleet finish what is under way, for at most five seconds, then closes what is left.
private final class Drain: EventHandler {
    private let fleet: StubFleet
    private let done: DispatchSemaphore
    private let end: UInt64

    private let asVLLM: Bool

    init(loop: EventLoop, fleet: StubFleet, asVLLM: Bool, done: DispatchSemaphore) {
        self.fleet = fleet
        self.done = done
        self.asVLLM = asVLLM
        end = loop.now &+ (asVLLM ? 600_000_000_000 : 5_000_000_000)
        super.init(loop: loop)
        if asVLLM { fleet.drainAsVLLM() } else { fleet.drain() }
        setDeadline(loop.now)
    }

    override func deadlineReached() {
        guard (asVLLM ? fleet.load : fleet.connectionCount) > 0, loop.now < end else {
            fleet.close()
            done.signal()
            return
        }
        setDeadline(loop.now &+ 5_000_000)
    }
}
