/// One group as a rule other than ours may see it when it decides: the same accounts, index and reports that `least-cost` uses.
/// Simulation judges published rules by it, so that rules are compared and not what feeds them.
package struct Candidate: BitwiseCopyable {
    /// Unique among the groups that live.
    package var slot: UInt32
    /// Hash of the name, the same in every replica.
    package var identity: UInt64
    /// Prompt tokens of the request that the group is expected to hold.
    package var cachedTokens: Double
    /// Uncached prompt tokens that are queued there.
    package var tokensAhead: Double
    /// Sequences without a first token, and those with one.
    package var waiting: Double
    package var running: Double
    /// KV tokens of the sequences in flight, of everything in the shadow of its cache, and that there is room for.
    package var activeTokens: Double
    package var heldTokens: Double
    package var capacityTokens: Double

    package var sequences: Double { waiting + running }
}

/// What a rule may choose among, and what the routing state expects of the request.
package struct CandidateList: Sendable {
    package var candidates: [Candidate]
    package var promptTokens: Double
    package var outputTokens: Double
}

extension RoutingState {
    /// The groups that may take the request now; changes nothing.
    mutating func listCandidates(_ request: borrowing RoutingRequest, tried: TriedGroups, now: UInt64) -> Result<
        CandidateList, RoutingFailure
    > {
        let before = (sequence, randomState, fadeCursor)
        defer { (sequence, randomState, fadeCursor) = before }
        return decide(request, tried: tried, now: now).map { choice in
            CandidateList(
                candidates: (0..<choice.candidateCount).map { candidate(candidates[$0], choice.inputs) },
                promptTokens: choice.inputs.promptTokens, outputTokens: choice.inputs.outputTokens)
        }
    }

    /// As `pick`, on a group that somebody else chose.
    mutating func place(
        _ request: borrowing RoutingRequest, on slot: UInt32, tried: TriedGroups, now: UInt64
    ) -> Result<Decision, RoutingFailure> {
        if leases.isFull { return .failure(.leasesExhausted) }
        switch decide(request, tried: tried, now: now) {
        case .failure(let failure): return .failure(failure)
        case .success(let choice):
            let hashes = usableHashes(of: request)
            return .success(book(request, hashes: hashes, inputs: choice.inputs, slot: slot, reason: choice.reason, now: now))
        }
    }

    private func candidate(_ slot: UInt32, _ inputs: CostInputs) -> Candidate {
        let depth = index.depth(of: loads[slot].holder)
        return Candidate(
            slot: slot, identity: loads[slot].identity, cachedTokens: inputs.cachedTokens(on: loads[slot], depth: depth),
            tokensAhead: loads[slot].tokensAhead, waiting: Double(loads[slot].awaitingFirstToken) + loads[slot].othersWaiting,
            running: loads[slot].decodingSequences, activeTokens: min(loads[slot].tokensInUse, loads[slot].kvCapacityTokens),
            heldTokens: loads[slot].heldTokens,
            capacityTokens: loads[slot].kvCapacityTokens)
    }
}
