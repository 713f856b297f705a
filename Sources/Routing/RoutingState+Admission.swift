extension RoutingState {
    /// How many of those that wait are asked at a time where they would go now.
    private static var askedAtOnce: Int { 32 }

    /// As `pick`, but a request whose group has enough to do waits.
    mutating func admit(_ request: borrowing RoutingRequest, tried: TriedGroups, ticket: AdmissionTicket, now: UInt64) -> Admission {
        if leases.isFull { return .refused(.leasesExhausted) }
        switch decide(request, tried: tried, now: now) {
        case .failure(let failure): return .refused(failure)
        case .success(let choice):
            let hashes = usableHashes(of: request)
            let slot = choice.slot
            if request.promptBytes > 0, request.pinnedGroup == nil, isBusy(slot) || !admission.isEmpty && admission.isAwaited(slot), admission.hasRoom(for: hashes.count) {
                admission.append(
                    request, ticket: ticket, slot: slot, tokens: tokensTaken(on: slot, choice.inputs), overtaking: cost.overtaking, now: now)
                if !isBusy(slot) { admission.call() }
                return .held
            }
            return .placed(book(request, hashes: hashes, inputs: choice.inputs, slot: slot, reason: choice.reason, now: now))
        }
    }

    /// Whether a group has so much in its queue that a request had better wait here. Of our own: what others have there, it would not wait for.
    @inline(__always)
    func isBusy(_ slot: UInt32) -> Bool {
        cost.holdFrom > 0 && loads[slot].queuedTokens * sharing.scale(ofOwn: leases.openSequences) >= cost.holdFrom
    }

    /// Tokens of a group's KV cache that a request takes: what is not there of its prompt, and its answers.
    private func tokensTaken(on slot: UInt32, _ inputs: CostInputs) -> Double {
        let depth = index.depth(of: loads[slot].holder)
        return inputs.promptTokens - inputs.cachedTokens(on: loads[slot], depth: depth) + inputs.outputTokens * inputs.sequences
    }

    /// Called where a group's queue has become shorter, or where there may be another group.
    @inline(__always)
    mutating func noteRoom(_ slot: UInt32) {
        if !admission.isEmpty, !isBusy(slot) { admission.call() }
    }

    mutating func withdraw(_ ticket: AdmissionTicket) {
        guard let place = admission.entries.firstIndex(where: { $0.ticket == ticket }) else { return }
        admission.remove(at: place)
    }

    /// Sends on those that wait for groups with room now, the cheapest first as far as it may overtake.
    mutating func releaseHeld(into released: inout [ReleasedRequest], now: UInt64) {
        admission.isWoken = false
        while !admission.isEmpty, releaseSome(into: &released, now: now) {}
    }

    /// - Returns: whether any went.
    private mutating func releaseSome(into released: inout [ReleasedRequest], now: UInt64) -> Bool {
        var ready: [(place: Int, cost: Double)] = []
        for place in 0..<min(admission.entries.count, Self.askedAtOnce) {
            let found = ask(place, now: now)
            if found.isFree { ready.append((place, found.cost)) }
        }
        ready.sort { ($0.cost, $0.place) < ($1.cost, $1.place) }
        let before = released.count
        while let first = ready.firstIndex(where: { admission.mayOvertake($0.place) }) {
            let place = ready.remove(at: first).place
            // Another may have taken the room.
            guard let result = send(place, now: now) else { continue }
            released.append(ReleasedRequest(ticket: admission.entries[place].ticket, result: result))
            admission.overtake(place)
            admission.remove(at: place)
            for other in ready.indices where ready[other].place > place { ready[other].place -= 1 }
        }
        return released.count > before
    }

    /// Where one that waits would go now, what that costs, and whether there is room.
    private mutating func ask(_ place: Int, now: UInt64) -> (isFree: Bool, cost: Double) {
        withHeld(place, now: now) { state, request, waited in
            guard case .success(let choice) = state.decide(request, tried: .init(), now: now, isHeld: true) else { return (true, 0) }
            let slot = state.groupWithRoom(choice, waited: waited) ?? choice.slot
            state.admission.setSlot(slot, at: place)
            let depth = state.index.depth(of: state.loads[slot].holder)
            return (!state.isBusy(slot), choice.inputs.terms(on: state.loads[slot], depth: depth).total)
        }
    }

    /// Books one that waits, unless it finds no room any more.
    private mutating func send(_ place: Int, now: UInt64) -> Result<Decision, RoutingFailure>? {
        withHeld(place, now: now) { state, request, waited in
            if state.leases.isFull { return .failure(.leasesExhausted) }
            switch state.decide(request, tried: .init(), now: now, isHeld: true) {
            case .failure(let failure): return .failure(failure)
            case .success(let choice):
                guard let slot = state.groupWithRoom(choice, waited: waited) else { return nil }
                let hashes = state.usableHashes(of: request)
                return .success(
                    state.book(request, hashes: hashes, inputs: choice.inputs, slot: slot, reason: choice.reason, now: now))
            }
        }
    }

    /// The group that a request would go to, or where that has no room the cheapest one that has and costs more by no more than `CostRule.patience`
    /// of what it has waited: to wait was thought to be cheaper, and was not.
    private func groupWithRoom(_ choice: Choice, waited: Double) -> UInt32? {
        if !isBusy(choice.slot) { return choice.slot }
        var best: UInt32?
        var least = Double.infinity
        var preferred = Double.infinity
        for position in 0..<choice.candidateCount {
            if candidates[position] == choice.slot { preferred = costs[position] }
            if costs[position] < least, !isBusy(candidates[position]) { (best, least) = (candidates[position], costs[position]) }
        }
        return least <= preferred + cost.patience * waited ? best : nil
    }

    private mutating func withHeld<Value>(
        _ place: Int, now: UInt64, _ body: (inout RoutingState, RoutingRequest, Double) -> Value
    ) -> Value {
        let entry = admission.entries[place]
        return entry.hashes.withUnsafeBufferPointer { hashes in
            entry.model.withUnsafeBytes { model in
                var request = entry.request
                request.prefixHashes = hashes
                request.model = model.isEmpty ? nil : model
                return body(&self, request, now.seconds(since: entry.since))
            }
        }
    }
}
