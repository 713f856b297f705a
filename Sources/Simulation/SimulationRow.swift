import Dispatch
import Synchronization
public import Workload

/// A workload at one load on one fleet: what rules are compared on.
public struct SimulationRow: Sendable {
    public var name: String
    /// Rows of one family differ in load alone, and make one curve.
    public var family: String
    public var load: Double
    /// What `load` is, with its unit: the horizontal axis of the family's charts.
    public var loadLabel: String
    public var fleet: SimulatedFleet
    public var warmUpSeconds: Double
    /// Whether it is of the grid of routers and ages of reports.
    public var isOfGrid = false
    /// The workload of a seed.
    public var plan: @Sendable (UInt64) -> LoadPlan

    /// For people.
    var routersText: String {
        let routers = "\(fleet.routers) routers"
        return fleet.replicaSyncMilliseconds.map { "\(routers), sync \(SimulationSuite.text($0)) ms" } ?? routers
    }

    public init(
        name: String, family: String, load: Double, loadLabel: String, fleet: SimulatedFleet, warmUpSeconds: Double,
        plan: @escaping @Sendable (UInt64) -> LoadPlan
    ) {
        self.name = name
        self.family = family
        self.load = load
        self.loadLabel = loadLabel
        self.fleet = fleet
        self.warmUpSeconds = warmUpSeconds
        self.plan = plan
    }

    /// Every rule on the same workloads. One summary per rule, in their order.
    /// - Parameter threads: runs at a time.
    public func run(_ rules: [RoutingRule], seeds: [UInt64], threads: Int = 2) -> [SimulationSummary] {
        let workloads = seeds.map { SimulatedWorkload(plan($0), warmUpSeconds: warmUpSeconds, seed: $0) }
        let results = Mutex([SimulationOutcome?](repeating: nil, count: rules.count * seeds.count))
        let next = Atomic(0)
        DispatchQueue.concurrentPerform(iterations: max(1, threads)) { _ in
            while true {
                let job = next.add(1, ordering: .relaxed).oldValue
                guard job < rules.count * seeds.count else { return }
                let (rule, seed) = (job / seeds.count, job % seeds.count)
                let outcome = FleetSimulation.run(workload: workloads[seed], fleet: fleet, rule: rules[rule], seed: seeds[seed])
                results.withLock { $0[job] = outcome }
            }
        }
        let outcomes = results.withLock { $0.compactMap { $0 } }
        return rules.indices.map { rule in
            SimulationSummary(
                row: name, rule: rules[rule].text, outcomes: Array(outcomes[(rule * seeds.count)..<((rule + 1) * seeds.count)]))
        }
    }
}
