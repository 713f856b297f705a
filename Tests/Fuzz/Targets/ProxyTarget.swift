import EventLoop
import Glibc
import HTTPTransport
import Proxy
import Routing
import Telemetry
import Wire

/// A backend that answers everything with the same bytes.
private final class FuzzBackend {
    let address = LocalSocket.freshAddress()
    private let descriptor: CInt
    private let answer: UnsafeRawBufferPointer
    private let seed: UInt8
    private var peers: [(peer: ScriptedPeer, answers: Int)] = []

    init(answer: UnsafeRawBufferPointer, seed: UInt8) {
        self.answer = answer
        self.seed = seed
        descriptor = LocalSocket.listen(on: address)
    }

    deinit { Glibc.close(descriptor) }

    func step() -> Bool {
        var moved = false
        let accepted = LocalSocket.accept(from: descriptor)
        if accepted >= 0 {
            peers.append((ScriptedPeer(descriptor: accepted, script: answer, seed: seed), 0))
            moved = true
        }
        for index in peers.indices {
            let peer = peers[index].peer
            if peer.receive() {
                moved = true
                if peer.hasSentAll, peers[index].answers < 3 {
                    peers[index].answers += 1
                    peer.beginAgain()
                }
            }
            if peers[index].peer.receivedBytes > 0, peer.sendNext() { moved = true }
        }
        return moved
    }

    /// Whether there was anything to close.
    func close() -> Bool {
        let hadOpen = peers.contains { $0.peer.isOpen }
        for (peer, _) in peers { peer.close() }
        return hadOpen
    }
}

private func proxy(_ request: UnsafeRawBufferPointer, _ answer: UnsafeRawBufferPointer, control: UInt8) throws {
    let loop = try EventLoop()
    let backends = [FuzzBackend(answer: answer, seed: control >> 3), FuzzBackend(answer: answer, seed: 0)]
    let endpoints = [
        Endpoint(host: "a", port: 1, protocol: control & 1 == 1 ? .http2 : .http1), Endpoint(host: "b", port: 1, protocol: .http2),
    ]
    let table = RoutingTable(policy: .leastCost, seed: 1)
    table.replaceGroups(endpoints.map { GroupDescription(name: $0.host, leader: $0) }, now: loop.now)
    var settings = ProxySettings()
    settings.bodyBytes = 64 << 10
    settings.transport.headBytes = 2_048
    settings.transport.headFields = 24
    settings.transport.outputHighWaterBytes = 2_048
    settings.transport.outputLowWaterBytes = 512
    let worker = ProxyWorker(
        loop: loop, table: table, settings: settings,
        addresses: EndpointAddresses([endpoints[0]: backends[0].address, endpoints[1]: backends[1].address]),
        metrics: LoopMetrics(decisionReasons: DecisionReason.allCases.map(\.rawValue)), waiting: WaitingLoops(), accessLogDescriptor: nil,
        requestIDs: RequestIDGenerator(seed: 1, loop: 0))
    let address = LocalSocket.freshAddress()
    let listener = try Listener(loop: loop, address: address, tls: nil, application: worker, limits: settings.transport)
    let client = ScriptedPeer(descriptor: LocalSocket.connect(to: address), script: request, seed: control >> 2)
    let isSlow = control & 2 == 2
    if isSlow { client.readBytes = 256 }
    var quiet = 0
    var turn = 0
    try TurnDriver.run(loop) {
        turn += 1
        var moved = client.sendNext()
        if (!isSlow || turn % 2 == 0) && client.receive() { moved = true }
        for backend in backends where backend.step() { moved = true }
        quiet = moved ? 0 : quiet + 1
        if quiet == 4, control & 4 == 4, backends.filter({ $0.close() }).count > 0 { return true }
        if quiet == 4, client.isOpen {
            client.close()
            return true
        }
        return moved
    }
    let connections = listener.connectionCount
    listener.closeAll()
    try checkEqual(connections, 0, "a connection ends with its client")
    for group in table.groups(now: loop.now) { try checkEqual(group.inFlight, 0, "a booking ends with its exchange") }
}

/// Control, the request's length (two bytes), the request, the backends' answer.
@Sendable func fuzzProxy(_ input: UnsafeRawBufferPointer) throws {
    guard input.count >= 3 else { return }
    let length = min(Int(input[1]) << 8 | Int(input[2]), input.count - 3)
    try proxy(
        UnsafeRawBufferPointer(rebasing: input[3..<3 + length]), UnsafeRawBufferPointer(rebasing: input[(3 + length)...]),
        control: input[0])
}
