/// What is to go wrong with one request.
struct FaultPlan: Equatable {
    /// Before the request is looked at, in this order.
    var before: [Fault.Action] = []
    /// While it is answered, in this order.
    var during: [Step] = []
    var bytesPerSecond: Int?
    var hugeHeaderBytes: Int?

    struct Step: Equatable {
        let action: Fault.Action
        let point: Fault.Point
    }

    var isEmpty: Bool { self == FaultPlan() }
    /// The answer leaves through a ``FaultedOutput``.
    var changesOutput: Bool { !during.isEmpty || bytesPerSecond != nil || hugeHeaderBytes != nil }

    /// The engine dies before an answer that is no stream is whole.
    var breaksWholeAnswers: Bool { during.contains { $0.action == .errorEvent } }

    mutating func add(_ fault: Fault) {
        switch (fault.action, fault.point) {
        case (.trickle(let rate), _): bytesPerSecond = rate
        case (.hugeHeader(let bytes), _): hugeHeaderBytes = bytes
        // Of the port, not of a request.
        case (.refuse, _), (.acceptClose, _), (.streamLimit, _): break
        case (let action, .request): before.append(action)
        case (let action, let point): during.append(Step(action: action, point: point))
        }
    }
}

/// The faults that are configured and how far each of them has come. Deterministic: a seed decides what a probability means.
struct FaultTable {
    private struct Entry {
        let name: String
        let fault: Fault
        var seen = 0
        var fired = 0
    }

    private var entries: [Entry] = []
    private var state: UInt64

    init(seed: UInt64 = 0) { state = seed }

    /// Takes over new faults; one that is as before goes on counting unless `rearmed` names it.
    mutating func replace(with faults: [(name: String, fault: Fault)], rearmed: Set<String>) {
        let before = entries
        entries = faults.map { name, fault in
            if !rearmed.contains(name), let known = before.first(where: { $0.name == name && $0.fault == fault }) { return known }
            return Entry(name: name, fault: fault)
        }
    }

    mutating func reseed(_ seed: UInt64) { state = seed }

    /// How often each fault has struck, by name.
    var fired: [(name: String, count: Int)] { entries.map { ($0.name, $0.fired) } }

    var isEmpty: Bool { entries.isEmpty }

    /// What is to go wrong with a request. `generates`: it asks for work of the engine.
    mutating func plan(path: String, generates: Bool, nowNanoseconds: UInt64) -> FaultPlan {
        var plan = FaultPlan()
        for index in entries.indices {
            if entries[index].fault.action.isOfPort { continue }
            guard entries[index].fault.path.map({ path.hasPrefix($0) }) ?? generates else { continue }
            if strikes(index, nowNanoseconds: nowNanoseconds) { plan.add(entries[index].fault) }
        }
        return plan
    }

    /// Whether a connection that was just accepted is to be closed.
    mutating func closesConnection(nowNanoseconds: UInt64) -> Bool {
        for index in entries.indices where entries[index].fault.action == .acceptClose {
            if strikes(index, nowNanoseconds: nowNanoseconds) { return true }
        }
        return false
    }

    private mutating func strikes(_ index: Int, nowNanoseconds: UInt64) -> Bool {
        let fault = entries[index].fault
        if let period = fault.periodMilliseconds {
            let length = period &* 1_000_000
            guard nowNanoseconds % length < length / 2 else { return false }
        }
        entries[index].seen += 1
        guard entries[index].seen > fault.skip, fault.times.map({ entries[index].fired < $0 }) ?? true else { return false }
        if fault.probability < 1, uniform() >= fault.probability { return false }
        entries[index].fired += 1
        return true
    }

    /// SplitMix64, as a number in 0..<1.
    private mutating func uniform() -> Double {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        mixed ^= mixed >> 31
        return Double(mixed >> 11) / Double(1 << 53)
    }
}
