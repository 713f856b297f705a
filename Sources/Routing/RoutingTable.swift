import Synchronization

/// The groups, what is booked on them and what their caches hold: everything that a decision needs, shared by all loops.
///
/// One mutex guards all of it. A decision takes about a microsecond, so the lock is nearly always free; every call is one short
/// critical section that neither allocates (but for changes of the groups, reading them, and requests that wait) nor waits for anything else.
/// All times are monotonic nanoseconds from one clock.
public final class RoutingTable: Sendable {
    private let state: Mutex<RoutingState>
    public let policy: Policy

    /// - Parameters:
    ///   - policy: how groups are chosen, for the table's whole life.
    ///   - seed: of the random policy and of the index's hash table. Cold placement does not depend on it.
    ///   - limits: every bound; memory is reserved now and touched later.
    ///   - placement: what counts besides load.
    ///   - cost: the constants of `least-cost`.
    public init(
        policy: Policy, seed: UInt64, limits: RoutingLimits = .init(), placement: PlacementSettings = .init(), cost: CostRule = .init()
    ) {
        self.policy = policy
        state = Mutex(RoutingState(policy: policy, seed: seed, limits: limits, placement: placement, cost: cost))
    }

    // MARK: Groups

    /// Makes these the groups that exist. A group of the same name, leader and incarnation keeps its bookings, its index and what was
    /// learned; any other is new. A group that is not listed is gone at once, with all that the index knew of it.
    public func replaceGroups(_ groups: [GroupDescription], now: UInt64) {
        state.withLock { $0.replaceGroups(groups, now: now) }
    }

    /// Adds these groups or changes those of the same names, and takes away the ones named in `removing`; all others stay as they are.
    /// The same identity rule as in `replaceGroups`.
    /// - Returns: names of those for which there is no room.
    @discardableResult
    public func updateGroups(_ groups: [GroupDescription], removing names: [String] = [], now: UInt64) -> [String] {
        state.withLock { $0.updateGroups(groups, removing: names, now: now) }
    }

    /// Tells which models a group serves, by its own account; empty makes it serve anything.
    /// - Parameter adapters: of the LoRA adapters among them, the base model.
    public func setModels(_ models: [String], adapters: [String: String] = [:], of group: GroupID) {
        state.withLock { state in
            if let slot = state.slot(of: group) { state.setModels(models, adapters: adapters, of: slot) }
        }
    }

    /// Tells which LoRA adapters a group's requests use now, running or waiting, and how many of them fit at once; by its own account.
    /// - Parameter capacity: the engine's GPU slots for adapters; 0: unknown.
    public func reportAdapters(_ names: [String], capacity: Int, of group: GroupID, now: UInt64) {
        state.withLock { state in
            if let slot = state.slot(of: group) { state.reportAdapters(names, capacity: capacity, of: slot, now: now) }
        }
    }

    /// Takes a group out by an operator's word, or back in: it finishes what it has and gets nothing new but pinned requests. Holds for
    /// the name, over restarts of the group, until it is taken back.
    /// - Returns: whether there is such a group.
    public func setDrained(_ isDrained: Bool, group name: String) -> Bool {
        state.withLock { $0.setDrained(isDrained, group: name) }
    }

    /// Tells how many tokens a group's KV cache holds, by its own account; outranks the description from now on.
    public func updateKVCapacity(tokens: Int, of group: GroupID) {
        state.withLock { state in
            if let slot = state.slot(of: group) { state.updateKVCapacity(tokens: tokens, of: slot) }
        }
    }

    public var groupCount: Int { state.withLock { $0.order.count } }

    /// Every group in the order of the descriptions, with the state that the next decision would use.
    public func groups(now: UInt64) -> [GroupState] { state.withLock { $0.groupStates(now: now) } }

    /// The group's name; nil when it is gone.
    public func name(of group: GroupID) -> String? {
        state.withLock { state in state.slot(of: group).flatMap { state.records[Int($0)]?.description.name } }
    }

    /// The group of that name, with its leader, and how many sequences of ours are under way there.
    public func group(named name: String) -> (id: GroupID, leader: Endpoint, inFlight: Int, failures: Int)? {
        state.withLock { state in
            guard let slot = state.slotOfName[name], let record = state.records[Int(slot)] else { return nil }
            let load = state.loads[slot]
            return (GroupID(slot: slot, generation: load.generation), record.description.leader, Int(load.inFlight), Int(load.failures))
        }
    }

    /// Names of all models that some group lists, sorted.
    public func models() -> [String] { state.withLock { $0.catalog.names } }

    /// Whether some group that serves the model is ready and not drained, whatever it has failed at lately; nil when none lists the name.
    public func isReady(model: String) -> Bool? { state.withLock { $0.isReady(model: model) } }

    /// Counts what may change an answer of `isReady(model:)`: as long as it stays, so do they.
    public var readinessChanges: UInt64 { state.withLock { $0.readinessChanges } }

    /// Whether any group but those tried could take a request.
    public func hasReadyGroup(excluding tried: TriedGroups = .init(), now: UInt64) -> Bool {
        state.withLock { $0.hasReadyGroup(excluding: tried, now: now) }
    }

    /// Whether any group but those tried could take this one, full or not: of its model and its protocol; nil when none serves the model.
    public func hasReadyGroup(for request: RoutingRequest, excluding tried: TriedGroups, now: UInt64) -> Bool? {
        state.withLock { $0.hasReadyGroup(for: request, excluding: tried, now: now) }
    }

    // MARK: Requests

    /// Chooses a group and books the request on it, in one step. The lease must be ended by `settle` or `cancel`.
    /// - Parameters:
    ///   - request: its buffers must stay valid during the call.
    ///   - tried: groups that must not be chosen.
    public func pick(
        _ request: borrowing RoutingRequest, excluding tried: TriedGroups = .init(), now: UInt64
    ) -> Result<Decision, RoutingFailure> {
        let request = copy request
        return state.withLock { $0.pick(request, tried: tried, now: now) }
    }

    /// As `pick`, but the request waits in the router while the group chosen has enough to do, see `AdmissionQueue`.
    /// - Parameter ticket: under which it is told of in `releaseHeld`, and may be withdrawn.
    public func admit(
        _ request: borrowing RoutingRequest, excluding tried: TriedGroups = .init(), ticket: AdmissionTicket, now: UInt64
    ) -> Admission {
        let request = copy request
        return state.withLock { $0.admit(request, tried: tried, ticket: ticket, now: now) }
    }

    /// From now on it is told when some of those that wait may go.
    /// - Parameter wake: called within the critical section, with the loop of the one that has waited longest; once until `releaseHeld`. It must
    ///   neither wait nor call the table.
    public func startHolding(wake: @escaping @Sendable (_ loop: UInt32) -> Void) { state.withLock { $0.admission.wake = wake } }

    /// Sends on those that need not wait any longer, whichever loops they came by. To be called when `startHolding`'s closure was, and from time to
    /// time while any wait: groups come back without a word, and who has waited longer goes to other groups.
    /// - Parameter nanoseconds: unless it has been called within as many.
    public func releaseHeld(into released: inout [ReleasedRequest], unlessWithin nanoseconds: UInt64 = 0, now: UInt64) {
        guard state.withLock({ $0.beginRelease(unlessWithin: nanoseconds, into: &released, now: now) }) else { return }
        // Decisions do not wait for the whole of it.
        while state.withLock({ $0.releaseSome(into: &released, now: now) }) {}
    }

    /// The client does not wait any more. A request that has just been released is told of all the same.
    public func withdraw(_ ticket: AdmissionTicket) { state.withLock { $0.withdraw(ticket) } }

    /// How many wait.
    public var heldCount: Int { state.withLock { $0.admission.entries.count } }

    /// The groups that `pick` would choose among, for comparing rules; books and learns nothing.
    package func candidates(
        for request: borrowing RoutingRequest, excluding tried: TriedGroups = .init(), now: UInt64
    ) -> Result<CandidateList, RoutingFailure> {
        let request = copy request
        return state.withLock { $0.listCandidates(request, tried: tried, now: now) }
    }

    /// As `pick`, on the candidate of that slot.
    package func place(
        _ request: borrowing RoutingRequest, on slot: UInt32, excluding tried: TriedGroups = .init(), now: UInt64
    ) -> Result<Decision, RoutingFailure> {
        let request = copy request
        return state.withLock { $0.place(request, on: slot, tried: tried, now: now) }
    }

    /// The first token of a streamed answer has come: its prompt leaves the queue, and the time it took teaches the prefill
    /// rate. Not for answers that are not streamed: those are settled only.
    public func firstToken(_ lease: Lease, now: UInt64) { state.withLock { $0.firstToken(lease, now: now) } }

    /// The number of a streamed answer's events at which `streamed` is to be called next: early enough to learn of a slow group before it fills
    /// up, and then whenever the answer is twice as long, so that what it holds of the KV cache stays known.
    public static func progressMark(after events: Int) -> Int {
        if events < 64 { return events < 16 ? 16 : 64 }
        return events < 1 << 40 ? 1 << (Int.bitWidth - events.leadingZeroBitCount) : .max
    }

    /// A streamed answer goes on and has come in `events` so far, which teaches how long the group's decode steps take, and answers are.
    /// - Parameter isHeldBack: the client took it slower than it came: it says nothing of steps.
    public func streamed(_ lease: Lease, events: Int, isHeldBack: Bool = false, now: UInt64) {
        state.withLock { $0.streamed(lease, events: events, isHeldBack: isHeldBack, now: now) }
    }

    /// The answer has ended well: everything booked is released, and `usage` teaches.
    /// - Parameters:
    ///   - events: in which a streamed answer came; 0 when nobody counted.
    ///   - isHeldBack: as in `streamed`.
    public func settle(_ lease: Lease, usage: Usage?, events: Int = 0, isHeldBack: Bool = false, now: UInt64) {
        state.withLock { $0.settle(lease, usage: usage, events: events, isHeldBack: isHeldBack, now: now) }
    }

    /// The request has ended otherwise: everything booked is released.
    /// - Parameters:
    ///   - prefixHeld: whether the engine may have prefilled the prompt although no first token was seen; when not,
    ///     the index forgets what only this request had added.
    ///   - isServerError: the group answered with an error of its own. It fails fast and so looks idle: after some in a row, with no
    ///     prompt answered in between, it gets requests only when all others are no better, for a second and longer each time.
    public func cancel(_ lease: Lease, now: UInt64, prefixHeld: Bool = false, isServerError: Bool = false) {
        state.withLock { $0.cancel(lease, prefixHeld: prefixHeld, isServerError: isServerError, now: now) }
    }

    /// What `pick` would decide now, and why: every term of every group that may serve the model. Books and learns nothing.
    public func explain(
        _ request: borrowing RoutingRequest, excluding tried: TriedGroups = .init(), now: UInt64
    ) -> Explanation {
        let request = copy request
        return state.withLock { $0.explain(request, tried: tried, now: now) }
    }

    // MARK: Replicas

    /// From now on placements, and changes of what is under way, are kept for `takeReplicaMessages`.
    /// - Parameter wake: called when there is something to be told for the first time since it was taken last, by whoever decides and within
    ///   the critical section: it must neither wait nor call the table.
    public func startSharing(now: UInt64, wake: @escaping @Sendable () -> Void = {}) {
        state.withLock { $0.startSharing(wake: wake, now: now) }
    }

    /// Everything that replicas of this router have to know since the last call. Called a few milliseconds after `wake`, and at least each second
    /// while something is under way, so that what was lost is told again.
    public func takeReplicaMessages(into messages: inout ReplicaMessages, now: UInt64) {
        // Of 256 replicas before 4,000 groups all that is outdated would be 180 ms at once.
        while state.withLock({ $0.forgetOutdatedReplicaLoads(now: now) }) {}
        state.withLock { $0.takeReplicaMessages(into: &messages, now: now) }
    }

    /// Placements, turns and lessons that were not told because nobody took them in time.
    public func placementsNotShared() -> UInt64 { state.withLock { $0.sharing.dropped } }

    /// What a replica of this router tells: where prompts went counts as if they had been placed here, and its load as if it were our own. Loads are
    /// absolute and the last one counts: one replica's messages have to come in the order in which they were made, or not at all.
    /// - Parameter replica: who tells; what it told before of the same groups is replaced.
    public func receiveReplicaMessage(_ bytes: UnsafeRawBufferPointer, from replica: UInt64, now: UInt64) -> ReplicaMessageOutcome {
        guard var message = ReplicaMessageReader(bytes) else { return .malformed }
        guard state.withLock({ $0.admitReplica(replica) }) else { return .tooManyReplicas }
        var placements = 0
        var loads = 0
        // Decisions do not wait for the whole of it.
        while let record = message.nextRecord() {
            switch ReplicaRecord.kind(record.header) {
            case ReplicaRecord.placement, ReplicaRecord.formerPlacement: placements += 1
            case ReplicaRecord.load: loads += 1
            default: break
            }
            state.withLock { [message] in $0.apply(record, of: message, from: replica, now: now) }
        }
        return .applied(placements: placements, loads: loads)
    }

    /// What a replica that has just begun does not know: where engines hold what, in pieces of about 10 KiB, for which decisions wait no longer
    /// than for some dozen others. What is placed meanwhile it is told like all replicas.
    /// - Returns: whether there is more.
    public func handOver(_ handover: inout ReplicaHandover, into messages: inout ReplicaMessages) -> Bool {
        state.withLock { $0.handOver(&handover, into: &messages) }
    }

    /// A replica is gone: what it had on groups counts no more. What it placed stays in the index, for it is in the engines' caches.
    public func forgetReplica(_ replica: UInt64, now: UInt64) { state.withLock { $0.forgetReplica(replica, now: now) } }

    // MARK: Reports

    /// The group pushed back (503, 429 or 529 before an answer began): full, not broken. Ages out in a second, or when the engine
    /// says that it is worth another try (`Retry-After`), but within ten.
    public func reportSaturated(_ group: GroupID, retryAfterSeconds: Int? = nil, now: UInt64) {
        state.withLock { state in
            if let slot = state.slot(of: group) { state.reportSaturated(slot, retryAfterSeconds: retryAfterSeconds, now: now) }
        }
    }

    /// The group's engine told its load: what of it is not ours counts in decisions as others' load until it is too old. Reports may
    /// come late and out of order, within about a second of `now`; of older ones, our own load then is no longer known.
    public func reportLoad(_ report: LoadReport, of group: GroupID, now: UInt64) {
        state.withLock { state in
            if let slot = state.slot(of: group) { state.reportLoad(report, of: slot, now: now) }
        }
    }

    /// The group's engine began anew, as its counters show: what it had in its cache is gone, and it is cold.
    public func reportRestarted(_ group: GroupID, now: UInt64) {
        state.withLock { state in
            guard let slot = state.slot(of: group) else { return }
            state.forgetCache(slot)
            state.startWarmUp(slot, now: now)
            state.sketch(slot, now: now)
        }
    }

    /// The group could not be reached or refuses all work: out for a second, doubling with each failure in a row up to 30 s;
    /// then one request probes it, and its success or `reportReachable` ends the ejection.
    public func reportUnreachable(_ group: GroupID, now: UInt64) {
        state.withLock { state in
            if let slot = state.slot(of: group) { state.reportUnreachable(slot, now: now) }
        }
    }

    /// The group answered. Ignored while it is ejected: streams that began before prove nothing about new requests.
    public func reportReachable(_ group: GroupID, now: UInt64) {
        state.withLock { state in
            if let slot = state.slot(of: group) { state.reportReachable(slot, now: now) }
        }
    }
}
