import EventLoop
import Routing
import Testing

@testable import ReplicaSync

/// One router's sync on a loop, and a socket that plays its peer.
private final class World {
    let loop: EventLoop
    let table = RoutingTable(policy: .leastCost, seed: 1)
    let sync: ReplicaSync
    let peer: DatagramSocket
    let key: EnvelopeKey?
    let log = Lines()
    /// What the peer has got so far.
    var heard: [(envelope: Envelope, payload: [UInt8])] = []
    private var hasAnswered = false

    init(listen: String = "127.0.0.1:0", secret: [UInt8] = [], change: (inout ReplicaSyncSettings) -> Void = { _ in }) throws {
        loop = try EventLoop()
        peer = try DatagramSocket(boundTo: try #require(SocketAddress("127.0.0.1:0")))
        key = secret.isEmpty ? nil : try makeKey(secret)
        var settings = ReplicaSyncSettings(listen: try #require(SocketAddress(listen)))
        settings.peers = [.init(host: "127.0.0.1", port: peer.address.port)]
        settings.secret = secret
        change(&settings)
        sync = try ReplicaSync(loop: loop, table: table, settings: settings, log: log)
        loop.addService(sync)
    }

    /// Runs the loop through `steps`: each is asked every millisecond until it is true.
    func run(_ steps: (() -> Bool)..., sourceLocation: SourceLocation = #_sourceLocation) {
        let script = Script(loop: loop, steps: steps)
        loop.run()
        #expect(script.isThrough, "stuck at step \(script.next)", sourceLocation: sourceLocation)
        script.detach()
        sync.stop()
    }

    func send(_ datagram: [UInt8]) -> Bool {
        let address = SocketAddress(host: "127.0.0.1", port: sync.address.port)!
        let sent = datagram.withUnsafeBytes { peer.send($0, to: address) }
        if case .whole = sent { return true }
        return false
    }

    func send(_ envelope: Envelope, _ payload: [UInt8] = []) -> Bool { send(sealed(envelope, payload, key: key)) }

    /// Another than those who ask answers that it has nothing to tell; true when that is known.
    func endBeginning() -> Bool {
        if !hasAnswered { hasAnswered = send(.of(99, clock: wall, .handover)) && send(.of(99, clock: wall + 1, .handover)) }
        return sync.state.handover == .whole
    }

    func count(heard purpose: Envelope.Purpose) -> Int { heard.count { $0.envelope.purpose == purpose } }

    /// Reads what has come to the peer; true.
    func listen() -> Bool {
        withUnsafeTemporaryAllocation(byteCount: 1 << 16, alignment: 8) { buffer in
            while case .datagram(let count, _) = peer.receive(into: buffer) {
                let read = Envelope.open(UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(buffer)[..<count]), key: key)
                if let read = try? read.get() { heard.append((read.envelope, Array(read.payload))) }
            }
        }
        return true
    }

    func count(_ outcome: ReceivedDatagram) -> UInt64 { sync.state.received.first { $0.outcome == outcome }?.count ?? 0 }
    /// Signed clocks are near ours.
    var wall: UInt64 { loop.wallClock() / 1_000 }
}

private final class Script: EventHandler {
    private let steps: [() -> Bool]
    private let end: UInt64
    private(set) var next = 0
    var isThrough: Bool { next == steps.count }

    init(loop: EventLoop, steps: [() -> Bool]) {
        self.steps = steps
        end = loop.clock() + 10_000_000_000
        super.init(loop: loop)
        setDeadline(loop.now)
    }

    override func deadlineReached() {
        while next < steps.count, steps[next]() { next += 1 }
        if isThrough || loop.now > end { loop.stop() } else { setDeadline(loop.now + 1_000_000) }
    }
}

// @unchecked: tests and loop are one thread.
private final class Lines: OperatorLog, @unchecked Sendable {
    var lines: [String] = []
    override func notice(_ text: String) { lines.append(text) }
    override func warning(_ text: String) { lines.append(text) }
}

@Suite struct ReplicaSyncTests {
    @Test(arguments: [[], secret]) func weAreHeardAtOnceAndTakeLeave(secret: [UInt8]) throws {
        let world = try World(secret: secret)
        world.run({ world.listen() && !world.heard.isEmpty })
        #expect(world.listen())
        #expect(world.heard.count == 2)
        let (first, last) = (world.heard[0], world.heard[1])
        #expect(first.payload.isEmpty && first.envelope.purpose == .news && first.envelope.number == 0)
        #expect(
            last.envelope.purpose == .farewell && last.envelope.number == 1
                && last.envelope.clockMicroseconds > first.envelope.clockMicroseconds)
        #expect(first.envelope.sender == world.sync.state.id && last.envelope.sender == first.envelope.sender)
        #expect(world.sync.state.sent.map(\.count) == [2, 0, 0])
    }

    @Test(arguments: [[], secret]) func othersAreKnownUntilTheyTakeLeave(secret: [UInt8]) throws {
        let world = try World(secret: secret)
        let wall = world.wall
        world.run(
            { world.send(.of(7, clock: wall, number: 3)) && world.send(.of(8, clock: wall)) },
            { world.sync.state.replicas.map(\.id) == [7, 8] },
            { world.send(.of(7, clock: wall + 2, number: 5)) && world.send(.of(7, clock: wall + 1, number: 4)) },
            { world.count(.late) == 1 },
            { world.sync.state.replicas.map(\.lost) == [1, 0] && world.sync.state.lost == 1 },
            { world.send(.of(7, clock: wall + 3, number: 6, .farewell)) },
            { world.sync.state.replicas.map(\.id) == [8] },
            { world.send(.of(7, clock: wall + 2, number: 5)) },
            { world.count(.late) == 2 })
        #expect(world.sync.state.replicas.map { $0.address.description } == [world.peer.address.description])
        #expect(world.sync.state.lost == 1, "what the departed lost stays counted")
        #expect(world.log.lines.isEmpty)
    }

    /// From one table to another, by way of both ends.
    @Test func whatIsPlacedHereIsKnownThere() throws {
        let world = try World(secret: secret)
        let groups = ["a", "b"].map { GroupDescription(name: $0, leader: Endpoint(host: $0, port: 1)) }
        world.table.replaceGroups(groups, now: world.loop.now)
        let elsewhere = RoutingTable(policy: .leastCost, seed: 2)
        elsewhere.replaceGroups(groups, now: 0)
        elsewhere.startSharing(now: 0)
        var messages = ReplicaMessages()
        let hashes = (1...40).map { UInt64($0) << 32 }
        func pick(_ table: RoutingTable) -> GroupID? {
            hashes.withUnsafeBufferPointer { hashes in
                let request = RoutingRequest(prefixHashes: hashes, promptBytes: 40 * 256, maxOutputTokens: 10)
                return try? table.pick(request, now: world.loop.now).get().group
            }
        }
        func blocks(_ table: RoutingTable) -> Int { table.groups(now: world.loop.now).map(\.indexBlocks).reduce(0, +) }
        func payloads() -> [[UInt8]] { world.heard.map(\.payload).filter { !$0.isEmpty } }

        #expect(pick(elsewhere) != nil)
        elsewhere.takeReplicaMessages(into: &messages, now: 0)
        let news = (0..<messages.count).map { place in messages.withMessage(place) { Array($0) } }
        #expect(messages.placements == 1)
        world.run(
            { news.allSatisfy { world.send(.of(7, clock: world.wall), $0) } },
            { world.sync.state.placementsReceived == 1 },
            { blocks(world.table) == 40 },
            { world.table.groups(now: world.loop.now).map(\.othersWaiting).reduce(0, +) == 1 },
            // What was heard is not told on, what is placed here is told at once and by itself.
            { world.listen() && payloads().isEmpty && pick(world.table) != nil },
            { world.listen() && !payloads().isEmpty },
            { world.sync.state.placementsSent == 1 },
            { world.send(.of(7, clock: world.wall, number: 9, .farewell)) },
            { world.table.groups(now: world.loop.now).map(\.othersWaiting).reduce(0, +) == 0 })
        #expect(world.sync.state.placementsNotShared == 0)
        let listener = RoutingTable(policy: .leastCost, seed: 3)
        listener.replaceGroups(groups, now: 0)
        for payload in payloads() {
            _ = payload.withUnsafeBytes { listener.receiveReplicaMessage($0, from: 1, now: 0) }
        }
        #expect(blocks(listener) == 40)
    }

    // MARK: Handing over

    /// Who begins asks the one that has told most, and when that one does not answer, the next; an answer ends it, whatever it says.
    @Test(arguments: [[], secret]) func whoBeginsAsksUntilSomebodyAnswers(secret: [UInt8]) throws {
        let world = try World(secret: secret)
        world.table.replaceGroups([GroupDescription(name: "a", leader: Endpoint(host: "a", port: 1))], now: world.loop.now)
        world.run(
            { world.send(.of(7, clock: world.wall, number: 5)) && world.send(.of(8, clock: world.wall, number: 900)) },
            { world.listen() && world.count(heard: .question) == 1 },
            // Both are at one address: whom it asked first is not seen, that it goes on is.
            { world.send(.of(7, clock: world.wall, number: 6)) && world.send(.of(8, clock: world.wall, number: 901)) },
            { world.listen() && world.count(heard: .question) == 2 },
            { world.send(.of(8, clock: world.wall, number: 902, .handover)) },
            { world.sync.state.handover == .told(by: 8) && world.sync.state.handoversTaken == HandoverCounts(begun: 1) },
            { world.send(.of(8, clock: world.wall, number: 902, .handover)) },
            { world.sync.state.handover == .whole },
            // The end is told thrice.
            { world.send(.of(8, clock: world.wall, number: 902, .handover)) },
            { world.count(.taken) == 7 })
        #expect(world.sync.state.handoversTaken == HandoverCounts(begun: 1, whole: 1) && world.sync.state.lost == 0)
        #expect(world.heard.filter { $0.envelope.purpose == .question }.allSatisfy { $0.payload.isEmpty })
    }

    @Test func theEldestIsAskedFirstAndNobodyForever() throws {
        var known = KnownReplicas(ownID: 1, checksClocks: false)
        let address = try #require(SocketAddress("127.0.0.1:1"))
        for (id, number) in [(7, 5), (8, 900), (9, 30)] as [(UInt64, UInt64)] {
            _ = known.hear(.of(id, number: number), from: address, now: 0, wallMicroseconds: 0)
        }
        var question = HandoverQuestion()
        #expect(question.dueAt == nil)
        question.heard(now: 1_000, groups: 5)
        question.heard(now: 2_000, groups: 5)
        #expect(question.dueAt == 1_000 + 250_000_000)
        var asked: [UInt64] = []
        while !question.isOver { if let replica = question.next(of: known, now: 0) { asked.append(replica.id) } }
        #expect(asked == [8, 9, 7, 8, 9, 7, 8, 9, 7, 8] && question.state == .givenUp)
    }

    /// What it has told is kept, the rest is asked of the next.
    @Test(arguments: [true, false]) func whoTellsAndIsGoneIsReplaced(takesLeave: Bool) throws {
        let world = try World()
        world.table.replaceGroups([GroupDescription(name: "a", leader: Endpoint(host: "a", port: 1))], now: world.loop.now)
        var goneAt: UInt64 = 0
        world.run(
            { world.send(.of(7, clock: world.wall, number: 5)) && world.send(.of(8, clock: world.wall, number: 900)) },
            { world.listen() && world.count(heard: .question) == 1 },
            { world.send(.of(8, clock: world.wall, number: 901, .handover)) },
            { world.sync.state.handover == .told(by: 8) },
            {
                goneAt = world.loop.now
                return world.send(.of(8, clock: world.wall, number: 901, takesLeave ? .farewell : .news))
            },
            { world.listen() && world.count(heard: .question) == 2 },
            {
                let silence = world.loop.now - goneAt
                return takesLeave
                    ? silence < ReplicaBounds.handoverSilenceNanoseconds : silence > ReplicaBounds.handoverSilenceNanoseconds / 2
            },
            { world.sync.state.handover == .asking && world.sync.state.handoversTaken == HandoverCounts(begun: 1, broken: 1) },
            {
                world.send(.of(7, clock: world.wall, number: 6, .handover))
                    && world.send(.of(7, clock: world.wall + 1, number: 6, .handover))
            },
            { world.sync.state.handover == .whole })
        #expect(world.sync.state.handoversTaken == HandoverCounts(begun: 2, whole: 1, broken: 1))
    }

    private func makeKnown(_ numbers: [(id: UInt64, number: UInt64)]) throws -> KnownReplicas {
        var known = KnownReplicas(ownID: 1, checksClocks: false)
        for (id, number) in numbers { _ = known.hear(.of(id, number: number), from: somewhere, now: 0, wallMicroseconds: 0) }
        return known
    }

    @Test func silenceIsTwoSecondsWithoutAPiece() {
        let silence = ReplicaBounds.handoverSilenceNanoseconds
        var question = HandoverQuestion()
        question.told(by: 8, isEmpty: true, now: 100)
        question.told(by: 8, isEmpty: false, now: 1_000)
        // Of another it is no sign of life, and no end.
        question.told(by: 9, isEmpty: true, now: 2_000)
        #expect(question.state == .told(by: 8) && question.dueAt == 1_000 + silence)
        let isSilentBefore = question.breakOffSilent(now: 1_000 + silence - 1)
        let isSilent = question.breakOffSilent(now: 1_000 + silence)
        #expect(!isSilentBefore && isSilent)
        #expect(question.state == .asking && question.dueAt == 1_000 + silence && question.counts == HandoverCounts(begun: 1, broken: 1))
        let isSilentStill = question.breakOffSilent(now: 1_000 + silence)
        #expect(!isSilentStill)
    }

    /// One that has begun to tell does not do so again for a minute.
    @Test func theNextEldestIsAskedAndNoMoreThanThree() throws {
        let known = try makeKnown([(7, 5), (8, 900), (9, 30), (10, 20), (11, 10)])
        var question = HandoverQuestion()
        question.heard(now: 0, groups: 1)
        var asked: [UInt64] = []
        for now in 1...3 as ClosedRange<UInt64> {
            let replica = question.next(of: known, now: now)
            let next = try #require(replica)
            asked.append(next.id)
            question.told(by: next.id, isEmpty: true, now: now)
            question.told(by: next.id, isEmpty: false, now: now)
            // Another's end is nobody's concern.
            question.isGone(11, now: now)
            #expect(question.state == .told(by: next.id))
            question.isGone(next.id, now: now)
            #expect(question.isOver == (now == 3))
        }
        #expect(asked == [8, 9, 10])
        #expect(question.state == .givenUp && question.dueAt == nil && question.counts == HandoverCounts(begun: 3, broken: 3))
        question.told(by: 11, isEmpty: true, now: 4)
        question.told(by: 11, isEmpty: true, now: 4)
        question.heard(now: 4, groups: 1)
        #expect(question.state == .givenUp && question.dueAt == nil && question.counts.begun == 3)
    }

    @Test func whoFellSilentIsNotAskedAgainThoughNobodyElseAnswers() throws {
        let known = try makeKnown([(7, 5), (8, 900)])
        var question = HandoverQuestion()
        let first = question.next(of: known, now: 0)
        question.told(by: 8, isEmpty: true, now: 0)
        question.isGone(8, now: 0)
        var asked: [UInt64] = []
        while !question.isOver { if let replica = question.next(of: known, now: 0) { asked.append(replica.id) } }
        #expect(first?.id == 8 && asked == Array(repeating: 7, count: ReplicaBounds.handoverQuestions - 1))
    }

    @Test func anAnswerToTheLastQuestionCounts() throws {
        let known = try makeKnown([(7, 5)])
        var question = HandoverQuestion()
        for _ in 0..<ReplicaBounds.handoverQuestions { _ = question.next(of: known, now: 0) }
        question.told(by: 7, isEmpty: true, now: 0)
        question.told(by: 7, isEmpty: true, now: 0)
        #expect(question.state == .whole)
    }

    /// Pieces that somebody sends forever keep nobody from telling others.
    @Test func aRouterIsABeginnerForSoLong() {
        var question = HandoverQuestion()
        func isBeginning(_ seconds: Double) -> Bool { question.isBeginning(since: 1_000, now: 1_000 + UInt64(seconds * 1e9)) }
        #expect(isBeginning(4.9) && !isBeginning(5))
        question.told(by: 7, isEmpty: false, now: 1_000)
        #expect(isBeginning(59.9) && !isBeginning(60))
        question.told(by: 7, isEmpty: true, now: 1_000)
        #expect(!isBeginning(1))
    }

    /// What is told of a group that discovery has not found yet is lost.
    @Test func nobodyIsAskedBeforeTheGroupsAreFound() {
        var question = HandoverQuestion()
        question.heard(now: 0, groups: 0)
        let wait = ReplicaBounds.handoverQuestionNanoseconds / 4
        for (look, groups, isAsked) in [
            (1, 0, false), (2, 3, false), (3, 4, false), (4, 4, true), (5, 4, true), (6, 5, false), (7, 5, true),
        ] {
            let mayBeAsked = question.mayBeAsked(now: UInt64(look) * wait, groups: groups)
            #expect(mayBeAsked == isAsked, "look \(look)")
            if !isAsked { #expect(question.dueAt == UInt64(look + 1) * wait) }
        }
        #expect(!question.isOver)
    }

    /// Neither would the other be told by the one that has been there for longest, and has not been heard yet.
    @Test func whoHasJustBegunTellsNobodyWhatWasBefore() throws {
        let world = try World()
        world.run(
            { world.send(.of(7, clock: world.wall, .question)) },
            { world.count(.taken) == 1 && world.sync.state.handoversGiven == HandoverCounts() },
            { world.endBeginning() },
            { world.send(.of(8, clock: world.wall, .question)) },
            { world.sync.state.handoversGiven == HandoverCounts(begun: 1, whole: 1) })
    }

    @Test func whoFindsGroupsLateAsksThen() throws {
        let world = try World()
        func heard(_ purpose: Envelope.Purpose) -> Int { world.heard.count { $0.envelope.purpose == purpose } }
        let groups = [GroupDescription(name: "a", leader: Endpoint(host: "a", port: 1))]
        var before = 0
        world.run(
            { world.send(.of(7, clock: world.wall)) },
            // The second comes a second after the first.
            { world.listen() && heard(.news) == 2 },
            {
                before = heard(.question)
                world.table.replaceGroups(groups, now: world.loop.now)
                return true
            },
            { world.listen() && heard(.question) == 1 })
        #expect(before == 0)
    }

    /// Whoever may write datagrams may ask under as many names as it likes, and take leave at once.
    @Test func whoAsksUnderManyNamesIsNotRememberedUnderAll() {
        var handovers = Handovers()
        var begun = 0
        for id in 1...10_000 as ClosedRange<UInt64> {
            if handovers.begin(id, at: somewhere, now: 0) { begun += 1 }
            handovers.end(id)
        }
        #expect(begun == ReplicaBounds.replicas)
        let isTold = handovers.begin(10_001, at: somewhere, now: ReplicaBounds.handoverPauseNanoseconds)
        #expect(isTold)
    }

    @Test func atOneAddressThereIsOne() {
        var handovers = Handovers()
        for id in 1...6 as ClosedRange<UInt64> { _ = handovers.begin(id, at: somewhere, now: 0) }
        #expect(handovers.entries.map(\.id) == [6])
        #expect(handovers.counts == HandoverCounts(begun: 6, broken: 5))
        handovers.complete(at: 0)
        handovers.end(6)
        #expect(handovers.entries.isEmpty && handovers.counts == HandoverCounts(begun: 6, whole: 1, broken: 5))
    }

    @Test func aFewAreToldAtATimeAndEachOnce() throws {
        var handovers = Handovers()
        let addresses = try (1...6).map { try #require(SocketAddress("127.0.0.1:\($0)")) }
        func begin(_ id: UInt64, now: UInt64) -> Bool { handovers.begin(id, at: addresses[Int(id) - 1], now: now) }
        #expect((1...6).map { begin($0, now: 0) } == [true, true, true, true, false, false])
        #expect(!begin(1, now: 0))
        handovers.end(2)
        #expect(!begin(2, now: 59_000_000_000) && begin(5, now: 59_000_000_000))
        handovers.end(2)
        #expect(handovers.entries.map(\.id) == [1, 3, 4, 5])
        handovers.end(1)
        #expect(begin(1, now: 60_000_000_000))
    }

    /// More than a socket's buffers hold, while news goes on being told.
    @Test(arguments: [[], secret]) func whoAsksIsToldWhatWasBefore(secret: [UInt8]) throws {
        let world = try World(secret: secret)
        let groups = ["a", "b"].map { GroupDescription(name: $0, leader: Endpoint(host: $0, port: 1)) }
        world.table.replaceGroups(groups, now: world.loop.now)
        for prompt in 0..<2_000 {
            let hashes = (1...30).map { UInt64(prompt * 30 + $0) &* 0x9e37_79b9_7f4a_7c15 }
            try hashes.withUnsafeBufferPointer { hashes in
                let request = RoutingRequest(prefixHashes: hashes, promptBytes: 30 * 256, maxOutputTokens: 10)
                world.table.cancel(try world.table.pick(request, now: world.loop.now).get().lease, now: world.loop.now, prefixHeld: true)
            }
        }
        let listener = RoutingTable(policy: .leastCost, seed: 3)
        listener.replaceGroups(groups, now: 0)
        func blocks(_ table: RoutingTable) -> Int { table.groups(now: world.loop.now).map(\.indexBlocks).reduce(0, +) }
        func takeHandover() -> Bool {
            _ = world.listen()
            for (envelope, payload) in world.heard where envelope.purpose == .handover {
                _ = payload.withUnsafeBytes { listener.receiveReplicaMessage($0, from: 1, now: 0) }
            }
            world.heard.removeAll { $0.envelope.purpose == .handover }
            return blocks(listener) == blocks(world.table)
        }
        world.run(
            { world.endBeginning() },
            { world.send(.of(7, clock: world.wall, .question)) },
            { takeHandover() },
            { world.listen() && world.count(heard: .handover) == ReplicaBounds.handoverEnds },
            { world.send(.of(7, clock: world.wall, number: 1, .question)) },
            { world.count(.taken) == 4 && world.listen() })
        #expect(world.count(heard: .handover) == ReplicaBounds.handoverEnds)
        #expect(world.heard.allSatisfy { $0.envelope.purpose != .handover || $0.payload.isEmpty })
        #expect(blocks(listener) > 15_000, "as much as fits into two caches")
        #expect(world.sync.state.handoversGiven == HandoverCounts(begun: 1, whole: 1), "not twice in a minute")
        let numbers = world.heard.filter { $0.envelope.purpose == .news }.map(\.envelope.number)
        #expect(numbers == (0..<UInt64(numbers.count)).map { $0 }, "of the numbers of news none is missing")
    }

    /// Each of many prompts that begin alike is told whole: of such, too, no more comes at once than a kernel keeps.
    @Test func longPromptsAreHandedOverInPieces() throws {
        let world = try World()
        world.table.replaceGroups([GroupDescription(name: "a", leader: Endpoint(host: "a", port: 1))], now: world.loop.now)
        for prompt in 0..<24 {
            let hashes = ((1...5_000) + [10_000 + prompt]).map { UInt64($0) &* 0x9e37_79b9_7f4a_7c15 }
            try hashes.withUnsafeBufferPointer { hashes in
                let request = RoutingRequest(prefixHashes: hashes, promptBytes: 5_001 * 256, maxOutputTokens: 10)
                world.table.cancel(try world.table.pick(request, now: world.loop.now).get().lease, now: world.loop.now, prefixHeld: true)
            }
        }
        var pieces: [Int] = []
        func takePiece() -> Bool {
            _ = world.listen()
            let handedOver = world.heard.filter { $0.envelope.purpose == .handover }
            if !handedOver.isEmpty { pieces.append(handedOver.map(\.payload.count).reduce(0, +)) }
            world.heard.removeAll()
            return pieces.reduce(0, +) >= 24 * 8 * 5_001
        }
        world.run({ world.endBeginning() }, { world.send(.of(7, clock: world.wall, .question)) }, { takePiece() })
        #expect(pieces.allSatisfy { $0 < ReplicaBounds.handoverBytes + ReplicaBounds.payloadBytes }, "\(pieces)")
    }

    /// Who is no peer of ours could have everything sent to somebody else, whose address it writes into a datagram.
    @Test func whoIsNoPeerIsToldNothing() throws {
        let world = try World { $0.peers = [] }
        world.run(
            { world.endBeginning() },
            { world.send(.of(7, clock: 1_000, .question)) },
            { world.count(.taken) == 3 },
            { world.listen() })
        #expect(world.heard.allSatisfy { $0.envelope.purpose != .handover } && world.sync.state.handoversGiven == HandoverCounts())
    }

    @Test func whatIsNotOursIsCountedAndForgotten() throws {
        let world = try World(secret: secret)
        let wall = world.wall
        let other = try makeKey(Array("not the right secret".utf8))
        var future = sealed(.of(7, clock: wall), key: world.key)
        future[4] = 9
        world.run(
            { world.send([]) && world.send([1, 2, 3]) && world.send([UInt8](repeating: 7, count: 65_507)) && world.send(future) },
            { world.count(.malformed) == 4 },
            { world.send(sealed(.of(7, clock: wall), key: other)) && world.send(sealed(.of(7, clock: wall))) },
            { world.count(.unauthenticated) == 2 },
            { world.send(.of(7, clock: wall + 61_000_000)) && world.send(.of(7, clock: wall + 62_000_000)) },
            { world.count(.clock) == 2 },
            { world.send(sealed(.of(world.sync.state.id, clock: wall), key: world.key)) },
            { world.count(.own) == 1 },
            // A payload that the routing table does not understand, of a sender that we believe.
            { world.send(.of(9, clock: wall), [0xff]) },
            { world.count(.malformed) == 5 })
        #expect(world.sync.state.replicas.map(\.id) == [9])
        #expect(world.count(.taken) == 0)
        // One line each, whatever comes.
        #expect(world.log.lines.count == 4, "\(world.log.lines)")
        #expect(world.log.lines.contains { $0.contains("127.0.0.1:\(world.peer.address.port)") && $0.contains("not signed with the key") })
        #expect(world.log.lines.contains { $0.contains("the clock of 127.0.0.1:") && $0.contains("s ahead of ours") })
        #expect(world.log.lines.contains { $0.contains("version 9") })
        #expect(world.log.lines.contains { $0.contains("may be of another release") })
    }

    @Test func aKeyThatIsNotSetHereIsNamed() throws {
        let world = try World()
        world.run(
            { world.send(sealed(.of(7), key: try? makeKey())) },
            { world.count(.unauthenticated) == 1 })
        #expect(world.log.lines.count == 1 && world.log.lines[0].contains("replicas.key_file is not set here"))
    }

    @Test func oneReplicaTooManyIsRefused() throws {
        let world = try World()
        world.run(
            { (1...256).allSatisfy { world.send(.of($0)) } },
            { world.sync.state.replicas.count == 256 },
            { world.send(.of(257)) && world.send(.of(258)) },
            { world.count(.surplus) == 2 },
            { world.send(.of(3, clock: 1_001, number: 1, .farewell)) && world.send(.of(257)) },
            { world.sync.state.replicas.contains { $0.id == 257 } })
        #expect(world.log.lines.count == 1 && world.log.lines[0].contains("more than the 256"))
    }

    /// What waits is read in pieces, so that the loop serves others in between.
    @Test func aFloodIsReadInPieces() throws {
        let world = try World()
        var seen: [UInt64] = []
        for _ in 0..<80 { #expect(world.send([1])) }
        world.run({
            let count = world.count(.malformed)
            if count != seen.last { seen.append(count) }
            return count == 80
        })
        #expect(seen.contains(64) && seen.last == 80, "\(seen)")
    }

    @Test func anIPv6SocketServesBothKinds() throws {
        let world = try World(listen: "[::]:0")
        world.run(
            { world.listen() && !world.heard.isEmpty },
            { world.send(.of(7)) },
            { world.sync.state.replicas.count == 1 })
        #expect(world.sync.state.replicas.map { $0.address.description } == [world.peer.address.description])
        #expect(world.sync.state.peers.map(\.description) == [world.peer.address.description])
    }

    @Test func anAddressThatCannotBeReachedIsLeftOut() throws {
        let world = try World { $0.peers.append(.init(host: "::1", port: 9)) }
        #expect(world.sync.state.peers.map(\.description) == [world.peer.address.description])
        #expect(somewhere.reachable(from: SocketAddress("[::1]:1")!.family)?.description == "[::ffff:127.0.0.1]:7946")
        #expect(SocketAddress("[::ffff:10.1.2.3]:5")?.unmapped.description == "10.1.2.3:5")
        #expect(SocketAddress("[fd00::1]:5")?.unmapped.description == "[fd00::1]:5")
    }

    @Test func aPortThatIsTakenIsNamed() throws {
        let world = try World()
        let again = { try DatagramSocket(boundTo: world.sync.address) }
        #expect { _ = try again() } throws: { "\($0)".contains("bind udp \(world.sync.address): Address already in use") }
    }

    /// After the first at once, the rest once an interval: a hundred changes are few datagrams.
    @Test func newsIsGathered() throws {
        let world = try World { $0.intervalNanoseconds = 100_000_000 }
        world.table.replaceGroups([GroupDescription(name: "a", leader: Endpoint(host: "a", port: 1))], now: world.loop.now)
        var leases: [Lease] = []
        var picked = 0
        world.run(
            { world.listen() && world.heard.count == 1 },
            {
                if case .success(let decision) = world.table.pick(RoutingRequest(promptBytes: 10), now: world.loop.now) {
                    leases.append(decision.lease)
                }
                picked += 1
                return picked == 30
            },
            { world.listen() && world.heard.count >= 3 })
        #expect(leases.count == 30)
        #expect(world.heard.count < 10, "\(world.heard.count) datagrams for 30 changes within some 30 ms")
    }

    @Test func asManyAddressesAsThereIsRoomForAreToldAnything() throws {
        let world = try World { settings in
            for port in 1...300 { settings.peers.append(.init(host: "127.0.0.1", port: UInt16(port))) }
            settings.peers.append(settings.peers[3])
        }
        #expect(world.sync.state.peers.count == 256)
        #expect(world.log.lines.count == 1 && world.log.lines[0].contains("301 addresses"))
    }
}
