import ArgumentParser
struct StubCommand: ParsableCommand { static let configuration = CommandConfiguration(commandName: "stub") }
