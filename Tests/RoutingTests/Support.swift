@testable import Routing

/// SplitMix64, so that every run of a test is the same run.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        return mix64(state)
    }
}

let second: UInt64 = 1_000_000_000
let millisecond: UInt64 = 1_000_000

/// A prompt as chunks named by numbers; two prompts share as many leading hashes as they share leading names.
struct Prompt {
    static let chunkBytes = 256
    var hashes: [UInt64]
    var bytes: Int
    /// Of itself and of the conversation's former turn.
    var digests: (own: UInt64, former: UInt64) = (0, 0)

    init(_ chunks: [Int]) {
        var chain: UInt64 = 0
        hashes = chunks.map { chunk in
            chain = mix64(chain ^ mix64(UInt64(bitPattern: Int64(chunk))))
            return chain
        }
        bytes = chunks.count * Self.chunkBytes
    }

    /// `chunkCount` chunks that no prompt with another `name` has.
    static func distinct(_ name: Int, chunkCount: Int) -> Prompt {
        Prompt((0..<chunkCount).map { 1_000_000 * (name + 1) + $0 })
    }

    /// 64 tokens at the prior of a quarter of a token per byte.
    static let tokensPerChunk = 64
}

/// `count` equal groups named g0, g1, …
func equalGroups(_ count: Int) -> [GroupDescription] {
    (0..<count).map { GroupDescription(name: "g\($0)", leader: Endpoint(host: "10.0.0.\($0)", port: 8_000)) }
}

extension RoutingTable {
    convenience init(
        _ groups: [GroupDescription], policy: Policy = .leastCost, seed: UInt64 = 1, limits: RoutingLimits = .init(indexBlocks: 1 << 16),
        cost: CostRule = .init()
    ) {
        self.init(policy: policy, seed: seed, limits: limits, cost: cost)
        replaceGroups(groups, now: 0)
    }

    func pick(
        _ prompt: Prompt?, model: String = "", maxOutputTokens: Int? = nil, needsHTTP2: Bool = false, isStreamed: Bool = true,
        sequences: Int = 1, session: UInt64 = 0, wantedTTFT: Double = 0, excluding tried: TriedGroups = .init(),
        pinnedTo group: String? = nil, promptTokens: Int? = nil,
        now: UInt64 = 0
    ) -> Result<Decision, RoutingFailure> {
        request(prompt, model: model) { request in
            request.maxOutputTokens = maxOutputTokens
            request.promptTokens = promptTokens
            request.needsHTTP2 = needsHTTP2
            request.isStreamed = isStreamed
            request.session = session
            request.sequences = sequences
            request.wantedTTFTSeconds = wantedTTFT
            guard var group else { return pick(request, excluding: tried, now: now) }
            return group.withUTF8 { name in
                request.pinnedGroup = UnsafeRawBufferPointer(name)
                return pick(request, excluding: tried, now: now)
            }
        }
    }

    /// As `pick`; its ticket is that number of loop 0.
    func admit(
        _ prompt: Prompt?, _ number: UInt64, loop: UInt32 = 0, model: String = "", maxOutputTokens: Int? = nil, isStreamed: Bool = true,
        excluding tried: TriedGroups = .init(), pinnedTo group: String? = nil, now: UInt64 = 0
    ) -> Admission {
        request(prompt, model: model) { request in
            request.maxOutputTokens = maxOutputTokens
            request.isStreamed = isStreamed
            let ticket = AdmissionTicket(loop: loop, number: number)
            guard var group else { return admit(request, excluding: tried, ticket: ticket, now: now) }
            return group.withUTF8 { name in
                request.pinnedGroup = UnsafeRawBufferPointer(name)
                return admit(request, excluding: tried, ticket: ticket, now: now)
            }
        }
    }

    func release(now: UInt64 = 0) -> [ReleasedRequest] {
        var released: [ReleasedRequest] = []
        releaseHeld(into: &released, now: now)
        return released
    }

    func explain(
        _ prompt: Prompt? = nil, model: String = "", session: UInt64 = 0, wantedTTFT: Double = 0, now: UInt64 = 0
    ) -> Explanation {
        request(prompt, model: model) { request in
            request.session = session
            request.wantedTTFTSeconds = wantedTTFT
            return explain(request, now: now)
        }
    }

    private func request<Result>(_ prompt: Prompt?, model: String, _ body: (inout RoutingRequest) -> Result) -> Result {
        var model = model
        return model.withUTF8 { name in
            (prompt?.hashes ?? []).withUnsafeBufferPointer { hashes in
                var request = RoutingRequest(
                    model: UnsafeRawBufferPointer(name), prefixHashes: hashes, chunkBytes: Prompt.chunkBytes,
                    promptBytes: prompt?.bytes ?? 0)
                (request.promptDigest, request.formerTurnDigest) = prompt?.digests ?? (0, 0)
                return body(&request)
            }
        }
    }

    func state(_ name: String, now: UInt64 = 0) -> GroupState? { groups(now: now).first { $0.name == name } }

    func name(of group: GroupID) -> String? { groups(now: 0).first { $0.id == group }?.name }

    /// Serves one request from start to end: a first token after `seconds`, then the settlement.
    @discardableResult
    func serve(_ prompt: Prompt, usage: Usage? = nil, seconds: Double = 0.05, now: UInt64 = 0) throws -> Decision {
        let decision = try pick(prompt, now: now).get()
        firstToken(decision.lease, now: now + UInt64(seconds * 1e9))
        settle(decision.lease, usage: usage, now: now + UInt64(seconds * 1e9))
        return decision
    }
}
