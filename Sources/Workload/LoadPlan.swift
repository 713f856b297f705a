/// A piece of a prompt: so many tokens of the text that belongs to an id.
public struct PromptBlock: Sendable, Equatable {
    public var id: UInt64
    public var tokens: Int

    public init(id: UInt64, tokens: Int) {
        self.id = id
        self.tokens = tokens
    }
}

/// One request as it is planned.
public struct PlannedRequest: Sendable, Equatable {
    /// Since the start; of a session's later turns it says nothing.
    public var offsetNanoseconds: UInt64
    public var stage = 0
    /// The session's next turn, -1 when there is none. It repeats what was said before, the real answers included.
    public var nextTurn: Int32 = -1
    /// Pause between the answer before and this turn.
    public var thinkNanoseconds: UInt64 = 0
    /// Instructions, of a session's first turn only.
    public var system: [PromptBlock] = []
    public var user: [PromptBlock]
    public var outputTokens: Int

    public init(offsetNanoseconds: UInt64, system: [PromptBlock] = [], user: [PromptBlock], outputTokens: Int) {
        self.offsetNanoseconds = offsetNanoseconds
        self.system = system
        self.user = user
        self.outputTokens = outputTokens
    }

    /// Tokens of this turn's own text.
    public var plannedTokens: Int { (system + user).reduce(0) { $0 + $1.tokens } }
}

/// Everything that a run sends, known before it starts.
public struct LoadPlan: Sendable {
    public var name: String
    /// The parameters that made it, by name, for the report.
    public var parameters: [String: String]
    public var requests: [PlannedRequest]
    public var stages: [ArrivalSchedule.Stage]
    public var process: String
    /// What every request has in common beside its text, by name: parameters, too, and in the content's hash.
    public var common: [String: String] = [:] { didSet { parameters.merge(common) { $1 } } }

    public init(
        name: String, parameters: [String: String], requests: [PlannedRequest], stages: [ArrivalSchedule.Stage], process: String
    ) {
        self.name = name
        self.parameters = parameters
        self.requests = requests
        self.stages = stages
        self.process = process
    }

    /// Names what is sent, whenever it is sent.
    public var contentHash: UInt64 {
        var hash = ContentHash()
        for request in requests {
            for block in request.system + request.user {
                hash.add(block.id)
                hash.add(UInt64(truncatingIfNeeded: block.tokens))
            }
            hash.add(UInt64(truncatingIfNeeded: request.outputTokens))
            hash.add(UInt64(truncatingIfNeeded: Int(request.nextTurn)))
        }
        for (name, value) in common.sorted(by: { $0.key < $1.key }) { hash.add("\(name)=\(value)\n") }
        return hash.value
    }

    /// Names the times, and the pauses within sessions.
    public var scheduleHash: UInt64 {
        var hash = ContentHash()
        for request in requests { hash.add(request.offsetNanoseconds) }
        for (index, request) in requests.enumerated() where request.thinkNanoseconds > 0 {
            hash.add(UInt64(truncatingIfNeeded: index))
            hash.add(request.thinkNanoseconds)
        }
        return hash.value
    }

    /// Share of planned prompt tokens that a cache without bounds would hold: blocks seen before in the same place of a prompt.
    public var idealHitRate: Double {
        var seen: Set<UInt64> = []
        var (hits, total) = (0, 0)
        for request in requests where request.nextTurn < 0 {
            var chain = ContentHash()
            for block in request.system + request.user {
                chain.add(block.id)
                chain.add(UInt64(truncatingIfNeeded: block.tokens))
                total += block.tokens
                if !seen.insert(chain.value).inserted { hits += block.tokens }
            }
        }
        return total == 0 ? 0 : Double(hits) / Double(total)
    }
}
