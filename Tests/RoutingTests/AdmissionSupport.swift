import Synchronization
import Testing

@testable import Routing

/// A group that has ten chunks in its queue has enough.
func rule(_ change: (inout CostRule) -> Void = { _ in }) -> CostRule {
    var rule = CostRule()
    rule.holdFrom = Double(10 * Prompt.tokensPerChunk)
    change(&rule)
    return rule
}

extension Admission {
    var isHeld: Bool { if case .held = self { true } else { false } }
    var decision: Decision? { if case .placed(let decision) = self { decision } else { nil } }
    var failure: RoutingFailure? { if case .refused(let failure) = self { failure } else { nil } }
}

extension [ReleasedRequest] {
    var numbers: [UInt64] { map(\.ticket.number) }
    var decisions: [Decision] { compactMap { try? $0.result.get() } }
    var failures: [RoutingFailure] {
        compactMap { if case .failure(let failure) = $0.result { failure } else { nil } }
    }
}

extension RoutingTable {
    /// Gives every group of them enough to do; pinned requests never wait.
    func makeBusy(_ names: [String], chunkCount: Int = 10, isStreamed: Bool = true, now: UInt64 = 0) throws -> [Decision] {
        try names.enumerated().map { position, name in
            try pick(.distinct(100_000 + position, chunkCount: chunkCount), isStreamed: isStreamed, pinnedTo: name, now: now).get()
        }
    }

    /// One group without room, and these wait for it.
    func hold(_ chunkCounts: [Int], maxOutputTokens: Int? = nil) throws -> Lease {
        let busy = try makeBusy(["g0"])[0].lease
        for (number, count) in chunkCounts.enumerated() {
            #expect(
                admit(.distinct(number, chunkCount: count), UInt64(number), maxOutputTokens: maxOutputTokens).isHeld)
        }
        return busy
    }
}

func group(_ number: Int, models: [String] = [], incarnation: String = "") -> GroupDescription {
    var group = equalGroups(number + 1)[number]
    group.models = models
    group.incarnation = incarnation
    return group
}

final class Calls: Sendable {
    private let loops = Mutex<[UInt32]>([])
    var all: [UInt32] { loops.withLock { $0 } }

    init(of table: RoutingTable) { table.startHolding { loop in self.loops.withLock { $0.append(loop) } } }
}
