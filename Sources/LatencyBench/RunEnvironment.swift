import Foundation

/// Where a run took place, so that its figures can be judged.
public struct RunEnvironment: Codable, Sendable {
    public var cpu: String
    public var cores: Int
    public var kernel: String
    public var system: String
    /// Share of all CPU time that the hypervisor gave to others while it ran, 0...1.
    public var stealShare: Double
    /// How the generator's threads were scheduled, and how the simulated groups' were; nil where there were none, or several ways.
    public var generatorSchedule: String?
    public var groupSchedule: String?

    fileprivate struct CPUTimes {
        var total: Double
        var steal: Double
    }

    /// Watches steal time from its making on.
    public struct Watch {
        fileprivate let start = RunEnvironment.times()
        public init() {}
    }

    public init(since watch: Watch, generator: String? = nil, groups: String? = nil) {
        generatorSchedule = generator
        groupSchedule = groups
        cpu = Self.field("model name", of: "/proc/cpuinfo") ?? "unknown"
        cores = ProcessInfo.processInfo.activeProcessorCount
        kernel = Self.text("/proc/sys/kernel/osrelease").trimmingCharacters(in: .whitespacesAndNewlines)
        system = ProcessInfo.processInfo.operatingSystemVersionString
        let (before, after) = (watch.start, Self.times())
        stealShare = after.total > before.total ? (after.steal - before.steal) / (after.total - before.total) : 0
    }

    /// For a page's table of facts.
    public var rows: [[String]] {
        [
            ["CPU", "\(cpu), \(cores) cores"], ["kernel", kernel], ["system", system],
            ["steal", String(format: "%.2f %%", stealShare * 100)],
        ]
            + [("generator's threads", generatorSchedule), ("groups' threads", groupSchedule)].compactMap { name, schedule in
                schedule.map { [name, $0] }
            }
    }

    private static func text(_ path: String) -> String { (try? String(contentsOfFile: path, encoding: .utf8)) ?? "" }

    private static func field(_ name: String, of path: String) -> String? {
        text(path).split(separator: "\n").first { $0.hasPrefix(name) }?.split(separator: ":", maxSplits: 1).last?
            .trimmingCharacters(in: .whitespaces)
    }

    /// proc_stat(5): user nice system idle iowait irq softirq steal.
    fileprivate static func times() -> CPUTimes {
        let values =
            text("/proc/stat").split(separator: "\n").first?.split(separator: " ").dropFirst().prefix(8).compactMap { Double($0) } ?? []
        return CPUTimes(total: values.reduce(0, +), steal: values.count == 8 ? values[7] : 0)
    }
}
