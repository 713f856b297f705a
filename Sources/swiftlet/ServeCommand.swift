import ArgumentParser
import CLinux
import Configuration
import Dispatch
import Foundation
import Logging

struct ServeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "serve", abstract: "Route requests to the backends.")
    @OptionGroup var flags: ConfigurationFlags

    func run() throws {
        let configuration = try flags.effective()
        let logger = makeLogger(configuration.logLevel)
        for warning in configuration.warnings { logger.warning("\(warning)") }
        signal(SIGPIPE, SIG_IGN)
        let signals = TerminationSignals()
        let writesAccessLog = configuration.accessLog && configuration.logLevel.includes(.info)
        let router = try Router(configuration, accessLogDescriptor: writesAccessLog ? STDOUT_FILENO : nil, logger: logger)
        // Two thirds of what is resident by now is code that read flags and files.
        swl_forget_code()
        for (listener, address) in zip(configuration.listeners, router.addresses) {
            announce("listening on \(listener.tls == nil ? "http" : "https")://\(address)")
        }
        if let admin = router.adminAddress { announce("admin on http://\(admin)") }
        if let replicas = router.replicaAddress { announce("replicas on udp://\(replicas)") }
        let reload = ReloadSignal { router.reloadTLS() }
        signals.wait()
        reload.cancel()
        logger.notice("draining")
        router.drain()
    }
}

/// One line on standard error, for people and for scripts that wait for it.
func announce(_ line: String) { FileHandle.standardError.write(Data((line + "\n").utf8)) }

func makeLogger(_ level: LogLevel) -> Logger {
    LoggingSystem.bootstrap { StreamLogHandler.standardError(label: $0) }
    var logger = Logger(label: "swiftlet")
    logger.logLevel = Logger.Level(rawValue: level.rawValue) ?? .info
    return logger
}

/// SIGHUP has files read again.
final class ReloadSignal {
    private let source: any DispatchSourceSignal

    init(_ action: @escaping @Sendable () -> Void) {
        signal(SIGHUP, SIG_IGN)
        source = DispatchSource.makeSignalSource(signal: SIGHUP, queue: DispatchQueue(label: "swiftlet.reload"))
        source.setEventHandler(handler: action)
        source.resume()
    }

    func cancel() { source.cancel() }
}

/// SIGTERM or SIGINT ends a program in good order; a second SIGINT ends it at once. Made before a program says that it listens: from
/// its creation on no signal is lost.
final class TerminationSignals {
    private let received = DispatchSemaphore(value: 0)
    private var sources: [any DispatchSourceSignal] = []

    init() {
        var interrupts = 0
        let queue = DispatchQueue(label: "swiftlet.signals")
        let registered = DispatchSemaphore(value: 0)
        for number in [SIGTERM, SIGINT] {
            signal(number, SIG_IGN)
            let source = DispatchSource.makeSignalSource(signal: number, queue: queue)
            source.setEventHandler { [received] in
                if number == SIGINT {
                    interrupts += 1
                    if interrupts > 1 { _exit(130) }
                }
                received.signal()
            }
            source.setRegistrationHandler { registered.signal() }
            source.resume()
            sources.append(source)
        }
        for _ in sources { registered.wait() }
    }

    /// Blocks until the first signal.
    func wait() { received.wait() }
}
