/// What can be changed while a stub runs: the object that `/admin/config` shows and merges into.
struct StubSettings {
    /// As it was given, for the next merge.
    let document: JSONValue
    let faults: [(name: String, fault: Fault)]
    let faultSeed: UInt64
    let overloadStatus: Int
    let maximumQueuedRequests: Int?
    let maximumQueuedTokens: Int?
    /// Ranks of members inside the process that are gone.
    let lostMembers: [Int]
    let drain: Drain
    /// What `/metrics` says instead of the truth, by the names of samples.
    let fakeMetrics: [String: FakeMetric]

    /// How the engine takes its leave, until it is told otherwise.
    enum Drain {
        case none
        /// The port is refused, health watchers hear it, connections end with what is under way on them.
        case port
        /// As vLLM's: the port stays, all seems well, and new work gets a 500.
        case vllm
    }

    init(_ configuration: StubConfiguration) {
        var overload: [String: JSONValue] = ["status": .number(Double(configuration.overloadStatus))]
        overload["max_num_queued_reqs"] = configuration.maximumQueuedRequests.map { .number(Double($0)) }
        overload["max_num_queued_tokens"] = configuration.maximumQueuedTokens.map { .number(Double($0)) }
        document = .object([
            "faults": .object([:]), "fault_seed": .number(0), "overload": .object(overload), "lost_members": .array([]),
            "drain": .bool(false),
            "fake_metrics": .object([:]),
        ])
        faults = []
        faultSeed = 0
        overloadStatus = configuration.overloadStatus
        maximumQueuedRequests = configuration.maximumQueuedRequests
        maximumQueuedTokens = configuration.maximumQueuedTokens
        lostMembers = []
        drain = .none
        fakeMetrics = [:]
    }

    /// Reads a whole document. Names the first field that is wrong.
    init(document: JSONValue) throws(FaultError) {
        guard case .object(let fields) = document else { throw FaultError(message: "expected a JSON object") }
        var reader = FieldReader(owner: "config", fields: fields)
        var faults: [(name: String, fault: Fault)] = []
        for (name, value) in (try reader.object("faults") ?? [:]).sorted(by: { $0.key < $1.key }) {
            guard case .object(let fields) = value else { throw FaultError(message: "faults.\(name): expected an object") }
            faults.append((name, try Fault(name: name, fields: fields)))
        }
        self.faults = faults
        faultSeed = UInt64(try reader.integer("fault_seed", 0...1 << 53) ?? 0)
        var overload = FieldReader(owner: "overload", fields: try reader.object("overload") ?? [:])
        overloadStatus = try overload.integer("status", 400...599) ?? 503
        maximumQueuedRequests = try overload.integer("max_num_queued_reqs", 0...1_000_000_000)
        maximumQueuedTokens = try overload.integer("max_num_queued_tokens", 0...1_000_000_000)
        try overload.refuseRest()
        lostMembers = try Self.ranks(reader.take("lost_members"))
        fakeMetrics = try FakeMetric.table(try reader.object("fake_metrics") ?? [:])
        switch reader.take("drain") {
        case nil, .bool(false): drain = .none
        case .bool(true): drain = .port
        case .string("vllm"): drain = .vllm
        default: throw FaultError(message: "config.drain: expected true, false or \"vllm\"")
        }
        try reader.refuseRest()
        self.document = document
    }

    private static func ranks(_ value: JSONValue?) throws(FaultError) -> [Int] {
        guard let value else { return [] }
        guard case .array(let items) = value else { throw FaultError(message: "config.lost_members: expected an array of ranks") }
        var ranks: [Int] = []
        for item in items {
            guard case .number(let number) = item, let rank = Int(exactly: number), rank > 0 else {
                throw FaultError(message: "config.lost_members: expected ranks above 0")
            }
            ranks.append(rank)
        }
        return ranks
    }
}
