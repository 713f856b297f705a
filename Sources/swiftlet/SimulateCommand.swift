import ArgumentParser
import Foundation
import Simulation
import Workload

/// `swiftlet simulate`: what would a rule do with this workload?
struct SimulateCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "simulate", abstract: "Compare routing rules on a virtual clock, without a network or a GPU.")

    @Option(help: "Rules, separated by commas; parameters follow colons, as in dynamo:temperature=0.1.")
    var policy = "least-cost,round-robin"
    @Option(help: "Seeds.")
    var seeds = 3
    @Option(help: "Rows whose names contain this.")
    var rows = ""
    @Option(help: "Folder of traces.")
    var traces = "../shared/traces"
    @Flag var suite = false
    @Flag var grid = false

    func run() throws {
        let rules = try policy.split(separator: ",").map { try RoutingRule(String($0)) }
        let all = (grid ? SimulationSuite.grid : SimulationSuite.rows(traces: traces)).filter { rows.isEmpty || $0.name.contains(rows) }
        for row in all {
            let start = ContinuousClock.now
            let found = row.run(rules, seeds: (1...UInt64(seeds)).map { $0 })
            let took = ContinuousClock.now - start
            print("\(row.name)  \(took)")
            for one in found {
                print(
                    String(
                        format: "  %-28@ n %6d ttft mean %8.3f ±%6.3f p50 %7.3f p90 %7.3f p99 %8.3f ±%6.3f tpot %6.1f p99 %6.1f e2e %6.2f tok/s %7.0f hit %5.1f%% over %4.1f%% fail %d pre %d",
                        one.rule as NSString, one.requests / seeds, one.meanTTFT.mean, one.meanTTFT.halfWidth, one.p50TTFT.mean,
                        one.p90TTFT.mean, one.p99TTFT.mean, one.p99TTFT.halfWidth, one.meanTPOT.mean * 1e3, one.p99TPOT.mean * 1e3,
                        one.meanEndToEnd.mean, one.outputTokensPerSecond.mean, one.hitShare.mean * 100,
                        one.overpredictedShare.mean * 100, one.failed, one.preemptions))
            }
        }
    }
}
