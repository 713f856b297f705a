public import EventLoop
import Foundation
import HTTPTransport
import Workload

/// Simulated groups, and routers before them, as processes of their own on 127.0.0.1. Everything it started ends with `stop()`.
public final class RouterBed {
    /// Where programs are found, and how groups are simulated.
    public struct Settings: Sendable {
        /// This program, for the groups and for itself as a router.
        public var swiftlet: String
        /// Searched before PATH.
        public var peersFolder: String
        public var groups = 8
        /// Of each router; they get requests in turns.
        public var replicas = 1
        /// For `swiftlet stub`.
        public var stubFlags: [String] = []
        public var model = "stub-model"
        /// Of the groups' threads alone: routers are measured as an ordinary program runs.
        public var realTime = RealTimeRequest.auto

        public init(swiftlet: String, peersFolder: String) {
            self.swiftlet = swiftlet
            self.peersFolder = peersFolder
        }
    }

    private let settings: Settings
    private let folder: URL
    private let stub: ChildProcess
    private var routers: [ChildProcess] = []
    /// Of the groups, in order.
    public let groupPorts: [UInt16]

    /// Starts the groups and waits until all accept.
    public init(_ settings: Settings) throws {
        self.settings = settings
        folder = FileManager.default.temporaryDirectory.appending(path: "swiftlet-bench-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        let arguments =
            ["stub", "--listen", "127.0.0.1:0", "--replicas", "\(settings.groups)", "--model", settings.model]
            + ["--realtime", settings.realTime.rawValue]
        let stub = try ChildProcess(settings.swiftlet, arguments + settings.stubFlags, log: folder.appending(path: "stub.log"))
        self.stub = stub
        do {
            groupPorts = try stub.wait(seconds: 30, for: "listening groups") {
                let ports = Self.ports(stub.output)
                return ports.count >= settings.groups ? ports : nil
            }
        } catch {
            stub.stop()
            try? FileManager.default.removeItem(at: folder)
            throw error
        }
    }

    /// How the groups' threads are scheduled, as they say.
    public var groupSchedule: String? { Self.schedule(stub.output) }

    /// "scheduled: ordinary" → "ordinary", of whole lines.
    static func schedule(_ output: String) -> String? {
        output.split(separator: "\n", omittingEmptySubsequences: false).dropLast().first { $0.hasPrefix("scheduled: ") }.map {
            String($0.dropFirst("scheduled: ".count))
        }
    }

    /// "listening on http://127.0.0.1:8000" → 8000, of whole lines.
    private static func ports(_ output: String) -> [UInt16] {
        output.split(separator: "\n", omittingEmptySubsequences: false).dropLast().compactMap { line in
            line.hasPrefix("listening on http://") ? line.split(separator: ":").last.flatMap { UInt16($0) } : nil
        }
    }

    public func stop() {
        for router in routers { router.stop() }
        routers = []
        stub.stop()
        try? FileManager.default.removeItem(at: folder)
    }

    /// Starts a router before all groups, all its replicas, and waits until they answer.
    /// - Returns: their URLs.
    public func start(_ peer: PeerRouter) throws -> [String] {
        let sync = settings.replicas > 1 ? try (0..<settings.replicas).map { _ in try Self.freePort() } : []
        return try (0..<settings.replicas).map { number in
            var ports = PeerRouter.Ports(listen: try Self.freePort(), metrics: try Self.freePort(), backends: groupPorts)
            if !sync.isEmpty { (ports.sync, ports.others) = (sync[number], sync.indices.filter { $0 != number }.map { sync[$0] }) }
            return try start(peer, ports)
        }
    }

    private func start(_ peer: PeerRouter, _ ports: PeerRouter.Ports) throws -> String {
        let home = folder.appending(path: "\(peer.rawValue)-\(routers.count)")
        try FileManager.default.createDirectory(at: home, withIntermediateDirectories: true)
        let launch = peer.launch(try Self.program(of: peer, settings), ports, folder: home)
        if let file = launch.file { try file.text.write(to: home.appending(path: file.name), atomically: true, encoding: .utf8) }
        let router = try ChildProcess(
            launch.program, launch.arguments, environment: launch.environment, log: home.appending(path: "output.log"))
        routers.append(router)
        let url = "http://127.0.0.1:\(ports.listen)"
        // Some answer before they know a worker, and some know the first before the last: every group's worth of prompts must be answered.
        try router.wait(seconds: 60, for: "answers") { try answers(url) ? () : nil }
        return url
    }

    private func answers(_ url: String) throws -> Bool {
        let requests = (0..<2 * settings.groups).map { number in
            PlannedRequest(offsetNanoseconds: 0, user: [PromptBlock(id: 1 << 61 | UInt64(number), tokens: 8)], outputTokens: 1)
        }
        let plan = LoadPlan(name: "probe", parameters: [:], requests: requests, stages: [.init(startRate: 1, seconds: 1)], process: "probe")
        var load = LoadSettings()
        load.model = settings.model
        load.timeoutNanoseconds = 5_000_000_000
        load.drainNanoseconds = 5_000_000_000
        return try LoadRun(plan: plan, target: LoadTarget(url), settings: load).run().good == requests.count
    }

    // MARK: Programs

    private static func freePort() throws -> UInt16 {
        // Held for a moment only: the system does not give it out again soon.
        let socket = Foundation.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        guard socket >= 0 else { throw ChildProcess.Failure(description: "no socket: \(String(cString: strerror(errno)))") }
        defer { close(socket) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let code = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(socket, $0, length) + getsockname(socket, $0, &length) }
        }
        guard code == 0 else { throw ChildProcess.Failure(description: "no free port: \(String(cString: strerror(errno)))") }
        return UInt16(bigEndian: address.sin_port)
    }

    /// The program of `peer`: in the peers' folder, in PATH, or where Debian puts servers.
    public static func program(of peer: PeerRouter, _ settings: Settings) throws -> String {
        guard let name = peer.programName else { return settings.swiftlet }
        let path = (ProcessInfo.processInfo.environment["PATH"] ?? "").split(separator: ":").map(String.init)
        for folder in [settings.peersFolder] + path + ["/usr/sbin", "/usr/local/sbin"] {
            let candidate = "\(folder)/\(name)"
            if FileManager.default.isExecutableFile(atPath: candidate) { return candidate }
        }
        throw ChildProcess.Failure(description: "\(name) is neither in \(settings.peersFolder) nor in PATH; 'make bench-peers' installs it")
    }

    /// What the program says of itself, one line; empty where it says nothing. Throws when it is not there.
    public static func version(of peer: PeerRouter, _ settings: Settings) throws -> String {
        let program = try program(of: peer, settings)
        guard let arguments = peer.versionArguments else { return "" }
        let log = FileManager.default.temporaryDirectory.appending(path: "swiftlet-bench-\(UUID().uuidString).log")
        defer { try? FileManager.default.removeItem(at: log) }
        let child = try ChildProcess(program, arguments, log: log)
        defer { child.stop() }
        child.waitForEnd(seconds: 10)
        let line = child.output.split(separator: "\n").first { $0.contains(/\d+\.\d+/) } ?? ""
        return line.trimmingCharacters(in: .whitespaces)
    }
}
