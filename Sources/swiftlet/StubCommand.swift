import ArgumentParser
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
            """)

    @Option(help: "Address of the first engine. Port 0 takes free ports.")
    var listen = "127.0.0.1:8000"

    @Option(help: "Name that the model answers to. Repeat for aliases; the first is the one in answers.")
    var model: [String] = []

    @Option(help: "Engines in this process, on consecutive ports.")
    var replicas = 1

    @Option(help: "Time to compute one prompt token, in microseconds.")
    var prefillUsPerToken = 100.0

    @Option(help: "Time of a step that decodes one sequence, in milliseconds. Each further sequence adds a hundredth.")
    var decodeMsPerToken = 20.0

    @Option(help: "KV blocks of an engine.")
    var kvBlocks = 16_384

    @Option(help: "Tokens per KV block.")
    var blockSize = 16

    @Option(help: "Sequences that an engine runs at once.")
    var maxNumSeqs = 256

    @Option(help: "Tokens that one step computes at most.")
    var maxNumBatchedTokens = 2_048

    @Option(help: "Longest prompt and reply together, in tokens; never more than the KV blocks hold.")
    var maxModelLen = 131_072

    @Option(help: "Seed of the replies.")
    var seed: UInt64 = 0

    @Option(help: "Value of x-served-by instead of stub-PORT.")
    var servedBy: String?

    func validate() throws {
        guard SocketAddress(listen) != nil else { throw ValidationError("--listen: expected ADDR:PORT, got '\(listen)'") }
        try check("--replicas", replicas, 1...1_024)
        try check("--kv-blocks", kvBlocks, 2...100_000_000)
        try check("--block-size", blockSize, 1...65_536)
        try check("--max-num-seqs", maxNumSeqs, 1...1_000_000)
        try check("--max-num-batched-tokens", maxNumBatchedTokens, 1...10_000_000)
        try check("--max-model-len", maxModelLen, 2...100_000_000)
        // An hour per token is beyond any use, and far within the range of the clock.
        try check("--prefill-us-per-token", prefillUsPerToken, 0...3.6e9)
        try check("--decode-ms-per-token", decodeMsPerToken, 0...3.6e6)
    }

    private func check<Value: Comparable>(_ flag: String, _ value: Value, _ range: ClosedRange<Value>) throws {
        guard range.contains(value) else {
            throw ValidationError("\(flag): expected a value from \(range.lowerBound) to \(range.upperBound), got \(value)")
        }
    }

    private var stub: StubConfiguration {
        let decodeNanoseconds = decodeMsPerToken * 1e6
        let stepTime = StepTimeModel(
            prefillNanosecondsPerToken: UInt64(prefillUsPerToken * 1e3), decodeNanosecondsPerStep: UInt64(decodeNanoseconds),
            decodeNanosecondsPerSequence: UInt64(decodeNanoseconds / 100))
        return StubConfiguration(
            models: model, servedBy: servedBy,
            engine: EngineConfiguration(
                blockSize: blockSize, blockCount: kvBlocks, maximumSequences: maxNumSeqs, maximumBatchedTokens: maxNumBatchedTokens,
                stepTime: stepTime),
            seed: seed, maximumModelTokens: maxModelLen)
    }

    func run() throws {
        guard let address = SocketAddress(listen) else { return }
        let (stub, replicas) = (stub, replicas)
        let thread = try LoopThread.start(label: "stub") { loop in
            let fleet = try StubFleet(loop: loop, address: address, replicas: replicas, configuration: stub)
            loop.addService(fleet)
            for port in fleet.ports {
                FileHandle.standardError.write(Data("listening on http://\(address.with(port: port))\n".utf8))
            }
        }
        Self.waitForSignal()
        let drained = DispatchSemaphore(value: 0)
        thread.mailbox.post { loop in
            guard let fleet = loop.service(StubFleet.self) else { return }
            loop.addService(Drain(loop: loop, fleet: fleet, done: drained))
        }
        drained.wait()
        thread.stopAndWait()
    }

    /// Returns at SIGTERM or SIGINT.
    private static func waitForSignal() {
        let asked = DispatchSemaphore(value: 0)
        let sources = [SIGTERM, SIGINT].map { number in
            signal(number, SIG_IGN)
            let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
            source.setEventHandler { asked.signal() }
            source.resume()
            return source
        }
        asked.wait()
        for source in sources { source.cancel() }
    }
}

/// Lets a fleet finish what is under way, for at most five seconds, then closes what is left.
private final class Drain: EventHandler {
    private let fleet: StubFleet
    private let done: DispatchSemaphore
    private let end: UInt64

    init(loop: EventLoop, fleet: StubFleet, done: DispatchSemaphore) {
        self.fleet = fleet
        self.done = done
        end = loop.now &+ 5_000_000_000
        super.init(loop: loop)
        fleet.drain()
        setDeadline(loop.now)
    }

    override func deadlineReached() {
        guard fleet.connectionCount > 0, loop.now < end else {
            fleet.close()
            done.signal()
            return
        }
        setDeadline(loop.now &+ 5_000_000)
    }
}
