import ArgumentParser
import Dispatch
import EventLoop
import Foundation
import StubEngine

/// `swiftlet stub-member`: one process of a simulated tensor-parallel group, without which its leader hangs or dies.
struct StubMemberCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "stub-member", abstract: "Be a member of a simulated engine's tensor-parallel group.",
        discussion: "Joins the leader (swiftlet stub --group-listen), tries until there is one, and ends with it.")

    @Option(help: "The leader's --group-listen address.")
    var leader: String

    @Option(help: "This member's rank, from 1 on.")
    var rank: Int

    @Option(help: "Size of the group, leader included.")
    var worldSize: Int

    func validate() throws {
        guard SocketAddress(leader) != nil else { throw ValidationError("--leader: expected ADDR:PORT, got '\(leader)'") }
        guard worldSize > 1, (1..<worldSize).contains(rank) else {
            throw ValidationError("--rank: expected 1 to --world-size minus 1, got \(rank)")
        }
    }

    func run() throws {
        guard let address = SocketAddress(leader) else { return }
        let (rank, worldSize) = (rank, worldSize)
        _ = try LoopThread.start(label: "stub-member") { loop in
            loop.addService(
                GroupMember(loop: loop, leader: address, rank: rank, worldSize: worldSize) { event in
                    FileHandle.standardError.write(Data("member \(rank): \(event)\n".utf8))
                    if case .joined = event { return }
                    _exit(1)
                })
        }
        dispatchMain()
    }
}
