extension RoutingState {
    /// Chunks of a prompt that are looked at; 8,192 chunks of 512 bytes are about a million tokens.
    static var longestPath: Int { 8_192 }

    /// Chooses a group and books the request there. One critical section, so two requests never see the same gap.
    mutating func pick(_ request: borrowing RoutingRequest, tried: TriedGroups, now: UInt64) -> Result<Decision, RoutingFailure> {
        if leases.isFull { return .failure(.leasesExhausted) }
        switch decide(request, tried: tried, now: now) {
        case .failure(let failure): return .failure(failure)
        case .success(let choice):
            let hashes = usableHashes(of: request)
            return .success(book(request, hashes: hashes, inputs: choice.inputs, slot: choice.slot, reason: choice.reason, now: now))
        }
    }

    /// A group for a request, not yet charged with it. The index's last match is that of the request.
    struct Choice {
        var slot: UInt32
        var reason: DecisionReason
        var inputs: CostInputs
        /// How many of `candidates` there were.
        var candidateCount: Int
    }

    /// - Parameter isHeld: it has been asked before.
    mutating func decide(
        _ request: borrowing RoutingRequest, tried: TriedGroups, now: UInt64, isHeld: Bool = false
    ) -> Result<Choice, RoutingFailure> {
        let match = catalog.match(request.model)
        if match.slots.isEmpty { return .failure(order.isEmpty ? .noReadyGroup : .modelNotFound) }
        sequence &+= 1
        let hashes = usableHashes(of: request)
        index.prefetch(hashes)
        let isPinned = request.pinnedGroup != nil
        let isWide = fleet.isKept && match.slots.count > Self.closeLook && !isPinned
        // Meanwhile the index's memory is on its way.
        let cheapest = isWide ? surveyFleet(match.slots, request, now: now) : nil
        if policy.usesPrefixIndex { index.match(hashes) }
        followsOrder = false
        var eligible = (count: 0, areSaturated: false)
        if let name = request.pinnedGroup {
            eligible.count = collectPinned(name, for: request, among: match.slots, tried: tried)
        } else if let cheapest {
            eligible.count = collectFromSketch(match.slots, cheapest, request, hashes: hashes, tried: tried, now: now)
        }
        if eligible.count == 0, !isPinned {
            eligible = collectCandidates(
                match.slots, needsHTTP1: request.needsHTTP1, needsHTTP2: request.needsHTTP2, tried: tried, now: now)
        }
        if eligible.count == 0 { return .failure(.noReadyGroup) }

        if policy.usesPrefixIndex {
            expectContinuations(
                eligible.count, of: request, tokensPerChunk: Double(max(request.chunkBytes, 0)) * tokensPerByte(of: request))
        }
        if othersHits.areExpected { orderCandidates(eligible.count, isWide: isWide, hashes: hashes) }
        if !isHeld { fadeOneDeviation(now: now) }
        if match.adapter != 0 { priceAdapter(match.adapter, candidateCount: eligible.count) }
        var inputs = costInputs(of: request, now: now)
        inputs.adapter = match.adapter
        inputs.wantedTTFTSeconds = request.wantedTTFTSeconds
        inputs.wantedTPOTSeconds = request.wantedTPOTSeconds
        var (slot, reason) = choose(candidateCount: eligible.count, request: request, hashes: hashes, inputs: inputs)
        if isPinned {
            reason = .pinned
        } else if eligible.areSaturated {
            reason = .saturated
        } else if eligible.count == 1 {
            reason = .onlyGroup
        }
        return .success(Choice(slot: slot, reason: reason, inputs: inputs, candidateCount: eligible.count))
    }

    mutating func usableHashes(of request: borrowing RoutingRequest) -> UnsafeBufferPointer<UInt64> {
        guard policy.usesPrefixIndex, request.chunkBytes > 0 else { return .init(start: nil, count: 0) }
        return UnsafeBufferPointer(rebasing: request.prefixHashes.prefix(Self.longestPath))
    }

    /// Fills `candidates` with the slots that may take the request; with saturated ones only when there is no other.
    private mutating func collectCandidates(
        _ slots: ContiguousArray<UInt32>, needsHTTP1: Bool, needsHTTP2: Bool, tried: TriedGroups, now: UInt64
    ) -> (count: Int, areSaturated: Bool) {
        var free = 0
        var saturated = 0
        let checksTried = tried.count > 0
        for slot in slots {
            guard loads[slot].isReady, loads[slot].speaksHTTP2 ? !needsHTTP1 : !needsHTTP2, !loads[slot].isEjected(now: now) else {
                continue
            }
            if checksTried && tried.contains(GroupID(slot: slot, generation: loads[slot].generation)) { continue }
            if loads[slot].presumedPrefilledAt <= now { presumePrefilled(slot, now: now) }
            if loads[slot].warmUpEndsAt != 0 { continueWarmUp(slot, now: now) }
            if loads[slot].othersDueAt <= now { ageOthers(slot, now: now) }
            if now < loads[slot].saturatedUntil {
                saturated += 1
                candidates[candidates.count - saturated] = slot
            } else {
                candidates[free] = slot
                free += 1
            }
        }
        if free > 0 || saturated == 0 { return (free, false) }
        // Nobody is free, so the saturated ones fill the buffer from the back and may move to its front.
        for position in 0..<saturated { candidates[position] = candidates[candidates.count - saturated + position] }
        return (saturated, true)
    }

    /// As learned of all text, or what the client's count says.
    func tokensPerByte(of request: borrowing RoutingRequest) -> Double {
        guard let count = request.promptTokens else { return tokensPerByte }
        return Double(count) / Double(max(request.promptBytes, 1))
    }

    private mutating func costInputs(of request: borrowing RoutingRequest, now: UInt64) -> CostInputs {
        // What clients claim may only lower the expectation: a claim that is too high would charge others for nothing.
        let expected = request.promptBytes > 0 ? outputTokensExpected : leastRequestTokens
        let tokensPerByte = tokensPerByte(of: request)
        let sharers = index.sharers()
        return CostInputs(
            promptTokens: max(Double(request.promptBytes) * tokensPerByte, leastRequestTokens),
            tokensPerChunk: Double(max(request.chunkBytes, 0)) * tokensPerByte,
            outputTokens: request.maxOutputTokens.map { min(Double(max($0, 1)), expected) } ?? expected,
            sequences: Double(min(max(request.sequences, 1), RoutingRequest.mostSequences)),
            prefillScale: prefillFit.slope,
            overheadSeconds: prefillFit.intercept, rule: cost, stepScale: stepScale,
            nowMicroseconds: now / 1_000, meanOutputTokens: outputTokensExpected, deepest: index.matchDeepest,
            sharers: (sharers ?? 0) * sharing.scale(ofOwn: leases.openSequences), isAwaited: sharers == nil,
            followsOrder: followsOrder, laterTurns: cost.laterTurns * laterTurns(of: request))
    }

    mutating func leastCost(
        _ count: Int, _ hashes: UnsafeBufferPointer<UInt64>, _ inputs: CostInputs
    ) -> (slot: UInt32, reason: DecisionReason) {
        var best = 0
        var deepest = 0
        for position in 0..<count {
            let slot = candidates[position]
            let depth = index.depth(of: loads[slot].holder)
            deepest = max(deepest, depth)
            let mayFill = depth > 0 && inputs.mayFill(loads[slot])
            loads[slot].idleMatchTokens =
                mayFill ? Double(depth - index.depthInUse(of: loads[slot].holder, hashes)) * inputs.tokensPerChunk : 0
            costs[position] = inputs.terms(on: loads[slot], depth: depth).total
            if costs[position] < costs[best] { best = position }
        }
        // A band below the cost of one such request: a tie may go either way, an imbalance of one request may not.
        let group = candidates[best]
        let prefill = inputs.terms(on: loads[group], depth: index.depth(of: loads[group].holder)).prefill
        levelEquallyLoaded(count, with: best, within: Self.learnedNoiseShare * prefill + Self.learnedNoiseSeconds, adapter: inputs.adapter)
        let slot = cheapestOfNearEquals(
            count, best, prefill: prefill, isAwaited: inputs.isAwaited, hashes: hashes, nowMicroseconds: inputs.nowMicroseconds)
        return (slot, reason(of: slot, deepest: deepest, hashes: hashes))
    }

    /// Out of line, or the loop above would call what it scores groups with.
    /// - Parameters:
    ///   - best: the position of the cheapest; to be levelled makes none cheaper.
    ///   - prefill: what the prompt's takes there, in seconds.
    @inline(never)
    private mutating func cheapestOfNearEquals(
        _ count: Int, _ best: Int, prefill: Double, isAwaited: Bool, hashes: UnsafeBufferPointer<UInt64>, nowMicroseconds: UInt64
    ) -> UInt32 {
        let limit = costs[best] + cost.band * prefill
        if followsOrder,
            let first = firstInOrder(count, limit: limit + uncertainty(of: candidates[best], now: nowMicroseconds) * prefill)
        {
            return first
        }
        let wider = isAwaited ? awaitedLimit(count, limit: limit, prefill: prefill) : limit
        return tieBreak(count, limit: wider, hashes: hashes)
    }

    /// The limit for ties where more of the prompt is being prefilled not much beyond `limit` than is held within it.
    private mutating func awaitedLimit(_ count: Int, limit: Double, prefill: Double) -> Double {
        let wider = limit + cost.awaitedBand * prefill
        var (within, beyond) = (0, 0)
        for position in 0..<count where costs[position] <= wider {
            let depth = index.depth(of: loads[candidates[position]].holder)
            beyond = max(beyond, depth)
            if costs[position] <= limit { within = max(within, depth) }
        }
        return beyond > within ? wider : limit
    }

    /// What learned rates of like groups may differ by from noise alone.
    static var learnedNoiseShare: Double { 0.25 }
    static var learnedNoiseSeconds: Double { 0.005 }

    /// Groups that carry no more than the best and differ from it by what they were learned to be, not by what they have to do,
    /// count as equal when the difference is small: or the group that looks fastest would take all the prompts of a quiet fleet,
    /// and replicas of the router, which learn different noise, would place alike prompts apart.
    private mutating func levelEquallyLoaded(_ count: Int, with best: Int, within band: Double, adapter: UInt64) {
        let reference = candidates[best]
        let leastCost = costs[best]
        for position in 0..<count where costs[position] <= leastCost + band {
            let slot = candidates[position]
            // What others have is known to half a sequence at best; what we have, exactly.
            guard loads[slot].sequences < loads[reference].sequences + 0.5, loads[slot].queuedWork <= loads[reference].queuedWork,
                loads[slot].othersWaiting < loads[reference].othersWaiting + 0.5
            else { continue }
            guard loads[slot].distanceSeconds <= loads[reference].distanceSeconds,
                adapter == 0 || loads[slot].adapterSeconds <= loads[reference].adapterSeconds
            else { continue }
            costs[position] = leastCost
        }
    }

    mutating func reason(of slot: UInt32, deepest: Int, hashes: UnsafeBufferPointer<UInt64>) -> DecisionReason {
        if hashes.isEmpty { return .cost }
        if deepest == 0 { return .cold }
        return index.depth(of: loads[slot].holder) == deepest ? .prefix : .cost
    }

    mutating func leastCostValue(_ count: Int) -> Double {
        var least = Double.infinity
        for position in 0..<count { least = min(least, costs[position]) }
        return least
    }

    /// Among the candidates within `limit`: who holds most, then who is nearest, then rendezvous order (Thaler and Ravishankar, 1998) by the first
    /// chunk that they do not all hold, so that replicas place new prefixes alike and a prefix that everybody shares does not
    /// draw all cold traffic to one group. Without a prompt, who was chosen longest ago.
    mutating func tieBreak(_ count: Int, limit: Double, hashes: UnsafeBufferPointer<UInt64>) -> UInt32 {
        if hashes.isEmpty { return longestUnchosen(count, limit: limit) }
        var deepest = 0
        var nearest = 0.0
        var tied = 0
        for position in 0..<count where costs[position] <= limit {
            let depth = index.depth(of: loads[candidates[position]].holder)
            let distance = loads[candidates[position]].distanceSeconds
            if depth > deepest || tied == 0 || depth == deepest && distance < nearest {
                deepest = depth
                nearest = distance
                tied = 0
            }
            if depth == deepest && distance == nearest { tied += 1 }
        }
        let key = hashes[min(deepest, hashes.count - 1)]
        var best = candidates[0]
        var bestWeight: UInt64 = 0
        for position in 0..<count where costs[position] <= limit {
            let slot = candidates[position]
            guard index.depth(of: loads[slot].holder) == deepest, loads[slot].distanceSeconds == nearest else { continue }
            if tied == 1 { return slot }
            let weight = mix64(key ^ loads[slot].identity)
            if weight >= bestWeight {
                best = slot
                bestWeight = weight
            }
        }
        return best
    }

    mutating func longestUnchosen(_ count: Int, limit: Double? = nil) -> UInt32 {
        var best = candidates[0]
        var oldest = UInt64.max
        for position in 0..<count {
            let slot = candidates[position]
            if let limit, costs[position] > limit { continue }
            if loads[slot].lastChosen < oldest {
                best = slot
                oldest = loads[slot].lastChosen
            }
        }
        return best
    }
}
