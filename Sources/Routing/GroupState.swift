/// Everything that the next decision would use of one group, for people.
public struct GroupState: Sendable {
    /// Why a group gets no request.
    public enum Obstacle: String, Sendable {
        case notReady = "not_ready"
        /// An operator has taken it out.
        case drained
        /// Out after failures in a row.
        case ejected
        /// The single request after an ejection is under way.
        case probing
        /// It pushed back; it gets requests only when all others did, too.
        case saturated
        /// It answers with errors; it gets requests only when all others are no better.
        case failing
    }

    public var id: GroupID
    public var name: String
    public var leader: Endpoint
    public var members: [Endpoint]
    public var size: Int
    public var models: [String]
    public var isReady: Bool
    public var obstacle: Obstacle?
    /// Seconds until the obstacle goes away by itself; 0 when it does not.
    public var obstacleSeconds: Double
    public var consecutiveFailures: Int
    /// Sequences booked and not ended: a request's one, or as many as it asks for.
    public var inFlight: Int
    /// Those of them that have no first token yet.
    public var awaitingFirstToken: Int
    public var queuedUncachedTokens: Int
    /// KV tokens that our requests in flight there need, what is expected of their answers included: those for which the cache has room, and the
    /// rest, which waits for it.
    public var activeKVTokens: Int
    public var waitingKVTokens: Int
    public var kvCapacityTokens: Int
    public var prefillTokensPerSecond: Double
    /// Learned fixed part of the time to first token.
    public var overheadSeconds: Double
    public var decodeStepSeconds: Double
    public var tokensPerByte: Double
    /// What the engine reported last of its load, nil when it never did.
    public var reported: ReportedLoad?
    /// Sequences of others that wait and that run, as the next decision would take them to be.
    public var othersWaiting: Double
    public var othersRunning: Double
    public var othersActiveKVTokens: Int
    /// Blocks in the shadow of the engine's cache.
    public var indexBlocks: Int
    /// Actual over predicted cached tokens, at most 1.
    public var hitYield: Double
    public var decisions: UInt64
    public var node: String
    public var zone: String
    /// Seconds that a request pays for the way there, see `Locality`.
    public var distanceSeconds: Double
    /// How much longer prefill is taken to need there while it is cold, as a share.
    public var warmUpSlowness: Double

    /// Sequences that have their first token.
    public var running: Int { inFlight - awaitingFirstToken }
}

extension RoutingState {
    mutating func groupStates(now: UInt64) -> [GroupState] {
        order.compactMap { slot in records[Int(slot)].map { state(of: slot, record: $0, now: now) } }
    }

    private mutating func state(of slot: UInt32, record: GroupRecord, now: UInt64) -> GroupState {
        if loads[slot].othersDueAt <= now { ageOthers(slot, now: now) }
        let load = loads[slot]
        let (tokens, capacity) = (Int(load.ownTokensInUse), Int(load.kvCapacityTokens))
        let obstacle = obstacle(load, isDescribedReady: record.description.isReady, now: now)
        return GroupState(
            id: GroupID(slot: slot, generation: load.generation), name: record.description.name, leader: record.description.leader,
            members: record.description.members, size: record.description.size, models: record.models, isReady: record.description.isReady,
            obstacle: obstacle.0, obstacleSeconds: obstacle.1, consecutiveFailures: Int(load.failures), inFlight: Int(load.inFlight),
            awaitingFirstToken: Int(load.awaitingFirstToken), queuedUncachedTokens: Int(load.queuedTokens),
            activeKVTokens: min(tokens, capacity), waitingKVTokens: max(tokens - capacity, 0), kvCapacityTokens: capacity,
            prefillTokensPerSecond: 1 / (load.secondsPerToken * prefillFit.slope), overheadSeconds: prefillFit.intercept,
            decodeStepSeconds: load.decodeStepSeconds * stepScale, tokensPerByte: tokensPerByte, reported: reportedLoad(slot, now: now),
            othersWaiting: load.othersWaiting, othersRunning: load.othersRunning,
            othersActiveKVTokens: Int(load.othersActiveTokens), indexBlocks: index.count(of: load.holder),
            hitYield: Double(load.hitYield), decisions: load.decisions,
            node: record.description.node, zone: record.description.zone, distanceSeconds: load.distanceSeconds,
            warmUpSlowness: load.warmUpEndsAt > now ? load.warmUpSlowness : 0)
    }

    func obstacle(_ load: GroupLoad, isDescribedReady: Bool, now: UInt64) -> (GroupState.Obstacle?, Double) {
        if !load.isReady { return (isDescribedReady ? .drained : .notReady, 0) }
        if load.failures > 0 && now < load.ejectedUntil { return (.ejected, load.ejectedUntil.seconds(since: now)) }
        if load.isProbing { return (.probing, 0) }
        if now < load.saturatedUntil {
            return (load.errorsInRow >= Self.toleratedErrors ? .failing : .saturated, load.saturatedUntil.seconds(since: now))
        }
        return (nil, 0)
    }

    func isReady(model: String) -> Bool? {
        var model = model
        return model.withUTF8 { catalog.slots(listing: UnsafeRawBufferPointer($0)) }.map { $0.contains { loads[$0].isReady } }
    }

    mutating func hasReadyGroup(excluding tried: TriedGroups, now: UInt64) -> Bool {
        order.contains { isReady($0, excluding: tried, now: now) }
    }

    mutating func hasReadyGroup(for request: RoutingRequest, excluding tried: TriedGroups, now: UInt64) -> Bool? {
        let serving = catalog.match(request.model).slots
        if serving.isEmpty { return nil }
        return serving.contains { slot in
            isReady(slot, excluding: tried, now: now) && (loads[slot].speaksHTTP2 ? !request.needsHTTP1 : !request.needsHTTP2)
        }
    }

    private func isReady(_ slot: UInt32, excluding tried: TriedGroups, now: UInt64) -> Bool {
        loads[slot].isReady && !loads[slot].isEjected(now: now)
            && !tried.contains(GroupID(slot: slot, generation: loads[slot].generation))
    }
}
