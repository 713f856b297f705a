import ArgumentParser
import Foundation
import LatencyBench

/// `swiftlet calibrate`: how fast an engine is, as the router's configuration says it.
struct CalibrateCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "calibrate", abstract: "Measure one idle engine's rates, and print them as the router's configuration takes them.",
        discussion: """
            Sends prompts that share nothing, of rising lengths, one after the other, and answers of some length between them. Ask the engine itself, \
            not a router before it, and let nobody else use it meanwhile.

            Example:
              swiftlet calibrate --target http://10.0.0.11:8000 --json engine.json
            Exits 0 with figures and a snippet for 'groups', 1 when there are none, 2 when they are too uncertain to be used, 64 for what was asked wrongly, \
            130 when interrupted.
            """)

    @Option(help: ArgumentHelp("http(s)://, h2c:// or h2://HOST:PORT of the engine.", valueName: "url"))
    var target: String
    @Option(help: ArgumentHelp("chat or text.", valueName: "api"))
    var api = "chat"
    @OptionGroup var request: TargetOptions
    @Option(
        name: .customLong("prompt-tokens"),
        help: ArgumentHelp(
            "Lengths of prompts, with commas, up to what the engine takes. (default: \(CalibrationPlan.usualLengths.map(String.init).joined(separator: ",")))",
            valueName: "tokens"))
    var givenLengths: String?
    @Option(help: ArgumentHelp("Prompts of each length, and answers.", valueName: "count"))
    var repeats = 5
    @Option(help: ArgumentHelp("Length of the answers that tell a decode step.", valueName: "tokens"))
    var answerTokens = 64
    @Option(help: ArgumentHelp("It is over by then; a slow engine gets fewer and shorter prompts.", valueName: "seconds"))
    var seconds = 60.0
    @Option(help: ArgumentHelp("Write the figures as JSON.", valueName: "file"))
    var json: String?

    func validate() throws {
        guard ["chat", "text"].contains(api) else { throw ValidationError("--api: expected chat or text, found '\(api)'") }
        try request.check()
        let lengths = try lengths()
        guard lengths.count >= 2 else {
            throw ValidationError(
                "--prompt-tokens: expected two lengths or more, which tell rate and overhead apart, found '\(givenLengths ?? "")'")
        }
        try FlagRange.check("--repeats", repeats, Calibration.leastSamples...1_000)
        try FlagRange.check("--answer-tokens", answerTokens, 16...4_096)
        try FlagRange.check("--seconds", seconds, 1...86_400)
        try OutputFile.check([.init("--json", json)])
    }

    /// Ascending, each once.
    private func lengths() throws -> [Int] {
        guard let givenLengths else { return CalibrationPlan.usualLengths }
        let parts = givenLengths.split(separator: ",", omittingEmptySubsequences: false)
        let lengths = parts.compactMap { Int($0.trimmingCharacters(in: .whitespaces)) }.filter { (32...10_000_000).contains($0) }
        guard lengths.count == parts.count else {
            throw ValidationError("--prompt-tokens: expected lengths from 32 to 10000000 with commas between them, found '\(givenLengths)'")
        }
        return Set(lengths).sorted()
    }

    func run() throws {
        let target = try LoadTarget(self.target)
        var settings = LoadSettings()
        settings.api = LoadTarget.API(rawValue: api) ?? .chat
        request.write(to: &settings)
        settings.mode = .closed(concurrency: 1)
        settings.keepsDocuments = true
        var session = CalibrationSession(
            target: target, settings: settings,
            wishes: .init(lengths: try lengths(), rounds: repeats, answerTokens: answerTokens, salt: .random(in: 0...(.max))),
            seconds: seconds)
        let report = try session.play()
        print(report.text)
        if report.isValid {
            print("\nFor 'groups' of the configuration (--config), or as the file of --groups-file:\n\n\(report.snippet)")
        }
        for reason in report.invalidReasons { FileHandle.standardError.write(Data("INVALID: \(reason)\n".utf8)) }
        try OutputFile.write([(.init("--json", json), report.json)])
        if !report.isValid { throw ExitCode(2) }
    }
}
