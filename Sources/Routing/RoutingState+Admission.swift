extension RoutingState {
    /// How many of those that have waited longest are asked at a time where they would go now; of the others no more, and how many of these in turn.
    private static var askedAtOnce: Int { 32 }
    private static var askedInTurn: Int { 8 }

    /// As `pick`, but a request whose group has enough to do waits.
    mutating func admit(_ request: borrowing RoutingRequest, tried: TriedGroups, ticket: AdmissionTicket, now: UInt64) -> Admission {
        if leases.isFull { return .refused(.leasesExhausted) }
        switch decide(request, tried: tried, now: now) {
        case .failure(let failure): return .refused(failure)
        case .success(let choice):
            let hashes = usableHashes(of: request)
            let slot = choice.slot
            if waits(request, for: slot) {
                let tokens = tokensTaken(on: slot, choice.inputs)
                let content = AdmissionQueue.Content(request, hashes: hashes, tried: tried)
                while !admission.hasRoom(for: hashes.count) { displaceOldest(now: now) }
                admission.append(content, ticket: ticket, slot: slot, tokens: tokens, overtaking: cost.overtaking, now: now)
                if !isBusy(slot) || !admission.displaced.isEmpty { admission.call() }
                return .held
            }
            return .placed(book(request, hashes: hashes, inputs: choice.inputs, slot: slot, reason: choice.reason, now: now))
        }
    }

    /// Whether a request that would go to that group waits here: because it is busy, or because others that came before wait for it.
    mutating func waits(_ request: borrowing RoutingRequest, for slot: UInt32) -> Bool {
        // Other policies do not go by what groups have to do: who waits for one would have to go there all the same.
        guard policy == .leastCost, request.promptBytes > 0 else { return false }
        guard request.pinnedGroup == nil, isBusy(slot) || admission.isAwaited(slot) else { return false }
        return admission.mayHold(usableHashes(of: request).count)
    }

    /// Whether a group has so much in its queue that a request had better wait here. Of our own: what others have there, it would not wait for.
    /// Of several replicas each has its share of as much there, if together they have as much.
    @inline(__always)
    func isBusy(_ slot: UInt32) -> Bool {
        let own = loads[slot].queuedTokens
        if !sharing.isOn { return cost.holdFrom > 0 && own >= cost.holdFrom }
        return cost.holdFrom > 0 && own * sharing.scale(ofOwn: leases.openSequences) >= cost.holdFrom
            && own + sharing.loads[slot].queuedTokens >= cost.holdFrom
    }

    /// Whoever has waited longest goes to the group of his choice, though he waits there.
    private mutating func displaceOldest(now: UInt64) {
        let ticket = admission.entries[0].ticket
        let result: Result<Decision, RoutingFailure> = withHeld(0, now: now) { state, request, tried, _ in
            if state.leases.isFull { return .failure(.leasesExhausted) }
            return state.decide(request, tried: tried, now: now, isHeld: true).map { choice in
                let hashes = state.usableHashes(of: request)
                return state.book(request, hashes: hashes, inputs: choice.inputs, slot: choice.slot, reason: choice.reason, now: now)
            }
        }
        admission.displaced.append(ReleasedRequest(ticket: ticket, result: result))
        admission.remove(at: 0)
    }

    /// Tokens of a group's KV cache that a request takes: what is not there of its prompt, and its answers; as in `book` no more than there are.
    private func tokensTaken(on slot: UInt32, _ inputs: CostInputs) -> Double {
        let depth = index.depth(of: loads[slot].holder)
        let needed = inputs.promptTokens - inputs.cachedTokens(on: loads[slot], depth: depth) + inputs.outputTokens * inputs.sequences
        return min(needed, max(loads[slot].kvCapacityTokens, leastRequestTokens)).rounded()
    }

    /// Whether who waits is to be looked at: unless somebody has lately.
    mutating func beginRelease(unlessWithin nanoseconds: UInt64, into released: inout [ReleasedRequest], now: UInt64) -> Bool {
        guard now >= admission.releasedAt &+ nanoseconds || !admission.displaced.isEmpty else { return false }
        admission.releasedAt = now
        admission.isWoken = false
        released.append(contentsOf: admission.displaced)
        admission.displaced.removeAll()
        return true
    }

    mutating func withdraw(_ ticket: AdmissionTicket) {
        guard let place = admission.entries.firstIndex(where: { $0.ticket == ticket }) else { return }
        admission.remove(at: place)
    }

    // MARK: Release

    /// Sends on some of those that wait for groups with room now, the cheapest first as far as it may overtake.
    /// - Returns: whether there may be more.
    mutating func releaseSome(into released: inout [ReleasedRequest], now: UInt64) -> Bool {
        guard !admission.isEmpty, !leases.isFull, anyMayGo(now: now) else { return false }
        let before = released.count
        var ready: [(place: Int, cost: Double)] = []
        var refused = 0
        var turnedAway = 0
        for asked in placesToAsk() {
            let place = asked - refused
            let hadRoom = mayHaveRoom(admission.entries[place].slot)
            switch ask(place, now: now) {
            case .mayGo(let cost): ready.append((place, cost))
            case .waits: turnedAway += hadRoom ? 1 : 0
            case .waitsForReturn: break
            case .refused(let failure):
                released.append(ReleasedRequest(ticket: admission.entries[place].ticket, result: .failure(failure)))
                admission.remove(at: place)
                refused += 1
            }
        }
        ready.sort { ($0.cost, $0.place) < ($1.cost, $1.place) }
        while !leases.isFull, let first = ready.firstIndex(where: { admission.mayOvertake($0.place) }) {
            let place = ready.remove(at: first).place
            // Another may have taken the room.
            guard !isBusy(admission.entries[place].slot), let decision = send(place, now: now) else { continue }
            released.append(ReleasedRequest(ticket: admission.entries[place].ticket, result: .success(decision)))
            admission.overtake(place)
            admission.remove(at: place)
            for other in ready.indices where ready[other].place > place { ready[other].place -= 1 }
        }
        // Those want another group now, and may have kept from being asked who comes after them.
        return released.count > before || turnedAway > 0
    }

    /// Whether some group has room; or none is ready, and all are to be refused.
    private mutating func anyMayGo(now: UInt64) -> Bool {
        var someIsReady = false
        for slot in order where loads[slot].isReady {
            if loads[slot].presumedPrefilledAt <= now { presumePrefilled(slot, now: now) }
            if !isBusy(slot) { return true }
            someIsReady = true
        }
        return !someIsReady
    }

    /// Whether to ask who would rather go there: who wants a group that is not there any more goes elsewhere.
    @inline(__always)
    private func mayHaveRoom(_ slot: UInt32) -> Bool { !loads[slot].isUsed || !loads[slot].isReady || !isBusy(slot) }

    /// In ascending order those that have waited longest; and of the others, which may all wait for another group than those, first such as want one
    /// with room, and then all in turn.
    private mutating func placesToAsk() -> [Int] {
        let count = admission.entries.count
        let first = min(count, Self.askedAtOnce)
        var places = Array(0..<first)
        for place in first..<count where mayHaveRoom(admission.entries[place].slot) {
            places.append(place)
            if places.count == 2 * Self.askedAtOnce { return places }
        }
        for _ in 0..<min(count - first, 2 * Self.askedAtOnce - places.count, Self.askedInTurn) {
            admission.cursor = (first..<count).contains(admission.cursor) ? admission.cursor : first
            if !mayHaveRoom(admission.entries[admission.cursor].slot) { places.append(admission.cursor) }
            admission.cursor += 1
        }
        places.sort()
        return places
    }

    private enum Reply {
        case mayGo(cost: Double)
        case waits
        /// All groups that serve it are out, or have pushed back, for a while.
        case waitsForReturn
        case refused(RoutingFailure)
    }

    /// Where one that waits would go now.
    private mutating func ask(_ place: Int, now: UInt64) -> Reply {
        withHeld(place, now: now) { state, request, tried, waited in
            switch state.decide(request, tried: tried, now: now, isHeld: true) {
            case .failure(.noReadyGroup) where state.mayReturn(request): return .waitsForReturn
            case .failure(let failure): return .refused(failure)
            case .success(let choice) where choice.reason == .saturated: return .waitsForReturn
            case .success(let choice):
                let found = state.groupWithRoom(choice, waited: waited)
                let slot = found ?? choice.slot
                state.admission.setSlot(slot, at: place)
                guard found != nil else { return .waits }
                return .mayGo(cost: state.terms(on: slot, choice.inputs).total)
            }
        }
    }

    /// Whether a group that may serve the request is ready, though it is out for its failures.
    private func mayReturn(_ request: RoutingRequest) -> Bool {
        catalog.match(request.model).slots.contains { slot in
            loads[slot].isReady && (loads[slot].speaksHTTP2 ? !request.needsHTTP1 : !request.needsHTTP2)
        }
    }

    /// Books one that waits, unless it finds no room any more, or would overtake too much where it does.
    private mutating func send(_ place: Int, now: UInt64) -> Decision? {
        withHeld(place, now: now) { state, request, tried, waited in
            guard case .success(let choice) = state.decide(request, tried: tried, now: now, isHeld: true), choice.reason != .saturated,
                let slot = state.groupWithRoom(choice, waited: waited)
            else { return nil }
            state.admission.setSlot(slot, at: place)
            guard state.admission.mayOvertake(place) else { return nil }
            let reason = slot == choice.slot ? choice.reason : .cost
            let hashes = state.usableHashes(of: request)
            return state.book(request, hashes: hashes, inputs: choice.inputs, slot: slot, reason: reason, now: now)
        }
    }

    /// The group that a request would go to; or where that has no room one that has, and costs more by no more than `CostRule.patience` of what it has
    /// waited: to wait was thought to be cheaper, and was not. What it would compute anew of its prompt is lost to all, however long it has waited.
    private func groupWithRoom(_ choice: Choice, waited: Double) -> UInt32? {
        if !isBusy(choice.slot) { return choice.slot }
        let preferred = terms(on: choice.slot, choice.inputs)
        var best: UInt32?
        var least = cost.patience * waited
        for position in 0..<choice.candidateCount where !isBusy(candidates[position]) {
            let other = terms(on: candidates[position], choice.inputs)
            let recomputed = max(other.prefill - preferred.prefill, 0)
            let dearer = max(other.total - preferred.total, 0) + cost.recomputing * recomputed
            if dearer <= least { (best, least) = (candidates[position], dearer) }
        }
        return best
    }

    private func terms(on slot: UInt32, _ inputs: CostInputs) -> CostTerms {
        inputs.terms(on: loads[slot], depth: index.depth(of: loads[slot].holder))
    }

    private mutating func withHeld<Value>(
        _ place: Int, now: UInt64, _ body: (inout RoutingState, RoutingRequest, TriedGroups, Double) -> Value
    ) -> Value {
        let content = admission.entries[place].content
        let waited = now.seconds(since: admission.entries[place].since)
        return content.hashes.withUnsafeBufferPointer { hashes in
            content.model.withUnsafeBytes { model in
                var request = content.request
                request.prefixHashes = hashes
                request.model = model.isEmpty ? nil : model
                return body(&self, request, content.tried, waited)
            }
        }
    }
}
