import EngineModel
public import Workload

/// A plan as engines and routers see it: block hashes instead of text. The same for every rule, so that all are asked alike.
public struct SimulatedWorkload: Sendable {
    struct Request: Sendable {
        /// Of a session's first turn; later turns follow their answers.
        var offsetNanoseconds: UInt64
        var isFirstTurn: Bool
        var nextTurn: Int32
        var thinkNanoseconds: UInt64
        /// The index of the session's first turn.
        var session: Int
        /// As `RoutingRequest` has them.
        var promptDigest: UInt64
        var formerTurnDigest: UInt64
        var prompt: Prompt
        var outputTokens: Int
        var isMeasured: Bool
    }

    public let name: String
    let requests: [Request]

    /// - Parameters:
    ///   - warmUpSeconds: requests that are due before it, and all later turns of their sessions, are not measured.
    ///   - seed: goes into all hashes: where rules place by hash, a few shared beginnings fall well or badly, and one draw would tell of luck.
    public init(_ plan: LoadPlan, warmUpSeconds: Double, seed: UInt64 = 0) {
        name = plan.name
        var predecessors = [Int](repeating: -1, count: plan.requests.count)
        for (index, request) in plan.requests.enumerated() where request.nextTurn >= 0 {
            predecessors[Int(request.nextTurn)] = index
        }
        var chains: [Int: HashChain] = [:]
        var made: [Request] = []
        made.reserveCapacity(plan.requests.count)
        for (index, request) in plan.requests.enumerated() {
            let before = predecessors[index]
            var chain = before >= 0 ? chains.removeValue(forKey: before) ?? HashChain(salt: seed) : HashChain(salt: seed)
            for block in request.system + request.user { chain.append(block) }
            let prompt = Prompt(
                tokenCount: chain.tokens, blockHashes: chain.hashes, blockSize: simulatedBlockTokens, uniqueness: UInt64(index))
            if request.nextTurn >= 0 {
                chain.appendReply(tokens: request.outputTokens, sequence: UInt64(index))
                chains[index] = chain
            }
            let isFirst = before < 0
            made.append(
                Request(
                    offsetNanoseconds: request.offsetNanoseconds, isFirstTurn: isFirst, nextTurn: request.nextTurn,
                    thinkNanoseconds: request.thinkNanoseconds, session: isFirst ? index : made[before].session,
                    promptDigest: HashChain.mix(UInt64(index) &+ 1), formerTurnDigest: isFirst ? 0 : made[before].promptDigest,
                    prompt: prompt,
                    outputTokens: max(1, request.outputTokens),
                    isMeasured: isFirst ? Double(request.offsetNanoseconds) >= warmUpSeconds * 1e9 : made[before].isMeasured))
        }
        requests = made
    }
}

/// The chained hashes of a text that is known by the ids of its pieces.
struct HashChain {
    private(set) var hashes: [UInt64] = []
    private(set) var tokens = 0
    /// What the block that is not full yet begins with.
    private var partial: UInt64 = 0
    private let salt: UInt64

    init(salt: UInt64) { self.salt = salt }

    mutating func append(_ block: PromptBlock) {
        var done = 0
        while done < block.tokens {
            let taken = min(simulatedBlockTokens - tokens % simulatedBlockTokens, block.tokens - done)
            partial = Self.mix(partial ^ Self.mix(block.id &+ Self.mix(UInt64(done) << 32 | UInt64(taken))))
            done += taken
            tokens += taken
            if tokens % simulatedBlockTokens == 0 { close() }
        }
    }

    private mutating func close() {
        let hash = Self.mix((hashes.last ?? salt) &+ partial)
        hashes.append(hash == 0 ? 1 : hash)
        partial = 0
    }

    /// What an engine that reports no tokens makes of its answer's blocks: the hash of each follows from the sequence alone.
    mutating func appendReply(tokens count: Int, sequence: UInt64) {
        tokens += count
        while (hashes.count + 1) * simulatedBlockTokens <= tokens {
            hashes.append(BlockHash.next(after: hashes.last ?? BlockHash.root(), salt: sequence))
        }
        partial = Self.mix(sequence &+ 0x7265_706c_79)
    }

    static func mix(_ value: UInt64) -> UInt64 { BlockHash.next(after: value, salt: 0) }
}
