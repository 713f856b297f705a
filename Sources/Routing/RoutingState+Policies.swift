extension RoutingState {
    /// The policy's choice among the first `candidateCount` of `candidates`.
    mutating func choose(
        candidateCount: Int, request: borrowing RoutingRequest, hashes: UnsafeBufferPointer<UInt64>, inputs: CostInputs
    ) -> (slot: UInt32, reason: DecisionReason) {
        switch policy {
        case .leastCost: return leastCost(candidateCount, hashes, inputs)
        case .prefixAffinity: return deepestMatch(candidateCount, hashes, inputs)
        case .roundRobin: return (longestUnchosen(candidateCount), .roundRobin)
        case .random: return (candidates[random(below: candidateCount)], .random)
        case .leastRequest:
            for position in 0..<candidateCount { costs[position] = loads[candidates[position]].sequences }
            return (tieBreak(candidateCount, limit: leastCostValue(candidateCount), hashes: .init(start: nil, count: 0)), .leastRequest)
        case .powerOfTwo: return (lessBusyOfTwo(candidateCount), .powerOfTwo)
        case .consistentHash:
            let key = request.session != 0 ? request.session : beginning(of: request.prefixHashes)
            // Nothing to hash: the one that has waited longest.
            return (key == 0 ? longestUnchosen(candidateCount) : firstWithRoom(candidateCount, key: key), .consistentHash)
        case .session:
            if request.session == 0 { return leastCost(candidateCount, hashes, inputs) }
            return (rendezvous(candidateCount, key: request.session, loadLimit: .infinity), .session)
        }
    }

    /// A position below `count`, which is at least 1.
    private mutating func random(below count: Int) -> Int {
        randomState &+= 0x9e37_79b9_7f4a_7c15
        return Int(truncatingIfNeeded: mix64(randomState).multipliedFullWidth(by: UInt64(count)).high)
    }

    private mutating func lessBusyOfTwo(_ count: Int) -> UInt32 {
        let first = random(below: count)
        guard count > 1 else { return candidates[first] }
        // The second is drawn from the others.
        let offset = 1 + random(below: count - 1)
        let other = first + offset < count ? first + offset : first + offset - count
        return loads[candidates[other]].sequences < loads[candidates[first]].sequences ? candidates[other] : candidates[first]
    }

    private mutating func deepestMatch(
        _ count: Int, _ hashes: UnsafeBufferPointer<UInt64>, _ inputs: CostInputs
    ) -> (slot: UInt32, reason: DecisionReason) {
        var deepest = 0
        for position in 0..<count { deepest = max(deepest, index.depth(of: loads[candidates[position]].holder)) }
        for position in 0..<count {
            let slot = candidates[position]
            let isDeepest = index.depth(of: loads[slot].holder) == deepest
            costs[position] = isDeepest ? loads[slot].tokensAhead + loads[slot].sequences * leastRequestTokens : .infinity
        }
        let slot = tieBreak(count, limit: leastCostValue(count), hashes: hashes)
        return (slot, reason(of: slot, deepest: deepest, hashes: hashes))
    }

    // MARK: Hashing

    /// Chunks that stand for a whole prompt in `consistent-hash`: 1 KiB at 512 bytes. Fewer, and one system prompt would be one key.
    private static var hashedChunks: Int { 2 }

    /// 0 for a prompt without a full chunk.
    private func beginning(of hashes: UnsafeBufferPointer<UInt64>) -> UInt64 {
        hashes.isEmpty ? 0 : hashes[min(Self.hashedChunks, hashes.count) - 1]
    }

    /// Nobody gets more than 1.25 times the mean, this request included, rounded up.
    private mutating func firstWithRoom(_ count: Int, key: UInt64) -> UInt32 {
        var total = 1.0
        for position in 0..<count { total += loads[candidates[position]].sequences }
        let limit = (Self.loadFactor * total / Double(count)).rounded(.up)
        return rendezvous(count, key: key, loadLimit: limit)
    }

    /// What KubeAI and HAProxy use, too.
    private static var loadFactor: Double { 1.25 }

    /// Rendezvous order among those that would have at most `loadLimit` requests; somebody always has no more than the mean.
    private mutating func rendezvous(_ count: Int, key: UInt64, loadLimit: Double) -> UInt32 {
        var best = candidates[0]
        var bestWeight: UInt64 = 0
        for position in 0..<count {
            let slot = candidates[position]
            guard loads[slot].sequences < loadLimit else { continue }
            let weight = mix64(key ^ loads[slot].identity)
            if weight >= bestWeight {
                best = slot
                bestWeight = weight
            }
        }
        return best
    }

    // MARK: Pinning

    /// Makes the group of that name the only candidate, if it is ready and serves the model, whatever else but its protocol speaks against it.
    /// - Returns: how many candidates there are, 0 or 1.
    mutating func collectPinned(
        _ name: UnsafeRawBufferPointer, for request: borrowing RoutingRequest, among slots: ContiguousArray<UInt32>, tried: TriedGroups
    ) -> Int {
        let identity = ModelCatalog.hash(name)
        guard let slot = slots.first(where: { loads[$0].identity == identity }) else { return 0 }
        guard records[Int(slot)]?.description.isReady == true else { return 0 }
        guard loads[slot].speaksHTTP2 ? !request.needsHTTP1 : !request.needsHTTP2 else { return 0 }
        if tried.contains(GroupID(slot: slot, generation: loads[slot].generation)) { return 0 }
        candidates[0] = slot
        return 1
    }
}
