public import EventLoop

/// Another router, as it was heard.
public struct KnownReplica: Sendable {
    /// Drawn at its start: a router that begins anew is another replica.
    public let id: UInt64
    /// Where its last datagram came from.
    public internal(set) var address: SocketAddress
    /// Monotonic nanoseconds of its last datagram.
    public internal(set) var heardAt: UInt64
    public internal(set) var datagrams: UInt64 = 0
    /// Datagrams that it sent since it was first heard and that did not come, or too late to count.
    public internal(set) var lost: UInt64 = 0
    /// Placements that it told of and that were taken into the index.
    public internal(set) var placements: UInt64 = 0
    /// Loads of groups that it told of.
    public internal(set) var loads: UInt64 = 0

    fileprivate var clockMicroseconds: UInt64
    fileprivate var nextNumber: UInt64
}

/// Who is there, and whose datagrams count: each once, in order, and none that was recorded. Pure: time is an argument.
struct KnownReplicas {
    enum Verdict: Equatable {
        case counts
        /// Our own, as when a name's addresses include ours.
        case own
        /// Sent before one that was taken: overtaken on its way, or played back. Loads are absolute, so nothing is missing.
        case late
        /// The sender's clock is that many seconds ahead of ours; negative: behind.
        case clockApart(seconds: Int64)
        case tooMany
    }

    private(set) var ownID: UInt64
    /// Of ours before: some of it may still be on its way.
    private var formerID: UInt64
    /// Whether clocks that are too far apart are refused: only a signed one means anything.
    let checksClocks: Bool
    private(set) var replicas: [UInt64: KnownReplica] = [:]
    /// Those that are gone, by how far their clock had come.
    private var departed: [UInt64: UInt64] = [:]

    init(ownID: UInt64, checksClocks: Bool) {
        self.ownID = ownID
        formerID = ownID
        self.checksClocks = checksClocks
    }

    /// Judges a datagram and remembers its sender.
    mutating func hear(_ envelope: Envelope, from address: SocketAddress, now: UInt64, wallMicroseconds: UInt64) -> Verdict {
        let (id, clock) = (envelope.sender, envelope.clockMicroseconds)
        if id == ownID || id == formerID { return .own }
        if checksClocks {
            let isAhead = clock > wallMicroseconds
            let apart = isAhead ? clock &- wallMicroseconds : wallMicroseconds &- clock
            if apart > ReplicaBounds.clockMicroseconds {
                let seconds = Int64(clamping: apart / 1_000_000)
                return .clockApart(seconds: isAhead ? seconds : -seconds)
            }
        }
        guard var replica = replicas[id] else { return meet(envelope, at: address, now: now) }
        let verdict = replica.hear(envelope, from: address, now: now)
        replicas[id] = replica
        return verdict
    }

    private mutating func meet(_ envelope: Envelope, at address: SocketAddress, now: UInt64) -> Verdict {
        let (id, clock) = (envelope.sender, envelope.clockMicroseconds)
        if let last = departed[id], clock <= last { return .late }
        guard replicas.count < ReplicaBounds.replicas else { return .tooMany }
        departed[id] = nil
        replicas[id] = KnownReplica(
            id: id, address: address, heardAt: now, datagrams: 1, clockMicroseconds: clock, nextNumber: envelope.nextNumber)
        return .counts
    }

    /// Adds to the account of a replica what a payload of it came to.
    mutating func took(placements: Int, loads: Int, from id: UInt64) {
        replicas[id]?.placements &+= UInt64(placements)
        replicas[id]?.loads &+= UInt64(loads)
    }

    /// Of those that `isEligible`, the one that has told most and so has been there for longest.
    func eldest(where isEligible: (KnownReplica) -> Bool) -> KnownReplica? {
        replicas.values.filter(isEligible).max { ($0.nextNumber, $0.id) < ($1.nextNumber, $1.id) }
    }

    /// Makes us another replica.
    mutating func beginAnew(as id: UInt64) { (formerID, ownID) = (ownID, id) }

    /// Takes out a replica that has left; nil when it is not there.
    mutating func forget(_ id: UInt64) -> KnownReplica? {
        guard let replica = replicas.removeValue(forKey: id) else { return nil }
        if departed.count == ReplicaBounds.departed, let oldest = departed.min(by: { $0.value < $1.value }) { departed[oldest.key] = nil }
        departed[id] = replica.clockMicroseconds
        return replica
    }

    /// When the next of them will have been silent for too long, if it stays so.
    var nextSilence: UInt64? { replicas.values.lazy.map { $0.heardAt &+ ReplicaBounds.silenceNanoseconds }.min() }

    /// Takes out the replicas that have not been heard for too long.
    mutating func forgetSilent(now: UInt64) -> [KnownReplica] {
        let silent = replicas.values.filter { now >= $0.heardAt &+ ReplicaBounds.silenceNanoseconds }
        return silent.compactMap { forget($0.id) }
    }
}

extension Envelope {
    /// That of the news to come.
    fileprivate var nextNumber: UInt64 { purpose == .news ? number &+ 1 : number }
}

extension KnownReplica {
    fileprivate mutating func hear(_ envelope: Envelope, from address: SocketAddress, now: UInt64) -> KnownReplicas.Verdict {
        guard envelope.clockMicroseconds > clockMicroseconds else { return .late }
        clockMicroseconds = envelope.clockMicroseconds
        if envelope.number > nextNumber { lost &+= envelope.number &- nextNumber }
        nextNumber = envelope.nextNumber
        self.address = address
        heardAt = now
        datagrams &+= 1
        return .counts
    }
}
