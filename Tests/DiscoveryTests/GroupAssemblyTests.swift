import Routing
import Testing

@testable import Discovery

private func member(
    _ rank: Int, _ phase: Member.Phase = .ready, revision: String? = nil, size: Int? = nil, ports: [UInt16] = [8000],
    node: String? = nil, identity: String? = nil
) -> Member {
    Member(
        identity: identity ?? "uid-\(rank)", name: "pod-\(rank)", host: "10.0.0.\(rank + 1)", ports: ports, node: node,
        role: GroupRole(group: "g", rank: rank, worldSize: size, revision: revision), phase: phase)
}

private func assemble(_ members: [Member], worldSize: Int? = nil) -> [DiscoveredGroup] {
    var template = GroupTemplate()
    template.worldSize = worldSize
    return GroupAssembly.groups(name: "g", members: members, template: template)
}

@Suite struct GroupAssemblyTests {
    @Test func aWholeGroupIsReadyAndItsLeaderServes() throws {
        let group = try #require(assemble((0..<4).map { member($0, size: 4, node: "n") }.shuffled()).first)
        let description = try #require(group.description)
        #expect(group.obstacle == nil)
        #expect(description.isReady)
        #expect(description.leader == Endpoint(host: "10.0.0.1", port: 8000))
        #expect(description.members.map(\.host) == ["10.0.0.2", "10.0.0.3", "10.0.0.4"])
        #expect(description.size == 4)
        #expect(group.nodes == ["n"])
    }

    @Test func aPodThatSaysNothingIsAGroupOfItsOwn() throws {
        let group = try #require(assemble([member(0)]).first)
        #expect(group.description?.isReady == true)
        #expect(group.description?.size == 1)
    }

    @Test(arguments: 1..<4) func oneMemberLessAndTheWholeGroupIsOut(missing: Int) throws {
        let others = (0..<4).filter { $0 != missing }.map { member($0, size: 4) }
        let obstacles: [(Member?, String)] = [
            (nil, "3 of 4 members are there, missing rank \(missing)"),
            (member(missing, .notReady("crashed"), size: 4), "pod-\(missing) is not ready: crashed"),
            (member(missing, .terminating("node is drained"), size: 4), "pod-\(missing) is terminating: node is drained"),
            (member(missing, revision: "new", size: 4), "pod-\(missing) is of another revision"),
        ]
        for (culprit, text) in obstacles {
            let group = try #require(assemble(others + (culprit.map { [$0] } ?? [])).first)
            #expect(group.description?.isReady == false)
            #expect(group.obstacle?.contains(text) == true, "\(group.obstacle ?? "none")")
        }
    }

    @Test func theLeadersOwnStateComesFirst() throws {
        let out = try #require(assemble([member(0, .notReady("loading"), size: 2), member(1, size: 2)]).first)
        #expect(out.obstacle == "leader pod-0 is not ready: loading")
        let leaving = try #require(assemble([member(0, .terminating("deleted"), size: 2), member(1, size: 2)]).first)
        #expect(leaving.obstacle == "leader pod-0 is terminating: deleted")
        #expect(leaving.description?.isReady == false)
        // It stays known, so that what it has under way is still booked on it.
        #expect(leaving.description?.leader.host == "10.0.0.1")
    }

    @Test func ofTwoLeadersTheOneThatStaysLeads() throws {
        let old = member(0, .terminating("deleted"), identity: "old")
        var new = member(0, identity: "new")
        new.host = "10.0.9.9"
        for order in [[old, new], [new, old]] {
            let group = try #require(assemble(order).first)
            #expect(group.description?.leader.host == "10.0.9.9")
            #expect(group.description?.incarnation == "new")
            #expect(group.description?.isReady == true)
        }
    }

    @Test func twoMembersOfOneRankAreOne() throws {
        let group = try #require(assemble([member(0, size: 3), member(1, size: 3), member(1, size: 3, identity: "again")]).first)
        #expect(group.obstacle == "2 of 3 members are there, missing rank 2")
    }

    @Test func withoutALeaderThereIsNothingToRouteTo() throws {
        let group = try #require(assemble([member(1, size: 2)]).first)
        #expect(group.description == nil)
        #expect(group.obstacle == "nobody leads it: rank 0 is missing")
        let portless = try #require(assemble([member(0, ports: [])]).first)
        #expect(portless.obstacle == "its leader has no port to serve at")
    }

    @Test func eachPortOfALeaderIsADataParallelRank() {
        let groups = assemble([member(0, size: 2, ports: [8000, 8001]), member(1, size: 2, ports: [])])
        #expect(groups.map(\.name) == ["g:8000", "g:8001"])
        #expect(groups.compactMap(\.description?.leader.port) == [8000, 8001])
        let stay = groups.allSatisfy { $0.description?.isReady == true }
        #expect(stay)
    }

    @Test func aWorldSizeOfNonsenseIsBounded() throws {
        let group = try #require(assemble([member(0, size: .max)]).first)
        #expect(group.obstacle == "1 of 4096 members are there, missing rank 1, 2, 3, 4, 5, 6, 7, 8, …")
        #expect(try #require(assemble([member(0, size: -3)]).first).obstacle == nil)
    }

    @Test func ofTwoForOneRankTheOneOnTheLeadersNodeIsTaken() throws {
        let near = member(1, size: 2, node: "a", identity: "z")
        let far = member(1, size: 2, node: "b", identity: "y")
        for order in [[near, far], [far, near]] {
            let group = try #require(assemble([member(0, size: 2, node: "a")] + order).first)
            #expect(group.nodes == ["a"])
            #expect(group.obstacle == nil)
        }
    }

    @Test func aGroupOnSeveralNodesIsTakenToBeSlower() throws {
        let together = try #require(assemble([member(0, size: 2, node: "a"), member(1, size: 2, node: "a")]).first?.description)
        let apart = try #require(assemble([member(0, size: 2, node: "a"), member(1, size: 2, node: "b")]).first?.description)
        #expect(apart.priors.prefillTokensPerSecond == together.priors.prefillTokensPerSecond / 1.25)
        #expect(apart.priors.decodeStepSeconds == together.priors.decodeStepSeconds * 1.25)
        #expect(apart.priors.kvCapacityTokens == together.priors.kvCapacityTokens && apart.isReady)
    }

    @Test func nodesAreReported() throws {
        let group = try #require(assemble([member(0, size: 2, node: "b"), member(1, size: 2, node: "a")]).first)
        #expect(group.nodes == ["a", "b"])
    }

    /// Ready exactly when every rank has a member that is ready, of the leader's revision, whatever else is there and in any order.
    @Test func readinessIsWhatItIsDefinedToBe() {
        var random = Generator(state: 7)
        for _ in 0..<4_000 {
            let size = Int.random(in: 1...5, using: &random)
            let members = (0..<Int.random(in: 0...8, using: &random)).map { index in
                let phases: [Member.Phase] = [.ready, .ready, .ready, .notReady("x"), .terminating("y")]
                return member(
                    Int.random(in: 0...size, using: &random), phases.randomElement(using: &random)!,
                    revision: ["a", "a", "b"].randomElement(using: &random)!, size: size, identity: "\(index)")
            }
            let leaders = members.filter { $0.role.rank == 0 }
            let leader = leaders.filter { $0.phase == .ready }.min { ($0.name, $0.identity) < ($1.name, $1.identity) }
            let isWhole = leader.map { leader in
                (1..<max(size, 1)).allSatisfy { rank in
                    members.contains { $0.role.rank == rank && $0.phase == .ready && $0.role.revision == leader.role.revision }
                }
            }
            let group = assemble(members.shuffled(using: &random)).first
            #expect((group?.description?.isReady ?? false) == (isWhole ?? false))
            #expect((group?.obstacle == nil) == (isWhole ?? false))
        }
    }
}

/// SplitMix64.
struct Generator: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}
