import EngineModel
import Routing

/// One router: its own table, with what it alone has seen, and the rule that it follows.
final class SimulatedRouter {
    let table: RoutingTable
    private let rule: RoutingRule
    private var published: PublishedRule?

    init(rule: RoutingRule, fleet: SimulatedFleet, seed: UInt64) {
        self.rule = rule
        let limits = RoutingLimits(groups: max(fleet.groups.count, 1), indexBlocks: Self.indexBlocks(fleet), leases: 1 << 17)
        table = RoutingTable(policy: .leastCost, seed: seed, limits: limits, cost: rule.cost)
        published = rule.published.map { PublishedRule($0, parameters: rule.parameters, fleet: fleet, seed: seed) }
    }

    /// Room for every engine's cache, so that no rule suffers from a small index.
    private static func indexBlocks(_ fleet: SimulatedFleet) -> Int {
        2 * fleet.groups.reduce(0) { $0 + $1.blockCount } + 1_024
    }

    /// - Parameter groups: numbers of those that are there, and the incarnation of each.
    /// - Returns: their ids, by number.
    func announce(_ groups: [(number: Int, incarnation: Int)], fleet: SimulatedFleet, now: UInt64) -> [GroupID?] {
        // Rates are left to their defaults: operators seldom know them, and `least-cost` has to learn them.
        let descriptions = groups.map { group in
            var description = GroupDescription(
                name: Self.name(group.number), leader: Endpoint(host: "10.0.0.\(group.number)", port: 8_000),
                kvCapacityTokens: fleet.groups[group.number].usableBlockCount * simulatedBlockTokens)
            description.incarnation = "\(group.incarnation)"
            return description
        }
        table.replaceGroups(descriptions, now: now)
        var ids = [GroupID?](repeating: nil, count: fleet.groups.count)
        for (group, state) in zip(groups, table.groups(now: now)) { ids[group.number] = state.id }
        published?.keep(slots: Set(ids.compactMap { $0?.slot }))
        return ids
    }

    private static func name(_ number: Int) -> String { "group-\(number)" }

    func choose(
        _ request: SimulatedWorkload.Request, tried: TriedGroups, now: UInt64, rollouts: [UInt32: Double]
    ) -> Result<Decision, RoutingFailure> {
        request.prompt.blockHashes.withUnsafeBufferPointer { hashes in
            var asked = RoutingRequest(
                prefixHashes: hashes, chunkBytes: simulatedBlockTokens * simulatedBytesPerToken,
                promptBytes: request.prompt.tokenCount * simulatedBytesPerToken)
            (asked.promptDigest, asked.formerTurnDigest) = (request.promptDigest, request.formerTurnDigest)
            guard published != nil else { return table.pick(asked, excluding: tried, now: now) }
            return table.candidates(for: asked, excluding: tried, now: now).flatMap { list in
                let known = RuleRequest(
                    promptTokens: list.promptTokens, outputTokens: list.outputTokens, hashes: hashes, session: request.session,
                    rollouts: rollouts)
                let position = published?.choose(list.candidates, known, now: now) ?? 0
                return table.place(asked, on: list.candidates[position].slot, excluding: tried, now: now)
            }
        }
    }

    /// As `choose`; of the product's rule requests may wait.
    func admit(
        _ request: SimulatedWorkload.Request, ticket: Int, tried: TriedGroups, now: UInt64, rollouts: [UInt32: Double]
    ) -> Admission {
        guard published == nil else {
            switch choose(request, tried: tried, now: now, rollouts: rollouts) {
            case .success(let decision): return .placed(decision)
            case .failure(let failure): return .refused(failure)
            }
        }
        return withAsked(request) { asked in
            table.admit(asked, excluding: tried, ticket: AdmissionTicket(loop: 0, number: UInt64(ticket)), now: now)
        }
    }

    private func withAsked<Value>(_ request: SimulatedWorkload.Request, _ body: (RoutingRequest) -> Value) -> Value {
        request.prompt.blockHashes.withUnsafeBufferPointer { hashes in
            var asked = RoutingRequest(
                prefixHashes: hashes, chunkBytes: simulatedBlockTokens * simulatedBytesPerToken,
                promptBytes: request.prompt.tokenCount * simulatedBytesPerToken)
            (asked.promptDigest, asked.formerTurnDigest) = (request.promptDigest, request.formerTurnDigest)
            return body(asked)
        }
    }

    /// A first token came; some rules learn from it.
    func saw(seconds: Double, slot: UInt32) { published?.saw(seconds: seconds, slot: slot) }
}
