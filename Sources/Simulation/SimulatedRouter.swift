import EngineModel
import Routing

/// One router: its own table, with what it alone has seen, and the rule that it follows.
final class SimulatedRouter {
    let table: RoutingTable
    private let rule: RoutingRule
    private var published: PublishedRule?
    /// Of a published rule those that wait, in the order of arrival.
    private var held: [Int] = []

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

    /// Places a request, or has it wait: what each rule's choice says, and where that has enough to do.
    func admit(
        _ request: SimulatedWorkload.Request, ticket: Int, tried: TriedGroups, now: UInt64, rollouts: [UInt32: Double]
    ) -> Admission {
        guard published != nil else {
            return withAsked(request) { asked in
                // As in the product, who has been elsewhere does not wait.
                guard tried.count == 0 else {
                    switch table.pick(asked, excluding: tried, now: now) {
                    case .success(let decision): return .placed(decision)
                    case .failure(let failure): return .refused(failure)
                    }
                }
                return table.admit(asked, excluding: tried, ticket: AdmissionTicket(loop: 0, number: UInt64(ticket)), now: now)
            }
        }
        let admission = offer(request, tried: tried, now: now, rollouts: rollouts)
        if case .held = admission { held.append(ticket) }
        return admission
    }

    /// How many wait.
    var heldCount: Int { published == nil ? table.heldCount : held.count }

    /// Those that need not wait any longer. Of a published rule's the first ones in the order of arrival that it sends to a group with room.
    func releaseHeld(now: UInt64, requests: [SimulatedWorkload.Request]) -> [ReleasedRequest] {
        var released: [ReleasedRequest] = []
        guard published != nil else {
            table.releaseHeld(into: &released, now: now)
            return released
        }
        for ticket in held.prefix(Self.askedAtOnce) {
            let result: Result<Decision, RoutingFailure>
            switch offer(requests[ticket], tried: .init(), now: now, rollouts: [:]) {
            case .held: continue
            case .placed(let decision): result = .success(decision)
            case .refused(let failure): result = .failure(failure)
            }
            released.append(ReleasedRequest(ticket: AdmissionTicket(loop: 0, number: UInt64(ticket)), result: result))
            held.removeAll { $0 == ticket }
        }
        return released
    }

    /// As many as the product asks.
    private static let askedAtOnce = 32

    /// The published rule's choice.
    private func offer(
        _ request: SimulatedWorkload.Request, tried: TriedGroups, now: UInt64, rollouts: [UInt32: Double]
    ) -> Admission {
        withAsked(request) { asked in
            switch table.candidates(for: asked, excluding: tried, now: now) {
            case .failure(let failure): return .refused(failure)
            case .success(let list):
                let known = RuleRequest(
                    promptTokens: list.promptTokens, outputTokens: list.outputTokens, hashes: asked.prefixHashes, session: request.session,
                    rollouts: rollouts)
                let chosen = list.candidates[published?.choose(list.candidates, known, now: now) ?? 0]
                let limit = rule.parameters[RoutingRule.hold] ?? 0
                if limit > 0, chosen.tokensAhead >= limit { return .held }
                switch table.place(asked, on: chosen.slot, excluding: tried, now: now) {
                case .success(let decision): return .placed(decision)
                case .failure(let failure): return .refused(failure)
                }
            }
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
