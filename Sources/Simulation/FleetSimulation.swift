import EngineModel
import HeapModule
import Routing
import Workload

/// One run: a workload on a fleet under a rule. Time is virtual, and equal arguments give equal runs to the last bit.
struct FleetSimulation {
    /// A request in its life.
    struct Progress {
        var arrival: UInt64 = 0
        var firstToken: UInt64 = 0
        var lease: Lease?
        var group = -1
        var router: UInt16 = 0
        var predictedCached: Float = 0
        var tried = TriedGroups()
        var isDone = false
    }

    struct Group {
        var engine: Engine
        var isMember = true
        /// Its ids in the routers' tables.
        var ids: [GroupID?] = []
        var incarnation = 0
        /// Requests there that have not ended.
        var active: Set<Int> = []
    }

    /// How often it is looked who may wait no longer, whatever else happens: as in the product.
    private static let patrolNanoseconds: UInt64 = 20_000_000

    struct Due: Comparable {
        var time: UInt64
        var index: Int
        static func < (a: Due, b: Due) -> Bool { (a.time, a.index) < (b.time, b.index) }
    }

    let workload: SimulatedWorkload
    let fleet: SimulatedFleet
    let rule: RoutingRule
    let seed: UInt64
    var groups: [Group] = []
    var routers: [SimulatedRouter] = []
    var progress: [Progress]
    var arrivals = Heap<Due>()
    var changes: [(time: UInt64, change: FleetChange)] = []
    var reports: SimulatedReports
    var replicaSync: SimulatedReplicaSync
    var measured = Measured()
    var events: [EngineEvent] = []
    var fingerprint: UInt64 = 0

    init(workload: SimulatedWorkload, fleet: SimulatedFleet, rule: RoutingRule, seed: UInt64) {
        self.workload = workload
        self.fleet = fleet
        self.rule = rule
        self.seed = seed
        progress = Array(repeating: Progress(), count: workload.requests.count)
        reports = SimulatedReports(ageMilliseconds: fleet.reportAgeMilliseconds)
        groups = fleet.groups.map { Group(engine: Engine(configuration: $0)) }
        for event in fleet.events {
            if case .join(let group) = event.change { groups[group].isMember = false }
            changes.append((UInt64(event.seconds * 1e9), event.change))
        }
        changes.sort { $0.time < $1.time }
        let routers = (0..<max(1, fleet.routers)).map { SimulatedRouter(rule: rule, fleet: fleet, seed: seed &+ UInt64($0)) }
        self.routers = routers
        replicaSync = SimulatedReplicaSync(intervalMilliseconds: fleet.replicaSyncMilliseconds, routers: routers)
        for (index, request) in workload.requests.enumerated() where request.isFirstTurn {
            arrivals.insert(Due(time: request.offsetNanoseconds, index: index))
        }
        let planned = workload.requests.lazy.filter { $0.isFirstTurn && $0.isMeasured }.map(\.offsetNanoseconds)
        measured.begin(groups: groups.count, first: planned.min() ?? 0, last: planned.max() ?? 0)
    }

    static func run(workload: SimulatedWorkload, fleet: SimulatedFleet, rule: RoutingRule, seed: UInt64) -> SimulationOutcome {
        var simulation = FleetSimulation(workload: workload, fleet: fleet, rule: rule, seed: seed)
        return simulation.run()
    }

    private mutating func run() -> SimulationOutcome {
        announce(now: 0)
        var last: UInt64 = 0
        var patrol = UInt64.max
        while true {
            let arrival = arrivals.min?.time ?? .max
            let isOver = arrival == .max && changes.isEmpty
            var step = UInt64.max
            var stepping = 0
            // By index: a copy of a group would count references to all that its engine has.
            for index in groups.indices {
                if let end = groups[index].engine.nextStepEnd, end < step { (step, stepping) = (end, index) }
            }
            if routers.contains(where: { $0.heldCount > 0 }) {
                if patrol == .max { patrol = last + Self.patrolNanoseconds }
            } else {
                patrol = .max
            }
            if isOver && step == .max && patrol == .max { break }
            let change = changes.first?.time ?? .max
            let report = reports.nextTime
            let sample = measured.nextSample
            let told = max(replicaSync.nextTime, last)
            let now = min(min(min(arrival, told), step), min(min(change, patrol), min(report, sample)))
            last = now
            if sample == now {
                measured.sample(groups.map { Float($0.engine.runningCount + $0.engine.waitingCount) })
            } else if report == now {
                reports.pass(now: now, groups: groups, routers: routers)
            } else if told == now {
                replicaSync.pass(now: now, routers: routers)
            } else if patrol == now {
                patrol = .max
                for router in routers.indices { releaseHeld(router, now: now) }
            } else if change == now {
                apply(changes.removeFirst().change, now: now)
                for router in routers.indices { releaseHeld(router, now: now) }
            } else if step == now {
                events.removeAll(keepingCapacity: true)
                groups[stepping].engine.step(now: now, events: &events)
                handle(group: stepping)
                for router in routers.indices { releaseHeld(router, now: now) }
            } else if let due = arrivals.popMin() {
                progress[due.index].arrival = due.time
                progress[due.index].router = router(of: due.index)
                place(due.index, now: now)
            }
        }
        return measured.outcome(fingerprint: fingerprint)
    }

    /// Clients keep to their router, as behind a sidecar; those that come once are spread.
    private func router(of index: Int) -> UInt16 {
        let mixed = HashChain.mix(UInt64(workload.requests[index].session) &+ seed &* 0x9e37_79b9_7f4a_7c15)
        return UInt16(mixed % UInt64(routers.count))
    }

    // MARK: Requests

    mutating func place(_ index: Int, now: UInt64) {
        let router = Int(progress[index].router)
        if reports.areFresh { reports.deliverNow(now: now, groups: groups, to: routers[router], number: router) }
        let request = workload.requests[index]
        let estimates = rule.needsRollout ? rollouts(of: index, now: now) : [:]
        let admission = routers[router].admit(
            request, ticket: index, tried: progress[index].tried, now: now, rollouts: estimates)
        if case .held = admission { return releaseHeld(router, now: now) }
        guard case .placed(let decision) = admission else { return comeAgain(index, now: now) }
        submit(index, decision, now: now)
    }

    private mutating func comeAgain(_ index: Int, now: UInt64) {
        if progress[index].tried.count > 0 { progress[index].tried = TriedGroups() }
        arrivals.insert(Due(time: now + 100_000_000, index: index))
    }

    private mutating func releaseHeld(_ router: Int, now: UInt64) {
        // What an engine does not take makes room for others.
        while routers[router].heldCount > 0 {
            let released = routers[router].releaseHeld(now: now, requests: workload.requests)
            for one in released {
                if case .success(let decision) = one.result {
                    submit(Int(one.ticket.number), decision, now: now)
                } else {
                    comeAgain(Int(one.ticket.number), now: now)
                }
            }
            if released.isEmpty { return }
        }
    }

    private mutating func submit(_ index: Int, _ decision: Decision, now: UInt64) {
        let router = Int(progress[index].router)
        let request = workload.requests[index]
        guard let group = groups.firstIndex(where: { $0.isMember && $0.ids[router] == decision.group })
        else {
            return comeAgain(index, now: now)
        }
        fingerprint = HashChain.mix(fingerprint ^ UInt64(index) << 16 ^ UInt64(group))
        progress[index].lease = decision.lease
        progress[index].group = group
        progress[index].predictedCached = Float(decision.predictedCachedTokens)
        let sequence = SequenceRequest(id: UInt64(index), prompt: request.prompt, outputTokens: request.outputTokens)
        do {
            try groups[group].engine.submit(sequence, now: now)
        } catch {
            // Longer than the cache, or a queue that is full: the engine would say 4xx or 5xx at once.
            routers[router].table.cancel(decision.lease, now: now)
            fail(index)
            return
        }
        groups[group].active.insert(index)
        if groups[group].engine.nextStepEnd == nil {
            events.removeAll(keepingCapacity: true)
            groups[group].engine.step(now: now, events: &events)
            handle(group: group)
        }
    }

    private mutating func fail(_ index: Int) {
        progress[index].isDone = true
        if workload.requests[index].isMeasured { measured.failed += 1 }
    }

    private mutating func handle(group: Int) {
        for event in events {
            switch event {
            case .scheduled(let id, let cached):
                let index = Int(id)
                guard workload.requests[index].isMeasured else { continue }
                measured.scheduled(
                    prompt: workload.requests[index].prompt.tokenCount, cached: cached,
                    predicted: Double(progress[index].predictedCached))
            case .firstToken(let id, let time):
                let index = Int(id)
                guard progress[index].firstToken == 0 else { continue }
                progress[index].firstToken = time
                let router = Int(progress[index].router)
                if let lease = progress[index].lease { routers[router].table.firstToken(lease, now: time) }
                if let id = groups[group].ids[router] {
                    routers[router].saw(seconds: Double(time - progress[index].arrival) / 1e9, slot: id.slot)
                }
            case .finished(let id, let summary): finish(Int(id), summary, group: group)
            case .preempted: measured.preemptions += 1
            case .progressed(let id, let tokens, let time):
                let index = Int(id)
                if let lease = progress[index].lease {
                    routers[Int(progress[index].router)].table.streamed(lease, events: tokens, now: time)
                }
            default: break
            }
        }
    }

    private mutating func finish(_ index: Int, _ summary: SequenceSummary, group: Int) {
        let end = summary.endNanoseconds
        let usage = Usage(
            promptTokens: summary.promptTokens, cachedTokens: summary.cachedTokens, completionTokens: summary.outputTokens)
        if let lease = progress[index].lease { routers[Int(progress[index].router)].table.settle(lease, usage: usage, now: end) }
        groups[group].active.remove(index)
        progress[index].isDone = true
        let request = workload.requests[index]
        if request.isMeasured {
            measured.finished(arrival: progress[index].arrival, first: progress[index].firstToken, end: end, tokens: summary.outputTokens)
        }
        if request.nextTurn >= 0 {
            let next = Int(request.nextTurn)
            arrivals.insert(Due(time: end + workload.requests[next].thinkNanoseconds, index: next))
        }
    }

    /// For the oracle: seconds to the first token on every group, found by playing each group's engine ahead.
    private func rollouts(of index: Int, now: UInt64) -> [UInt32: Double] {
        let router = Int(progress[index].router)
        var seconds: [UInt32: Double] = [:]
        for group in groups where group.isMember {
            guard let id = group.ids[router] else { continue }
            var engine = group.engine
            let request = workload.requests[index]
            let sequence = SequenceRequest(id: .max, prompt: request.prompt, outputTokens: 2)
            guard (try? engine.submit(sequence, now: now)) != nil else { continue }
            var found: [EngineEvent] = []
            var firstToken: UInt64?
            if engine.nextStepEnd == nil { engine.step(now: now, events: &found) }
            while firstToken == nil, let end = engine.nextStepEnd {
                found.removeAll(keepingCapacity: true)
                engine.step(now: end, events: &found)
                for case .firstToken(.max, let time) in found { firstToken = time }
            }
            seconds[id.slot] = Double((firstToken ?? now) - now) / 1e9
        }
        return seconds
    }

    // MARK: Groups

    /// Tells all routers who is there.
    mutating func announce(now: UInt64) {
        for router in routers.indices {
            let present = groups.indices.filter { groups[$0].isMember }
            let ids = routers[router].announce(present.map { ($0, groups[$0].incarnation) }, fleet: fleet, now: now)
            for group in groups.indices {
                if groups[group].ids.count <= router { groups[group].ids.append(nil) }
                groups[group].ids[router] = ids[group]
            }
        }
    }

    private mutating func apply(_ change: FleetChange, now: UInt64) {
        switch change {
        case .slowdown(let group, let factor):
            groups[group].engine.setStepTime(fleet.groups[group].stepTime.slowed(by: factor))
        case .join(let group):
            groups[group].isMember = true
            announce(now: now)
        case .leave(let group):
            groups[group].isMember = false
            announce(now: now)
        case .restart(let group, let seconds):
            let lost = groups[group].active.sorted()
            groups[group].active = []
            groups[group].engine = Engine(configuration: fleet.groups[group])
            groups[group].isMember = false
            groups[group].incarnation += 1
            announce(now: now)
            let back = now + UInt64(seconds * 1e9)
            changes.append((back, .join(group: group)))
            changes.sort { $0.time < $1.time }
            for index in lost {
                if let lease = progress[index].lease { routers[Int(progress[index].router)].table.cancel(lease, now: now) }
                // An answer that has begun is ended loudly, one that has not goes elsewhere.
                if progress[index].firstToken == 0 { place(index, now: now) } else { fail(index) }
            }
        }
    }
}
