/// What a decision would be, and why, for people.
public struct Explanation: Sendable, Equatable {
    public struct Group: Sendable, Equatable {
        public var name: String
        public var isChosen: Bool
        /// Why it is no candidate; nil when it is one.
        public var obstacle: GroupState.Obstacle?
        /// Prompt tokens that it is expected to find in its KV cache.
        public var cachedTokens: Int
        /// Those of them that we did not place there, but other routers are expected to have.
        public var othersTokens: Int
        public var terms: CostTerms
    }

    public var policy: Policy
    public var outcome: Result<DecisionReason, RoutingFailure>
    /// Whether it would wait in the router, for the chosen group or another that has room sooner.
    public var waits = false
    /// Expected tokens of the prompt and of the answer.
    public var promptTokens = 0
    public var outputTokens = 0
    /// The groups that may serve the model, in the order of their descriptions.
    public var groups: [Group] = []
}

extension RoutingState {
    mutating func explain(_ request: borrowing RoutingRequest, tried: TriedGroups, now: UInt64) -> Explanation {
        if leases.isFull { return Explanation(policy: policy, outcome: .failure(.leasesExhausted)) }
        // Everything that a decision changes besides its booking.
        let before = (sequence, randomState, fadeCursor)
        defer { (sequence, randomState, fadeCursor) = before }
        // Groups that are no candidates are not given anew what is of one request.
        for slot in order {
            loads[slot].othersShare = 0
            loads[slot].idleMatchTokens = 0
        }
        switch decide(request, tried: tried, now: now) {
        case .failure(let failure): return Explanation(policy: policy, outcome: .failure(failure))
        case .success(let choice):
            let inputs = choice.inputs
            var explanation = Explanation(policy: policy, outcome: .success(choice.reason))
            explanation.waits = waits(request, for: choice.slot)
            explanation.promptTokens = Int(inputs.promptTokens)
            explanation.outputTokens = Int(inputs.outputTokens)
            let serving = Set(catalog.match(request.model).slots)
            let slots = order.filter(serving.contains)
            if inputs.adapter != 0 { for slot in slots { priceAdapter(inputs.adapter, slot: slot) } }
            explanation.groups = slots.compactMap { slot in
                guard let description = records[Int(slot)]?.description else { return nil }
                let depth = policy.usesPrefixIndex ? index.depth(of: loads[slot].holder) : 0
                let cached = inputs.cachedTokens(on: loads[slot], depth: depth)
                return Explanation.Group(
                    name: description.name, isChosen: slot == choice.slot,
                    obstacle: obstacle(loads[slot], isDescribedReady: description.isReady, now: now).0,
                    cachedTokens: Int(cached), othersTokens: Int(cached - inputs.ownCachedTokens(on: loads[slot], depth: depth)),
                    terms: inputs.terms(on: loads[slot], depth: depth))
            }
            return explanation
        }
    }
}
