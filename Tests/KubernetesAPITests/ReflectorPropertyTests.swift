import Testing

@testable import KubernetesAPI

private let second: UInt64 = 1_000_000_000

/// A reflector and a model server over a line that loses its mind while `isHealthy` is false. All of it is seeded and virtual.
private struct World {
    var reflector: Reflector<Pod>
    let server = ModelServer()
    var random: SplitMix
    var now: UInt64 = 5 * second
    var isHealthy = false
    /// The answer on its way, what of it has not been delivered, and what a watch has told.
    private var inFlight: ModelServer.Answer?
    private var pending: [UInt8] = []
    private var told = 0
    private var isStalled = false
    /// The same of the list beside the watch.
    private var inFlightBeside: ModelServer.Answer?
    private(set) var faults = 0
    private(set) var relists = 0

    init(seed: UInt64, settings: ReflectorSettings) {
        random = SplitMix(state: seed)
        reflector = Reflector(scope: WatchScope(namespace: "llm"), settings: settings, seed: seed)
        server.servesStreamingLists = random.next() % 2 == 0
    }

    private mutating func chance(_ oneIn: UInt64) -> Bool { random.next() % oneIn == 0 }

    mutating func step() {
        now += (1 + random.next() % 700) * 1_000_000
        writeSomething()
        if !reflector.isRequestUnderWay { inFlight = nil }
        if let request = reflector.nextRequest(now: now) { begin(request) }
        if let request = reflector.nextRelistRequest(now: now) { beginBeside(request) }
        if !isHealthy { misbehave() }
        // Whichever of the two answers is here first.
        if chance(2) {
            deliver()
            deliverBeside()
        } else {
            deliverBeside()
            deliver()
        }
    }

    /// The server's state is that of now, and the answer comes later.
    private mutating func beginBeside(_ request: ReflectorRequest) {
        inFlightBeside = !isHealthy && chance(5) ? server.refusal(500, "etcd is gone") : server.answer(request)
        guard let answer = inFlightBeside else { return }
        reflector.relistHeadReceived(status: answer.status, retryAfterSeconds: answer.retryAfter, now: now)
    }

    private mutating func deliverBeside() {
        guard reflector.isRelistUnderWay else {
            inFlightBeside = nil
            return
        }
        guard let answer = inFlightBeside, chance(4) else { return }
        inFlightBeside = nil
        if !isHealthy, chance(6) { return reflector.relistFailed("cut", now: now) }
        let lists = reflector.counters.lists
        answer.bytes.withUnsafeBytes { reflector.relistBodyReceived($0, now: now) }
        _ = reflector.relistEnded(now: now)
        relists += Int(reflector.counters.lists - lists)
    }

    private mutating func writeSomething() {
        guard chance(3) else { return }
        if chance(6) { return server.skipVersion() }
        let name = "pod-\(random.next() % 12)"
        server.write(name, chance(4) ? nil : "node-\(random.next() % 5)")
    }

    private mutating func begin(_ request: ReflectorRequest) {
        isStalled = false
        pending = []
        if !isHealthy, chance(4) {
            faults += 1
            switch random.next() % 7 {
            case 0: return fail("connection refused")
            case 1: inFlight = server.refusal(401, "Unauthorized")
            case 2: inFlight = server.refusal(403, "RBAC is not loaded")
            case 3: inFlight = server.refusal(429, "too many requests", retryAfter: 1)
            case 4: inFlight = server.refusal(500, "etcd is gone")
            case 5: inFlight = ModelServer.Answer(bytes: Array(#"{"metadata":{"resourceVersion":"7"},"items":[{"meta"#.utf8))
            default: inFlight = ModelServer.Answer(bytes: Array("<html>a proxy of somebody's</html>\n".utf8))
            }
        } else {
            inFlight = server.answer(request)
        }
        guard let answer = inFlight else { return }
        reflector.headReceived(status: answer.status, retryAfterSeconds: answer.retryAfter, now: now)
        pending = answer.bytes
        told = answer.follows ?? 0
    }

    private mutating func misbehave() {
        guard chance(12) else { return }
        faults += 1
        switch random.next() % 7 {
        case 0: fail("connection reset")
        case 1: isStalled = true
        case 2:
            fail("the server restarts")
            server.forgetThePast()
        case 3: server.forgetThePast()
        case 4: pending += server.oldEvent(Int(random.next() % 64))
        case 5: end()
        default: if inFlight?.follows != nil { pending += Array("{\"type\":\"MODI\n".utf8) }
        }
    }

    private mutating func fail(_ reason: String) {
        inFlight = nil
        reflector.failed(reason, now: now)
    }

    private mutating func end() {
        inFlight = nil
        _ = reflector.ended(now: now)
    }

    private mutating func deliver() {
        guard let answer = inFlight, !isStalled else { return }
        if answer.follows != nil {
            pending += server.events(after: told)
            told = server.version
            if chance(40) { pending += server.bookmark(told) }
        }
        while !pending.isEmpty, inFlight != nil {
            // A cut falls anywhere, within a line or a letter.
            let count = min(pending.count, Int(1 + random.next() % (chance(3) ? 7 : 900)))
            let piece = Array(pending.prefix(count))
            pending.removeFirst(count)
            piece.withUnsafeBytes { _ = reflector.bodyReceived($0, now: now) }
            if !reflector.isRequestUnderWay { inFlight = nil }
            if !isHealthy, chance(50) { return chance(2) ? fail("cut") : end() }
            if chance(5) { break }
        }
        if pending.isEmpty, answer.follows == nil, inFlight != nil { end() }
    }

    /// Whether what is known is a state that the server had, at the version that it is said to be of.
    var isSomeState: Bool {
        guard let version = reflector.store.resourceVersion.flatMap({ Int($0) }) else { return reflector.store.objects.isEmpty }
        guard let state = server.history[version], state.count == reflector.store.objects.count else { return false }
        return reflector.store.objects.values.allSatisfy { state[$0.metadata.name]?.content == $0.nodeName }
    }

    var isUpToDate: Bool {
        let state = server.objects
        return state.count == reflector.store.objects.count
            && reflector.store.objects.values.allSatisfy { state[$0.metadata.name]?.content == $0.nodeName }
    }
}

@Suite struct ReflectorPropertyTests {
    @Test(arguments: 0..<60) func afterAnyFaultsTheStateIsTheServers(seed: UInt64) {
        var settings = ReflectorSettings()
        settings.pageObjects = 3
        settings.relistNanoseconds = seed % 3 == 0 ? 600 * second : (seed % 3) * 4 * second
        var world = World(seed: seed, settings: settings)
        var version = 0
        func look() {
            let isSomeState = world.isSomeState
            #expect(isSomeState, "seed \(seed): not a state of version \(world.reflector.store.resourceVersion ?? "none")")
            let next = world.reflector.store.resourceVersion.flatMap { Int($0) } ?? 0
            #expect(next >= version, "seed \(seed): the state went back from \(version) to \(next)")
            version = next
        }
        for _ in 0..<1_500 {
            world.step()
            look()
        }
        #expect(world.faults > 50)
        world.isHealthy = true
        // The longest that anything is waited for: a watch that was silenced by the last fault, the list after it, one backoff.
        let bound = world.now + settings.silenceNanoseconds + settings.answerNanoseconds + settings.lastBackoffNanoseconds
        while world.now < bound {
            world.step()
            look()
        }
        // From here on it stays so, up to what is on its way.
        var agreements = 0
        for _ in 0..<200 {
            world.step()
            look()
            if world.isUpToDate { agreements += 1 }
        }
        #expect(world.reflector.fault == nil && world.reflector.relistFault == nil)
        if seed % 3 > 0 { #expect(world.relists > 10) }
        #expect(agreements > 60, "seed \(seed): \(agreements) of 200")
    }
}
