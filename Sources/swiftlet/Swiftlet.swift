import ArgumentParser

/// The one program; each use of it is a subcommand.
@main
struct Swiftlet: ParsableCommand {
    static let release = "0.1.0"

    static let configuration = CommandConfiguration(
        commandName: "swiftlet",
        abstract: "A featherweight, low-latency router for LLM inference.",
        discussion:
            "Sends each request to the tensor-parallel group that will answer it soonest: KV-cache affinity and queue depth, in microseconds.",
        version: release,
        subcommands: [
            ServeCommand.self, CheckCommand.self, StubCommand.self, StubMemberCommand.self, BenchCommand.self,
            CalibrateCommand.self, SimulateCommand.self, DemoCommand.self, VersionCommand.self,
        ])
}

struct VersionCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "version", abstract: "Print the version.")
    func run() { print("swiftlet \(Swiftlet.release)") }
}
