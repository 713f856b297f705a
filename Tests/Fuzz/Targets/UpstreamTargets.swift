import EventLoop
import Glibc
import HTTPTransport
import Wire

/// Asks, and checks that the transport calls it as it says.
private final class FuzzRequester: UpstreamExchange {
    enum Outcome: Equatable { case none, ended, failed }
    private(set) var outcome = Outcome.none
    private(set) var transcript = ""
    private var hasHead = false
    private var body: [UInt8] = []
    private(set) var isCancelled = false
    var finding: String?
    var pausesAt = Int.max
    var cancelsAt = Int.max
    private(set) var isPaused = false
    private var bodyBytes = 0

    private func expect(_ condition: Bool, _ promise: String) {
        if !condition, finding == nil { finding = "\(promise) (\(outcome), head \(hasHead), cancelled \(isCancelled))" }
    }

    override func headReceived() {
        expect(!hasHead && outcome == .none && !isCancelled, "a head comes once and first")
        hasHead = true
        expect((100...999).contains(response.status), "a status has three digits")
        transcript = "\(response.status) \(response.headers.count)"
        if cancelsAt == 0 { giveUp() }
    }

    override func bodyReceived(_ bytes: UnsafeRawBufferPointer) {
        expect(hasHead && outcome == .none && !isCancelled, "a body comes after its head and before its end")
        expect(bytes.count > 0, "pieces of a body are not empty")
        if bodyBytes < 1 << 20 { body += bytes }
        bodyBytes += bytes.count
        if bodyBytes > cancelsAt {
            giveUp()
        } else if bodyBytes > pausesAt, !isPaused {
            isPaused = true
            pauseResponse()
        }
    }

    override func responseEnded(trailers: HeaderBlock?) {
        expect(hasHead && outcome == .none && !isCancelled, "an answer ends once, after its head")
        outcome = .ended
        if let declared = response.contentLength, declared > 0, !body.isEmpty {
            expect(declared == body.count, "a body is as long as was declared")
        }
    }

    override func failed(_ failure: UpstreamFailure) {
        expect(outcome == .none && !isCancelled, "a request fails once, and not after its end")
        outcome = .failed
    }

    func goOn() -> Bool {
        guard isPaused else { return false }
        isPaused = false
        pausesAt = .max
        resumeResponse()
        return true
    }

    private func giveUp() {
        isCancelled = true
        cancel()
    }

    var isSettled: Bool { outcome != .none || isCancelled }
    var result: String { "\(outcome) \(outcome == .ended ? transcript + text(body) : "")" }
}

/// How to go about it.
private struct Plan {
    var seed: UInt8
    var speaksHTTP2: Bool
    var method: StaticString = "POST"
    var hasBody = true
    var bodyLength: Int? = 64
    var pausesAt = Int.max
    var cancelsAt = Int.max
    var requests = 1

    init(seed: UInt8, speaksHTTP2: Bool) {
        self.seed = seed
        self.speaksHTTP2 = speaksHTTP2
    }

    init(control: UInt8, seed: UInt8, speaksHTTP2: Bool) {
        self.init(seed: seed, speaksHTTP2: speaksHTTP2)
        if control & 1 == 1 { method = control & 2 == 2 ? "HEAD" : "GET" }
        hasBody = control & 1 == 0
        if control & 4 == 4 { bodyLength = nil }
        if control & 8 == 8 { pausesAt = 10 }
        if control & 16 == 16 { cancelsAt = control & 32 == 32 ? 0 : 20 }
        requests = 1 + Int(control >> 6)
    }
}

private func ask(_ answer: UnsafeRawBufferPointer, _ plan: Plan) throws -> [String] {
    let loop = try EventLoop()
    var limits = TransportLimits()
    limits.headBytes = 2_048
    limits.headFields = 24
    let address = LocalSocket.freshAddress()
    let backend = LocalSocket.listen(on: address)
    defer { close(backend) }
    let pool = UpstreamPool(loop: loop, address: address, authority: "backend", speaksHTTP2: plan.speaksHTTP2, limits: limits)
    let head = RequestHead()
    head.setMethod(plan.method)
    head.setTarget("/v1/chat/completions")
    head.setAuthority(UnsafeRawBufferPointer(start: nil, count: 0))
    head.headers.append("content-type", "application/json")
    var requesters: [FuzzRequester] = []
    func start() {
        let requester = FuzzRequester()
        requester.pausesAt = plan.pausesAt
        requester.cancelsAt = plan.cancelsAt
        requesters.append(requester)
        pool.start(requester, UpstreamRequest(head: head, bodyLength: plan.bodyLength, hasBody: plan.hasBody, acceptsTrailers: true))
        guard plan.hasBody else { return }
        [UInt8](repeating: 97, count: 64).withUnsafeBytes { _ = requester.send($0) }
        requester.finishRequest()
    }
    start()
    if plan.speaksHTTP2 { for _ in 1..<plan.requests { start() } }
    var peers: [ScriptedPeer] = []
    var quiet = 0
    try TurnDriver.run(loop) {
        var moved = false
        let accepted = LocalSocket.accept(from: backend)
        if accepted >= 0 {
            let peer = ScriptedPeer(descriptor: accepted, script: answer, seed: plan.seed)
            if plan.speaksHTTP2 { peer.greet() }
            peers.append(peer)
        }
        for peer in peers {
            if peer.receive() { moved = true }
            if peer.sendNext() { moved = true }
        }
        for requester in requesters where requester.goOn() { moved = true }
        if !plan.speaksHTTP2, requesters.count < plan.requests, requesters.last?.isSettled ?? true {
            start()
            moved = true
        }
        quiet = moved || accepted >= 0 ? 0 : quiet + 1
        if quiet == 4, peers.contains(where: \.isOpen) {
            for peer in peers { peer.close() }
            moved = true
        }
        return moved || accepted >= 0
    }
    for requester in requesters {
        if let finding = requester.finding { throw FuzzFinding(description: finding) }
        try check(requester.isSettled, "a request ends with its connection")
    }
    try checkEqual(pool.openConnections, 0, "a connection ends with its backend")
    return requesters.map(\.result)
}

private func fuzzUpstream(_ input: UnsafeRawBufferPointer, speaksHTTP2: Bool) throws {
    guard let (control, afterControl) = input.split, let (seed, answer) = afterControl.split else { return }
    if seed & 1 == 1 {
        let whole = try ask(answer, Plan(seed: 0, speaksHTTP2: speaksHTTP2))
        try checkEqual(try ask(answer, Plan(seed: max(1, seed >> 1), speaksHTTP2: speaksHTTP2)), whole, "an answer in pieces and whole")
    } else {
        _ = try ask(answer, Plan(control: control, seed: seed >> 1, speaksHTTP2: speaksHTTP2))
    }
}

@Sendable func fuzzUpstreamHTTP1(_ input: UnsafeRawBufferPointer) throws { try fuzzUpstream(input, speaksHTTP2: false) }
@Sendable func fuzzUpstreamHTTP2(_ input: UnsafeRawBufferPointer) throws { try fuzzUpstream(input, speaksHTTP2: true) }
