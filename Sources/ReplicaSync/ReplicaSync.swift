// ReplicaSync has several routers of one fleet tell one another what no engine tells them in time: where each has placed which prompts, and
// what it has under way on each group.
//
// Reading order:
//   1. `ReplicaSync`, on the control loop: it takes what the routing table has to tell, once an interval at most, sends it to all peers, and
//      gives the table what comes from them.
//   2. `Envelope`: what stands around each payload; `EnvelopeKey`: who may write one.
//   3. `KnownReplicas`: who is there, and which datagrams count.
//   4. `Handovers`: what a router that begins late is told of what was before, by the one that has been there for longest, or who is next when
//      that one falls silent.
//   5. `Peers`: whom we write to, by address or by name; `DatagramSocket`: how.
//
// What a payload says is the routing table's business (`RoutingTable.takeReplicaMessages`, `receiveReplicaMessage`). No news is asked for
// again: it is absolute, so the next makes good what was lost, and what of a handover was lost is learned when it is placed again.

public import EventLoop
import Glibc
public import Routing

/// Tells the other routers what this one does, and hears what they do. Confined to the control loop.
///
/// Budget: nothing while nothing happens, but for a heartbeat each second. Per interval with news: one short critical section of the routing table,
/// one HMAC for each message and one `sendto` for each message and peer. Per datagram that comes: one `recvfrom`, one HMAC, one critical section. No allocation in either.
public final class ReplicaSync: EventHandler {
    public var address: SocketAddress { socket.address }

    private let table: RoutingTable
    private let settings: ReplicaSyncSettings
    private let log: OperatorLog
    private let socket: DatagramSocket
    private let key: EnvelopeKey?
    private let peers: Peers
    private var known: KnownReplicas
    private var messages = ReplicaMessages()
    private let datagram = UnsafeMutableRawBufferPointer.allocate(byteCount: ReplicaBounds.datagramBytes, alignment: 16)

    /// When what there is to tell is taken; nil: there is none.
    private var nextFlush: UInt64?
    private var lastFlush: UInt64
    private var nextComparison: UInt64 = 0
    /// The socket is left alone until then, after it had much to say.
    private var pausedUntil: UInt64?
    /// What we ask for as long as we have just begun.
    private var question = HandoverQuestion()
    private let begunAt: UInt64
    private var handovers = Handovers()
    /// When those who asked are told the next piece; nil: nobody asked.
    private var nextHandover: UInt64?
    private var clockMicroseconds: UInt64 = 0
    private var number: UInt64 = 0

    private var received = Tally<ReceivedDatagram>()
    private var sent = Tally<SentDatagram>()
    private var receivedBytes: UInt64 = 0
    private var sentBytes: UInt64 = 0
    private var placementsReceived: UInt64 = 0
    private var placementsSent: UInt64 = 0
    private var lostOfDeparted: UInt64 = 0
    private var warnings = Warnings()

    /// Binds the port, and tells from now on; has to be a service of its loop. Throws when the port is taken, the key is one that OpenSSL refuses, or a name server is no address.
    public init(loop: EventLoop, table: RoutingTable, settings: ReplicaSyncSettings, log: OperatorLog) throws(SocketError) {
        self.table = table
        self.settings = settings
        self.log = log
        socket = try DatagramSocket(boundTo: settings.listen)
        key = settings.secret.isEmpty ? nil : EnvelopeKey(settings.secret)
        guard settings.secret.isEmpty || key != nil else { throw SocketError(call: "HMAC-SHA256", code: ENOMEM) }
        peers = Peers(settings, loop: loop, log: log)
        known = KnownReplicas(ownID: .random(in: 1 ... .max), checksClocks: key != nil)
        nextFlush = loop.now
        lastFlush = loop.now
        begunAt = loop.now
        super.init(loop: loop)
        try attach(descriptor: socket.descriptor)
        table.startSharing(now: loop.now) { [mailbox = loop.mailbox] in
            mailbox.post { $0.service(ReplicaSync.self)?.newsCame() }
        }
        schedule()
    }

    deinit { datagram.deallocate() }

    /// Takes leave of the others, so that they need not wait until we have been silent, and says and hears nothing more.
    public func stop() {
        send(Self.nothing, as: .farewell, to: peers.addresses)
        peers.stop()
        detach()
    }

    public var state: ReplicaSyncState {
        let replicas = known.replicas.values.sorted { $0.id < $1.id }.map { replica in
            var replica = replica
            replica.address = replica.address.unmapped
            return replica
        }
        return ReplicaSyncState(
            id: known.ownID, address: socket.address, isAuthenticated: key != nil, peers: peers.addresses.map(\.unmapped),
            faults: peers.faults, replicas: replicas, received: received.all, sent: sent.all,
            receivedBytes: receivedBytes, sentBytes: sentBytes, placementsReceived: placementsReceived, placementsSent: placementsSent,
            placementsNotShared: table.placementsNotShared(), handover: question.state, handoversGiven: handovers.counts,
            handoversTaken: question.counts,
            lost: replicas.reduce(lostOfDeparted) { $0 &+ $1.lost })
    }

    // MARK: The loop

    public override func socketReady(_ readiness: Readiness) { if pausedUntil == nil { receive() } }

    public override func deadlineReached() {
        if let end = pausedUntil, loop.now >= end {
            pausedUntil = nil
            receive()
        }
        if loop.now >= min(nextFlush ?? .max, nextHeartbeat) { flush() }
        if let due = question.dueAt, loop.now >= due { ask() }
        if let due = nextHandover, loop.now >= due { handOver() }
        for replica in known.forgetSilent(now: loop.now) { forget(replica) }
        schedule()
    }

    private var nextHeartbeat: UInt64 { lastFlush &+ ReplicaBounds.heartbeatNanoseconds }

    private func schedule() {
        setDeadline(
            min(
                nextFlush ?? .max, nextHeartbeat, pausedUntil ?? .max, known.nextSilence ?? .max, question.dueAt ?? .max,
                nextHandover ?? .max))
    }

    /// The first after a pause is told at once, the rest together.
    private func newsCame() {
        guard nextFlush == nil else { return }
        nextFlush = max(loop.now, lastFlush &+ settings.intervalNanoseconds)
        schedule()
    }

    // MARK: Telling

    /// At least once a second, so that the table tells again what is under way, and the others hear that we are there.
    private func flush() {
        nextFlush = nil
        lastFlush = loop.now
        table.takeReplicaMessages(into: &messages, now: loop.now)
        for index in 0..<messages.count { messages.withMessage(index) { tellAll($0) } }
        if messages.count == 0 { tellAll(Self.nothing) }
        placementsSent &+= UInt64(messages.placements)
        messages.removeAll()
        if loop.now >= nextComparison {
            nextComparison = loop.now &+ ReplicaBounds.shortestTTLNanoseconds
            peers.compare(with: known.replicas.values.lazy.map(\.address))
        }
    }

    private static var nothing: UnsafeRawBufferPointer { .init(start: nil, count: 0) }

    private func tellAll(_ payload: UnsafeRawBufferPointer) {
        send(payload, as: .news, to: peers.addresses)
        number &+= 1
    }

    /// - Returns: whether the kernel had room for all of it.
    @discardableResult
    private func send(_ payload: UnsafeRawBufferPointer, as purpose: Envelope.Purpose, to addresses: [SocketAddress]) -> Bool {
        advanceClock()
        let envelope = Envelope(sender: known.ownID, clockMicroseconds: clockMicroseconds, number: number, purpose: purpose)
        guard let count = envelope.seal(payload, key: key, into: datagram) else { return true }
        let bytes = UnsafeRawBufferPointer(rebasing: datagram[..<count])
        var hadRoom = true
        for peer in addresses {
            switch socket.send(bytes, to: peer) {
            case .whole:
                sent.add(.sent)
                sentBytes &+= UInt64(count)
            case .noRoom:
                sent.add(.dropped)
                hadRoom = false
            case .failed(let code):
                sent.add(.failed)
                warn(.sending, "cannot send to \(peer.unmapped): \(SocketError(call: "sendto", code: code))")
            }
        }
        return hadRoom
    }

    /// Two datagrams may fall into one microsecond, and the wall clock may be set back: a little is overtaken by and by; after much the others
    /// would not believe us until it is, and take us for another replica instead.
    private func advanceClock() {
        let wall = loop.wallClock() / 1_000
        if clockMicroseconds > wall &+ ReplicaBounds.clockMicroseconds / 2 {
            known.beginAnew(as: .random(in: 1 ... .max))
            clockMicroseconds = 0
        }
        clockMicroseconds = max(wall, clockMicroseconds &+ 1)
    }

    // MARK: Handing over

    private func ask() {
        if question.breakOffSilent(now: loop.now), question.isOver { return }
        guard question.mayBeAsked(now: loop.now, groups: table.groupCount) else { return }
        if let eldest = question.next(of: known, now: loop.now) { send(Self.nothing, as: .question, to: [eldest.address]) }
    }

    /// Only those whom we tell all the news: whoever else could have it all sent to somebody who did not ask.
    private func wasAsked(by id: UInt64, at sender: SocketAddress) {
        guard peers.contains(sender), !question.isBeginning(since: begunAt, now: loop.now), handovers.begin(id, at: sender, now: loop.now)
        else { return }
        // Also where there is nothing to tell: then nobody else is asked.
        send(Self.nothing, as: .handover, to: [sender])
        if nextHandover == nil { nextHandover = loop.now }
        schedule()
    }

    private func handOver() {
        for place in handovers.entries.indices.reversed() {
            if let left = handovers.entries[place].endsLeft {
                send(Self.nothing, as: .handover, to: [handovers.entries[place].address])
                handovers.entries[place].endsLeft = left - 1
                if left <= 1 { handovers.entries.remove(at: place) }
            } else if !handOverNext(&handovers.entries[place]) {
                handovers.complete(at: place)
            }
        }
        nextHandover = handovers.entries.isEmpty ? nil : loop.now &+ ReplicaBounds.handoverNanoseconds
        messages.removeAll()
    }

    /// - Returns: whether there is more.
    private func handOverNext(_ entry: inout Handovers.Entry) -> Bool {
        var bytes = 0
        for _ in 0..<ReplicaBounds.handoverSlices where bytes < ReplicaBounds.handoverBytes {
            let before = entry.handover
            let isMore = table.handOver(&entry.handover, into: &messages)
            for index in 0..<messages.count {
                let hadRoom = messages.withMessage(index) { message in
                    bytes += message.count
                    return send(message, as: .handover, to: [entry.address])
                }
                if !hadRoom {
                    entry.handover = before
                    return true
                }
            }
            if !isMore { return false }
        }
        return true
    }

    // MARK: Hearing

    private func receive() {
        var (datagrams, bytes) = (0, 0)
        while datagrams < ReplicaBounds.datagramsPerRead, bytes < ReplicaBounds.bytesPerRead {
            switch socket.receive(into: loop.readBuffer) {
            case .nothingMore: return
            case .failed(let code): warn(.receiving, "cannot receive: \(SocketError(call: "recvfrom", code: code))")
            case .datagram(let count, let sender):
                bytes += count
                received.add(take(UnsafeRawBufferPointer(rebasing: loop.readBuffer[..<count]), from: sender))
            }
            datagrams += 1
        }
        pausedUntil = loop.now &+ ReplicaBounds.pauseNanoseconds
        schedule()
    }

    private func take(_ datagram: UnsafeRawBufferPointer, from sender: SocketAddress) -> ReceivedDatagram {
        receivedBytes &+= UInt64(datagram.count)
        let (envelope, payload): (Envelope, UnsafeRawBufferPointer)
        switch Envelope.open(datagram, key: key) {
        case .success(let opened): (envelope, payload) = opened
        case .failure(.malformed): return .malformed
        case .failure(.unknownVersion(let version)):
            warn(.version, "\(sender.unmapped) speaks version \(version), this router version \(Envelope.version)")
            return .malformed
        case .failure(.unauthenticated):
            let reason = key == nil ? "is signed, and replicas.key_file is not set here" : "is not signed with the key of replicas.key_file"
            warn(.authentication, "what comes from \(sender.unmapped) \(reason)")
            return .unauthenticated
        }
        switch known.hear(envelope, from: sender, now: loop.now, wallMicroseconds: loop.wallClock() / 1_000) {
        case .counts: return take(envelope, payload, from: sender)
        case .own: return .own
        case .late: return .late
        case .clockApart(let seconds):
            warnOfClock(of: envelope.sender, at: sender, seconds: seconds)
            return .clock
        case .tooMany:
            warn(.surplus, "\(sender.unmapped) is one replica more than the \(ReplicaBounds.replicas) that are listened to")
            return .surplus
        }
    }

    private func take(_ envelope: Envelope, _ payload: UnsafeRawBufferPointer, from sender: SocketAddress) -> ReceivedDatagram {
        switch envelope.purpose {
        case .farewell:
            if let replica = known.forget(envelope.sender) { forget(replica) }
            schedule()
            return .taken
        case .question: wasAsked(by: envelope.sender, at: sender)
        case .handover: question.told(by: envelope.sender, isEmpty: payload.isEmpty, now: loop.now)
        case .news: break
        }
        if question.state == .asking, question.dueAt == nil {
            question.heard(now: loop.now, groups: table.groupCount)
            schedule()
        }
        // With nothing new: it is still there.
        if payload.isEmpty { return .taken }
        switch table.receiveReplicaMessage(payload, from: envelope.sender, now: loop.now) {
        case .applied(let placements, let loads):
            placementsReceived &+= UInt64(placements)
            known.took(placements: placements, loads: loads, from: envelope.sender)
            return .taken
        case .malformed:
            warn(.payload, "what \(sender.unmapped) tells is not understood; it may be of another release")
            return .malformed
        case .tooManyReplicas: return .surplus
        }
    }

    private func forget(_ replica: KnownReplica) {
        lostOfDeparted &+= replica.lost
        handovers.end(replica.id)
        question.isGone(replica.id, now: loop.now)
        table.forgetReplica(replica.id, now: loop.now)
    }

    // MARK: Warnings

    private func warn(_ kind: Warnings.Kind, _ text: @autoclosure () -> String) {
        if warnings.isDue(kind, now: loop.now) { log.warning("replicas: \(text())") }
    }

    private func warnOfClock(of id: UInt64, at sender: SocketAddress, seconds: Int64) {
        guard warnings.isFirstOfClock(id) else { return }
        let apart = seconds < 0 ? "\(-seconds) s behind" : "\(seconds) s ahead of"
        log.warning(
            "replicas: the clock of \(sender.unmapped) is \(apart) ours: what it tells is refused until they are within "
                + "\(ReplicaBounds.clockMicroseconds / 1_000_000) s")
    }
}

/// What was said lately, so that a flood of datagrams is no flood of lines.
private struct Warnings {
    enum Kind: Hashable {
        case sending, receiving, version, authentication, payload, surplus
    }

    private var saidAt: [Kind: UInt64] = [:]
    private var clocks: Set<UInt64> = []

    mutating func isDue(_ kind: Kind, now: UInt64) -> Bool {
        if let last = saidAt[kind], now &- last < ReplicaBounds.warningNanoseconds { return false }
        saidAt[kind] = now
        return true
    }

    mutating func isFirstOfClock(_ id: UInt64) -> Bool { clocks.count < ReplicaBounds.replicas && clocks.insert(id).inserted }
}
