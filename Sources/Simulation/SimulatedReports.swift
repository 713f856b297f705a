import EngineModel
import Routing

/// Engines' reports on their way to the routers: taken every few milliseconds, and delivered when they have their age.
struct SimulatedReports {
    private struct Report {
        var made: UInt64
        var load: LoadReport
    }

    /// Whether every decision is preceded by reports of that very moment.
    let areFresh: Bool
    private let age: UInt64
    private let gap: UInt64
    private var nextMade: UInt64
    /// Of every group, oldest first.
    private var underWay: [(made: UInt64, loads: [LoadReport?])] = []

    init(ageMilliseconds: Double?) {
        areFresh = ageMilliseconds == 0
        age = UInt64(max(0, ageMilliseconds ?? 0) * 1e6)
        // At least ten per age, at most one in 5 ms.
        gap = max(5_000_000, age / 10)
        nextMade = (ageMilliseconds ?? 0) > 0 ? 0 : .max
    }

    /// When something is to be made or delivered.
    var nextTime: UInt64 { min(nextMade, underWay.first.map { $0.made + age } ?? .max) }

    private static func report(of engine: Engine, now: UInt64) -> LoadReport {
        LoadReport(
            running: Double(engine.runningCount), waiting: Double(engine.waitingCount), awaitingFirstToken: Double(engine.unprefilledCount),
            prefillTokens: Double(engine.prefillTokens), kvUsage: engine.cacheUsage, madeAt: now)
    }

    mutating func pass(now: UInt64, groups: [FleetSimulation.Group], routers: [SimulatedRouter]) {
        if let first = underWay.first, first.made + age <= now {
            underWay.removeFirst()
            for (number, router) in routers.enumerated() {
                for (group, load) in zip(groups, first.loads) {
                    if let load, group.isMember, let id = group.ids[number] { router.table.reportLoad(load, of: id, now: now) }
                }
            }
        }
        if nextMade <= now {
            underWay.append((now, groups.map { $0.isMember ? Self.report(of: $0.engine, now: now) : nil }))
            nextMade = now + gap
        }
    }

    func deliverNow(now: UInt64, groups: [FleetSimulation.Group], to router: SimulatedRouter, number: Int) {
        for group in groups where group.isMember {
            if let id = group.ids[number] { router.table.reportLoad(Self.report(of: group.engine, now: now), of: id, now: now) }
        }
    }
}
