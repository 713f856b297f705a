import EventLoop
import HTTPTransport
import Routing
import Testing
import Wire

@testable import LoadSignals

/// A leader that has nothing of what is asked for, as a TensorRT-LLM whose first request has not ended, or a gRPC engine without `GetLoads`.
private final class MuteLeader: DownstreamApplication {
    /// Rounds: over HTTP/1.1 two paths are asked for, over HTTP/2 two services.
    var rounds: Int { questions / 2 }
    private var questions = 0
    private(set) var group: GroupDescription
    private var listener: Listener?

    init(_ name: String, _ speaks: UpstreamProtocol, loop: EventLoop) throws {
        group = GroupDescription(name: name, leader: Endpoint(host: "127.0.0.1", port: 0))
        super.init()
        let listener = try Listener(
            loop: loop, address: try #require(SocketAddress("127.0.0.1:0")), tls: nil, application: self, limits: TransportLimits())
        group.leader = Endpoint(host: "127.0.0.1", port: listener.port, protocol: speaks)
        self.listener = listener
    }

    override func makeExchange() -> DownstreamExchange {
        questions += 1
        return Missing()
    }

    func stop() { listener?.closeAll() }

    private final class Missing: DownstreamExchange {
        override func requestEnded() { respond(status: 404, headers: HeaderBlock(), ended: true) }
    }
}

/// Ends the loop when the condition holds, or after ten seconds.
private final class Watch: EventHandler {
    private let isOver: () -> Bool
    private let end: UInt64

    init(loop: EventLoop, until isOver: @escaping () -> Bool) {
        self.isOver = isOver
        end = loop.clock() + 10_000_000_000
        super.init(loop: loop)
        setDeadline(loop.now)
    }

    override func deadlineReached() {
        if isOver() || loop.now > end { loop.stop() } else { setDeadline(loop.now + 1_000_000) }
    }
}

@Suite struct LeaderScrapeTests {
    /// In steady pauses a mute leader is asked fifteen times while one that is let alone ever longer is asked at 0, 1, 3, 7 and 15 of them.
    @Test(arguments: [UpstreamProtocol.http1, .http2])
    func aMuteLeaderWithRequestsOfOursIsAskedInSteadyPauses(speaks: UpstreamProtocol) throws {
        let loop = try EventLoop()
        let table = RoutingTable(policy: .leastCost, seed: 1)
        let busy = try MuteLeader("busy", speaks, loop: loop)
        let idle = try MuteLeader("idle", speaks, loop: loop)
        table.replaceGroups([busy.group], now: loop.now)
        let decision = try table.pick(RoutingRequest(promptBytes: 100), now: loop.now).get()
        table.updateGroups([idle.group], now: loop.now)

        var settings = LoadSignalSettings()
        settings.intervalNanoseconds = 10_000_000
        settings.longestPauseNanoseconds = 100_000_000
        let reach = LoadScraper.Reach(address: { SocketAddress(host: $0.host, port: $0.port) }, tls: { _ in nil })
        let scraper = LoadScraper(loop: loop, table: table, reach: reach, settings: settings, limits: TransportLimits())
        scraper.groupsChanged([busy.group, idle.group], removed: [])
        let watch = Watch(loop: loop) { busy.rounds >= 15 }
        loop.run()

        watch.detach()
        #expect(busy.rounds >= 15 && (1...8).contains(idle.rounds), "\(busy.rounds), and \(idle.rounds) without requests")
        scraper.groupsChanged([], removed: ["busy", "idle"])
        table.cancel(decision.lease, now: loop.now)
        busy.stop()
        idle.stop()
    }
}
