import ArgumentParser
import Dispatch
import Foundation
import LatencyBench
import Synchronization

/// Which routers to start, and before what.
struct PeerOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Routers to start, with commas: \(PeerRouter.allCases.map(\.rawValue).joined(separator: ", ")). One that is missing is said and left out.",
            valueName: "names"))
    var peers: String?
    @Option(help: ArgumentHelp("Folder with the peers' programs, searched before PATH; 'make bench-peers' fills it.", valueName: "folder"))
    var peersFolder = ".build/peers/bin"
    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("Flags for the simulated groups, in one argument; see 'swiftlet stub --help'.", valueName: "flags"))
    var stubFlags = ""

    func check() throws { _ = try routers() }

    /// In the order they were named.
    func routers() throws -> [PeerRouter] {
        try (peers ?? "").split(separator: ",").map { name in
            guard let peer = PeerRouter(rawValue: name.trimmingCharacters(in: .whitespaces)) else {
                throw ValidationError(
                    "--peers: expected some of \(PeerRouter.allCases.map(\.rawValue).joined(separator: ", ")), found '\(name)'")
            }
            return peer
        }
    }

    func bed(groups: Int, load: LoadOptions) throws -> RouterBed.Settings {
        guard let swiftlet = Bundle.main.executablePath else { throw ValidationError("this program does not know its own path") }
        var settings = RouterBed.Settings(swiftlet: swiftlet, peersFolder: peersFolder)
        settings.groups = groups
        settings.stubFlags = stubFlags.split(separator: " ").map(String.init)
        if !load.request.target.model.isEmpty { settings.model = load.request.target.model }
        settings.realTime = load.generator.realtime
        return settings
    }
}

/// Whether SIGINT or SIGTERM came: what was started must be ended first, and what was measured is to be shown. One at a time: of several
/// sources of one signal only one hears it. From its creation on no signal is lost.
final class Interruption {
    private final class State: Sendable {
        let value = Mutex<(hasCome: Bool, action: (@Sendable () -> Void)?)>((false, nil))
    }

    private let state = State()
    private let sources: [any DispatchSourceSignal]

    init() {
        let registered = DispatchSemaphore(value: 0)
        sources = [SIGINT, SIGTERM].map { [state] number in
            signal(number, SIG_IGN)
            let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
            source.setEventHandler {
                let action = state.value.withLock { value in
                    value.hasCome = true
                    return value.action
                }
                action?()
            }
            source.setRegistrationHandler { registered.signal() }
            source.resume()
            return source
        }
        for _ in sources { registered.wait() }
    }

    deinit { for source in sources { source.cancel() } }

    var hasCome: Bool { state.value.withLock { $0.hasCome } }

    /// Does `action` when it comes, at once when it has come; nil: nothing more.
    func whenItComes(_ action: (@Sendable () -> Void)?) {
        let isLate = state.value.withLock { value in
            value.action = action
            return value.hasCome
        }
        if isLate { action?() }
    }
}
