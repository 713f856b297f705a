import CLinux
import Dispatch
import EventLoop
import Foundation
import HTTPTransport
import Synchronization
public import Workload

/// Plays a plan against a target, on as many loops as asked for, and adds up what they measured.
public final class LoadRun: Sendable {
    /// What a display shows while it runs.
    public struct Progress: Sendable {
        public var elapsedSeconds: Double
        public var measurements: RunMeasurements
        public var total: Int
    }

    private struct State {
        var parts: [RunMeasurements] = []
        var threads: [LoopThread] = []
        var isStopped = false
        var schedule = ThreadSchedule.ordinary
        var coresAreAwake = false
    }

    public let plan: LoadPlan
    public let target: LoadTarget
    public let settings: LoadSettings
    private let state = Mutex(State())
    private let done = DispatchGroup()

    public init(plan: LoadPlan, target: LoadTarget, settings: LoadSettings) {
        self.plan = settings.api == .plain ? Self.plain(plan, target, settings) : plan
        self.target = target
        self.settings = settings
    }

    /// What all plain requests have in common is content as well.
    private static func plain(_ plan: LoadPlan, _ target: LoadTarget, _ settings: LoadSettings) -> LoadPlan {
        var body = ContentHash()
        for byte in settings.body { body.add(byte) }
        var plan = plan
        plan.common = [
            "method": settings.method, "path": target.path.isEmpty ? "/" : target.path, "body_bytes": "\(settings.body.count)",
            "body_hash": ContentHash.text(body.value),
        ]
        return plan
    }

    /// Whether `stop()` ended it before its time.
    public var isPartial: Bool { state.withLock { $0.isStopped } }

    /// How the threads that sent were scheduled, in words; known when `run` has returned.
    public var schedule: String {
        if settings.busyPolls { return "ordinary, never asleep (--busy-poll)" }
        return state.withLock { "\($0.schedule), idle cores \($0.coresAreAwake ? "kept awake" : "may sleep")" }
    }

    /// A closed loop has no times to keep, and sends as fast as it is answered: ahead of all others it would only starve those who answer.
    private func realTime(_ loops: Int) -> RealTimeRequest {
        if settings.busyPolls { return .off }
        if case .closed = settings.mode, settings.realTime == .auto { return .off }
        return settings.realTime.resolved(loops: loops, cores: ProcessInfo.processInfo.activeProcessorCount)
    }

    /// Runs to the end, or to `stop()`. Throws when a loop or TLS cannot be set up.
    /// - Parameter progress: called after about `first` seconds and then every `interval`, on the caller's thread, with what came so far (without records).
    public func run(
        progressAfter first: Double = 0.5, every interval: Double = 0.5, progress: (Progress) -> Void = { _ in }
    ) throws -> RunMeasurements {
        let tls = target.isTLS ? try TLSClientSource(tlsSettings) : nil
        let shares = shares()
        let wakeful = realTime(shares.count) == .off ? nil : WakefulCores()
        defer { withExtendedLifetime(wakeful) {} }
        state.withLock { $0.coresAreAwake = wakeful != nil }
        // Loops set up while this passes, so that the first request is not late, and write the first bodies: some 5 bytes and 40 ns a token.
        let tokens = plan.requests.reduce(0) { $0 + ($1.system + $1.user).reduce(0) { $0 + $1.tokens } }
        let lead = UInt64(200_000_000 + plan.requests.count * 1_000 + min(tokens, PreparedBodies.maximumBytes / 5) * 40)
        let start = swl_monotonic_nanoseconds() &+ lead
        for (number, indices) in shares.enumerated() {
            done.enter()
            do {
                // Ahead of what it measures, where it may be: on a busy machine it would be late itself.
                let thread = try LoopThread.start(label: "swiftlet.bench.\(number)", realTime: realTime(shares.count)) { [self] loop in
                    _ = swl_tighten_timers()
                    loop.busyPolls = settings.busyPolls
                    var own = settings
                    own.mode = settings.mode.share(number, of: shares.count)
                    let generator = LoadGenerator(
                        loop: loop, plan: plan, indices: indices, target: target, settings: own,
                        tls: tls.map { UpstreamTLS(source: $0, host: target.host, log: OperatorLog()) }, startNanoseconds: start
                    ) { measurements in
                        self.state.withLock { $0.parts.append(measurements) }
                        self.done.leave()
                    }
                    loop.addService(generator)
                }
                state.withLock {
                    $0.threads.append(thread)
                    $0.schedule = thread.schedule
                }
            } catch {
                done.leave()
                stop()
                throw error
            }
        }
        // Stopped before it began.
        if isPartial { stop() }
        var pause = first
        while done.wait(timeout: .now() + pause) == .timedOut {
            pause = interval
            progress(Progress(elapsedSeconds: seconds(since: start), measurements: sample(), total: plan.requests.count))
        }
        let threads = state.withLock { $0.threads }
        for thread in threads { thread.stopAndWait() }
        var result = RunMeasurements()
        for part in state.withLock({ $0.parts }) { result.add(part) }
        result.records.sort { $0.dueNanoseconds < $1.dueNanoseconds }
        return result
    }

    /// Ends it now: `run` returns what was measured, and what was under way as unfinished.
    public func stop() {
        let threads = state.withLock { state in
            state.isStopped = true
            return state.threads
        }
        for thread in threads { thread.mailbox.post { $0.service(LoadGenerator.self)?.stop() } }
    }

    /// Each loop gets whole sessions, dealt out in turn.
    private func shares() -> [[Int32]] {
        // Nobody gets a loop that may have nothing under way.
        let loops = max(1, min(settings.loops, plan.requests.count, settings.mode.limit ?? .max))
        var loopOf = [Int32](repeating: -1, count: plan.requests.count)
        var result = [[Int32]](repeating: [], count: loops)
        var next: Int32 = 0
        for index in plan.requests.indices {
            if loopOf[index] < 0 {
                loopOf[index] = next % Int32(loops)
                next += 1
            }
            result[Int(loopOf[index])].append(Int32(index))
            let following = Int(plan.requests[index].nextTurn)
            if following >= 0 { loopOf[following] = loopOf[index] }
        }
        return result
    }

    private func sample() -> RunMeasurements {
        let threads = state.withLock { $0.threads }
        let parts = Mutex<[RunMeasurements]>([])
        let collected = DispatchGroup()
        for thread in threads {
            collected.enter()
            thread.mailbox.post { loop in
                if var part = loop.service(LoadGenerator.self)?.measurements {
                    part.records = []
                    parts.withLock { $0.append(part) }
                }
                collected.leave()
            }
        }
        _ = collected.wait(timeout: .now() + 1)
        var result = RunMeasurements()
        for part in parts.withLock({ $0 }) { result.add(part) }
        return result
    }

    private var tlsSettings: TLSClientSettings {
        var result = TLSClientSettings()
        result.caFile = settings.caFile
        result.skipsVerification = settings.skipsVerification
        return result
    }

    private func seconds(since start: UInt64) -> Double {
        let now = swl_monotonic_nanoseconds()
        return now > start ? Double(now - start) / 1e9 : 0
    }
}
